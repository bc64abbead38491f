"""`tljobs train`: one run, from a request to a finished run with its evaluation and its model.

In: a TrainSpec. Out: the run of this request: made, found finished, or continued where it was.
"""

from __future__ import annotations

import hashlib
import time
from pathlib import Path

from tljobs import layout
from tljobs.backbones.registry import backbone
from tljobs.errors import NotFound, UsageError
from tljobs.progress import SILENT, Reporter
from tljobs.ray_session import ray_session
from tljobs.records import DatasetManifest, FileInfo, ModelRecord, RunRecord
from tljobs.results import TrainResult
from tljobs.runs import Run, open_dataset, open_run
from tljobs.specs import TrainSpec
from tljobs.store import Store
from tljobs.training.control import ask_to_stop, stop_on_signal
from tljobs.training.heartbeat import heartbeat
from tljobs.training.job import WorkerTask, finish_in_clean_process, import_early, resources_for, run_workers
from tljobs.training.plan import TrainingPlan, make_plan
from tljobs.training.reserve import find_reserved, reserve
from tljobs.training.watch import failure_recorded, progress_shown


def train(spec: TrainSpec, store: Store, reporter: Reporter = SILENT, *, dry_run: bool = False) -> TrainResult | None:
    """Trains one run, or finds the one of an equal request, or goes on with it where it was.

    Returns None after the printed plan with `dry_run`. Raises Stopped when it was asked to stop (all is saved).
    """
    manifest = open_dataset(store, spec.dataset)
    plan = check(spec, manifest)
    found = find_reserved(store, spec, manifest)
    if found and found.status == "finished":
        reporter.note(f"This very request is run {found.name}, finished already")
        return result_of(found, store, wall_s=0.0, reused=True)
    reporter.plan("Plan of the run", plan_rows(spec, manifest, plan, store, found))
    if dry_run:
        for row in parameter_rows(spec, manifest, plan):
            reporter.note(row)
        return None
    return _train_reserved(spec, store, reporter, manifest)


def resume(store: Store, name: str, reporter: Reporter = SILENT) -> TrainResult | None:
    """Goes on with an interrupted, stopped or failed run, with the spec that it was started with."""
    run = open_run(store, name)
    spec = TrainSpec.model_validate({**run.record.spec, "name": name, "dataset": _reference(run.record)})
    return train(spec, store, reporter)


def check(spec: TrainSpec, manifest: DatasetManifest) -> TrainingPlan:
    """Everything about a request that can be found wrong without starting anything."""
    known = backbone(spec.backbone)
    plan = make_plan(spec, manifest)
    if plan.image_size < known.min_image_size:
        raise UsageError(
            f"{known.name} needs images of at least {known.min_image_size} pixels, not {plan.image_size}",
            "--image-size",
        )
    if spec.weights == "imagenet" and not known.pretrained:
        raise UsageError(f"{known.name} has no pretrained weights", "--weights imagenet", "Use --weights none")
    if spec.weights not in ("imagenet", "none") and not Path(spec.weights).is_file():
        raise NotFound("no such weights file", spec.weights, "imagenet, none, or a .keras or .weights.h5 file")
    return plan


def plan_rows(
    spec: TrainSpec, manifest: DatasetManifest, plan: TrainingPlan, store: Store, found: Run | None
) -> list[tuple[str, str]]:
    counts = ", ".join(f"{info.images} {split}" for split, info in manifest.splits.items() if info.images)
    rows = [
        ("dataset", f"{manifest.name}@{manifest.version}: {counts}, {len(manifest.classes)} classes"),
        ("network", f"{spec.backbone}, weights {spec.weights}, {plan.image_size} px, head {spec.head}"),
        ("steps", f"{plan.steps} of {spec.global_batch} images, {plan.steps_per_epoch} per epoch"),
        ("workers", f"{spec.workers} × {spec.global_batch // spec.workers} images, device {spec.device}"),
    ]
    rows += [(f"phase {p.name}", f"{p.epochs} epochs at rate {p.learning_rate:g}") for p in plan.phases]
    if found and found.attempt:
        rows.append(("goes on", f"run {found.name} ({found.status}) at step {found.progress_step}"))
    return rows


def parameter_rows(spec: TrainSpec, manifest: DatasetManifest, plan: TrainingPlan) -> list[str]:
    """One line per phase with its trainable parameters: builds the network in this process."""
    from tljobs.training.describe import describe_phases

    return [
        f"phase {phase.name}: {phase.trainable_parameters:,} trainable parameters, {phase.frozen_parameters:,} frozen,"
        f" {phase.steps} steps, rate {phase.learning_rate:g}"
        for phase in describe_phases(spec, len(manifest.classes), plan)
    ]


def result_of(run: Run, store: Store, *, wall_s: float, reused: bool) -> TrainResult:
    accuracy = ", ".join(f"{split} accuracy {scores['accuracy']:.3f}" for split, scores in run.scores.items())
    return TrainResult(
        run=run.name,
        status=run.status,
        dataset=run.record.dataset,
        version=run.record.version,
        scores=run.scores,
        wall_s=round(wall_s, 1),
        images_per_s=round(run.images_per_s, 1),
        reused=reused,
        made=f"run {run.name} in {store.uri}: {accuracy or run.status}",
        next_command=f"tljobs predict {run.name} IMAGE",
    )


def _train_reserved(spec: TrainSpec, store: Store, reporter: Reporter, manifest: DatasetManifest) -> TrainResult:
    started_s = time.monotonic()
    data = store.read(layout.dataset_manifest(manifest.name, manifest.version))
    run = reserve(store, spec, manifest, hashlib.sha256(data).hexdigest()).run
    task = WorkerTask(spec, store, manifest, run.name)
    import_early()
    with heartbeat(store, run.name), failure_recorded(store, run.name), ray_session(store):
        with stop_on_signal(lambda: ask_to_stop(store, run.name, by="signal")):
            with progress_shown(store, run.name, reporter):
                file = _published_file(store, run.name) or run_workers(task)
                finish_in_clean_process(store, manifest, run.name, spec, resources_for(spec), file)
    return result_of(open_run(store, run.name), store, wall_s=time.monotonic() - started_s, reused=False)


def _published_file(store: Store, run: str) -> FileInfo | None:
    """The file of a model that an earlier attempt published without coming to the run's end."""
    key = layout.run_model_record(run)
    try:
        return ModelRecord.from_bytes(store.read(key), key).file
    except NotFound:
        return None


def _reference(record: RunRecord) -> str:
    return f"{record.dataset}@{record.version}"
