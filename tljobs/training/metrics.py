"""What training measures: sums within an epoch, early stopping, the best epoch. Pure state, kept in checkpoints."""

from __future__ import annotations

import math
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from tljobs.errors import TrainingDiverged


class EpochSums(BaseModel):
    """Sums over the images of the current epoch so far; they survive a resume in mid-epoch."""

    model_config = ConfigDict(frozen=True)

    loss: float = 0.0
    correct: float = 0.0
    images: float = 0.0

    def plus(self, loss: float, accuracy: float, images: float) -> EpochSums:
        """After a step with these means over `images` images."""
        return EpochSums(
            loss=self.loss + loss * images, correct=self.correct + accuracy * images, images=self.images + images
        )

    @property
    def mean_loss(self) -> float:
        return self.loss / max(self.images, 1.0)

    @property
    def accuracy(self) -> float:
        return self.correct / max(self.images, 1.0)


class Best(BaseModel):
    """The best epoch so far and the attempt that wrote its checkpoint."""

    model_config = ConfigDict(frozen=True)

    step: int
    attempt: int
    val_accuracy: float
    val_loss: float


class LoopState(BaseModel):
    """All that training must remember beside variables and position. `bad_epochs` counts epochs of this phase
    since the last better one."""

    model_config = ConfigDict(frozen=True)

    sums: EpochSums = EpochSums()
    best: Best | None = None
    phase_best: Best | None = None
    bad_epochs: int = 0

    def after_epoch(self, epoch: Best, monitor: Literal["val_accuracy", "val_loss"]) -> LoopState:
        """The state after an epoch was validated. A tie does not count as better: the earlier epoch stays."""
        better = self.best is None or _key(epoch, monitor) > _key(self.best, monitor)
        phase_better = self.phase_best is None or _key(epoch, monitor) > _key(self.phase_best, monitor)
        return LoopState(
            best=epoch if better else self.best,
            phase_best=epoch if phase_better else self.phase_best,
            bad_epochs=0 if phase_better else self.bad_epochs + 1,
        )

    def next_phase(self) -> LoopState:
        return LoopState(best=self.best)

    def dump(self) -> dict[str, Any]:
        return self.model_dump(mode="json")


def check_finite(loss: float, grad_norm: float, step: int, phase: str) -> None:
    """Raises TrainingDiverged at a loss or gradient that is no number."""
    if math.isfinite(loss) and math.isfinite(grad_norm):
        return
    raise TrainingDiverged(
        f"loss {loss} and gradient norm {grad_norm} at step {step}",
        f"phase {phase}",
        "Lower --learning-rate, or set --clip-norm 1",
    )


def _key(epoch: Best, monitor: Literal["val_accuracy", "val_loss"]) -> tuple[float, float]:
    """Larger is better; equal accuracies are told apart by the loss."""
    return (epoch.val_accuracy, -epoch.val_loss) if monitor == "val_accuracy" else (-epoch.val_loss, 0.0)
