"""Each screen, run by Streamlit's own test harness on a store with real records."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import streamlit as st
from dashboard_store import CLASSES, beat, build_store
from streamlit.testing.v1 import AppTest

import dashboard.app
from dashboard.text import plain
from tljobs.store import LocalStore

TIMEOUT_S = 60


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("dashboard_views")
    build_store(LocalStore(root))
    return root


@pytest.fixture(autouse=True)
def fresh_caches() -> Iterator[None]:
    st.cache_data.clear()
    yield
    st.cache_resource.clear()


@pytest.fixture
def store(built: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TLJOBS_STORE", str(built))
    monkeypatch.delenv("AWS_ENDPOINT_URL", raising=False)
    beat(LocalStore(built))
    return built


def runs_script() -> None:
    import streamlit

    from dashboard.views import runs

    runs.page(lambda name: streamlit.success(name))


def run_script() -> None:
    import streamlit

    from dashboard.views import run

    run.page(lambda name: streamlit.success(f"predict with {name}"))


def predict_script() -> None:
    from dashboard.views import predict

    predict.page()


def opened(name: str) -> AppTest:
    app = AppTest.from_function(run_script, default_timeout=TIMEOUT_S)
    app.query_params["name"] = name
    app.run()
    assert not app.exception
    return app


def headings(app: AppTest) -> list[str]:
    return [each.value for each in (*app.title, *app.subheader)]


def interactive_charts(app: AppTest) -> list[str]:
    """Keys of the charts whose marks can be clicked: their element ids end with them."""
    ids = [each.proto.id for each in app.get("vega_lite_chart")]
    return [each.split("-", 2)[2] for each in ids if each]


class TestRuns:
    def test_the_table_lists_runs_newest_first(self, store: Path) -> None:
        app = AppTest.from_function(runs_script, default_timeout=TIMEOUT_S).run()
        assert not app.exception
        table = app.dataframe[0].value
        assert list(table["run"]) == ["live-run", "lost-run", "broken-run", "first-run"]
        assert list(table["status"]) == ["running", "interrupted", "failed", "finished"]
        first = table.iloc[3]
        assert (first["val"], first["test"], first["minutes"]) == (0.75, 1.0, 7.0)
        assert (first["backbone"], first["learning_rate"]) == ("efficientnet-lite0", 0.001)

    def test_filters_narrow_the_table(self, store: Path) -> None:
        app = AppTest.from_function(runs_script, default_timeout=TIMEOUT_S).run()
        app.multiselect(key="status").set_value(["failed", "interrupted"]).run()
        assert list(app.dataframe[0].value["run"]) == ["lost-run", "broken-run"]
        app.text_input(key="search").set_value("broken").run()
        assert list(app.dataframe[0].value["run"]) == ["broken-run"]
        app.text_input(key="search").set_value("nothing like it").run()
        assert [each.value for each in app.info] == ["No run matches these filters."]

    def test_an_empty_store_explains_the_first_commands(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("TLJOBS_STORE", str(tmp_path))
        app = AppTest.from_function(runs_script, default_timeout=TIMEOUT_S).run()
        commands = app.code[0].value
        for command in ("tljobs prepare PHOTOS --name NAME", "tljobs train NAME", "tljobs predict RUN IMAGE"):
            assert command in commands

    def test_a_store_that_cannot_be_read_is_a_message(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("TLJOBS_STORE", "ftp://somewhere")
        app = AppTest.from_function(runs_script, default_timeout=TIMEOUT_S).run()
        assert not app.exception
        assert "unknown kind of store" in app.error[0].value
        assert app.code[0].value == "ftp://somewhere"


class TestRun:
    def test_a_finished_run_shows_scores_curves_and_evaluation(self, store: Path) -> None:
        app = opened("first-run")
        assert headings(app) == [
            "first\\-run",
            "Learning curves",
            "Evaluation",
            "Plan",
            "History",
            "Configuration",
        ]
        metrics = {each.label: (each.value, each.delta) for each in app.metric}
        assert metrics["Val accuracy"][0] == "75.0%"
        assert metrics["Val accuracy"][1] == plain("95 %: 46.8% to 91.1%")
        assert metrics["Duration"][0] == "7 min 00 s"
        assert len(app.get("vega_lite_chart")) == 3
        assert interactive_charts(app) == ["confusion-val"]

    def test_worst_errors_are_listed_with_both_labels(self, store: Path) -> None:
        app = opened("first-run")
        lines = [each.value for each in app.text]
        # Rows 8, 4 and 1 are wrong, and a wrong row's loss grows with its number.
        assert lines == [
            f"{CLASSES[2]} → {CLASSES[1]} (80%)",
            f"{CLASSES[1]} → {CLASSES[0]} (80%)",
            f"{CLASSES[1]} → {CLASSES[2]} (80%)",
        ]
        assert len(app.get("image")) == 3

    def test_another_evaluation_can_be_chosen(self, store: Path) -> None:
        app = opened("first-run")
        app.button_group(key="evaluation").set_value("test").run()
        assert not app.exception
        assert [each.value for each in app.success] == ["Every image of this evaluation was labelled correctly."]
        assert interactive_charts(app) == ["confusion-test"]

    def test_plan_and_configuration_are_tables(self, store: Path) -> None:
        app = opened("first-run")
        tables = [each.value for each in app.dataframe]
        plan = next(table for table in tables if "trainable_parameters" in table)
        assert list(plan["name"]) == ["head", "unfrozen-2"]
        settings = next(table for table in tables if "setting" in table)
        assert dict(zip(settings["setting"], settings["value"], strict=True))["backbone"] == "efficientnet-lite0"
        log = next(table for table in tables if "event" in table)
        assert log["event"].iloc[0] == "finished"

    def test_a_failed_run_says_why_and_shows_its_steps(self, store: Path) -> None:
        app = opened("broken-run")
        assert [each.value for each in app.error] == ["**the loss is not a number**"]
        assert app.code[0].value == "step 7, [x](javascript:1)"
        assert "Evaluation" not in headings(app)
        assert app.button_group[0].value == "step"

    def test_an_interrupted_run_says_how_to_go_on(self, store: Path) -> None:
        app = opened("lost-run")
        assert "go on from its last checkpoint" in app.info[0].value
        assert app.code[0].value == "tljobs runs resume lost-run"
        assert {each.label: each.delta for each in app.metric}["Duration"] == "attempts\\: 2"

    def test_a_running_run_shows_its_progress(self, store: Path) -> None:
        app = opened("live-run")
        assert "phase head\\, epoch 2\\, step 15 of 50" in [each.proto.text for each in app.get("progress")]

    def test_the_newest_run_opens_without_a_name(self, store: Path) -> None:
        app = AppTest.from_function(run_script, default_timeout=TIMEOUT_S).run()
        assert app.title[0].value == "live\\-run"
        assert app.query_params["name"] == "live-run"

    def test_an_unknown_name_is_a_message(self, store: Path) -> None:
        app = opened("no-run")
        assert "no such run" in app.error[0].value
        assert app.code[0].value == "no-run"

    def test_choosing_a_run_changes_the_link(self, store: Path) -> None:
        app = opened("first-run")
        app.selectbox[0].set_value("broken-run").run()
        assert app.title[0].value == "broken\\-run"
        assert app.query_params["name"] == "broken-run"

    def test_predicting_leaves_for_the_other_page(self, store: Path) -> None:
        app = opened("first-run")
        app.button(key="predict").click().run()
        assert [each.value for each in app.success] == ["predict with first-run"]


def test_predict_without_models_says_so(store: Path) -> None:
    app = AppTest.from_function(predict_script, default_timeout=TIMEOUT_S).run()
    assert [each.value for each in app.info] == ["There is no finished run with a model in this store yet."]


def test_predict_for_a_run_without_a_model_says_why(store: Path) -> None:
    app = AppTest.from_function(predict_script, default_timeout=TIMEOUT_S)
    app.query_params["run"] = "first-run"
    app.run()
    assert "the run has no model" in app.error[0].value


def test_the_app_opens_on_the_table(store: Path) -> None:
    app = AppTest.from_file(dashboard.app.__file__, default_timeout=TIMEOUT_S).run()
    assert not app.exception
    assert app.title[0].value == "Runs"
    assert str(store) in [each.value for each in app.sidebar.text]
