"""The wiring between a run and Ray: workers by Ray Train, and clean processes for what comes after training.

Ray Train starts the workers, gives them TF_CONFIG and replaces them when they die; checkpoints, metrics and history
are our own (see training.checkpoint).
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tljobs import layout
from tljobs.errors import Stopped, TljobsError, Unreachable
from tljobs.ray_session import ray_storage
from tljobs.records import DatasetManifest, FileInfo, new_token
from tljobs.runs import run_journal
from tljobs.specs import TrainSpec
from tljobs.store import Store
from tljobs.training.resources import worker_resources

if TYPE_CHECKING:
    from tljobs.training.workers import Workers

CONTROLLER_FAILURE_LIMIT = 3  # Ray's default is to retry errors at the start for ever
CLEAN_PROCESS_RETRIES = 2  # when its host dies; errors of ours are not retried


@dataclass(frozen=True)
class WorkerTask:
    """All that a worker process needs; pickled by Ray."""

    spec: TrainSpec
    store: Store
    manifest: DatasetManifest
    run: str


def import_early() -> None:
    """Begins to import what Ray's trainer needs (it imports TensorFlow in the driver, too) while Ray is starting."""

    def load() -> None:
        import ray.train.tensorflow  # noqa: F401

    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    threading.Thread(target=load, daemon=True, name="import-early").start()


def run_workers(task: WorkerTask) -> FileInfo:
    """Blocks until the workers are done; returns the exported file. Raises Stopped, or the error that ended it."""
    import ray
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.tensorflow import TensorflowTrainer

    from tljobs.training.backend import MultiWorkerConfig

    resources = resources_for(task.spec)
    with ray_storage(task.store, layout.run(task.run)) as storage:
        trainer = TensorflowTrainer(
            train_worker,
            train_loop_config={"task": task},
            tensorflow_config=MultiWorkerConfig(),
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
            raise _final_error(error, task.run) from error
    if outcome.error:
        raise outcome.error
    if outcome.file is None:
        run_journal(task.store, task.run).append("stopped", step=outcome.step)
        raise Stopped(f"stopped on request at step {outcome.step}", task.run, f"Go on: tljobs runs resume {task.run}")
    return outcome.file


@dataclass(frozen=True)
class WorkerOutcome:
    """What rank 0 returns: the exported file, none if it was stopped, or the error that no restart would mend."""

    step: int
    file: FileInfo | None = None
    error: TljobsError | None = None


def train_worker(config: dict[str, Any]) -> WorkerOutcome:
    """The function of each Ray Train worker; TF_CONFIG is set, and TensorFlow is imported here.

    An exception makes Ray start the whole group again, which mends lost workers and a store that was away; an error
    that would come again is written down, so that the next attempt ends with it.
    """
    import tensorflow as tf

    from tljobs.training.exporting import export_to
    from tljobs.training.loop import run_attempt

    task: WorkerTask = config["task"]
    export = export_to(task.store, task.run, task.manifest.task)
    try:
        outcome = run_attempt(task.spec, task.store, task.manifest, task.run, _workers(), export=export)
    except (Unreachable, tf.errors.OpError):
        raise
    except TljobsError as error:
        return WorkerOutcome(0, error=error)  # all workers see it: it follows from what they share
    except Exception as error:
        text = f"{type(error).__name__}: {' '.join(str(error).split())[-400:]}"
        run_journal(task.store, task.run).append("attempt_failed", data={"error": text})
        raise
    return WorkerOutcome(outcome.step, outcome.model_file)


def _workers() -> Workers:
    """This process among the group's. One worker needs no collectives."""
    import ray.train
    import ray.train.collective
    import tensorflow as tf

    from tljobs.data.feed import Place
    from tljobs.training.workers import Workers

    context = ray.train.get_context()
    place = Place(context.get_world_rank(), context.get_world_size())
    if place.world_size == 1:
        return Workers()
    strategy = tf.distribute.MultiWorkerMirroredStrategy()
    return Workers(strategy, place, ray.train.collective.broadcast_from_rank_zero)


def worker_environment(resources: dict[str, float]) -> dict[str, str]:
    """TensorFlow reads these when it is imported, which Ray does before our function runs."""
    threads = str(max(1, int(resources["CPU"])))
    return {"TF_CPP_MIN_LOG_LEVEL": "2", "TF_NUM_INTRAOP_THREADS": threads, "OMP_NUM_THREADS": threads}


def resources_for(spec: TrainSpec) -> dict[str, float]:
    import ray

    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    return worker_resources(nodes, spec.workers, spec.device, can_grow="RAY_ADDRESS" in os.environ and len(nodes) > 1)


def finish_in_clean_process(
    store: Store,
    manifest: DatasetManifest,
    run: str,
    spec: TrainSpec,
    resources: dict[str, float],
    file: FileInfo | None = None,
) -> None:
    """Evaluates, replays and publishes the run's model in a process that did not train it. Without `file` the best
    checkpoint is exported first, in a process of its own."""
    file = file or _in_clean_process(_export, resources, (store, manifest, run, spec))
    _in_clean_process(_finish, resources, (store, manifest, run, spec, file))


def _export(*arguments: Any) -> FileInfo:
    from tljobs.training.exporting import export_best  # imports TensorFlow: not in the driver

    return export_best(*arguments)


def _finish(*arguments: Any) -> None:
    from tljobs.training.finishing import finish_run

    finish_run(*arguments)


def _in_clean_process(function: Callable[..., Any], resources: dict[str, float], arguments: tuple[Any, ...]) -> Any:
    """The function's value, from a new process with a worker's resources."""
    import ray

    remote = ray.remote(
        num_cpus=resources["CPU"],
        num_gpus=resources.get("GPU", 0),
        max_retries=CLEAN_PROCESS_RETRIES,
        max_calls=1,
        runtime_env={"env_vars": worker_environment(resources)},
    )(function)
    try:
        return ray.get(remote.remote(*arguments))
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, TljobsError):
            raise error.cause from None
        raise


def _final_error(error: Any, run: str) -> TljobsError:
    """What ended the last attempt: our own error as it was raised in the worker, or Ray's in one line."""
    failures = list((getattr(error, "worker_failures", None) or {}).values())
    raised = [getattr(failure, "_base_exc", failure) for failure in failures]
    ours = next((each for each in raised if isinstance(each, TljobsError)), None)
    if ours:
        return ours
    text = " ".join(str((raised or [error])[0]).split())[-300:]
    return TljobsError("training failed and was not started again", run, text)
