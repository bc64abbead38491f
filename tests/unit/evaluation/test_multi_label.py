"""Scores of several labels per image are those of scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn import metrics

from tljobs.errors import InputRefused
from tljobs.evaluation import multi_label

CLASSES = ("a", "b", "c", "d")


@pytest.fixture(params=range(4))
def answers(request: pytest.FixtureRequest) -> tuple[np.ndarray, np.ndarray]:
    """Labels with all-zero rows, probabilities with ties and a class that is never predicted."""
    generator = np.random.default_rng(request.param)
    labels = (generator.random((60, 4)) < [0.5, 0.2, 0.1, 0.4]).astype(np.int32)
    probabilities = np.clip(0.6 * labels + 0.5 * generator.random((60, 4)), 0, 1).astype(np.float32).round(1)
    probabilities[:, 3] *= 0.4
    return labels, probabilities


def test_scores_are_those_of_scikit_learn(answers: tuple[np.ndarray, np.ndarray]) -> None:
    labels, probabilities = answers
    predicted = (probabilities >= 0.5).astype(int)
    scores = multi_label.score(labels, probabilities)
    assert scores["accuracy"] == pytest.approx(metrics.accuracy_score(labels, predicted))
    assert scores["label_accuracy"] == pytest.approx(1 - metrics.hamming_loss(labels, predicted))
    assert scores["micro_f1"] == pytest.approx(metrics.f1_score(labels, predicted, average="micro"))
    assert scores["macro_f1"] == pytest.approx(metrics.f1_score(labels, predicted, average="macro", zero_division=0))
    assert scores["macro_auroc"] == pytest.approx(metrics.roc_auc_score(labels, probabilities, average="macro"))
    average = metrics.average_precision_score(labels, probabilities, average="macro")
    assert scores["mean_average_precision"] == pytest.approx(average)


def test_the_loss_is_binary_cross_entropy_summed_over_the_classes(answers: tuple[np.ndarray, np.ndarray]) -> None:
    labels, probabilities = answers
    inside = np.clip(probabilities, 0.05, 0.95)
    losses = [metrics.log_loss(labels[:, index], inside[:, index].astype(float)) for index in range(4)]
    assert multi_label.score(labels, inside)["loss"] == pytest.approx(sum(losses), rel=1e-5)


def test_scores_of_each_class_are_those_of_scikit_learn(answers: tuple[np.ndarray, np.ndarray]) -> None:
    labels, probabilities = answers
    predicted = (probabilities >= 0.5).astype(int)
    for index, own in enumerate(multi_label.class_scores(labels, probabilities, CLASSES)):
        assert (own.label, own.images) == (CLASSES[index], labels[:, index].sum())
        assert own.auroc == pytest.approx(metrics.roc_auc_score(labels[:, index], probabilities[:, index]))
        assert own.recall == pytest.approx(metrics.recall_score(labels[:, index], predicted[:, index]))
        if predicted[:, index].any():
            assert own.precision == pytest.approx(metrics.precision_score(labels[:, index], predicted[:, index]))
        else:
            assert own.precision is None


def test_a_class_without_images_has_no_area_and_is_left_out_of_the_means() -> None:
    labels = np.array([[1, 0], [0, 0]], np.int32)
    probabilities = np.array([[0.9, 0.2], [0.1, 0.3]], np.float32)
    first, second = multi_label.class_scores(labels, probabilities, ("a", "b"))
    assert (first.auroc, second.auroc, second.recall, second.average_precision) == (1.0, None, None, None)
    assert multi_label.score(labels, probabilities)["macro_auroc"] == 1.0
    assert "macro_auroc" not in multi_label.score(labels * 0, probabilities)


def test_intervals_are_given_for_accuracy_and_the_recall_of_classes_with_images() -> None:
    labels = np.array([[1, 0], [1, 0], [0, 0]], np.int32)
    probabilities = np.array([[0.9, 0.2], [0.1, 0.3], [0.2, 0.1]], np.float32)
    intervals = multi_label.score_intervals(labels, probabilities, ("a", "b"))
    assert set(intervals) == {"accuracy", "recall/a"}
    assert intervals["recall/a"][0] < 0.5 < intervals["recall/a"][1]


def test_shapes_that_do_not_fit_and_values_that_are_no_numbers_are_refused() -> None:
    with pytest.raises(InputRefused, match="no images"):
        multi_label.score(np.zeros((0, 2), np.int32), np.zeros((0, 2)))
    with pytest.raises(InputRefused, match="do not fit"):
        multi_label.score(np.zeros(3, np.int32), np.zeros((3, 2)))
    with pytest.raises(InputRefused, match="no numbers"):
        multi_label.score(np.zeros((1, 2), np.int32), np.array([[np.nan, 0.5]]))
