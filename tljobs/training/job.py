"""`tljobs train`: the wiring between a request, Ray Train and the training loop.

In: a TrainSpec. Out: a finished run with its evaluation and its model. Ray Train starts the workers, gives them
TF_CONFIG and replaces them when they die; checkpoints, metrics and history are our own (see training.checkpoint).
"""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from tljobs import layout
from tljobs.backbones.registry import backbone
from tljobs.errors import NotFound, Stopped, TljobsError, Unreachable, UsageError
from tljobs.progress import Reporter
from tljobs.ray_session import ray_session, ray_storage
from tljobs.records import DatasetManifest, FileInfo, ModelRecord, RunRecord, new_token
from tljobs.results import TrainResult
from tljobs.runs import Run, open_dataset, open_run, run_journal
from tljobs.specs import TrainSpec
from tljobs.store import Store
from tljobs.training.control import ask_to_stop, stop_on_signal
from tljobs.training.plan import TrainingPlan, make_plan
from tljobs.training.reserve import find_reserved, reserve
from tljobs.training.resources import worker_resources

CONTROLLER_FAILURE_LIMIT = 3  # Ray's default is to retry errors at the start for ever
WATCH_EVERY_S = 1.0


def train(spec: TrainSpec, store: Store, reporter: Reporter, *, dry_run: bool = False) -> TrainResult | None:
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


def resume(store: Store, name: str, reporter: Reporter) -> TrainResult | None:
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
    for phase in plan.phases:
        rows.append((f"phase {phase.name}", f"{phase.epochs} epochs at rate {phase.learning_rate:g}"))
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


# ------------------------------------------------------------------------------------------------------ Ray Train


@dataclass(frozen=True)
class WorkerTask:
    """All that a worker process needs; pickled by Ray."""

    spec: TrainSpec
    store: Store
    manifest: DatasetManifest
    run: str


def _train_reserved(spec: TrainSpec, store: Store, reporter: Reporter, manifest: DatasetManifest) -> TrainResult:
    from tljobs.training.workers import heartbeat

    started_s = time.monotonic()
    data = store.read(layout.dataset_manifest(manifest.name, manifest.version))
    run = reserve(store, spec, manifest, hashlib.sha256(data).hexdigest()).run
    task = WorkerTask(spec, store, manifest, run.name)
    with heartbeat(store, run.name), ray_session(store), stop_on_signal(lambda: ask_to_stop(store, run.name, by="signal")):
        with _failure_recorded(store, run.name), _progress_shown(store, run.name, reporter):
            file = published_file(store, run.name) or _run_workers(task)
            _finish(task, file)
    return result_of(open_run(store, run.name), store, wall_s=time.monotonic() - started_s, reused=False)


def _run_workers(task: WorkerTask) -> FileInfo:
    """Blocks until the workers are done; returns the exported file. Raises Stopped, or the error that ended it."""
    import ray
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.tensorflow import TensorflowTrainer

    resources = _resources(task.spec)
    with ray_storage(task.store, layout.run(task.run)) as storage:
        trainer = TensorflowTrainer(
            train_worker,
            train_loop_config={"task": task},
            scaling_config=ScalingConfig(
                num_workers=task.spec.workers, use_gpu="GPU" in resources, resources_per_worker=resources
            ),
            run_config=RunConfig(
                # Ray resumes silently under a name it knows; the history of a run is ours, so each start is new.
                name=f"{task.run}-{new_token()[:8]}",
                failure_config=FailureConfig(
                    max_failures=task.spec.max_failures, controller_failure_limit=CONTROLLER_FAILURE_LIMIT
                ),
                worker_runtime_env={"env_vars": worker_environment(resources)},
                **storage,
            ),
        )
        try:
            outcome: WorkerOutcome = trainer.fit().return_value
        except ray.train.TrainingFailedError as error:
            raise TljobsError(
                "training failed and was not started again", task.run, _root_cause(error)
            ) from error
    if outcome.error:
        raise outcome.error
    if outcome.file is None:
        run_journal(task.store, task.run).append("stopped", step=outcome.step)
        raise Stopped(
            f"stopped on request at step {outcome.step}", task.run, f"Go on: tljobs runs resume {task.run}"
        )
    return outcome.file


@dataclass(frozen=True)
class WorkerOutcome:
    """What rank 0 returns: the exported file, none if it was stopped, or the error that no restart would mend."""

    step: int
    file: FileInfo | None = None
    error: TljobsError | None = None


def train_worker(config: dict[str, Any]) -> WorkerOutcome:
    """The function of each Ray Train worker. TensorFlow is imported already: Ray set TF_CONFIG before."""
    import ray.train
    import ray.train.collective
    import tensorflow as tf

    from tljobs.data.feed import Place
    from tljobs.training.exporting import export_to
    from tljobs.training.loop import run_attempt
    from tljobs.training.workers import Workers

    task: WorkerTask = config["task"]
    context = ray.train.get_context()
    workers = Workers(
        tf.distribute.MultiWorkerMirroredStrategy(),
        Place(context.get_world_rank(), context.get_world_size()),
        ray.train.collective.broadcast_from_rank_zero,
    )
    try:
        outcome = run_attempt(task.spec, task.store, task.manifest, task.run, workers, export=export_to(task.store, task.run))
    except TljobsError as error:
        if isinstance(error, Unreachable):
            raise  # the store may be back for the next attempt
        return WorkerOutcome(0, error=error)
    return WorkerOutcome(outcome.step, outcome.model_file)


def worker_environment(resources: dict[str, float]) -> dict[str, str]:
    """TensorFlow reads these when it is imported, which Ray does before our function runs."""
    threads = str(max(1, int(resources["CPU"])))
    return {"TF_CPP_MIN_LOG_LEVEL": "2", "TF_NUM_INTRAOP_THREADS": threads, "OMP_NUM_THREADS": threads}


def _resources(spec: TrainSpec) -> dict[str, float]:
    import os

    import ray

    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    return worker_resources(nodes, spec.workers, spec.device, can_grow="RAY_ADDRESS" in os.environ and len(nodes) > 1)


def _finish(task: WorkerTask, file: FileInfo) -> None:
    """Evaluates, exports and replays the model in a clean process with a worker's resources."""
    import ray

    from tljobs.training.finishing import finish_run

    resources = _resources(task.spec)
    remote = ray.remote(
        num_cpus=resources["CPU"],
        num_gpus=resources.get("GPU", 0),
        max_retries=task.spec.max_failures,
        max_calls=1,
        runtime_env={"env_vars": worker_environment(resources)},
    )(finish_run)
    try:
        ray.get(remote.remote(task.store, task.manifest, task.run, task.spec, file))
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, TljobsError):
            raise error.cause from None
        raise


def published_file(store: Store, run: str) -> FileInfo | None:
    """The file of a model that an earlier attempt published without coming to the run's end."""
    key = layout.run_model_record(run)
    try:
        return ModelRecord.from_bytes(store.read(key), key).file
    except NotFound:
        return None


# ------------------------------------------------------------------------------------------- history and progress


@contextmanager
def _failure_recorded(store: Store, run: str) -> Iterator[None]:
    """An error that ends the run becomes an event, so that others read why."""
    try:
        yield
    except Stopped:
        raise
    except (Exception, KeyboardInterrupt) as error:
        what = error if isinstance(error, TljobsError) else TljobsError(type(error).__name__, "", str(error)[:500])
        journal = run_journal(store, run)
        journal.append("failed", data={"what": what.what, "where": what.where, "hint": what.hint})
        raise


@contextmanager
def _progress_shown(store: Store, run: str, reporter: Reporter) -> Iterator[None]:
    """Tells the reporter what the workers write into the run's history."""
    journal = run_journal(store, run)
    told = len(journal.read())
    done = threading.Event()

    def watch() -> None:
        nonlocal told
        while not done.wait(WATCH_EVERY_S):
            try:
                events = journal.read()
            except TljobsError:
                continue
            for event in events[told:]:
                _tell(reporter, event.kind, event.step, event.data)
            told = len(events)

    thread = threading.Thread(target=watch, daemon=True, name="progress")
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def _tell(reporter: Reporter, kind: str, step: int, data: dict[str, Any]) -> None:
    tellers: dict[str, Callable[[], str]] = {
        "attempt_started": lambda: f"Training with {data['workers']} worker(s) from step {step}",
        "phase_started": lambda: (
            f"Phase {data['name']}: {data['trainable_parameters']:,} of"
            f" {data['trainable_parameters'] + data['frozen_parameters']:,} parameters trainable,"
            f" {data['epochs']} epochs, rate {data['learning_rate']:g}" + "".join(f" ({n})" for n in data["notes"])
        ),
        "checkpoint": lambda: (
            f"Step {step}: {data['phase']} epoch {data['epoch']}, validation accuracy {data['val_accuracy']:.3f},"
            f" loss {data['val_loss']:.3f}"
            if data["val_accuracy"] is not None
            else f"Step {step}: saved"
        ),
        "stop_requested": lambda: "Asked to stop: saving",
    }
    if kind in tellers:
        reporter.note(tellers[kind]())


def _root_cause(error: BaseException) -> str:
    failures = getattr(error, "worker_failures", None) or {}
    for failure in failures.values():
        return f"{type(failure).__name__}: {str(failure).strip().splitlines()[-1][:300]}"
    return str(error).strip().splitlines()[-1][:300]


def _reference(record: RunRecord) -> str:
    return f"{record.dataset}@{record.version}"
