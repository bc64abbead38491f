"""Scores against a four-image example worked by hand and against scikit-learn."""

from __future__ import annotations

import math

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn import metrics

from tljobs.errors import InputRefused
from tljobs.evaluation.scores import (
    class_scores,
    confusion,
    image_losses,
    label_ranks,
    predicted_classes,
    score,
)

# Classes cat, dog, owl. Image 0: cat, right. 1: cat, called dog. 2: dog, right. 3: dog, right. No owl at all.
LABELS = np.array([0, 0, 1, 1])
PROBABILITIES = np.array([[0.5, 0.25, 0.25], [0.25, 0.5, 0.25], [0.0, 1.0, 0.0], [0.25, 0.5, 0.25]], np.float32)


def test_confusion_of_the_example_counts_true_class_by_row() -> None:
    matrix = confusion(LABELS, predicted_classes(PROBABILITIES), 3)
    assert matrix.dtype == np.int64
    assert matrix.tolist() == [[1, 1, 0], [0, 2, 0], [0, 0, 0]]


def test_scores_of_the_example_are_those_worked_by_hand() -> None:
    scores = score(LABELS, PROBABILITIES)
    assert scores == {
        "accuracy": 0.75,
        "balanced_accuracy": (1 / 2 + 2 / 2) / 2,
        "macro_f1": pytest.approx((2 / 3 + 4 / 5) / 2),
        "loss": pytest.approx((math.log(2) + math.log(4) + 0 + math.log(2)) / 4),
    }


def test_class_scores_of_the_example_are_none_where_undefined() -> None:
    cat, dog, owl = class_scores(confusion(LABELS, predicted_classes(PROBABILITIES), 3), ("cat", "dog", "owl"))
    assert (cat.images, cat.precision, cat.recall, cat.f1) == (2, 1.0, 0.5, pytest.approx(2 / 3))
    assert (dog.images, dog.precision, dog.recall, dog.f1) == (2, pytest.approx(2 / 3), 1.0, pytest.approx(4 / 5))
    assert (owl.images, owl.precision, owl.recall, owl.f1) == (0, None, None, None)


def test_class_that_is_never_predicted_has_recall_zero_and_no_precision() -> None:
    cat, _ = class_scores(confusion(np.array([0, 0, 1]), np.array([1, 1, 1]), 2), ("cat", "dog"))
    assert (cat.precision, cat.recall, cat.f1) == (None, 0.0, 0.0)


def _random_case(seed: int, classes: int) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    generator = np.random.default_rng(seed)
    labels = generator.integers(0, classes, 300)
    logits = generator.normal(0, 1, (300, classes)) + 1.5 * np.eye(classes)[labels]
    exponents = np.exp(logits)
    return labels, exponents / exponents.sum(axis=1, keepdims=True)


@pytest.mark.parametrize(("seed", "classes"), [(0, 2), (1, 3), (2, 10), (3, 40)])
def test_scores_agree_with_scikit_learn(seed: int, classes: int) -> None:
    labels, probabilities = _random_case(seed, classes)
    predicted = probabilities.argmax(axis=1)
    scores = score(labels, probabilities)
    assert scores["accuracy"] == pytest.approx(metrics.accuracy_score(labels, predicted), abs=1e-12)
    assert scores["balanced_accuracy"] == pytest.approx(metrics.balanced_accuracy_score(labels, predicted), abs=1e-12)
    assert scores["macro_f1"] == pytest.approx(metrics.f1_score(labels, predicted, average="macro"), abs=1e-12)
    assert scores["loss"] == pytest.approx(metrics.log_loss(labels, probabilities, labels=range(classes)), rel=1e-6)
    assert ("top_5" in scores) == (classes > 5)
    if classes > 5:
        own = metrics.top_k_accuracy_score(labels, probabilities, k=5, labels=range(classes))
        assert scores["top_5"] == pytest.approx(own, abs=1e-12)


@pytest.mark.parametrize("seed", [4, 5])
def test_class_scores_agree_with_scikit_learn(seed: int) -> None:
    labels, probabilities = _random_case(seed, 8)
    predicted = probabilities.argmax(axis=1)
    own = metrics.precision_recall_fscore_support(labels, predicted, labels=range(8), zero_division=np.nan)
    found = class_scores(confusion(labels, predicted, 8), tuple("abcdefgh"))
    for index, each in enumerate(found):
        assert (each.precision, each.recall, each.f1, each.images) == pytest.approx(
            [float(part[index]) for part in own]
        )
    assert confusion(labels, predicted, 8).tolist() == metrics.confusion_matrix(labels, predicted).tolist()


def test_equal_probabilities_go_to_the_lowest_class() -> None:
    even = np.full((2, 7), 1 / 7, np.float32)
    assert predicted_classes(even).tolist() == [0, 0]
    assert label_ranks(np.array([4, 5]), even).tolist() == [4, 5]
    assert score(np.array([4, 5]), even)["top_5"] == 0.5


def test_loss_of_an_impossible_class_is_finite() -> None:
    assert image_losses(np.array([1]), np.array([[1.0, 0.0]], np.float32))[0] == pytest.approx(87.3365, abs=1e-3)


@pytest.mark.parametrize("label", [-1, 3])
def test_label_outside_the_classes_is_refused(label: int) -> None:
    with pytest.raises(InputRefused, match="outside the 3 classes"):
        confusion(np.array([0, label]), np.array([0, 0]), 3)


def test_no_images_wrong_shapes_and_nan_are_refused() -> None:
    with pytest.raises(InputRefused, match="no images"):
        score(np.array([], np.int32), np.empty((0, 3), np.float32))
    with pytest.raises(InputRefused, match="do not fit"):
        score(LABELS, PROBABILITIES[:3])
    with pytest.raises(InputRefused, match="no numbers: 1 values"):
        score(np.array([0]), np.array([[np.nan, 1.0]], np.float32))
