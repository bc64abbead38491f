"""A search on real Ray Tune: trials are runs, the best one gets a model, nothing is done twice."""

import io

import pyarrow.parquet as pq
import pytest

from tljobs import layout
from tljobs.errors import NameTaken, UsageError
from tljobs.progress import Silent
from tljobs.records import DatasetManifest
from tljobs.results import TuneResult
from tljobs.runs import open_run, open_search, run_metrics, run_model
from tljobs.specs import TuneSpec
from tljobs.store import Store
from tljobs.tuning.job import tune
from tljobs.tuning.trial import finish_if_cut_off

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


def spec(**changes: object) -> TuneSpec:
    fields = {
        "dataset": "shapes",
        "name": "grid",
        "backbone": "small-cnn",
        "weights": "none",
        "learning_rate": "1e-2,1e-6",
        "unfreeze": "head,all",
        "fine_tune_factor": 1.0,
        "batchnorm": "sync",
        "head_epochs": 1,
        "epochs": 6,
    }
    return TuneSpec(**{**fields, **changes})  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def result(store: Store, dataset: DatasetManifest) -> TuneResult:
    found = tune(spec(), store, Silent())
    assert found is not None
    return found


def test_trials_are_runs_with_records_of_their_own(store: Store, result: TuneResult) -> None:
    assert [trial.run for trial in result.trials] == [f"grid-{number:03}" for number in range(4)]
    assert {trial.prefix for trial in result.trials} == {"none"}
    for trial in result.trials:
        run = open_run(store, trial.run)
        assert (run.status, run.record.search) == ("finished", "grid")
        assert run.record.spec["learning_rate"] == trial.learning_rate
        _, epochs = run_metrics(store, run)
        assert trial.score == max(row.val_accuracy for row in epochs)


def test_the_best_trial_is_the_best_and_alone_has_a_model_and_test_scores(store: Store, result: TuneResult) -> None:
    best = open_run(store, result.best or "")
    assert max(trial.score or 0 for trial in result.trials) == best.scores["val"]["accuracy"]
    assert result.scores["test"]["images"] == 14 or result.scores["test"]["images"] > 0
    assert run_model(store, best.name).replay.max_abs_difference <= 1e-5
    others = [open_run(store, trial.run) for trial in result.trials if trial.run != best.name]
    assert all("test" not in run.scores for run in others)
    assert not any(store.exists(layout.run_model_record(run.name)) for run in others)


def test_asha_stops_a_hopeless_trial_early_but_not_before_the_depths_differ(store: Store, result: TuneResult) -> None:
    epochs = {trial.run: len(run_metrics(store, open_run(store, trial.run))[1]) for trial in result.trials}
    assert min(epochs.values()) >= 2
    assert min(epochs.values()) < 6
    assert epochs[result.best or ""] == 6


def test_a_trial_that_was_cut_off_before_its_end_is_finished_once(store: Store, dataset: DatasetManifest) -> None:
    """As when the processes of the search end between the last report of a trial and its record."""
    name = "cut-off"
    tune(spec(name=name, learning_rate="1e-2,1e-3", unfreeze="head", epochs=1), store, Silent())
    (loser,) = [trial for trial in open_search(store, name).trials if trial.name != open_search(store, name).best]
    ends = [event for event in loser.events if event.kind == "finished"]
    for event in ends:
        store.delete(layout.run_event(loser.name, event.seq))
    assert open_run(store, loser.name).status != "finished"
    for _ in range(2):
        finish_if_cut_off(store, dataset, loser.name)
    again = open_run(store, loser.name)
    assert (again.status, again.scores) == ("finished", ends[0].data["scores"])
    assert len([event for event in again.events if event.kind == "finished"]) == 1


def test_the_table_is_published_and_reads_as_plain_parquet(store: Store, result: TuneResult) -> None:
    table = pq.read_table(io.BytesIO(store.read(layout.search_trials("grid"))))
    assert table.column("run").to_pylist() == [trial.run for trial in result.trials]
    assert table.column("score").to_pylist() == [trial.score for trial in result.trials]


def test_the_same_request_finds_the_finished_search(store: Store, result: TuneResult) -> None:
    again = tune(spec(), store, Silent())
    assert again is not None
    assert again.reused
    assert (again.best, again.trials) == (result.best, result.trials)
    with pytest.raises(NameTaken, match="another request"):
        tune(spec(epochs=5), store, Silent())


def test_an_unfinished_search_goes_on_with_the_trials_that_are_missing(store: Store, result: TuneResult) -> None:
    """The first two trials were finished before; they are found, not trained again."""
    name = "continued"
    first = tune(spec(name=name, learning_rate="1e-2", unfreeze="head", epochs=2, asha=False), store, Silent())
    assert first is not None
    search = open_search(store, name)
    assert [trial.attempt for trial in search.trials] == [1]
    store.delete(layout.search_event(name, len(search.events) - 1))  # as if it had been killed before its end
    assert open_search(store, name).status == "interrupted"
    again = tune(spec(name=name, learning_rate="1e-2", unfreeze="head", epochs=2, asha=False), store, Silent())
    assert again is not None
    assert (again.status, again.best) == ("finished", first.best)
    assert [trial.attempt for trial in open_search(store, name).trials] == [1]


def test_a_depth_that_is_not_there_is_the_users_mistake_and_is_recorded(store: Store, dataset: DatasetManifest) -> None:
    with pytest.raises(UsageError, match="deptth"):
        tune(spec(name="bad", learning_rate="1e-3", unfreeze="deptth"), store, Silent())
    run = open_run(store, "bad-000")
    assert run.status == "failed"
    assert "deptth" in str(run.failure)


def test_failed_trials_do_not_end_the_search(store: Store, dataset: DatasetManifest) -> None:
    found = tune(spec(name="half", learning_rate="1e-2", unfreeze="deptth,head", epochs=2), store, Silent())
    assert found is not None
    assert [trial.status for trial in found.trials] == ["failed", "finished"]
    assert found.best == "half-001"
