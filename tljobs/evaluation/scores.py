"""Scores of a classifier from labels and probabilities: numbers in, numbers out, numpy only.

n images, C classes. Labels are indices into the label map, int (n,); probabilities are float (n, C), rows sum to 1.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from tljobs.errors import InputRefused
from tljobs.records import ClassScores

TOP_K = 5
# Smallest normal float32: a softmax in float32 that underflows to 0 would otherwise give an infinite loss.
PROBABILITY_FLOOR = float(np.finfo(np.float32).tiny)


def predicted_classes(probabilities: NDArray[np.floating]) -> NDArray[np.int32]:
    """The most probable class of each row, int32 (n,); of equal ones the lowest index."""
    best: NDArray[np.int32] = np.argmax(probabilities, axis=1).astype(np.int32)
    return best


def image_losses(labels: NDArray[np.integer], probabilities: NDArray[np.floating]) -> NDArray[np.float32]:
    """Cross-entropy of each image in nats, -ln p(label), float32 (n,)."""
    own = probabilities[np.arange(len(labels)), labels].astype(np.float64)
    losses: NDArray[np.float32] = (-np.log(np.maximum(own, PROBABILITY_FLOOR))).astype(np.float32)
    return losses


def confusion(labels: NDArray[np.integer], predicted: NDArray[np.integer], classes: int) -> NDArray[np.int64]:
    """int64 (C, C): entry [i, j] counts the images of class i predicted as class j.

    Raises InputRefused when a label or prediction is no index of a class.
    """
    for what, values in (("label", labels), ("prediction", predicted)):
        if len(values) and (int(values.min()) < 0 or int(values.max()) >= classes):
            raise InputRefused(f"a {what} lies outside the {classes} classes", str(values.max()))
    pairs = labels.astype(np.int64) * classes + predicted.astype(np.int64)
    return np.bincount(pairs, minlength=classes * classes).reshape(classes, classes).astype(np.int64)


def score(labels: NDArray[np.integer], probabilities: NDArray[np.floating]) -> dict[str, float]:
    """Scores over all images.

    `accuracy`; `top_5` (only with more than 5 classes); `balanced_accuracy`: mean recall over the classes that have
    images; `macro_f1`: mean F1 over the classes that have images or predictions; `loss`: mean cross-entropy in nats.
    The definitions are those of scikit-learn's `balanced_accuracy_score`, `f1_score(average="macro")` and `log_loss`.

    Raises InputRefused without images, or when the shapes do not fit.
    """
    _check(labels, probabilities)
    classes = probabilities.shape[1]
    matrix = confusion(labels, predicted_classes(probabilities), classes)
    _, recall, f1 = class_ratios(matrix)
    scores = {"accuracy": float(np.trace(matrix) / len(labels))}
    if classes > TOP_K:
        scores["top_5"] = float(np.mean(label_ranks(labels, probabilities) < TOP_K))
    scores["balanced_accuracy"] = float(np.nanmean(recall))
    scores["macro_f1"] = float(np.nanmean(f1))
    scores["loss"] = float(np.mean(image_losses(labels, probabilities), dtype=np.float64))
    return scores


def label_ranks(labels: NDArray[np.integer], probabilities: NDArray[np.floating]) -> NDArray[np.int64]:
    """Place of the true class in the order of probability, 0 for the best, int64 (n,); ties go to the lower index."""
    own = probabilities[np.arange(len(labels)), labels][:, None]
    earlier = np.arange(probabilities.shape[1])[None, :] < labels[:, None]
    better = (probabilities > own) | ((probabilities == own) & earlier)
    return np.asarray(np.count_nonzero(better, axis=1), dtype=np.int64)


def class_ratios(
    matrix: NDArray[np.int64],
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Precision, recall and F1 = 2 TP / (2 TP + FP + FN) of each class, float64 (C,); NaN where undefined."""
    hits = np.diag(matrix).astype(np.float64)
    images = matrix.sum(axis=1).astype(np.float64)
    predictions = matrix.sum(axis=0).astype(np.float64)
    return ratios(hits, images, predictions)


def ratios(
    hits: NDArray[np.float64], images: NDArray[np.float64], predictions: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Precision, recall and F1, float64 (C,), from the counts of each class; NaN where undefined."""
    return _ratio(hits, predictions), _ratio(hits, images), _ratio(2 * hits, images + predictions)


def class_scores(matrix: NDArray[np.int64], classes: tuple[str, ...]) -> tuple[ClassScores, ...]:
    """Scores of each class from its confusion matrix (C, C), None where undefined."""
    precision, recall, f1 = class_ratios(matrix)
    images = matrix.sum(axis=1)
    return tuple(
        ClassScores(
            label=label,
            images=int(images[index]),
            precision=optional(precision[index]),
            recall=optional(recall[index]),
            f1=optional(f1[index]),
        )
        for index, label in enumerate(classes)
    )


def _check(labels: NDArray[np.integer], probabilities: NDArray[np.floating]) -> None:
    if not len(labels):
        raise InputRefused("there are no images to score")
    if probabilities.ndim != 2 or len(probabilities) != len(labels):
        raise InputRefused("labels and probabilities do not fit", f"{labels.shape} and {probabilities.shape}")
    if not np.isfinite(probabilities).all():
        raise InputRefused("some probabilities are no numbers", f"{int((~np.isfinite(probabilities)).sum())} values")


def _ratio(part: NDArray[np.float64], whole: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.divide(part, whole, out=np.full_like(part, np.nan), where=whole > 0)


def optional(value: np.float64) -> float | None:
    """None for NaN."""
    return None if np.isnan(value) else float(value)
