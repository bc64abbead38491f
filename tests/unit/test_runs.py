import datetime
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tljobs import layout, runs
from tljobs.errors import NotFound, UsageError
from tljobs.records import (
    EpochRow,
    Event,
    EventKind,
    Heartbeat,
    MetricsPiece,
    RunRecord,
    SearchRecord,
    Status,
    StepRow,
    new_token,
)
from tljobs.store import LocalStore, Store

MINUTE_ZERO = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)


@pytest.fixture
def store(tmp_path: Path) -> LocalStore:
    return LocalStore(tmp_path)


def reserve(store: Store, name: str, minute: int = 0, search: str | None = None) -> None:
    """What starting a run does first."""
    record = RunRecord(
        run=name,
        spec={},
        request_sha256="ab",
        dataset="d",
        version="v",
        manifest_sha256="ab",
        classes=("a", "b"),
        classes_sha256="ab",
        search=search,
        environment={},
        created_utc=(MINUTE_ZERO + datetime.timedelta(minutes=minute)).isoformat(),
        token=new_token(),
    )
    store.create(layout.run_record(name), record.to_bytes())


def tell(store: Store, name: str, kind: EventKind, attempt: int = 0, step: int = 0, /, **data: Any) -> Event:
    return runs.run_journal(store, name).append(kind, attempt=attempt, step=step, data=data)


def beat(store: Store, name: str, pid: int, host: str = "", age_s: float = 0) -> None:
    moment = datetime.datetime.now(datetime.UTC) - datetime.timedelta(seconds=age_s)
    record = Heartbeat(host=host or socket.gethostname(), pid=pid, time_utc=moment.isoformat())
    store.put(layout.run_heartbeat(name), record.to_bytes())


def measure(store: Store, name: str, attempt: int, steps: range) -> None:
    """A piece of metrics with a row for each step; the loss says which attempt measured it."""
    rows = tuple(
        StepRow(step=step, phase="head", epoch=0, loss=attempt, accuracy=0, learning_rate=1e-3, grad_norm=1)
        for step in steps
    )
    epoch = EpochRow(
        phase="head",
        epoch=steps[-1] // 10,
        step=steps[-1],
        images=1,
        train_loss=attempt,
        train_accuracy=0,
        val_loss=0,
        val_accuracy=0,
        learning_rate=1e-3,
        wall_s=1,
        wait_s=0,
    )
    piece = MetricsPiece(attempt=attempt, steps=rows, epochs=(epoch,))
    store.put(layout.run_metrics_piece(name, attempt, steps[-1]), piece.to_bytes())


@pytest.fixture(scope="module")
def dead_pid() -> int:
    """A process id of this host that no process has any more."""
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        process.wait()
        return process.pid


@pytest.fixture(scope="module")
def living_pid() -> Any:
    with subprocess.Popen(["sleep", "60"]) as process:
        yield process.pid
        process.kill()


class TestStatus:
    def status(self, store: Store) -> Status:
        return runs.open_run(store, "r").status

    @pytest.fixture(autouse=True)
    def reserved(self, store: Store) -> None:
        reserve(store, "r")

    def test_a_reserved_name_is_created(self, store: Store) -> None:
        assert self.status(store) == "created"

    def test_a_beating_attempt_is_running(self, store: Store, living_pid: int) -> None:
        tell(store, "r", "attempt_started", 1)
        beat(store, "r", living_pid)
        assert self.status(store) == "running"

    def test_a_dead_process_of_this_host_is_interrupted_at_once(self, store: Store, dead_pid: int) -> None:
        tell(store, "r", "attempt_started", 1)
        beat(store, "r", dead_pid)
        assert self.status(store) == "interrupted"

    def test_on_another_host_the_age_of_the_beat_decides(self, store: Store, dead_pid: int) -> None:
        tell(store, "r", "attempt_started", 1)
        beat(store, "r", dead_pid, host="elsewhere", age_s=runs.DEAD_AFTER_S / 2)
        assert self.status(store) == "running"
        beat(store, "r", dead_pid, host="elsewhere", age_s=runs.DEAD_AFTER_S * 2)
        assert self.status(store) == "interrupted"

    def test_a_process_of_this_host_that_beats_no_more_is_interrupted(self, store: Store, living_pid: int) -> None:
        tell(store, "r", "attempt_started", 1)
        beat(store, "r", living_pid, age_s=runs.DEAD_AFTER_S * 2)
        assert self.status(store) == "interrupted"

    def test_an_attempt_without_any_beat_is_interrupted(self, store: Store) -> None:
        tell(store, "r", "attempt_started", 1)
        assert self.status(store) == "interrupted"

    @pytest.mark.parametrize("end", ["finished", "failed", "stopped"])
    def test_the_end_of_an_attempt_outlives_its_process(self, store: Store, end: EventKind, dead_pid: int) -> None:
        tell(store, "r", "attempt_started", 1)
        beat(store, "r", dead_pid)
        tell(store, "r", end, 1)
        assert self.status(store) == end

    def test_a_request_to_stop_is_not_yet_stopped(self, store: Store, living_pid: int) -> None:
        tell(store, "r", "attempt_started", 1)
        beat(store, "r", living_pid)
        tell(store, "r", "stop_requested")
        assert self.status(store) == "running"

    def test_a_new_attempt_after_a_failure_is_running_again(self, store: Store, living_pid: int) -> None:
        tell(store, "r", "attempt_started", 1)
        tell(store, "r", "failed", 1, what="worker lost")
        tell(store, "r", "attempt_started", 2)
        beat(store, "r", living_pid)
        assert self.status(store) == "running"
        assert runs.open_run(store, "r").failure == {}

    def test_a_late_checkpoint_event_does_not_undo_the_end(self, store: Store) -> None:
        tell(store, "r", "attempt_started", 1)
        tell(store, "r", "finished", 1)
        tell(store, "r", "warning", 1)
        assert self.status(store) == "finished"


class TestMetrics:
    def rows(self, store: Store) -> tuple[dict[int, float], dict[int, float]]:
        """Step -> attempt that measured it, for steps and for epochs."""
        steps, epochs = runs.run_metrics(store, runs.open_run(store, "r"))
        return {row.step: row.loss for row in steps}, {row.step: row.train_loss for row in epochs}

    @pytest.fixture(autouse=True)
    def reserved(self, store: Store) -> None:
        reserve(store, "r")

    def test_a_run_that_measured_nothing_has_no_rows(self, store: Store) -> None:
        assert self.rows(store) == ({}, {})

    def test_pieces_are_joined_in_order(self, store: Store) -> None:
        tell(store, "r", "attempt_started", 1)
        measure(store, "r", 1, range(11, 21))
        measure(store, "r", 1, range(1, 11))
        steps, epochs = self.rows(store)
        assert list(steps) == list(range(1, 21))
        assert list(epochs) == [10, 20]

    def test_what_an_attempt_did_after_the_checkpoint_that_the_next_resumed_from_does_not_count(
        self, store: Store
    ) -> None:
        tell(store, "r", "attempt_started", 1)
        measure(store, "r", 1, range(1, 11))
        measure(store, "r", 1, range(11, 31))
        tell(store, "r", "attempt_started", 2, 10)
        assert self.rows(store) == (dict.fromkeys(range(1, 11), 1), {10: 1})
        measure(store, "r", 2, range(11, 21))
        assert self.rows(store) == (dict.fromkeys(range(1, 11), 1) | dict.fromkeys(range(11, 21), 2), {10: 1, 20: 2})

    def test_an_attempt_that_began_anew_hides_all_earlier_ones(self, store: Store) -> None:
        tell(store, "r", "attempt_started", 1)
        measure(store, "r", 1, range(1, 11))
        tell(store, "r", "attempt_started", 2, 0)
        measure(store, "r", 2, range(1, 4))
        assert self.rows(store) == (dict.fromkeys(range(1, 4), 2), {3: 2})

    def test_a_third_attempt_that_went_back_further_hides_the_second(self, store: Store) -> None:
        tell(store, "r", "attempt_started", 1)
        measure(store, "r", 1, range(1, 21))
        tell(store, "r", "attempt_started", 2, 20)
        measure(store, "r", 2, range(21, 31))
        tell(store, "r", "attempt_started", 3, 10)
        measure(store, "r", 3, range(11, 16))
        steps, _ = self.rows(store)
        assert steps == dict.fromkeys(range(1, 11), 1) | dict.fromkeys(range(11, 16), 3)

    def test_a_process_that_was_thought_dead_and_writes_on_changes_nothing(self, store: Store) -> None:
        tell(store, "r", "attempt_started", 1)
        measure(store, "r", 1, range(1, 11))
        tell(store, "r", "attempt_started", 2, 10)
        measure(store, "r", 2, range(11, 21))
        before = self.rows(store)
        measure(store, "r", 1, range(11, 41))
        assert self.rows(store) == before


class TestOpening:
    def test_runs_are_listed_newest_first_and_unreserved_folders_are_not(self, store: Store) -> None:
        for minute, name in enumerate(["one", "two", "three"]):
            reserve(store, name, minute)
        store.put("runs/leftover/metrics/001-00000001.json", b"{}")
        assert [run.name for run in runs.list_runs(store)] == ["three", "two", "one"]

    def test_an_unknown_run_is_refused_with_the_names_that_exist(self, store: Store) -> None:
        reserve(store, "one")
        with pytest.raises(NotFound, match=r"no such run: two\. Runs in .*: one"):
            runs.open_run(store, "two")

    def test_a_hostile_name_is_refused(self, store: Store) -> None:
        with pytest.raises(UsageError, match="invalid run name"):
            runs.open_run(store, "../../etc")

    def test_scores_plan_progress_and_attempt_come_from_the_events(self, store: Store) -> None:
        reserve(store, "r")
        tell(store, "r", "attempt_started", 1)
        tell(store, "r", "phase_started", 1, name="head", epochs=3)
        tell(store, "r", "checkpoint", 1, 10, val_accuracy=0.5)
        tell(store, "r", "attempt_started", 2, 10)
        tell(store, "r", "checkpoint", 2, 20, val_accuracy=0.75)
        tell(store, "r", "finished", 2, 20, scores={"val": {"accuracy": 0.75}})
        run = runs.open_run(store, "r")
        assert (run.attempt, run.plan, run.progress["val_accuracy"]) == (2, [{"name": "head", "epochs": 3}], 0.75)
        assert run.scores == {"val": {"accuracy": 0.75}}

    def test_a_failed_run_says_why(self, store: Store) -> None:
        reserve(store, "r")
        tell(store, "r", "attempt_started", 1)
        tell(store, "r", "failed", 1, what="no space left", hint="Free some")
        assert runs.open_run(store, "r").failure == {"what": "no space left", "hint": "Free some"}

    def test_a_run_without_a_model_says_so(self, store: Store) -> None:
        reserve(store, "r")
        with pytest.raises(NotFound, match="the run has no model: r"):
            runs.run_model(store, "r")


class TestSearches:
    @pytest.fixture(autouse=True)
    def reserved(self, store: Store) -> None:
        record = SearchRecord(
            search="s",
            spec={},
            request_sha256="ab",
            dataset="d",
            version="v",
            environment={},
            created_utc=MINUTE_ZERO.isoformat(),
            token=new_token(),
        )
        store.create(layout.search_record("s"), record.to_bytes())

    def test_its_trials_are_the_runs_that_name_it_in_order(self, store: Store) -> None:
        reserve(store, "s-001", 1, search="s")
        reserve(store, "s-000", 2, search="s")
        reserve(store, "other", 3)
        assert [trial.name for trial in runs.open_search(store, "s").trials] == ["s-000", "s-001"]
        assert [search.record.search for search in runs.list_searches(store)] == ["s"]

    def test_status_follows_its_own_end_and_the_life_of_its_trials(self, store: Store, living_pid: int) -> None:
        assert runs.open_search(store, "s").status == "created"
        reserve(store, "s-000", search="s")
        tell(store, "s-000", "attempt_started", 1)
        beat(store, "s-000", living_pid)
        assert runs.open_search(store, "s").status == "running"
        tell(store, "s-000", "finished", 1)
        assert runs.open_search(store, "s").status == "interrupted"
        runs.search_journal(store, "s").append("finished", data={"best": "s-000"})
        found = runs.open_search(store, "s")
        assert (found.status, found.best) == ("finished", "s-000")

    def test_an_unknown_search_is_refused_with_the_names_that_exist(self, store: Store) -> None:
        with pytest.raises(NotFound, match=r"no such search: t\. Searches in .*: s"):
            runs.open_search(store, "t")
