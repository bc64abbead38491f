"""What the driver of a run does meanwhile: tells its user what the workers write, and writes down why it failed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from tljobs.errors import Stopped, TljobsError
from tljobs.progress import Reporter
from tljobs.runs import run_journal
from tljobs.store import Store
from tljobs.training.repeating import repeating

WATCH_EVERY_S = 1.0


@contextmanager
def failure_recorded(store: Store, run: str) -> Iterator[None]:
    """An error that ends the run becomes an event, so that others read why."""
    try:
        yield
    except Stopped:
        raise
    except (Exception, KeyboardInterrupt) as error:
        record_failure(store, run, error)
        raise


def record_failure(store: Store, run: str, error: BaseException) -> None:
    told = error if isinstance(error, TljobsError) else TljobsError(type(error).__name__, "", str(error)[:500])
    data = {"what": told.what, "where": told.where, "hint": told.hint, "code": told.exit_code}
    run_journal(store, run).append("failed", data=data)


@contextmanager
def progress_shown(store: Store, run: str, reporter: Reporter) -> Iterator[None]:
    """Tells the reporter what the workers write into the run's history."""
    journal = run_journal(store, run)
    told = len(journal.read())

    def tell_new() -> None:
        nonlocal told
        try:
            events = journal.read()
        except TljobsError:
            return
        for event in events[told:]:
            _tell(reporter, event.kind, event.step, event.data)
        told = len(events)

    with repeating(tell_new, WATCH_EVERY_S, "progress"):
        yield


def _tell(reporter: Reporter, kind: str, step: int, data: dict[str, Any]) -> None:
    tellers: dict[str, Callable[[], str]] = {
        "attempt_started": lambda: f"Training with {data['workers']} worker(s) from step {step}",
        "phase_started": lambda: (
            f"Phase {data['name']}: {data['trainable_parameters']:,} of"
            f" {data['trainable_parameters'] + data['frozen_parameters']:,} parameters trainable,"
            f" {data['epochs']} epochs, rate {data['learning_rate']:g}" + "".join(f" ({n})" for n in data["notes"])
        ),
        "checkpoint": lambda: (
            f"Step {step}: {data['phase']} epoch {data['epoch']}, validation accuracy {data['val_accuracy']:.3f},"
            f" loss {data['val_loss']:.3f}"
            if data["val_accuracy"] is not None
            else f"Step {step}: saved"
        ),
        "stop_requested": lambda: "Asked to stop: saving",
    }
    if kind in tellers:
        reporter.note(tellers[kind]())
