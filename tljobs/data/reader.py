"""Reading a split: encoded images and labels by row group, and the rows of an epoch in the order of training.

In: a dataset manifest, a seed, an epoch, a first position. Out: row groups from verified shards; rows by their place in
the epoch's sequence. At most two pools of row groups are held at a time.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tljobs.data import order
from tljobs.data.shards import label_array, read_row_group, verify_shard
from tljobs.records import DatasetManifest, ShardInfo
from tljobs.store import Store

READ_AHEAD_GROUPS = 8  # hides 50 ms of latency per read

Group = tuple[list[bytes], npt.NDArray[np.int32]]  # encoded images and their labels


@dataclass(frozen=True)
class Row:
    """A row of the split, by number. `image` and `label` are None where they were not asked for."""

    sample: int
    image: bytes | None = None
    label: npt.NDArray[np.int32] | None = None


class SplitReader:
    """Row groups of one split, verified on first read, read ahead by threads."""

    def __init__(self, store: Store, manifest: DatasetManifest, split: str) -> None:
        info = manifest.splits[split]
        self.images = info.images
        self.groups: list[tuple[ShardInfo, int]] = [
            (shard, group) for shard in info.shards for group in range(len(shard.row_groups))
        ]
        self.group_rows = [shard.row_groups[group] for shard, group in self.groups]
        self.first_rows = np.concatenate([[0], np.cumsum(self.group_rows)]).astype(np.int64)
        self.label_shape = () if manifest.task == "single-label" else (len(manifest.classes),)
        self._manifest = manifest
        self._store = store
        self._verified: set[str] = set()

    def read(self, group: int) -> Group:
        """Encoded images and labels, int32 (n, *label_shape), of a row group. Raises InputRefused if the shard's bytes
        have changed."""
        shard, number = self.groups[group]
        if shard.key not in self._verified:
            verify_shard(self._store, shard)
            self._verified.add(shard.key)
        _, images, labels = read_row_group(self._store, shard, number)
        return images, label_array(labels, len(self._manifest.classes), self._manifest.task)

    def read_ahead(self, groups: Iterable[int]) -> Iterator[Group]:
        """The groups in order; up to READ_AHEAD_GROUPS of them are read beforehand."""
        with ThreadPoolExecutor(READ_AHEAD_GROUPS) as pool:
            pending: deque[Future[Group]] = deque()
            for group in groups:
                pending.append(pool.submit(self.read, int(group)))
                if len(pending) > READ_AHEAD_GROUPS:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()


@dataclass(frozen=True)
class _Opened:
    """A pool of an epoch: the place of its first row in the sequence, its rows as numbers in the split, and the groups
    that are being read, by their place in the pool."""

    first: int
    pool: order.Pool
    samples: npt.NDArray[np.int64]
    groups: dict[int, Future[Group]]

    def rows(self) -> Iterator[tuple[int, Row]]:
        """(place in the epoch's sequence, row). Waits for the groups."""
        data = {number: future.result() for number, future in self.groups.items()}
        for place, (which, row, sample) in enumerate(
            zip(self.pool.which.tolist(), self.pool.rows.tolist(), self.samples.tolist(), strict=True), self.first
        ):
            if which in data:
                images, labels = data[which]
                yield place, Row(sample, images[row], labels[row])
            else:
                yield place, Row(sample)


def epoch_rows(
    reader: SplitReader,
    seed: int,
    epoch: int,
    first_position: int,
    is_wanted: Callable[[npt.NDArray[np.int64], npt.NDArray[np.int64]], npt.NDArray[np.bool_]],
) -> Generator[tuple[int, Row], None, None]:
    """The epoch's sequence as (position, row), from the pool on that holds `first_position`.

    Args:
        is_wanted: of positions and samples, which images must be read; groups without any are left unread. It is asked
            one pool ahead.
    """
    threads = ThreadPoolExecutor(READ_AHEAD_GROUPS, thread_name_prefix="read")
    pending: deque[_Opened] = deque()
    first = 0
    try:
        for pool in order.pools(reader.group_rows, seed, epoch):
            positions = np.arange(first, first + len(pool.rows))
            if positions[-1] >= first_position:
                samples = reader.first_rows[pool.groups][pool.which] + pool.rows
                groups = np.unique(pool.which[is_wanted(positions, samples)]).tolist()
                reading = {each: threads.submit(reader.read, int(pool.groups[each])) for each in groups}
                pending.append(_Opened(first, pool, samples, reading))
            if len(pending) > 1:
                yield from pending.popleft().rows()
            first += len(pool.rows)
        while pending:
            yield from pending.popleft().rows()
    finally:
        threads.shutdown(cancel_futures=True)
