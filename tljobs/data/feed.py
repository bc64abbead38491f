"""From shards to batches: training batches through tf.data, evaluation batches as numpy.

In: a dataset manifest, a position, this worker's place among the workers. Out: batches of a fixed shape, padded rows
with weight 0. Everything random is a function of (seed, epoch, sample).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from tljobs.data import order
from tljobs.data.decode import decode_stored, eval_view
from tljobs.data.shards import label_array, read_row_group, verify_shard
from tljobs.records import DatasetManifest, ShardInfo
from tljobs.store import Store

READ_AHEAD_GROUPS = 8  # hides 50 ms of latency per read
DECODE_THREADS = 4
KEEP_PIXELS_BYTES = 2**30  # an evaluation split that fits is decoded once and kept

Augment = Literal["crop-flip", "none"]
_Row = tuple[bytes, npt.NDArray[np.int32], int]  # encoded image, label, row number in the split


@dataclass(frozen=True)
class Place:
    """This worker among the workers."""

    rank: int = 0
    world_size: int = 1


@dataclass(frozen=True)
class EvalBatch:
    """`pixels` uint8 (n, s, s, 3); `labels` int32 (n,), or multi-hot (n, classes) in a multi-label dataset; `positions`
    int64 (n,): row numbers in the split."""

    pixels: npt.NDArray[np.uint8]
    labels: npt.NDArray[np.int32]
    positions: npt.NDArray[np.int64]


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

    def read(self, group: int) -> tuple[list[bytes], npt.NDArray[np.int32]]:
        """Encoded images and labels, int32 (n, *label_shape), of a row group. Raises InputRefused if the shard's bytes
        have changed."""
        shard, number = self.groups[group]
        if shard.key not in self._verified:
            verify_shard(self._store, shard)
            self._verified.add(shard.key)
        _, images, labels = read_row_group(self._store, shard, number)
        return images, label_array(labels, len(self._manifest.classes), self._manifest.task)

    def read_ahead(self, groups: Iterable[int]) -> Iterator[tuple[list[bytes], npt.NDArray[np.int32]]]:
        """The groups in order; up to READ_AHEAD_GROUPS of them are read beforehand."""
        with ThreadPoolExecutor(READ_AHEAD_GROUPS) as pool:
            pending: deque[Future[tuple[list[bytes], npt.NDArray[np.int32]]]] = deque()
            for group in groups:
                pending.append(pool.submit(self.read, int(group)))
                if len(pending) > READ_AHEAD_GROUPS:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()


class TrainFeed:
    """Training batches of one worker. Each is (pixels uint8 (n, s, s, 3), labels int32 (n,), weights float32 (n,));
    labels are multi-hot, (n, classes), in a multi-label dataset."""

    def __init__(
        self,
        store: Store,
        manifest: DatasetManifest,
        *,
        image_size: int,
        global_batch: int,
        seed: int,
        augment: Augment,
        place: Place,
    ) -> None:
        self._reader = SplitReader(store, manifest, "train")
        self._crop_size = manifest.image_size
        self._image_size = image_size
        self._global_batch = global_batch
        self._seed = seed
        self._augment = augment
        self._place = place
        self.images = self._reader.images
        self.steps_per_epoch = order.steps_per_epoch(self.images, global_batch)

    def epoch(self, epoch: int, first_step: int = 0) -> Iterator[tuple[Any, Any, Any]]:
        """Batches of the epoch from `first_step` on."""
        import tensorflow as tf

        local = self._global_batch // self._place.world_size
        signature = (
            tf.TensorSpec((None,), tf.string),
            tf.TensorSpec((None, *self._reader.label_shape), tf.int32),
            tf.TensorSpec((None,), tf.float32),
            tf.TensorSpec((None,), tf.int64),
        )
        encoded = tf.data.Dataset.from_generator(
            lambda: self.encoded_batches(epoch, first_step), output_signature=signature
        )
        decoded = encoded.unbatch().map(self._decoder(epoch), num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
        return iter(decoded.batch(local, drop_remainder=True).prefetch(2))

    def encoded_batches(
        self, epoch: int, first_step: int = 0
    ) -> Iterator[tuple[list[bytes], npt.NDArray[np.int32], npt.NDArray[np.float32], npt.NDArray[np.int64]]]:
        """This worker's slices as (encoded images, labels, weights, samples); a sample is a row number in the split.

        Holds one pool of row groups at a time (and what is read ahead); pools that end before `first_step` are
        skipped unread.
        """
        rows = _SequenceWindow(self._reader, self._seed, epoch, first_step * self._global_batch)
        for step in range(first_step, self.steps_per_epoch):
            first = step * self._global_batch
            rows.advance(first, min(first + self._global_batch, self.images))
            plan = order.batch_slice(self.images, self._global_batch, step, self._place.rank, self._place.world_size)
            items = [rows.row(int(position)) for position in plan.positions]
            labels = np.asarray([label for _, label, _ in items], dtype=np.int32)
            samples = np.asarray([sample for _, _, sample in items], dtype=np.int64)
            yield [image for image, _, _ in items], labels, plan.weights, samples

    def _decoder(self, epoch: int) -> Any:
        import tensorflow as tf

        from tljobs.data.augment import crop_and_flip, sample_seeds

        size = self._image_size

        def augmented(image: Any, label: Any, weight: Any, sample: Any) -> Any:
            return crop_and_flip(image, sample_seeds(self._seed, epoch, sample), size), label, weight

        def plain(image: Any, label: Any, weight: Any, sample: Any) -> Any:
            pixels = tf.numpy_function(self._eval_pixels, [image], tf.uint8, stateful=False)
            return tf.ensure_shape(pixels, (size, size, 3)), label, weight

        return augmented if self._augment == "crop-flip" else plain

    def _eval_pixels(self, image: bytes) -> npt.NDArray[np.uint8]:
        return eval_view(decode_stored(image), crop_size=self._crop_size, image_size=self._image_size)


class _SequenceWindow:
    """The part of an epoch's sequence that the current batch needs: rows from the pools that are open."""

    def __init__(self, reader: SplitReader, seed: int, epoch: int, first_position: int) -> None:
        self._reader = reader
        self._rows: dict[int, _Row] = {}
        self._end = 0
        self._announced: deque[order.Pool] = deque()
        self._data = reader.read_ahead(self._groups_from(order.pools(reader.group_rows, seed, epoch), first_position))

    def advance(self, first: int, end: int) -> None:
        """Opens pools until `end` is reached and forgets the rows before `first`."""
        while self._end < end:
            self._open()
        for position in [position for position in self._rows if position < first]:
            del self._rows[position]

    def row(self, position: int) -> _Row:
        """(encoded image, label of the reader's label_shape, row number in the split)."""
        return self._rows[position]

    def _groups_from(self, pools: Iterator[order.Pool], first_position: int) -> Iterator[int]:
        """Groups of the pools that end after `first_position`; the earlier ones are counted, not read."""
        for pool in pools:
            if not self._announced and not self._rows and self._end + len(pool.rows) <= first_position:
                self._end += len(pool.rows)
                continue
            self._announced.append(pool)
            yield from pool.groups

    def _open(self) -> None:
        data = [next(self._data)]  # announces the pool
        pool = self._announced[0]
        data.extend(next(self._data) for _ in pool.groups[1:])
        self._announced.popleft()
        first_rows = self._reader.first_rows[pool.groups]
        for which, row in zip(pool.which, pool.rows, strict=True):
            images, labels = data[which]
            self._rows[self._end] = (images[row], labels[row], int(first_rows[which] + row))
            self._end += 1


class EvalFeed:
    """Images of a split as evaluation and prediction see them, in the order of the shards; this worker's share."""

    def __init__(
        self, store: Store, manifest: DatasetManifest, split: str, *, image_size: int, batch: int, place: Place
    ) -> None:
        self._reader = SplitReader(store, manifest, split)
        self._crop_size = manifest.image_size
        self._image_size = image_size
        self.batch_size = batch
        self.label_shape = self._reader.label_shape
        self.images = self._reader.images
        self._first = self.images * place.rank // place.world_size
        self._end = self.images * (place.rank + 1) // place.world_size
        self._kept: list[EvalBatch] | None = None

    def batches(self) -> Iterator[EvalBatch]:
        """Batches of at most `batch` images; kept after the first time if the share fits in memory."""
        if self._kept is not None:
            yield from self._kept
            return
        fits = (self._end - self._first) * self._image_size**2 * 3 <= KEEP_PIXELS_BYTES
        kept: list[EvalBatch] = []
        for batch in self._decode():
            if fits:
                kept.append(batch)
            yield batch
        if fits:
            self._kept = kept

    def _decode(self) -> Iterator[EvalBatch]:
        with ThreadPoolExecutor(DECODE_THREADS) as pool:
            for chunk in _chunks(self._rows(), self.batch_size):
                pixels = np.stack(list(pool.map(self._pixels, [image for image, _, _ in chunk])))
                labels = np.asarray([label for _, label, _ in chunk], dtype=np.int32)
                yield EvalBatch(pixels, labels, np.asarray([position for _, _, position in chunk], dtype=np.int64))

    def _rows(self) -> Iterator[_Row]:
        starts = self._reader.first_rows
        needed = [g for g in range(len(self._reader.groups)) if starts[g] < self._end and starts[g + 1] > self._first]
        for group, (images, labels) in zip(needed, self._reader.read_ahead(needed), strict=True):
            for row, image in enumerate(images):
                position = int(starts[group]) + row
                if self._first <= position < self._end:
                    yield image, labels[row], position

    def _pixels(self, image: bytes) -> npt.NDArray[np.uint8]:
        return eval_view(decode_stored(image), crop_size=self._crop_size, image_size=self._image_size)


def _chunks(rows: Iterator[_Row], size: int) -> Iterator[list[_Row]]:
    chunk: list[_Row] = []
    for row in rows:
        chunk.append(row)
        if len(chunk) == size:
            yield chunk
            chunk = []
    if chunk:
        yield chunk
