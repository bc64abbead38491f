"""Checkpoints: all variables as raw arrays in one safetensors file, committed by a record that is written last.

Exact resume needs the raw arrays (model, optimizer and the state of dropout's generators); Keras' own formats reset
the latter. Before a commit all workers agree on the hash of every variable. A checkpoint whose bytes do not verify is
skipped, and an older one is used.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import safetensors.numpy

from tljobs import layout
from tljobs.errors import InputRefused, NotFound, TrainingDiverged
from tljobs.records import CheckpointCommit, FileInfo, Position, new_token, now_utc
from tljobs.store import Store
from tljobs.training.metrics import Best, LoopState

KEEP_NEWEST = 2  # so that there is a good one while the newest is being written


def variable_hashes(variables: Sequence[Any]) -> npt.NDArray[np.float64]:
    """(n, 2): the first 2 × 32 bits of each variable's SHA-256, as integers that float64 holds exactly."""
    digests = [hashlib.sha256(np.ascontiguousarray(variable.numpy()).tobytes()).digest() for variable in variables]
    return np.asarray([[int.from_bytes(d[:4]), int.from_bytes(d[4:8])] for d in digests], dtype=np.float64)


def check_agreement(
    variables: Sequence[Any],
    rank: int,
    world_size: int,
    sum_over_workers: Callable[[npt.NDArray[np.float64]], npt.NDArray[np.float64]],
) -> str:
    """Compares all variables of all workers; returns the common digest (hex). Raises TrainingDiverged with the name
    of the first variable that differs. A collective: every worker calls it."""
    own = variable_hashes(variables)
    table = np.zeros((world_size, *own.shape))
    table[rank] = own
    table = sum_over_workers(table)
    differs = np.flatnonzero((table != table[0]).any(axis=(0, 2)))
    if len(differs):
        raise TrainingDiverged(
            "the workers no longer hold the same variables",
            variables[int(differs[0])].path,
            "This run cannot be trusted; please report it with the versions in run.json",
        )
    return hashlib.sha256(own.tobytes()).hexdigest()


def save(
    store: Store,
    run: str,
    attempt: int,
    position: Position,
    variables: Sequence[Any],
    *,
    variables_sha256: str,
    state: LoopState,
    epoch: Best | None,
) -> CheckpointCommit:
    """Writes the arrays, then the commit. `epoch` holds the validation of the epoch that ends here, if one does."""
    data = safetensors.numpy.save({f"{i:05}:{v.path}": np.asarray(v.numpy()) for i, v in enumerate(variables)})
    key = layout.run_checkpoint_state(run, position.step, attempt)
    store.put(key, data)
    commit = CheckpointCommit(
        run=run,
        attempt=attempt,
        position=position,
        state=FileInfo(key=key, size_bytes=len(data), sha256=hashlib.sha256(data).hexdigest()),
        variables_sha256=variables_sha256,
        loop_state=state.dump(),
        val_accuracy=epoch.val_accuracy if epoch else None,
        val_loss=epoch.val_loss if epoch else None,
        created_utc=now_utc(),
        token=new_token(),
    )
    store.create(layout.run_checkpoint_commit(run, position.step, attempt), commit.to_bytes())
    return commit


def committed(store: Store, run: str) -> list[tuple[int, int]]:
    """(step, attempt) of all committed checkpoints, newest first."""
    found = []
    for entry in store.list(layout.run_checkpoints_prefix(run)):
        step, attempt, name = entry.key.split("/")[-3:]
        if name == "commit.json":
            found.append((int(step), int(attempt)))
    return sorted(found, reverse=True)


def newest_good(store: Store, run: str) -> tuple[CheckpointCommit | None, list[str]]:
    """The newest checkpoint that verifies, and what was wrong with those that were skipped."""
    skipped: list[str] = []
    for step, attempt in committed(store, run):
        try:
            commit = read_commit(store, run, step, attempt)
            read_state(store, commit)
        except (InputRefused, NotFound) as error:
            skipped.append(str(error))
        else:
            return commit, skipped
    return None, skipped


def best(store: Store, run: str) -> CheckpointCommit:
    """The checkpoint of the run's best epoch. Raises InputRefused when no epoch was completed."""
    newest, _ = newest_good(store, run)
    found = LoopState.model_validate(newest.loop_state).best if newest else None
    if found is None:
        raise InputRefused("no epoch of the run was completed", run, f"Go on: tljobs runs resume {run}")
    return read_commit(store, run, found.step, found.attempt)


def read_commit(store: Store, run: str, step: int, attempt: int) -> CheckpointCommit:
    key = layout.run_checkpoint_commit(run, step, attempt)
    return CheckpointCommit.from_bytes(store.read(key), key)


def read_state(store: Store, commit: CheckpointCommit) -> dict[str, npt.NDArray[Any]]:
    """Arrays by name. Raises InputRefused unless size and SHA-256 are those of the commit."""
    data = store.read(commit.state.key)
    if len(data) != commit.state.size_bytes or hashlib.sha256(data).hexdigest() != commit.state.sha256:
        raise InputRefused("damaged checkpoint", commit.state.key, "An older one is used if there is one")
    arrays: dict[str, npt.NDArray[Any]] = safetensors.numpy.load(data)
    return arrays


def restore(arrays: dict[str, npt.NDArray[Any]], variables: Sequence[Any]) -> None:
    """Assigns the arrays to the variables by name (which holds the position); shapes must agree. `variables` may be
    the first part of what was saved: the model without the optimizer."""
    for index, variable in enumerate(variables):
        name = f"{index:05}:{variable.path}"
        array = arrays.get(name)
        if array is None or tuple(array.shape) != tuple(variable.shape):
            raise InputRefused(
                "the checkpoint belongs to another network", name, "Use the versions that are recorded in run.json"
            )
        variable.assign(array)


def delete_old(store: Store, run: str, keep: Sequence[tuple[int, int] | None]) -> None:
    """Deletes all but the newest KEEP_NEWEST and those in `keep`; the commit first, so that no half is readable.
    Called only after the newest has been committed."""
    checkpoints = committed(store, run)
    for step, attempt in checkpoints[KEEP_NEWEST:]:
        if (step, attempt) not in keep:
            store.delete(layout.run_checkpoint_commit(run, step, attempt))
            store.delete(layout.run_checkpoint_state(run, step, attempt))
