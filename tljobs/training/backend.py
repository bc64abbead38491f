"""How Ray Train sets up the group for MultiWorkerMirroredStrategy: TF_CONFIG in every worker, and nothing more.

It takes the place of Ray's own TensorflowConfig, which imports TensorFlow in the driver's controller process too (ten
seconds and 0.8 GB per run) and switches the workers to the legacy Keras.
"""

from __future__ import annotations

import json
import os
import socket
from dataclasses import dataclass
from typing import Any

import ray
from ray.train.backend import Backend, BackendConfig


@dataclass
class MultiWorkerConfig(BackendConfig):
    """Given to TensorflowTrainer as its `tensorflow_config`."""

    @property
    def backend_cls(self) -> type[Backend]:
        return _MultiWorkerBackend


class _MultiWorkerBackend(Backend):
    def on_start(self, worker_group: Any, backend_config: MultiWorkerConfig) -> None:
        addresses = worker_group.execute(_free_address)
        ray.get(
            [
                worker_group.execute_single_async(rank, _set_tf_config, addresses, rank)
                for rank in range(len(worker_group))
            ]
        )


def _free_address() -> str:
    """host:port of this worker for TensorFlow's collectives. The port is free now; should another process take it
    before TensorFlow binds it, the group fails and is started again."""
    host = ray.util.get_node_ip_address()
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.bind(("", 0))
        port = probe.getsockname()[1]
    return f"[{host}]:{port}" if family == socket.AF_INET6 else f"{host}:{port}"


def _set_tf_config(addresses: list[str], rank: int) -> None:
    task = {"cluster": {"worker": addresses}, "task": {"type": "worker", "index": rank}}
    os.environ["TF_CONFIG"] = json.dumps(task)
