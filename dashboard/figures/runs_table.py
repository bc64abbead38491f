"""The table of runs: runs in, rows out, and the filter over them."""

from __future__ import annotations

import datetime
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from tljobs.runs import Run


@dataclass(frozen=True)
class RunRow:
    """A run as one row. Accuracies are shares; `duration_s` adds up its attempts, each up to its last event."""

    run: str
    status: str
    dataset: str
    backbone: str
    unfreeze: str
    learning_rate: float | None
    val_accuracy: float | None
    test_accuracy: float | None
    started: datetime.datetime
    duration_s: float


def run_rows(runs: Sequence[Run], now: datetime.datetime) -> list[RunRow]:
    """One row per run, in the order given."""
    return [_row(run, now) for run in runs]


def filter_rows(
    rows: Sequence[RunRow], statuses: Collection[str], datasets: Collection[str], text: str
) -> list[RunRow]:
    """Rows of these statuses and datasets (an empty choice means all) that contain each word of `text`."""
    words = text.lower().split()
    return [
        row
        for row in rows
        if (not statuses or row.status in statuses)
        and (not datasets or row.dataset in datasets)
        and all(word in _searchable(row) for word in words)
    ]


def duration_s(run: Run, now: datetime.datetime) -> float:
    """Seconds that the attempts took, each from its start to its last event; a running one counts up to `now`."""
    total, began, last = 0.0, None, None
    for event in run.events:
        moment = datetime.datetime.fromisoformat(event.time_utc)
        if event.kind == "attempt_started":
            total += (last - began).total_seconds() if began and last else 0.0
            began = moment
        last = moment
    if began is None or last is None:
        return total
    return total + ((now if run.status == "running" else last) - began).total_seconds()


def duration_text(seconds: float) -> str:
    """'42 s', '3 min 20 s' or '2 h 05 min'."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02} min"


def _row(run: Run, now: datetime.datetime) -> RunRow:
    spec, scores = run.record.spec, run.scores
    started = next((event.time_utc for event in run.events if event.kind == "attempt_started"), run.record.created_utc)
    return RunRow(
        run=run.name,
        status=run.status,
        dataset=run.record.dataset,
        backbone=str(spec.get("backbone", "")),
        unfreeze=str(spec.get("unfreeze", "")),
        learning_rate=spec.get("learning_rate"),
        val_accuracy=scores.get("val", {}).get("accuracy"),
        test_accuracy=scores.get("test", {}).get("accuracy"),
        started=datetime.datetime.fromisoformat(started),
        duration_s=duration_s(run, now),
    )


def _searchable(row: RunRow) -> str:
    return " ".join((row.run, row.status, row.dataset, row.backbone, row.unfreeze)).lower()
