"""The one place that starts or joins Ray. A cluster is used when there is one, else an embedded Ray of this command."""

from __future__ import annotations

import contextlib
import logging
import os
import secrets
import tempfile
from collections.abc import Iterator
from typing import Any

from tljobs.errors import Unreachable, UsageError
from tljobs.store import LocalStore, Store

EMBEDDED_OBJECT_STORE_BYTES = 512 * 2**20  # images do not pass through it; only plans and small tables do
JOB_VARIABLE = "RAY_JOB_CONFIG_JSON_ENV_VAR"  # set in the driver of a submitted job


@contextlib.contextmanager
def ray_session(store: Store) -> Iterator[None]:
    """Inside, `ray` is connected. An embedded Ray is shut down at the end; one that was there already stays.

    Raises Unreachable when RAY_ADDRESS leads nowhere, and UsageError when a cluster of several hosts cannot see the
    store's folder.
    """
    import ray

    if ray.is_initialized():
        yield
        return
    _start(ray)
    try:
        _check_store_is_shared(ray, store)
        yield
    finally:
        ray.shutdown()


@contextlib.contextmanager
def ray_storage(store: Store, key: str) -> Iterator[dict[str, Any]]:
    """Where Ray Train and Ray Tune keep their own state, as arguments of their RunConfig: below `key`, on a local
    store in a folder that goes afterwards. Nothing of ours is read from there."""
    if isinstance(store, LocalStore):
        base = store.root / key
        base.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix="ray-", dir=base, ignore_cleanup_errors=True) as folder:
            yield {"storage_path": folder}
        return
    filesystem, root = store.filesystem()
    yield {"storage_path": f"{root}/{key}/ray", "storage_filesystem": filesystem}


def _start(ray: Any) -> None:
    address = os.environ.get("RAY_ADDRESS") or ("auto" if os.environ.get(JOB_VARIABLE) else None)
    # A virtual environment is not rebuilt on the nodes because the command happens to run under `uv run`.
    os.environ.setdefault("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")
    logging.getLogger("ray._private.authentication").setLevel(logging.ERROR)  # says that it is on
    quiet: dict[str, Any] = {"logging_level": logging.WARNING, "log_to_driver": False}
    if address:
        try:
            ray.init(address=address, **quiet)
        except (ConnectionError, RuntimeError, ValueError) as error:
            hint = "Start it (`ray start --head`), or unset RAY_ADDRESS to run on this machine alone"
            raise Unreachable("no Ray cluster answers", address, f"{hint} ({error})") from error
        return
    try:
        ray.init(address="local", include_dashboard=False, object_store_memory=EMBEDDED_OBJECT_STORE_BYTES, **quiet)
    except Exception as error:
        # Ray raises bare exceptions here: a node that did not come up in time, a port or memory that was refused.
        hint = f"The machine may be busy or short of memory; try again ({' '.join(str(error).split())[:200]})"
        raise Unreachable("Ray does not start on this machine", "", hint) from error


def _check_store_is_shared(ray: Any, store: Store) -> None:
    """A local folder serves several hosts only if it is a mount that all of them see: a token tells."""
    nodes = [node["NodeID"] for node in ray.nodes() if node["Alive"]]
    if not isinstance(store, LocalStore) or len(nodes) < 2:
        return
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    key = f".shared-mount-probe-{secrets.token_hex(8)}"
    store.put(key, b"1")

    def sees() -> bool:
        return store.exists(key)

    task = ray.remote(num_cpus=0)(sees)
    pinned = [task.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node, soft=False)) for node in nodes]
    try:
        if not all(ray.get([each.remote() for each in pinned], timeout=60)):
            raise UsageError(
                "a local folder as store serves one host, and this cluster has several",
                store.uri,
                "Use --store s3://bucket/prefix, or a folder on a mount that all hosts share",
            )
    finally:
        store.delete(key)
