"""What each task minimises, against values computed by hand; the two forms of it agree."""

from __future__ import annotations

import numpy as np
import pytest

from tljobs.training.objective import objective

LOGITS = np.array([[2.0, -1.0, 0.5], [-3.0, 0.2, 4.0]], np.float32)
MANY = np.array([[1, 0, 1], [0, 0, 0]], np.int32)
ONE = np.array([0, 1], np.int32)


def softmax(values: np.ndarray) -> np.ndarray:
    powers = np.exp(values)
    return powers / powers.sum(axis=1, keepdims=True)


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_a_multi_label_image_has_binary_cross_entropy_summed_over_the_classes(smoothing: float) -> None:
    goal = objective("multi-label", 3, smoothing)
    p = 1 / (1 + np.exp(-LOGITS.astype(np.float64)))
    targets = MANY * (1 - smoothing) + smoothing / 2
    wanted = -(targets * np.log(p) + (1 - targets) * np.log(1 - p)).sum(axis=1)
    np.testing.assert_allclose(goal.losses(MANY, LOGITS), wanted, rtol=1e-5)
    np.testing.assert_allclose(goal.probabilities(LOGITS), p, rtol=1e-5)


def test_a_multi_label_image_is_right_when_every_class_is() -> None:
    goal = objective("multi-label", 3)
    np.testing.assert_array_equal(goal.hits(MANY, LOGITS), [1.0, 0.0])
    np.testing.assert_array_equal(goal.hits(np.array([[1, 1, 1], [0, 1, 1]]), LOGITS), [0.0, 1.0])


@pytest.mark.parametrize(("task", "labels"), [("single-label", ONE), ("multi-label", MANY)])
def test_sums_from_probabilities_are_those_from_logits(task: str, labels: np.ndarray) -> None:
    goal = objective(task, 3)  # type: ignore[arg-type]
    loss, hits = goal.sums(labels, np.asarray(goal.probabilities(LOGITS)))
    assert loss == pytest.approx(float(np.sum(goal.losses(labels, LOGITS))), rel=1e-5)
    assert hits == float(np.sum(goal.hits(labels, LOGITS)))


def test_a_single_label_image_has_cross_entropy() -> None:
    goal = objective("single-label", 3)
    p = softmax(LOGITS.astype(np.float64))
    np.testing.assert_allclose(goal.losses(ONE, LOGITS), -np.log(p[[0, 1], ONE]), rtol=1e-5)
    np.testing.assert_array_equal(goal.hits(ONE, LOGITS), [1.0, 0.0])
