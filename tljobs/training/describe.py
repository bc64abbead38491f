"""The phases of a run with their trainable parameters, before anything is started: builds the network here."""

from __future__ import annotations

from tljobs.backbones.network import build_network, cut_network
from tljobs.records import PhasePlan
from tljobs.specs import TrainSpec
from tljobs.training.loop import phase_plan
from tljobs.training.plan import TrainingPlan


def describe_phases(spec: TrainSpec, classes: int, plan: TrainingPlan) -> list[PhasePlan]:
    """Raises UsageError for an unknown depth or head, as training would."""
    network = build_network(
        backbone=spec.backbone,
        weights="none",
        image_size=plan.image_size,
        classes=classes,
        head=spec.head,
        dropout=spec.dropout,
        seed=spec.seed,
    )
    return [phase_plan(plan, phase, cut_network(network, phase.depth, spec.batchnorm)) for phase in plan.phases]
