"""Scores of a multi-label classifier from labels and probabilities: numbers in, numbers out, numpy only.

n images, C classes. Labels are multi-hot, int (n, C); probabilities are float (n, C), each of its own. All-zero rows
(an image that shows none of the classes) are legal.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from tljobs.errors import InputRefused
from tljobs.evaluation.intervals import wilson
from tljobs.evaluation.scores import PROBABILITY_FLOOR, optional, ratios
from tljobs.records import ClassScores

THRESHOLD = 0.5  # a class is predicted from this probability on


def predicted_labels(probabilities: NDArray[np.floating]) -> NDArray[np.bool_]:
    """Which classes are predicted, bool (n, C)."""
    predicted: NDArray[np.bool_] = probabilities >= THRESHOLD
    return predicted


def image_losses(labels: NDArray[np.integer], probabilities: NDArray[np.floating]) -> NDArray[np.float32]:
    """Binary cross-entropy of each image, summed over the classes, in nats, float32 (n,)."""
    own = np.where(labels > 0, probabilities, 1 - probabilities).astype(np.float64)
    losses: NDArray[np.float32] = (-np.log(np.maximum(own, PROBABILITY_FLOOR))).sum(axis=1).astype(np.float32)
    return losses


def score(labels: NDArray[np.integer], probabilities: NDArray[np.floating]) -> dict[str, float]:
    """Scores over all images.

    `accuracy`: share of images with every class right (scikit-learn's accuracy for multi-label data);
    `label_accuracy`: share of (image, class) pairs that are right; `micro_f1`, `macro_f1` (over the classes that have
    images or predictions), `macro_auroc` and `mean_average_precision` (over the classes with and without images);
    `loss`: mean binary cross-entropy, summed over the classes, in nats. A score that no class defines is left out.

    Raises InputRefused without images, or when the shapes do not fit.
    """
    _check(labels, probabilities)
    truth, predicted = labels > 0, predicted_labels(probabilities)
    _, _, f1 = class_ratios(truth, predicted)
    scores = {
        "accuracy": float(np.mean(np.all(truth == predicted, axis=1))),
        "label_accuracy": float(np.mean(truth == predicted)),
        "micro_f1": float(class_ratios(truth.reshape(-1, 1), predicted.reshape(-1, 1))[2][0]),
        "macro_f1": _mean(f1),
        "macro_auroc": _mean(auroc(truth, probabilities)),
        "mean_average_precision": _mean(average_precision(truth, probabilities)),
        "loss": float(np.mean(image_losses(labels, probabilities), dtype=np.float64)),
    }
    return {name: value for name, value in scores.items() if not np.isnan(value)}


def class_scores(
    labels: NDArray[np.integer], probabilities: NDArray[np.floating], classes: tuple[str, ...]
) -> tuple[ClassScores, ...]:
    """Scores of each class, None where undefined."""
    truth = labels > 0
    precision, recall, f1 = class_ratios(truth, predicted_labels(probabilities))
    areas, averages = auroc(truth, probabilities), average_precision(truth, probabilities)
    return tuple(
        ClassScores(
            label=label,
            images=int(truth[:, index].sum()),
            precision=optional(precision[index]),
            recall=optional(recall[index]),
            f1=optional(f1[index]),
            auroc=optional(areas[index]),
            average_precision=optional(averages[index]),
        )
        for index, label in enumerate(classes)
    )


def score_intervals(
    labels: NDArray[np.integer], probabilities: NDArray[np.floating], classes: tuple[str, ...]
) -> dict[str, tuple[float, float]]:
    """95 % intervals of the scores that are proportions of images: `accuracy`, and `recall/LABEL` of each class."""
    truth, predicted = labels > 0, predicted_labels(probabilities)
    intervals = {"accuracy": wilson(int(np.all(truth == predicted, axis=1).sum()), len(labels))}
    for index, label in enumerate(classes):
        if images := int(truth[:, index].sum()):
            intervals[f"recall/{label}"] = wilson(int((truth & predicted)[:, index].sum()), images)
    return intervals


def class_ratios(
    truth: NDArray[np.bool_], predicted: NDArray[np.bool_]
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Precision, recall and F1 of each class, float64 (C,); NaN where undefined."""
    hits = (truth & predicted).sum(axis=0).astype(np.float64)
    images, predictions = truth.sum(axis=0).astype(np.float64), predicted.sum(axis=0).astype(np.float64)
    return ratios(hits, images, predictions)


def auroc(truth: NDArray[np.bool_], probabilities: NDArray[np.floating]) -> NDArray[np.float64]:
    """Area under the ROC curve of each class, float64 (C,): the probability that an image with the class is ranked
    above one without it, ties counting half (Mann and Whitney 1947). NaN for a class that has not both."""
    areas = np.full(truth.shape[1], np.nan)
    for index in range(truth.shape[1]):
        own = truth[:, index]
        positives, negatives = int(own.sum()), int((~own).sum())
        if positives and negatives:
            ranks = _mean_ranks(probabilities[:, index])
            areas[index] = (ranks[own].sum() - positives * (positives + 1) / 2) / (positives * negatives)
    return areas


def average_precision(truth: NDArray[np.bool_], probabilities: NDArray[np.floating]) -> NDArray[np.float64]:
    """Average precision of each class, float64 (C,): the sum over thresholds of the gain in recall times the
    precision, as scikit-learn computes it. NaN for a class without images."""
    averages = np.full(truth.shape[1], np.nan)
    for index in range(truth.shape[1]):
        positives = int(truth[:, index].sum())
        if positives:
            order = np.argsort(-probabilities[:, index], kind="stable")
            values, own = probabilities[order, index], truth[order, index]
            last = np.append(values[1:] != values[:-1], True)  # of the images with equal probability
            hits = np.cumsum(own)[last]
            precision = hits / (np.flatnonzero(last) + 1)
            averages[index] = np.sum(np.diff(hits, prepend=0) / positives * precision)
    return averages


def _mean_ranks(values: NDArray[np.floating]) -> NDArray[np.float64]:
    """Ranks from 1; equal values share the mean of theirs."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    means: NDArray[np.float64] = (ends - (counts - 1) / 2)[inverse]
    return means


def _mean(values: NDArray[np.float64]) -> float:
    return float(np.nanmean(values)) if not np.isnan(values).all() else float("nan")


def _check(labels: NDArray[np.integer], probabilities: NDArray[np.floating]) -> None:
    if not len(labels):
        raise InputRefused("there are no images to score")
    if labels.shape != probabilities.shape or labels.ndim != 2:
        raise InputRefused("labels and probabilities do not fit", f"{labels.shape} and {probabilities.shape}")
    if not np.isfinite(probabilities).all():
        raise InputRefused("some probabilities are no numbers", f"{int((~np.isfinite(probabilities)).sum())} values")
