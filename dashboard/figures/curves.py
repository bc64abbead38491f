"""Learning curves: steps, epochs and events in; points, phase bands and marks out; then two charts of them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import groupby
from typing import Literal

import altair as alt
import numpy as np

from tljobs.records import EpochRow, Event, StepRow

Axis = Literal["epoch", "step"]
MAX_POINTS = 600  # per line: more cannot be told apart, and the page stays light

PART_COLOURS = {"train": "#8a94a6", "val": "#2f6fde"}
BEST_COLOUR, RESUME_COLOUR = "#2e9e6b", "#d9822b"
CHART_HEIGHT_PX = 320
NAME_ROOM_PX = 22  # above and below the lines, for the names of phases and marks


@dataclass(frozen=True)
class Point:
    """A value of the training or validation images at `x`: epochs or steps made so far."""

    x: float
    part: str
    value: float


@dataclass(frozen=True)
class Band:
    """A phase, from `start` to `end` on the x axis; `number` counts from 0."""

    number: int
    phase: str
    start: float
    end: float
    middle: float


@dataclass(frozen=True)
class Mark:
    """A moment to point out: a resume, or the best epoch."""

    kind: str
    x: float
    text: str


@dataclass(frozen=True)
class Curves:
    """What both charts show; `axis` is the unit of every x."""

    axis: Axis
    loss: tuple[Point, ...]
    accuracy: tuple[Point, ...]
    bands: tuple[Band, ...]
    marks: tuple[Mark, ...]


def learning_curves(
    steps: Sequence[StepRow], epochs: Sequence[EpochRow], events: Sequence[Event], monitor: str, axis: Axis
) -> Curves:
    """Curves of one run.

    Args:
        steps: steps that count, ascending.
        epochs: epochs that count, ascending; their `step` is the global step at their end.
        events: the run's history, for resumes.
        monitor: `val_accuracy` (the highest is best) or `val_loss` (the lowest is).
        axis: by epoch the training values are the epochs' means; by step they are those of single steps, thinned.
    """
    ends = [row.step for row in epochs]
    return Curves(
        axis=axis,
        loss=_line(axis, steps, epochs, ends, "loss"),
        accuracy=_line(axis, steps, epochs, ends, "accuracy"),
        bands=_bands(axis, steps, epochs, ends),
        marks=(*_resumes(axis, events, ends), *_best(axis, epochs, ends, monitor)),
    )


def best_epoch(epochs: Sequence[EpochRow], monitor: str) -> EpochRow | None:
    """The first epoch with the best value of `monitor`; None before any epoch has ended."""
    if monitor == "val_loss":
        return min(epochs, key=lambda row: row.val_loss, default=None)
    return max(epochs, key=lambda row: row.val_accuracy, default=None)


def position(axis: Axis, step: int, epoch_ends: Sequence[int]) -> float:
    """A global step on the axis. Between the ends of two epochs the epoch is interpolated linearly."""
    if axis == "step":
        return float(step)
    return float(np.interp(step, [0, *epoch_ends], np.arange(len(epoch_ends) + 1)))


def thinned(points: Sequence[Point], limit: int) -> list[Point]:
    """At most `limit` points: means over neighbouring points, each at the x of its last one."""
    if len(points) <= limit:
        return list(points)
    parts = np.array_split(np.arange(len(points)), limit)
    return [
        Point(points[part[-1]].x, points[part[-1]].part, float(np.mean([points[index].value for index in part])))
        for part in parts
    ]


def _line(
    axis: Axis, steps: Sequence[StepRow], epochs: Sequence[EpochRow], ends: Sequence[int], quantity: str
) -> tuple[Point, ...]:
    at_ends = [(position(axis, row.step, ends), row) for row in epochs]
    val = [Point(x, "val", getattr(row, f"val_{quantity}")) for x, row in at_ends]
    if axis == "epoch":
        train = [Point(x, "train", getattr(row, f"train_{quantity}")) for x, row in at_ends]
    else:
        train = [Point(float(row.step), "train", getattr(row, quantity)) for row in steps]
    finite = [[point for point in line if math.isfinite(point.value)] for line in (train, val)]
    return tuple(point for line in finite for point in thinned(line, MAX_POINTS))


def _bands(axis: Axis, steps: Sequence[StepRow], epochs: Sequence[EpochRow], ends: Sequence[int]) -> tuple[Band, ...]:
    known = sorted({(row.step, row.phase) for row in steps} | {(row.step, row.phase) for row in epochs})
    bands: list[Band] = []
    start = 0
    for phase, rows in groupby(known, key=lambda item: item[1]):
        end = max(step for step, _ in rows)
        low, high = position(axis, start, ends), position(axis, end, ends)
        if high > low:
            bands.append(Band(len(bands), phase, low, high, (low + high) / 2))
        start = end
    return tuple(bands)


def _resumes(axis: Axis, events: Sequence[Event], ends: Sequence[int]) -> list[Mark]:
    starts = [event for event in events if event.kind == "attempt_started"][1:]
    return [
        Mark("resume", position(axis, event.step, ends), f"attempt {event.attempt} resumed at step {event.step}")
        for event in starts
    ]


def _best(axis: Axis, epochs: Sequence[EpochRow], ends: Sequence[int], monitor: str) -> list[Mark]:
    row = best_epoch(epochs, monitor)
    if row is None:
        return []
    text = f"best epoch: {row.val_accuracy:.1%} accuracy, loss {row.val_loss:.3f} at step {row.step}"
    return [Mark("best", position(axis, row.step, ends), text)]


# ---------------------------------------------------------------------------------------------------------- drawing


def loss_chart(curves: Curves) -> alt.LayerChart:
    """Loss of training and validation images, with phases, resumes and the best epoch."""
    return _chart(curves, curves.loss, "loss", alt.Axis(format=".2f", tickMinStep=0.01))


def accuracy_chart(curves: Curves) -> alt.LayerChart:
    """Accuracy of training and validation images, with phases, resumes and the best epoch."""
    return _chart(curves, curves.accuracy, "accuracy", alt.Axis(format=".0%", tickMinStep=0.01))


def _chart(curves: Curves, points: Sequence[Point], title: str, y_axis: alt.Axis) -> alt.LayerChart:
    x = alt.X(
        "x:Q", title=curves.axis, axis=alt.Axis(tickMinStep=1, grid=False), scale=alt.Scale(nice=False, zero=True)
    )
    colour = alt.Color(
        "part:N",
        title=None,
        scale=alt.Scale(domain=list(PART_COLOURS), range=list(PART_COLOURS.values())),
        legend=alt.Legend(orient="top"),
    )
    marks = {"point": alt.OverlayMarkDef(size=28)} if curves.axis == "epoch" else {}
    line = (
        alt.Chart(_values(points))
        .mark_line(strokeWidth=2, **marks)
        .encode(
            x=x,
            y=alt.Y("value:Q", title=title, axis=y_axis, scale=alt.Scale(zero=False, padding=NAME_ROOM_PX)),
            color=colour,
            tooltip=[
                alt.Tooltip("part:N", title="images"),
                alt.Tooltip("x:Q", title=curves.axis, format=",.4~g"),
                alt.Tooltip("value:Q", title=title, format=".4f"),
            ],
        )
    )
    layers = [*_band_layers(curves), *_mark_layers(curves), line]
    return alt.layer(*layers).properties(height=CHART_HEIGHT_PX)


def _band_layers(curves: Curves) -> list[alt.Chart]:
    if not curves.bands:
        return []
    data = _values(curves.bands)
    tooltip = [alt.Tooltip("phase:N", title="phase")]
    area = (
        alt.Chart(data)
        .mark_rect()
        .encode(
            x="start:Q",
            x2="end:Q",
            color=alt.value("#8a94a6"),
            opacity=alt.condition(alt.datum.number % 2 == 0, alt.value(0.06), alt.value(0.16)),
            tooltip=tooltip,
        )
    )
    name = (
        alt.Chart(data)
        .mark_text(baseline="top", fontSize=11, limit=140)
        .encode(x="middle:Q", y=alt.value(6), text="phase:N", color=alt.value("#8a94a6"))
    )
    return [area, name]


def _mark_layers(curves: Curves) -> list[alt.Chart]:
    if not curves.marks:
        return []
    data = _values(curves.marks)
    colour = alt.condition(alt.datum.kind == "best", alt.value(BEST_COLOUR), alt.value(RESUME_COLOUR))
    tooltip = [alt.Tooltip("text:N", title="mark")]
    rule = alt.Chart(data).mark_rule(strokeDash=[4, 3], strokeWidth=1.5).encode(x="x:Q", color=colour, tooltip=tooltip)
    name = (
        alt.Chart(data)
        .mark_text(baseline="bottom", align="right", dx=-4, fontSize=11)
        .encode(x="x:Q", y=alt.value(alt.expr("height - 5")), text="kind:N", color=colour, tooltip=tooltip)
    )
    return [rule, name]


def _values(items: Sequence[Point] | Sequence[Band] | Sequence[Mark]) -> alt.Data:
    return alt.Data(values=[asdict(item) for item in items])
