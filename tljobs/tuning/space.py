"""From what a search asks for to its list of trials: pure functions.

The depth of a trial decides which part of the network is frozen: trials of equal depth share that prefix, and it is
computed anew by each of them for now (`prefix` is "none" in every result).
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import numpy as np

from tljobs.errors import UsageError
from tljobs.specs import FitSpec, TrainSpec, TuneSpec

RANGE_TRIALS = 8
GOLDEN = (math.sqrt(5) - 1) / 2  # additive recurrence: every prefix of the sequence covers the range evenly


@dataclass(frozen=True)
class Trial:
    number: int
    learning_rate: float
    unfreeze: str


def trials_of(spec: TuneSpec) -> tuple[Trial, ...]:
    """The grid of the listed rates and depths, or points of the range, dealt to the depths in turn."""
    depths = [depth.strip() for depth in spec.unfreeze.split(",") if depth.strip()]
    if not depths:
        raise UsageError("no depth to try", "--unfreeze", "Such as head,1,2")
    if ":" in spec.learning_rate:
        low, high = _range(spec.learning_rate)
        count = spec.trials or RANGE_TRIALS
        pairs = list(zip(_log_points(low, high, count, spec.seed), itertools.cycle(depths), strict=False))
    else:
        pairs = [(rate, depth) for rate in _rates(spec.learning_rate) for depth in depths][: spec.trials]
    return tuple(Trial(number, rate, depth) for number, (rate, depth) in enumerate(pairs))


def train_spec(spec: TuneSpec, search: str, trial: Trial) -> TrainSpec:
    """The run that a trial is: trained by one process, under the search's name and its number."""
    shared = {name: getattr(spec, name) for name in FitSpec.model_fields}
    own = {
        "name": f"{search}-{trial.number:03}",
        "learning_rate": trial.learning_rate,
        "unfreeze": trial.unfreeze,
        "workers": 1,
    }
    return TrainSpec(**{**shared, **own})


def _rates(text: str) -> list[float]:
    rates = [_rate(part) for part in text.split(",") if part.strip()]
    if not rates:
        raise UsageError("no learning rate to try", "--learning-rate", "Such as 1e-4,1e-3 or 1e-5:1e-2")
    return rates


def _range(text: str) -> tuple[float, float]:
    low, _, high = text.partition(":")
    if _rate(low) >= _rate(high):
        raise UsageError("the range is empty", f"--learning-rate {text}", "LOW:HIGH, such as 1e-5:1e-2")
    return _rate(low), _rate(high)


def _rate(text: str) -> float:
    try:
        rate = float(text)
    except ValueError:
        rate = math.nan
    if not (math.isfinite(rate) and rate > 0):
        raise UsageError(f"`{text.strip()}` is no learning rate", "--learning-rate", "Such as 1e-4,1e-3 or 1e-5:1e-2")
    return rate


def _log_points(low: float, high: float, count: int, seed: int) -> list[float]:
    start = np.random.Generator(np.random.Philox(seed)).random()
    return [low * (high / low) ** ((start + number * GOLDEN) % 1.0) for number in range(count)]
