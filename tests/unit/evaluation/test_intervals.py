"""The Wilson interval against published values and its own definition."""

from __future__ import annotations

import math

import numpy as np
import pytest

from tljobs.evaluation.intervals import Z_95, score_intervals, wilson


# R. G. Newcombe, "Two-sided confidence intervals for the single proportion", Statistics in Medicine 17 (1998), table I,
# method 3.
@pytest.mark.parametrize(
    ("successes", "trials", "low", "high"),
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)],
)
def test_wilson_gives_the_published_values(successes: int, trials: int, low: float, high: float) -> None:
    assert wilson(successes, trials) == pytest.approx((low, high), abs=5e-5)


@pytest.mark.parametrize(("successes", "trials"), [(1, 3), (50, 100), (999, 1000)])
def test_bounds_are_the_proportions_that_the_score_test_just_accepts(successes: int, trials: int) -> None:
    for bound in wilson(successes, trials):
        distance = abs(successes / trials - bound)
        assert distance == pytest.approx(Z_95 * math.sqrt(bound * (1 - bound) / trials), rel=1e-9)


def test_ends_are_exact_and_no_trials_tell_nothing() -> None:
    assert wilson(0, 7)[0] == 0.0
    assert wilson(7, 7)[1] == 1.0
    assert wilson(0, 0) == (0.0, 1.0)


def test_intervals_are_given_for_accuracy_and_for_the_recall_of_classes_with_images() -> None:
    matrix = np.array([[3, 1, 0], [0, 2, 0], [0, 0, 0]])
    intervals = score_intervals(matrix, ("cat", "dog", "owl"), {"accuracy": 5 / 6})
    assert intervals == {"accuracy": wilson(5, 6), "recall/cat": wilson(3, 4), "recall/dog": wilson(2, 2)}


def test_top_5_has_an_interval_where_there_is_one() -> None:
    intervals = score_intervals(np.diag([2] * 6), tuple("abcdef"), {"accuracy": 1.0, "top_5": 11 / 12})
    assert intervals["top_5"] == wilson(11, 12)
