"""The records of a run as small tables: its events, its plan, its configuration."""

from __future__ import annotations

import datetime
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tljobs.records import Event, PhasePlan, StepRow
from tljobs.runs import Run


@dataclass(frozen=True)
class EventRow:
    """One line of the log."""

    time: datetime.datetime
    event: str
    attempt: int
    step: int
    details: str


@dataclass(frozen=True)
class Progress:
    """How far a run is. `share` is 0 to 1, or None while there is no plan."""

    text: str
    share: float | None


def event_rows(events: Sequence[Event]) -> list[EventRow]:
    """The history, newest first."""
    return [
        EventRow(
            time=datetime.datetime.fromisoformat(event.time_utc),
            event=event.kind.replace("_", " "),
            attempt=event.attempt,
            step=event.step,
            details=_details(event.data),
        )
        for event in reversed(events)
    ]


def setting_rows(spec: Mapping[str, Any]) -> list[dict[str, str]]:
    """The configuration as (setting, value), in the order of the spec."""
    return [{"setting": name, "value": "" if value is None else str(value)} for name, value in spec.items()]


def plan_rows(run: Run) -> list[dict[str, Any]]:
    """One row per phase that has begun, with the fields of records.PhasePlan."""
    return [{name: phase.get(name) for name in PhasePlan.model_fields} for phase in run.plan]


def total_steps(run: Run) -> int:
    """Steps of the whole run: those of an epoch times the epochs asked for; 0 while no phase has begun."""
    if not run.plan:
        return 0
    first = run.plan[0]
    return int(first["steps"]) // int(first["epochs"]) * int(run.record.spec["epochs"])


def progress(run: Run, steps: Sequence[StepRow]) -> Progress:
    """Where training stands, from the newest step that was recorded and the steps of the plan."""
    total = total_steps(run)
    if not steps:
        return Progress("starting", 0.0 if total else None)
    newest = steps[-1]
    text = f"phase {newest.phase}, epoch {newest.epoch}, step {newest.step}"
    if not total:
        return Progress(text, None)
    return Progress(f"{text} of {total}", min(1.0, newest.step / total))


def _details(data: Mapping[str, Any]) -> str:
    """Short values as 'name: value'; tables such as the plan have a place of their own on the page."""
    short = {name: value for name, value in data.items() if not isinstance(value, list)}
    return ", ".join(f"{name}: {_value(value)}" for name, value in short.items())


def _value(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, Mapping):
        return " ".join(f"{name} {_value(each)}" for name, each in value.items())
    return str(value)
