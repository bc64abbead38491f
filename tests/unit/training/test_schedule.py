"""Learning rates at given steps."""

import pytest

from tljobs.training.schedule import FINAL_SHARE, learning_rate


def test_constant_stays_at_the_peak() -> None:
    assert [learning_rate(step, 10, 0.1, "constant") for step in (0, 5, 9)] == [0.1, 0.1, 0.1]


def test_cosine_falls_from_the_peak_to_its_final_share() -> None:
    rates = [learning_rate(step, 100, 0.1, "cosine") for step in range(101)]
    assert rates[0] == pytest.approx(0.1)
    assert rates[50] == pytest.approx(0.1 * (FINAL_SHARE + (1 - FINAL_SHARE) / 2))
    assert rates[100] == pytest.approx(0.1 * FINAL_SHARE)
    assert rates == sorted(rates, reverse=True)


def test_warm_up_is_linear_and_reaches_the_peak() -> None:
    assert [learning_rate(step, 100, 0.4, "cosine", warmup_steps=4) for step in range(5)] == pytest.approx(
        [0.1, 0.2, 0.3, 0.4, 0.4]
    )


def test_warm_up_longer_than_the_phase_is_cut_off_not_divided_by_zero() -> None:
    assert learning_rate(9, 10, 1.0, "cosine", warmup_steps=20) == pytest.approx(0.5)
