"""Intervals of confidence of proportions: counts in, bounds out."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

Z_95 = 1.959963984540054  # 97.5 % quantile of the standard normal distribution


def wilson(successes: int, trials: int) -> tuple[float, float]:
    """The 95 % score interval [low, high] of a proportion; (0, 1) without trials.

    E. B. Wilson, "Probable inference, the law of succession, and statistical inference", JASA 22 (1927) 209-212;
    recommended for small samples by Brown, Cai and DasGupta, Statistical Science 16 (2001) 101-133.
    """
    if not trials:
        return 0.0, 1.0
    share = successes / trials
    z2 = Z_95 * Z_95
    centre = (share + z2 / (2 * trials)) / (1 + z2 / trials)
    half = Z_95 / (1 + z2 / trials) * math.sqrt(share * (1 - share) / trials + z2 / (4 * trials * trials))
    # Exact at the ends, where rounding would leave 1e-17 beside 0 or 1.
    low = 0.0 if successes == 0 else max(0.0, centre - half)
    high = 1.0 if successes == trials else min(1.0, centre + half)
    return low, high


def score_intervals(
    matrix: NDArray[np.int64], classes: tuple[str, ...], scores: dict[str, float]
) -> dict[str, tuple[float, float]]:
    """95 % intervals of the scores that are proportions of images: `accuracy`, `top_5` where there is one, and
    `recall/LABEL` of each class that has images. `matrix` is the confusion matrix (C, C)."""
    total = int(matrix.sum())
    intervals = {"accuracy": wilson(int(np.trace(matrix)), total)}
    if "top_5" in scores:
        intervals["top_5"] = wilson(round(scores["top_5"] * total), total)
    for index, label in enumerate(classes):
        if images := int(matrix[index].sum()):
            intervals[f"recall/{label}"] = wilson(int(matrix[index, index]), images)
    return intervals
