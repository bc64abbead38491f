"""The order of training images as a pure function of (row groups, seed, epoch), dealt to however many workers.

Row groups are permuted, then the rows within pools of them, so that a reader touches few groups at a time. The
sequence of an epoch does not know of workers: global batch `s` is its rows [s*B, (s+1)*B), and worker `r` of `W` has
the r-th of W equal slices of each batch. A position is therefore a global step, with any number of workers.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

POOL_GROUPS = 20  # groups of 64 rows: 1,280 images are mixed with each other beyond the order of the groups


@dataclass(frozen=True)
class Pool:
    """Some row groups and the order of their rows: row `rows[k]` of group `groups[which[k]]` is the k-th."""

    groups: npt.NDArray[np.int64]
    which: npt.NDArray[np.int64]
    rows: npt.NDArray[np.int64]


@dataclass(frozen=True)
class SlicePlan:
    """This worker's slice of a global batch: positions in the epoch's sequence and their weights (0 for padding)."""

    positions: npt.NDArray[np.int64]
    weights: npt.NDArray[np.float32]


def steps_per_epoch(images: int, global_batch: int) -> int:
    """Every image once; the last batch is padded."""
    return -(-images // global_batch)


def pools(group_rows: Sequence[int], seed: int, epoch: int) -> Iterator[Pool]:
    """The epoch's sequence, pool by pool. `group_rows` holds the number of rows of every row group."""
    sizes = np.asarray(group_rows, dtype=np.int64)
    order = _generator(seed, epoch, 0).permutation(len(sizes))
    for number, first in enumerate(range(0, len(order), POOL_GROUPS)):
        groups = order[first : first + POOL_GROUPS]
        which = np.repeat(np.arange(len(groups)), sizes[groups])
        rows = np.concatenate([np.arange(sizes[group]) for group in groups])
        shuffled = _generator(seed, epoch, number + 1).permutation(len(rows))
        yield Pool(groups, which[shuffled], rows[shuffled])


def batch_slice(images: int, global_batch: int, step: int, rank: int, world_size: int) -> SlicePlan:
    """Positions of worker `rank` in the batch `step` of the epoch. A last batch that is not full repeats its own
    images with weight 0, so that shapes are equal and batch statistics stay those of real images."""
    local = global_batch // world_size
    first = step * global_batch
    real = min(global_batch, images - first)
    offsets = np.arange(rank * local, (rank + 1) * local)
    return SlicePlan(first + offsets % real, (offsets < real).astype(np.float32))


def _generator(seed: int, epoch: int, stream: int) -> np.random.Generator:
    """A generator by address: it depends on these three numbers alone."""
    return np.random.Generator(np.random.Philox(key=[seed, epoch], counter=[0, 0, 0, stream]))
