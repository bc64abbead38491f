"""From the training network to the model file: uint8 pixels -> probabilities, plain Keras layers only."""

from __future__ import annotations

from collections.abc import Callable

from tljobs.backbones.network import Network, build_network, inference_model
from tljobs.data.feed import EvalFeed, Place
from tljobs.records import DatasetManifest, FileInfo, Task
from tljobs.serving.publish import write_bundle
from tljobs.specs import TrainSpec
from tljobs.store import Store
from tljobs.training import checkpoint
from tljobs.training.evaluating import Validator
from tljobs.training.loop import EVAL_BATCH, write_own_validation
from tljobs.training.objective import objective
from tljobs.training.plan import make_plan
from tljobs.training.step import SumOverWorkers
from tljobs.training.workers import Workers


def export_to(store: Store, run: str, task: Task) -> Callable[[Network], FileInfo]:
    """What the training loop calls with the best variables loaded."""
    return lambda network: write_bundle(store, run, inference_model(network, network.image_size, task))


def export_best(store: Store, manifest: DatasetManifest, run: str, spec: TrainSpec) -> FileInfo:
    """Exports the best checkpoint of a run that was trained without an export (a trial), and leaves its validation
    probabilities for the replay."""
    plan = make_plan(spec, manifest)
    network = build_network(
        backbone=spec.backbone,
        weights="none",  # all variables come from the checkpoint
        image_size=plan.image_size,
        classes=len(manifest.classes),
        head=spec.head,
        dropout=spec.dropout,
        seed=spec.seed,
    )
    commit = checkpoint.best(store, run)
    checkpoint.restore(checkpoint.read_state(store, commit), network.model.variables)
    feed = EvalFeed(store, manifest, "val", image_size=plan.image_size, batch=EVAL_BATCH, place=Place())
    goal = objective(manifest.task, len(manifest.classes))
    result = Validator(network, feed, SumOverWorkers(Workers().strategy), goal)()
    write_own_validation(store, run, 0, result)
    return export_to(store, run, manifest.task)(network)
