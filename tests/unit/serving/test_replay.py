"""The comparison of an exported model with its run's own probabilities."""

from __future__ import annotations

import numpy as np
import pytest

from tljobs.errors import TljobsError
from tljobs.serving.replay import compare

IDS = ("a", "b")
OWN = np.array([[0.6, 0.4], [0.3, 0.7]], np.float32)
EXPECTED = dict(zip(IDS, OWN, strict=True))


def test_equal_probabilities_in_another_order_pass() -> None:
    result = compare(("b", "a"), OWN[::-1], EXPECTED, "run")
    assert (result.images, result.max_abs_difference, result.labels_changed) == (2, 0.0, 0)


def test_rounding_passes_and_its_size_is_reported() -> None:
    result = compare(IDS, OWN + np.array([[5e-6, -5e-6], [0, 0]], np.float32), EXPECTED, "run")
    assert result.max_abs_difference == pytest.approx(5e-6, rel=0.02)


def test_larger_difference_is_an_error() -> None:
    with pytest.raises(TljobsError, match="does not repeat"):
        compare(IDS, OWN + np.float32(2e-5), EXPECTED, "run")


def test_changed_label_is_an_error_however_small_the_difference() -> None:
    near = {"a": np.array([0.5 + 1e-6, 0.5 - 1e-6], np.float32)}
    with pytest.raises(TljobsError, match="1 labels changed"):
        compare(("a",), near["a"][None, ::-1], near, "run")


def test_nan_is_an_error() -> None:
    with pytest.raises(TljobsError, match="does not repeat"):
        compare(IDS, np.where(OWN > 0.65, np.float32(np.nan), OWN), EXPECTED, "run")


@pytest.mark.parametrize("ids", [("a",), ("a", "c"), ("a", "b", "b")])
def test_missing_other_and_doubled_images_are_errors(ids: tuple[str, ...]) -> None:
    with pytest.raises(TljobsError, match="images"):
        compare(ids, np.repeat(OWN[:1], len(ids), axis=0), EXPECTED, "run")
