"""Killed, stopped and resumed runs end with the variables of a run that was left alone."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import psutil
import pytest

from tljobs import layout
from tljobs.progress import Silent
from tljobs.records import DatasetManifest
from tljobs.runs import open_run, run_metrics
from tljobs.specs import TrainSpec
from tljobs.store import LocalStore, Store
from tljobs.training import checkpoint
from tljobs.training.train import train

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

STARTED_WITHIN_S = 240.0


def spec(name: str, workers: int) -> TrainSpec:
    """Many small checkpoints, in the head phase and after it; dropout, augmentation, early stopping counts."""
    return TrainSpec(
        dataset="shapes",
        name=name,
        backbone="small-cnn",
        weights="none",
        dropout=0.4,
        head_epochs=2,
        epochs=5,
        unfreeze="all",
        batchnorm="sync",
        global_batch=24,
        learning_rate=5e-3,
        patience=4,
        checkpoint_steps=2,
        workers=workers,
    )


def command(spec: TrainSpec, store: Store) -> list[str]:
    options = [f"--{key.replace('_', '-')}={value}" for key, value in spec.model_dump().items() if value is not None]
    options = [option for option in options if not option.startswith("--dataset")]
    return [sys.executable, "-m", "tljobs", "train", spec.dataset, *options, "--store", store.uri]


def start(arguments: list[str], log: Path) -> subprocess.Popen[bytes]:
    """A process group of its own, so that all of it can be ended."""
    with log.open("wb") as file:
        return subprocess.Popen(arguments, stdout=file, stderr=file, start_new_session=True)


def wait_for_steps(store: Store, run: str, steps: int, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline_s = time.monotonic() + STARTED_WITHIN_S
    while time.monotonic() < deadline_s:
        assert process.poll() is None, log.read_text()
        if any(step >= steps for step, _ in checkpoint.committed(store, run)):
            return
        time.sleep(0.02)
    raise AssertionError(f"no step {steps} within {STARTED_WITHIN_S} s: {log.read_text()}")


def kill_tree(pid: int) -> None:
    """SIGKILL to a process that a test started and to all its descendants."""
    parent = psutil.Process(pid)
    family = [parent, *parent.children(recursive=True)]
    for member in family:
        member.suspend()
    for member in family:
        member.kill()
    psutil.wait_procs(family, timeout=30)


def assert_same_run(store: Store, got: str, wanted: str) -> None:
    """Equal variables, bit by bit, and equal metrics."""
    commit, _ = checkpoint.newest_good(store, got)
    reference, _ = checkpoint.newest_good(store, wanted)
    assert commit is not None
    assert reference is not None
    assert commit.position == reference.position
    arrays, expected = checkpoint.read_state(store, commit), checkpoint.read_state(store, reference)
    assert set(arrays) == set(expected)
    for name, array in expected.items():
        np.testing.assert_array_equal(arrays[name], array, err_msg=name)
    for mine, theirs in zip(
        run_metrics(store, open_run(store, got)), run_metrics(store, open_run(store, wanted)), strict=True
    ):
        timeless = [
            row.model_copy(update={"wall_s": 0.0, "wait_s": 0.0} if hasattr(row, "wall_s") else {}) for row in mine
        ]
        assert timeless == [
            row.model_copy(update={"wall_s": 0.0, "wait_s": 0.0} if hasattr(row, "wall_s") else {}) for row in theirs
        ]


@pytest.mark.parametrize("workers", [1, 2])
def test_a_run_killed_at_a_random_step_and_resumed_equals_one_that_was_not(
    workers: int, store: Store, dataset: DatasetManifest, whole_run: Callable[[TrainSpec], str], tmp_path: Path
) -> None:
    wanted = whole_run(spec(f"whole-{workers}", workers))
    killed = spec(f"killed-{workers}", workers)
    generator = random.Random()
    steps, pause_s = generator.randrange(1, 20), generator.uniform(0, 0.5)
    print(f"killed {pause_s:.2f} s after step {steps}")

    process = start(command(killed, store), tmp_path / "log")
    wait_for_steps(store, killed.name or "", steps, process, tmp_path / "log")
    time.sleep(pause_s)
    kill_tree(process.pid)
    process.wait(timeout=30)
    assert open_run(store, killed.name or "").status == "interrupted"

    result = train(killed, store, Silent())
    assert result is not None
    assert (result.status, result.reused) == ("finished", False)
    assert open_run(store, result.run).attempt == 2
    assert_same_run(store, result.run, wanted)


def test_sigterm_saves_and_stops_with_code_6_and_the_run_goes_on(
    store: Store, dataset: DatasetManifest, whole_run: Callable[[TrainSpec], str], tmp_path: Path
) -> None:
    # Long enough to be asked within; without checkpoints of its own between epochs, so that what the stop saved is what
    # the run goes on from.
    long = {"epochs": 25, "patience": None, "checkpoint_steps": None}
    wanted = whole_run(spec("whole-long", 1).model_copy(update=long))
    stopped, log = spec("stopped", 1).model_copy(update=long), tmp_path / "log"
    process = start(command(stopped, store), log)
    deadline_s = time.monotonic() + STARTED_WITHIN_S
    while not any(event.kind == "phase_started" for event in _events(store, "stopped")):
        assert process.poll() is None, log.read_text()
        assert time.monotonic() < deadline_s
        time.sleep(0.05)
    os.kill(process.pid, signal.SIGTERM)
    assert process.wait(timeout=120) == 6, log.read_text()
    assert "tljobs runs resume stopped" in log.read_text()
    run = open_run(store, "stopped")
    assert run.status == "stopped"
    assert run.progress_step > 0

    resumed = subprocess.run(
        [sys.executable, "-m", "tljobs", "runs", "resume", "stopped", "--store", store.uri],
        capture_output=True,
        text=True,
        timeout=STARTED_WITHIN_S,
        check=False,
    )
    assert resumed.returncode == 0, resumed.stderr
    assert open_run(store, "stopped").attempt == 2
    assert_same_run(store, "stopped", wanted)


def test_a_killed_worker_is_replaced_and_the_run_ends_like_one_that_was_left_alone(
    store: Store, dataset: DatasetManifest, whole_run: Callable[[TrainSpec], str], tmp_path: Path
) -> None:
    wanted = whole_run(spec("whole-2", 2))
    wounded, log = spec("wounded", 2), tmp_path / "log"
    process = start(command(wounded, store), log)
    wait_for_steps(store, "wounded", 4, process, log)
    workers = [
        child for child in psutil.Process(process.pid).children(recursive=True) if "RayTrainWorker" in _title(child)
    ]
    assert len(workers) == 2, [_title(child) for child in psutil.Process(process.pid).children(recursive=True)]
    random.choice(workers).kill()
    assert process.wait(timeout=STARTED_WITHIN_S) == 0, log.read_text()
    run = open_run(store, "wounded")
    assert (run.status, run.attempt) == ("finished", 2)
    assert_same_run(store, "wounded", wanted)


def test_a_damaged_checkpoint_is_noticed_and_the_one_before_is_used(
    store: Store, dataset: DatasetManifest, whole_run: Callable[[TrainSpec], str]
) -> None:
    assert isinstance(store, LocalStore)
    run = whole_run(spec("whole-1", 1))
    newest, before = [checkpoint.read_commit(store, run, *each) for each in checkpoint.committed(store, run)[:2]]
    path = store.root / newest.state.key
    good = path.read_bytes()
    try:
        for damaged in (good[: len(good) // 3], good[:-1], good[:500] + bytes([good[500] ^ 1]) + good[501:], b""):
            path.write_bytes(damaged)
            found, skipped = checkpoint.newest_good(store, run)
            assert found == before
            assert len(skipped) == 1
            assert newest.state.key in skipped[0]
    finally:
        path.write_bytes(good)
    assert checkpoint.newest_good(store, run)[0] == newest


def test_best_and_the_newest_two_checkpoints_are_kept(
    store: Store, dataset: DatasetManifest, whole_run: Callable[[TrainSpec], str]
) -> None:
    run = whole_run(spec("whole-1", 1))
    commits = [checkpoint.read_commit(store, run, *each) for each in checkpoint.committed(store, run)]
    best = checkpoint.best(store, run)
    assert best in commits
    assert len(commits) <= checkpoint.KEEP_NEWEST + 2
    _, epochs = run_metrics(store, open_run(store, run))
    top = max(epochs, key=lambda row: (row.val_accuracy, -row.val_loss))
    assert best.position.step == top.step
    assert not [e for e in store.list(layout.run_checkpoints_prefix(run)) if e.size_bytes == 0]


def _events(store: Store, run: str) -> tuple:
    try:
        return open_run(store, run).events
    except Exception:  # not reserved yet
        return ()


def _title(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""
