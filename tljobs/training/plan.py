"""What a run will do, as numbers: phases, epochs, steps, rates. Pure; the counts of parameters are filled in where
the network is built."""

from __future__ import annotations

from dataclasses import dataclass

from tljobs.data.order import steps_per_epoch
from tljobs.errors import UsageError
from tljobs.records import DatasetManifest, Position
from tljobs.specs import TrainSpec

HEAD = "head"


@dataclass(frozen=True)
class Phase:
    """`first_epoch` counts all epochs before this phase; `learning_rate` is the peak of the phase's schedule."""

    name: str
    depth: str
    epochs: int
    first_epoch: int
    learning_rate: float


@dataclass(frozen=True)
class TrainingPlan:
    phases: tuple[Phase, ...]
    steps_per_epoch: int
    image_size: int

    @property
    def steps(self) -> int:
        return self.steps_per_epoch * sum(phase.epochs for phase in self.phases)


def make_plan(spec: TrainSpec, manifest: DatasetManifest) -> TrainingPlan:
    """Head first, then the asked depths one after the other at a lower rate. Raises UsageError for what cannot be."""
    image_size = spec.image_size or manifest.image_size
    if image_size > manifest.image_size:
        raise UsageError(
            f"image size {image_size} is more than the dataset holds ({manifest.image_size})",
            f"{manifest.name}@{manifest.version}",
            f"Prepare it again: tljobs prepare … --name {manifest.name} --image-size {image_size}",
        )
    images = manifest.splits["train"].images
    return TrainingPlan(_phases(spec), steps_per_epoch(images, spec.global_batch), image_size)


def start_of(plan: TrainingPlan) -> Position:
    return Position(phase=0, epoch=0, epoch_step=0, step=0)


def _phases(spec: TrainSpec) -> tuple[Phase, ...]:
    depths = spec.depths()
    if not depths:
        return (Phase(HEAD, HEAD, spec.epochs, 0, spec.learning_rate),)
    head_epochs = min(spec.head_epochs, spec.epochs)
    share, rest = divmod(spec.epochs - head_epochs, len(depths))
    if not share:
        raise UsageError(
            f"{spec.epochs} epochs are too few for {head_epochs} of the head and one for each of {len(depths)} depths",
            "--epochs",
            "Raise --epochs or lower --head-epochs",
        )
    phases = [Phase(HEAD, HEAD, head_epochs, 0, spec.learning_rate)] if head_epochs else []
    first_epoch = head_epochs
    for number, depth in enumerate(depths):
        epochs = share + (rest if number == len(depths) - 1 else 0)
        rate = spec.learning_rate * spec.fine_tune_factor
        phases.append(Phase(f"unfrozen-{depth}", depth, epochs, first_epoch, rate))
        first_epoch += epochs
    return tuple(phases)
