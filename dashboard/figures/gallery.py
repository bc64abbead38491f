"""Which images to show: the per-image table of an evaluation in, a few of its rows out, worst first."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pyarrow as pa

NO_LABEL = "no label"


@dataclass(frozen=True)
class Shown:
    """An evaluated image, its labels with `|` between them. `probability` is that of the predicted label, or the
    largest where several may be predicted; `shard` and `row` say where it is stored."""

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
    import pyarrow as pa

    labels, predicted = predictions["label"].to_pylist(), predictions["predicted"].to_pylist()
    wrong = [row for row, (own, other) in enumerate(zip(labels, predicted, strict=True)) if own != other]
    return _shown(predictions.take(pa.array(wrong, pa.int64())), classes, limit)


def images_of_cell(
    predictions: pa.Table, classes: Sequence[str], true_index: int, predicted_index: int, limit: int
) -> list[Shown]:
    """Images of one cell of the confusion matrix, the highest loss first."""
    import pyarrow.compute as pc

    chosen = (pc.field("label") == true_index) & (pc.field("predicted") == predicted_index)
    return _shown(predictions.filter(chosen), classes, limit)


def _names(indices: int | list[int], classes: Sequence[str]) -> str:
    if isinstance(indices, int):
        return classes[indices]
    return "|".join(classes[index] for index in indices) or NO_LABEL


def _probability(probabilities: Sequence[float], predicted: int | list[int]) -> float:
    return probabilities[predicted] if isinstance(predicted, int) else max(probabilities)


def _shown(table: pa.Table, classes: Sequence[str], limit: int) -> list[Shown]:
    ordered = table.sort_by([("loss", "descending"), ("id", "ascending")]).slice(0, limit)
    return [
        Shown(
            id=row["id"],
            uri=row["uri"],
            label=_names(row["label"], classes),
            predicted=_names(row["predicted"], classes),
            probability=_probability(row["probabilities"], row["predicted"]),
            loss=row["loss"],
            shard=row["shard"],
            row=row["row"],
        )
        for row in ordered.to_pylist()
    ]
