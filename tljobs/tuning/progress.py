"""Tells the reporter of a search which trials have ended."""

from __future__ import annotations

from typing import Any

from ray.tune import Callback

from tljobs.progress import Reporter, Silent
from tljobs.tuning.space import Trial


class TrialProgress(Callback):
    """A Ray Tune callback; it stays in the driver. `total` is the number of trials."""

    def __init__(self, reporter: Reporter, total: int) -> None:
        self._reporter = reporter
        self._total = total
        self._done = 0

    def __getstate__(self) -> dict[str, Any]:
        """Tune saves its callbacks with the state of the experiment; a terminal cannot be saved, nor need it be."""
        return {**self.__dict__, "_reporter": Silent()}

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self._tell(trial, f"accuracy {trial.last_result.get('val_accuracy', float('nan')):.3f}")

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self._tell(trial, "failed")

    def _tell(self, trial: Any, how: str) -> None:
        self._done += 1
        asked: Trial = trial.config["trial"]
        detail = f"(depth {asked.unfreeze}, rate {asked.learning_rate:.2g}: {how})"
        self._reporter.progress("trials", self._done, self._total, detail)
