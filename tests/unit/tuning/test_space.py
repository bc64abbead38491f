"""From rates and depths to trials."""

import math

import pytest

from tljobs.errors import UsageError
from tljobs.specs import TuneSpec
from tljobs.tuning.space import train_spec, trials_of


def test_lists_make_a_grid() -> None:
    trials = trials_of(TuneSpec(dataset="d", learning_rate="1e-4,1e-3", unfreeze="head,1,all"))
    assert [(t.number, t.learning_rate, t.unfreeze) for t in trials] == [
        (0, 1e-4, "head"),
        (1, 1e-4, "1"),
        (2, 1e-4, "all"),
        (3, 1e-3, "head"),
        (4, 1e-3, "1"),
        (5, 1e-3, "all"),
    ]


def test_a_range_is_sampled_evenly_on_a_logarithmic_scale_and_repeats_with_the_seed() -> None:
    spec = TuneSpec(dataset="d", learning_rate="1e-5:1e-1", unfreeze="head,1", trials=64)
    trials = trials_of(spec)
    assert trials == trials_of(spec)
    assert trials != trials_of(spec.model_copy(update={"seed": 1}))
    decades = [math.floor(math.log10(t.learning_rate)) for t in trials]
    assert all(15 <= decades.count(decade) <= 17 for decade in (-5, -4, -3, -2))
    assert [t.unfreeze for t in trials[:4]] == ["head", "1", "head", "1"]


def test_more_trials_begin_with_the_same_trials() -> None:
    spec = TuneSpec(dataset="d", learning_rate="1e-5:1e-1", unfreeze="head,1", trials=4)
    assert trials_of(spec.model_copy(update={"trials": 9}))[:4] == trials_of(spec)


def test_a_trial_is_a_run_of_the_search_with_one_worker() -> None:
    spec = TuneSpec(dataset="d", learning_rate="1e-3", unfreeze="2", epochs=4, dropout=0.0)
    run = train_spec(spec, "s", trials_of(spec)[0])
    assert (run.name, run.learning_rate, run.unfreeze, run.workers) == ("s-000", 1e-3, "2", 1)
    assert (run.epochs, run.dropout) == (4, 0.0)


@pytest.mark.parametrize("rate", ["", "fast", "1e-3:1e-4", "0", "-1", "nan", "1e-4:x"])
def test_what_is_no_rate_is_refused_by_name(rate: str) -> None:
    with pytest.raises(UsageError, match=r"rate|range"):
        trials_of(TuneSpec(dataset="d", learning_rate=rate))
