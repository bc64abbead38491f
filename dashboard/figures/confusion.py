"""The confusion matrix: an evaluation in, cells out, then a heat map whose cells can be clicked."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Literal

import altair as alt
import numpy as np

from tljobs.records import EvaluationReport

Measure = Literal["counts", "by row"]
MAX_CLASSES = 40  # more rows cannot be read on a screen
MAX_CLASSES_WITH_NUMBERS = 16
SELECTION = "cell"

CELL_PX, MIN_SIDE_PX, MAX_SIDE_PX = 60, 420, 720
LABEL_PX = 150
PICKED_COLOUR = "#d9822b"


@dataclass(frozen=True)
class Cell:
    """Images of class `true_label` predicted as `predicted_label`; `share` is of all images of the true class."""

    true_index: int
    predicted_index: int
    true_label: str
    predicted_label: str
    count: int
    share: float


@dataclass(frozen=True)
class Confusion:
    """Cells row by row over `labels`; `left_out` classes have the fewest errors of all and are not among them.

    `max_count` is the largest count of a cell that is shown, at least 1.
    """

    labels: tuple[str, ...]
    cells: tuple[Cell, ...]
    left_out: int
    max_count: int


def confusion(report: EvaluationReport, max_classes: int = MAX_CLASSES) -> Confusion:
    """The matrix of a report; where there are more classes, of the `max_classes` that take part in most errors."""
    matrix = np.array(report.confusion, dtype=np.int64).reshape(len(report.classes), len(report.classes))
    kept = _most_confused(matrix, max_classes)
    totals = matrix.sum(axis=1)
    cells = tuple(
        Cell(
            true_index=i,
            predicted_index=j,
            true_label=report.classes[i],
            predicted_label=report.classes[j],
            count=int(matrix[i, j]),
            share=float(matrix[i, j] / totals[i]) if totals[i] else 0.0,
        )
        for i in kept
        for j in kept
    )
    return Confusion(
        labels=tuple(report.classes[i] for i in kept),
        cells=cells,
        left_out=len(report.classes) - len(kept),
        max_count=max([1, *(cell.count for cell in cells)]),
    )


def _most_confused(matrix: np.ndarray[tuple[int, ...], np.dtype[np.int64]], limit: int) -> list[int]:
    """Indices in class order of the `limit` classes with most wrong images in their row and column."""
    wrong = matrix.sum(axis=0) + matrix.sum(axis=1) - 2 * matrix.diagonal()
    return sorted(int(index) for index in np.argsort(-wrong, kind="stable")[:limit])


# ---------------------------------------------------------------------------------------------------------- drawing


def confusion_chart(matrix: Confusion, measure: Measure) -> alt.LayerChart:
    """A heat map. The point selection named SELECTION holds `true_index` and `predicted_index` of the clicked cell."""
    by_count = measure == "counts"
    field, number, darkest = ("count", "d", matrix.max_count) if by_count else ("share", ".0%", 1)
    side_px = max(MIN_SIDE_PX, min(MAX_SIDE_PX, CELL_PX * len(matrix.labels)))
    data = alt.Data(values=[asdict(cell) for cell in matrix.cells])
    picked = alt.selection_point(name=SELECTION, fields=["true_index", "predicted_index"], empty=False, toggle=False)
    order = list(matrix.labels)
    axis = {"labelLimit": LABEL_PX, "labelOverlap": False}
    base = alt.Chart(data).encode(
        x=alt.X("predicted_label:N", sort=order, title="predicted", axis={**axis, "labelAngle": -40}),
        y=alt.Y("true_label:N", sort=order, title="true", axis=axis),
    )
    heat = (
        base.mark_rect(cursor="pointer", stroke="#ffffff", strokeWidth=1)
        .encode(
            color=alt.Color(f"{field}:Q", scale=alt.Scale(scheme="blues", domain=[0, darkest]), legend=None),
            stroke=alt.condition(picked, alt.value(PICKED_COLOUR), alt.value("#ffffff")),
            strokeWidth=alt.condition(picked, alt.value(3), alt.value(1)),
            tooltip=[
                alt.Tooltip("true_label:N", title="true"),
                alt.Tooltip("predicted_label:N", title="predicted"),
                alt.Tooltip("count:Q", title="images"),
                alt.Tooltip("share:Q", title="of the true class", format=".1%"),
            ],
        )
        .add_params(picked)
    )
    layers = [heat]
    if len(matrix.labels) <= MAX_CLASSES_WITH_NUMBERS:
        ink = alt.condition(alt.datum[field] > darkest / 2, alt.value("#ffffff"), alt.value("#22303f"))
        layers.append(base.mark_text(fontSize=12).encode(text=alt.Text(f"{field}:Q", format=number), color=ink))
    return alt.layer(*layers).properties(width=side_px, height=side_px)
