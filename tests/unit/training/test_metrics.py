"""Early stopping and the best epoch."""

import math

import pytest

from tljobs.errors import TrainingDiverged
from tljobs.training.metrics import Best, EpochSums, LoopState, check_finite


def epoch(step: int, accuracy: float, loss: float) -> Best:
    return Best(step=step, attempt=1, val_accuracy=accuracy, val_loss=loss)


def test_best_is_the_highest_accuracy_and_a_tie_is_broken_by_loss_then_by_the_earlier() -> None:
    state = LoopState()
    for each in (epoch(1, 0.8, 0.5), epoch(2, 0.9, 0.6), epoch(3, 0.9, 0.4), epoch(4, 0.9, 0.4), epoch(5, 0.7, 0.1)):
        state = state.after_epoch(each, "val_accuracy")
    assert state.best is not None
    assert state.best.step == 3


def test_best_by_loss() -> None:
    state = LoopState()
    for each in (epoch(1, 0.8, 0.5), epoch(2, 0.9, 0.6)):
        state = state.after_epoch(each, "val_loss")
    assert state.best is not None
    assert state.best.step == 1


def test_bad_epochs_count_since_the_last_better_one_and_start_anew_in_each_phase() -> None:
    state = LoopState()
    counts = []
    for each in (epoch(1, 0.5, 1), epoch(2, 0.4, 1), epoch(3, 0.4, 1), epoch(4, 0.6, 1), epoch(5, 0.6, 1)):
        state = state.after_epoch(each, "val_accuracy")
        counts.append(state.bad_epochs)
    assert counts == [0, 1, 2, 0, 1]
    later = state.next_phase()
    assert (later.bad_epochs, later.phase_best, later.best) == (0, None, state.best)


def test_state_survives_json() -> None:
    state = LoopState(sums=EpochSums().plus(0.5, 0.25, 8)).after_epoch(epoch(1, 0.5, 1.0), "val_accuracy")
    assert LoopState.model_validate(state.dump()) == state


def test_sums_are_means_over_images_not_over_steps() -> None:
    sums = EpochSums().plus(loss=1.0, accuracy=0.5, images=10).plus(loss=4.0, accuracy=1.0, images=2)
    assert sums.mean_loss == pytest.approx(1.5)
    assert sums.accuracy == pytest.approx(7 / 12)


@pytest.mark.parametrize("loss", [math.nan, math.inf])
def test_a_loss_that_is_no_number_stops_with_step_and_phase(loss: float) -> None:
    with pytest.raises(TrainingDiverged, match=r"step 7.*phase head"):
        check_finite(loss, 1.0, 7, "head")
    check_finite(1.0, 1.0, 7, "head")
