"""What each training worker asks of the cluster: a pure function of the nodes, so that what is missing is said
before the start instead of waited for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from tljobs.errors import Unreachable

MOST_CPUS_PER_WORKER = 16.0  # decoding for one device needs no more


def worker_resources(
    nodes: Sequence[dict[str, Any]], workers: int, device: Literal["auto", "cpu", "gpu"], *, can_grow: bool
) -> dict[str, float]:
    """Resources of one worker, {"CPU": …} or {"CPU": …, "GPU": 1}.

    Args:
        nodes: resources of each live node, such as {"CPU": 16, "GPU": 1}.
        workers: number of training workers.
        device: `auto` takes GPUs when the cluster has any.
        can_grow: the cluster scales itself, so that more nodes may come.

    Raises Unreachable when GPUs are asked for or needed that are not there.
    """
    gpus = sum(float(node.get("GPU", 0)) for node in nodes)
    cpus = sum(float(node.get("CPU", 0)) for node in nodes)
    use_gpu = device == "gpu" or (device == "auto" and gpus > 0)
    if use_gpu:
        if gpus < workers and not can_grow:
            raise Unreachable(
                f"{workers} workers need {workers} GPUs and the cluster has {gpus:g}",
                "--workers",
                f"Use --workers {int(gpus)} or --device cpu" if gpus else "Use --device cpu",
            )
        with_gpu = [node for node in nodes if node.get("GPU")]
        share = min((float(node.get("CPU", 1)) / float(node["GPU"]) for node in with_gpu), default=1.0)
        return {"CPU": max(1.0, min(MOST_CPUS_PER_WORKER, share // 1)), "GPU": 1.0}
    if can_grow or cpus >= workers:
        largest = max((float(node.get("CPU", 0)) for node in nodes), default=1.0)
        return {"CPU": max(1.0, min(MOST_CPUS_PER_WORKER, largest, cpus // workers))}
    return {"CPU": max(cpus, 0.01) / workers}  # more workers than cores: they share them
