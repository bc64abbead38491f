"""Devices that Ray hands out: each training worker sees exactly its own, and none where there are none.

The GPUs are declared, not real: Ray deals them out all the same, and a worker's environment shows what it was given.
A process of its own, since the Ray of the other tests has no GPUs.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]

WORKERS = 2
# The trainer, its backend and the resources of `tljobs train`; only the workers' function is another.
SCRIPT = """
import os, pathlib, sys
import ray, ray.train
from ray.train import RunConfig, ScalingConfig
from ray.train.tensorflow import TensorflowTrainer
from tljobs.specs import TrainSpec
from tljobs.training.backend import MultiWorkerConfig
from tljobs.training.job import resources_for, worker_environment

def write_what_is_seen(config):
    rank = ray.train.get_context().get_world_rank()
    pathlib.Path(config["folder"], str(rank)).write_text(os.environ.get("CUDA_VISIBLE_DEVICES", ""))

gpus, folder, workers = int(sys.argv[1]), sys.argv[2], int(sys.argv[3])
ray.init(address="local", num_cpus=2, num_gpus=gpus, include_dashboard=False, log_to_driver=False)
resources = resources_for(TrainSpec(dataset="d", workers=workers))
TensorflowTrainer(
    write_what_is_seen,
    train_loop_config={"folder": folder},
    tensorflow_config=MultiWorkerConfig(),
    scaling_config=ScalingConfig(num_workers=workers, use_gpu="GPU" in resources, resources_per_worker=resources),
    run_config=RunConfig(
        name="devices", storage_path=folder + "-ray", worker_runtime_env={"env_vars": worker_environment(resources)}
    ),
).fit()
"""


def seen_devices(gpus: int, folder: Path) -> list[list[str]]:
    """CUDA_VISIBLE_DEVICES of every worker, on a Ray with that many GPUs."""
    folder.mkdir()
    command = [sys.executable, "-c", SCRIPT, str(gpus), str(folder), str(WORKERS)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 0, done.stderr
    texts = [(folder / str(rank)).read_text() for rank in range(WORKERS)]
    return [text.split(",") if text else [] for text in texts]


def test_each_worker_sees_exactly_the_gpu_it_was_given(tmp_path: Path) -> None:
    seen = seen_devices(2, tmp_path / "two")
    assert sorted(seen) == [["0"], ["1"]], json.dumps(seen)


def test_the_same_request_runs_without_gpus(tmp_path: Path) -> None:
    assert seen_devices(0, tmp_path / "none") == [[], []]
