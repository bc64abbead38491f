"""Which images to show: the per-image table of an evaluation in, a few of its rows out, worst first."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pyarrow as pa


@dataclass(frozen=True)
class Shown:
    """An evaluated image. `probability` is that of the predicted label; `shard` and `row` say where it is stored."""

    id: str
    uri: str
    label: str
    predicted: str
    probability: float
    loss: float
    shard: int
    row: int


def worst_errors(predictions: pa.Table, classes: Sequence[str], limit: int) -> list[Shown]:
    """Wrongly predicted images, the highest loss first."""
    import pyarrow.compute as pc

    return _shown(predictions.filter(pc.field("label") != pc.field("predicted")), classes, limit)


def images_of_cell(
    predictions: pa.Table, classes: Sequence[str], true_index: int, predicted_index: int, limit: int
) -> list[Shown]:
    """Images of one cell of the confusion matrix, the highest loss first."""
    import pyarrow.compute as pc

    chosen = (pc.field("label") == true_index) & (pc.field("predicted") == predicted_index)
    return _shown(predictions.filter(chosen), classes, limit)


def _shown(table: pa.Table, classes: Sequence[str], limit: int) -> list[Shown]:
    ordered = table.sort_by([("loss", "descending"), ("id", "ascending")]).slice(0, limit)
    return [
        Shown(
            id=row["id"],
            uri=row["uri"],
            label=classes[row["label"]],
            predicted=classes[row["predicted"]],
            probability=row["probabilities"][row["predicted"]],
            loss=row["loss"],
            shard=row["shard"],
            row=row["row"],
        )
        for row in ordered.to_pylist()
    ]
