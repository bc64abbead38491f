"""One trial of a search: a run trained in a warm process of Ray Tune, which imports TensorFlow once for many trials.

In: a Trial and its search. Out: a run with checkpoints, metrics and validation scores; a model only if it wins.
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from typing import Any

from tljobs.evaluation.intervals import wilson
from tljobs.records import DatasetManifest, EpochRow
from tljobs.runs import open_run, run_journal, run_metrics, search_journal
from tljobs.specs import TuneSpec
from tljobs.store import Store
from tljobs.training.heartbeat import heartbeat
from tljobs.training.reserve import reserve
from tljobs.training.watch import record_failure
from tljobs.tuning.space import Trial, train_spec


@dataclass(frozen=True)
class TrialTask:
    """All that a trial process needs beside its Trial; pickled by Ray. `deadline_s` is in `time.time()`."""

    spec: TuneSpec
    search: str
    store: Store
    manifest: DatasetManifest
    manifest_sha256: str
    threads: int
    deadline_s: float | None


def run_trial(config: dict[str, Any], task: TrialTask) -> None:
    """The function trainable. A trial that an earlier attempt at the search finished only reports its scores."""
    from ray import tune

    # Read when TensorFlow is imported, by the first trial of this process.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    os.environ["TF_NUM_INTRAOP_THREADS"] = os.environ["OMP_NUM_THREADS"] = str(task.threads)
    trial: Trial = config["trial"]
    if _must_not_start(task):
        return
    spec = train_spec(task.spec, task.search, trial)
    run = reserve(task.store, spec, task.manifest, task.manifest_sha256, search=task.search).run
    if run.status == "finished":
        tune.report({"val_accuracy": run.scores["val"]["accuracy"], "val_loss": run.scores["val"]["loss"]})
        return
    try:
        _train(task, trial, run.name)
    except Exception as error:
        record_failure(task.store, run.name, error)
        raise


def _train(task: TrialTask, trial: Trial, name: str) -> None:
    import keras
    from ray import tune

    from tljobs.training.loop import run_attempt
    from tljobs.training.workers import Workers

    def report(row: EpochRow) -> None:
        tune.report({"val_accuracy": row.val_accuracy, "val_loss": row.val_loss, "step": row.step, "run": name})

    keras.backend.clear_session()  # the process has trained another trial before
    spec = train_spec(task.spec, task.search, trial)
    with heartbeat(task.store, name):
        try:
            outcome = run_attempt(spec, task.store, task.manifest, name, Workers(), on_epoch=report)
        except SystemExit:
            # The scheduler stops a bad trial this way, inside `tune.report`; its epochs so far are its result.
            finish_trial(task.store, task.manifest, name, stopped_by="asha")
            raise
        if outcome.status == "stopped":
            run_journal(task.store, name).append("stopped", step=outcome.step)
            return
        finish_trial(task.store, task.manifest, name, stopped_by=None)


def finish_trial(store: Store, manifest: DatasetManifest, name: str, *, stopped_by: str | None) -> None:
    """The end of a trial: the scores of its best epoch, with the 95 % interval of the accuracy."""
    run = open_run(store, name)
    _, epochs = run_metrics(store, run)
    best = max(epochs, key=lambda row: (row.val_accuracy, -row.val_loss))
    images = manifest.splits["val"].images
    low, high = wilson(round(best.val_accuracy * images), images)
    scores = {
        "accuracy": best.val_accuracy,
        "accuracy_low": low,
        "accuracy_high": high,
        "loss": best.val_loss,
        "images": float(images),
    }
    rate = sum(row.images for row in epochs) / max(1e-9, sum(row.wall_s for row in epochs))
    data = {"scores": {"val": scores}, "images_per_s": rate, "best_step": best.step, "stopped_by": stopped_by}
    run_journal(store, name).append("finished", attempt=run.attempt, step=epochs[-1].step, data=data)


def finish_if_cut_off(store: Store, manifest: DatasetManifest, name: str) -> None:
    """The end of a trial that the scheduler stopped, unless it has written its own: with the last trial Tune ends all
    processes, sometimes before."""
    if open_run(store, name).status not in ("finished", "failed", "stopped"):
        finish_trial(store, manifest, name, stopped_by="asha")


def _must_not_start(task: TrialTask) -> bool:
    if task.deadline_s is not None and time.time() > task.deadline_s:
        return True
    events = search_journal(task.store, task.search).read()
    begun = max((e.seq for e in events if e.kind == "attempt_started"), default=-1)
    return any(event.kind == "stop_requested" and event.seq > begun for event in events)
