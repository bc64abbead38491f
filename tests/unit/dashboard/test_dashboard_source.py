"""Reading the store for the dashboard, and text made safe for Markdown."""

from __future__ import annotations

from pathlib import Path

import pytest
import streamlit as st
from dashboard_store import VAL_PREDICTED, beat, build_store, finish_run, image_of
from markdown_it import MarkdownIt

from dashboard import source
from dashboard.source import Address, Place
from dashboard.text import plain
from tljobs.errors import NotFound
from tljobs.store import LocalStore


@pytest.fixture(scope="module")
def at(tmp_path_factory: pytest.TempPathFactory) -> Address:
    root = tmp_path_factory.mktemp("dashboard_source")
    build_store(LocalStore(root))
    return Address(str(root), None)


def test_the_address_comes_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TLJOBS_STORE", "s3://bucket/prefix")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    assert source.address() == Address("s3://bucket/prefix", "http://127.0.0.1:1")


def test_runs_come_newest_first_with_their_status(at: Address) -> None:
    beat(LocalStore(Path(at.uri)))
    assert [(run.name, run.status) for run in source.list_runs(at)] == [
        ("live-run", "running"),
        ("lost-run", "interrupted"),
        ("broken-run", "failed"),
        ("first-run", "finished"),
    ]


def test_metrics_of_a_resumed_run_hold_every_step_once(at: Address) -> None:
    steps, epochs = source.metrics(at, source.open_run(at, "first-run"))
    assert [row.step for row in steps] == list(range(1, 51))
    assert [row.step for row in epochs] == [10, 20, 30, 40, 50]


def test_images_are_the_stored_bytes_in_the_order_asked(at: Address) -> None:
    rows = (8, 1, 11, 4)
    found = source.images(at, "flowers", "v1", "val", tuple(Place(0, row) for row in rows))
    assert found == [image_of("val", row) for row in rows]


def test_predictions_have_a_row_per_image(at: Address) -> None:
    reports = {report.evaluation: report for report in source.evaluations(at, "first-run")}
    assert source.predictions(at, reports["val"])["predicted"].to_pylist() == list(VAL_PREDICTED)


def test_what_is_not_there_is_named(at: Address) -> None:
    with pytest.raises(NotFound, match="no such run: no-run"):
        source.open_run(at, "no-run")
    with pytest.raises(NotFound, match="the run has no model"):
        source.model(at, "first-run")
    assert source.runs_with_model(at) == []


def test_two_stores_are_kept_apart(at: Address, tmp_path: Path) -> None:
    assert source.list_runs(Address(str(tmp_path), None)) == []
    assert source.list_runs(at)


def test_the_end_of_a_run_is_seen_after_a_reload(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    build_store(store)
    here = Address(str(tmp_path), None)
    assert source.open_run(here, "live-run").status == "running"
    finish_run(store, "live-run", seq=2)
    st.cache_data.clear()
    assert source.open_run(here, "live-run").status == "finished"


@pytest.mark.parametrize(
    "text",
    [
        "<script>alert(1)</script>",
        "[click](javascript:alert(1))",
        "![x](http://example.org/x.png)",
        "**bold** _it_ `code` ~~no~~ # title",
        "1. list",
        "> quote",
        "| a | b |",
        "&lt;b&gt;",
        "back\\slash",
    ],
)
def test_plain_text_is_shown_literally_by_markdown(text: str) -> None:
    tokens = MarkdownIt("commonmark").parse(plain(text))
    assert [token.type for token in tokens] == ["paragraph_open", "inline", "paragraph_close"]
    inline = tokens[1].children or []
    assert {token.type for token in inline} <= {"text", "text_special"}
    assert "".join(token.content for token in inline) == text


def test_plain_text_is_one_line() -> None:
    assert plain("a\n\n# b\tc") == "a \\# b c"
