"""From shards to batches: training batches as tensors, evaluation batches as numpy.

In: a dataset manifest, a position, this worker's place among the workers. Out: batches of a fixed shape, padded rows
with weight 0. Everything random is a function of (seed, epoch, sample).
"""

from __future__ import annotations

import contextlib
import os
from collections import deque
from collections.abc import Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from tljobs.data import order
from tljobs.data.augment import centre_view, random_window, uniforms, view
from tljobs.data.decode import Pixels, decode_stored, eval_view
from tljobs.data.pixel_cache import KeepPixels, open_cache, room_here
from tljobs.data.reader import Row, SplitReader, epoch_rows
from tljobs.errors import InputRefused
from tljobs.records import DatasetManifest
from tljobs.store import Store

__all__ = ["Augment", "EvalBatch", "EvalFeed", "KeepPixels", "Place", "SplitReader", "TrainFeed"]

DECODE_THREADS = 4
BATCHES_AHEAD = 3  # enough for a step that takes longer than others
IMAGES_PER_TASK = 8  # of a thread: a batch is spread over all threads, and handing out costs little
KEEP_PIXELS_BYTES = 2**30  # an evaluation split that fits is decoded once and kept

Augment = Literal["crop-flip", "none"]
Batch = tuple[npt.NDArray[np.uint8], npt.NDArray[np.int32], npt.NDArray[np.float32]]  # pixels, labels, weights
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


@dataclass(frozen=True)
class Slice:
    """This worker's part of a global batch: n rows, and weights float32 (n,), 0 for padding."""

    rows: list[Row]
    weights: npt.NDArray[np.float32]

    @property
    def samples(self) -> npt.NDArray[np.int64]:
        """Row numbers in the split, int64 (n,)."""
        return np.array([row.sample for row in self.rows], np.int64)


class TrainFeed:
    """Training batches of one worker. Each is (pixels uint8 (n, s, s, 3), labels int32 (n,), weights float32 (n,));
    labels are multi-hot, (n, classes), in a multi-label dataset. `note` says whether decoded pixels are kept."""

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
        keep_pixels: KeepPixels = "none",
        threads: int | None = None,
    ) -> None:
        """`threads` decode (default: `decode_threads()`). Raises UsageError when pixels do not fit where they shall
        be kept."""
        self._reader = SplitReader(store, manifest, "train")
        self._crop_size = manifest.image_size
        self._image_size = image_size
        self._global_batch = global_batch
        self._seed = seed
        self._augment = augment
        self._place = place
        self._threads = threads or decode_threads()
        self.images = self._reader.images
        self.steps_per_epoch = order.steps_per_epoch(self.images, global_batch)
        self._kept, self.note = open_cache(store, manifest, "train", keep_pixels, room_here(self._threads))
        self._labels = np.zeros((self.images if self._kept else 0, *self._reader.label_shape), np.int32)

    def close(self) -> None:
        """Gives back the memory or the disk of the pixels that were kept."""
        if self._kept:
            self._kept.close()

    def epoch(self, epoch: int, first_step: int = 0) -> Iterator[tuple[Any, ...]]:
        """Batches of the epoch from `first_step` on, as tensors. Raises InputRefused if a shard's bytes have
        changed."""
        import tensorflow as tf

        # Not through tf.data: `from_generator` takes five times as long to copy, and turns errors into texts. Not by
        # DLPack, which copies nothing: TensorFlow 2.21 then aborts in a training step.
        for batch in self.batches(epoch, first_step):
            yield tuple(tf.convert_to_tensor(part) for part in batch)

    def batches(self, epoch: int, first_step: int = 0) -> Iterator[Batch]:
        """As `epoch`, as numpy arrays, made by threads a few batches ahead."""
        threads = ThreadPoolExecutor(self._threads, thread_name_prefix="decode")
        pending: deque[tuple[Batch, list[Future[None]]]] = deque()
        with contextlib.closing(self.slices(epoch, first_step)) as slices:
            try:
                for each in slices:
                    pending.append(self._started(each, epoch, threads))
                    if len(pending) > BATCHES_AHEAD:
                        yield _done(*pending.popleft())
                while pending:
                    yield _done(*pending.popleft())
            finally:
                threads.shutdown(cancel_futures=True)

    def slices(self, epoch: int, first_step: int = 0) -> Generator[Slice, None, None]:
        """This worker's slices of the epoch's batches. Images whose pixels are kept are not read."""
        first = first_step * self._global_batch

        def is_wanted(positions: npt.NDArray[np.int64], samples: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
            wanted: npt.NDArray[np.bool_] = self._is_own(positions) & (positions >= first)
            return wanted & ~self._kept.kept[samples] if self._kept else wanted

        with contextlib.closing(epoch_rows(self._reader, self._seed, epoch, first, is_wanted)) as rows:
            for step in range(first_step, self.steps_per_epoch):
                plan = self._plan(step)
                end = min((step + 1) * self._global_batch, self.images)
                batch = {}
                for position, row in rows:
                    batch[position] = row
                    if position == end - 1:
                        break
                yield Slice([batch[position] for position in plan.positions.tolist()], plan.weights)

    def _plan(self, step: int) -> order.SlicePlan:
        return order.batch_slice(self.images, self._global_batch, step, self._place.rank, self._place.world_size)

    def _is_own(self, positions: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
        """Which positions of an epoch this worker has; some of the last batch more than one worker has, as padding."""
        local = self._global_batch // self._place.world_size
        own: npt.NDArray[np.bool_] = positions % self._global_batch // local == self._place.rank
        return own | np.isin(positions, self._plan(self.steps_per_epoch - 1).positions)

    def _started(self, each: Slice, epoch: int, threads: ThreadPoolExecutor) -> tuple[Batch, list[Future[None]]]:
        """The batch of a slice, and the tasks that fill its pixels."""
        count = len(each.rows)
        pixels = np.empty((count, self._image_size, self._image_size, 3), np.uint8)
        numbers = uniforms(self._seed, epoch, each.samples).tolist()
        tasks = [
            threads.submit(self._fill, pixels[first:end], each.rows[first:end], numbers[first:end])
            for first, end in ((first, first + IMAGES_PER_TASK) for first in range(0, count, IMAGES_PER_TASK))
        ]
        return (pixels, self._labels_of(each.rows), each.weights), tasks

    def _labels_of(self, rows: list[Row]) -> npt.NDArray[np.int32]:
        if self._kept:
            for row in rows:
                if row.label is not None:
                    self._labels[row.sample] = row.label
            return self._labels[[row.sample for row in rows]]
        return np.asarray([row.label for row in rows], np.int32)

    def _fill(self, pixels: Pixels, rows: list[Row], numbers: list[list[float]]) -> None:
        for out, row, own in zip(pixels, rows, numbers, strict=True):
            image = self._decoded(row)
            if self._augment == "crop-flip":
                out[:] = view(image, random_window(own, image.shape[1], image.shape[0]), self._image_size)
            else:
                out[:] = centre_view(image, self._crop_size, self._image_size)

    def _decoded(self, row: Row) -> Pixels:
        """uint8 (height, width, 4) of an image that was read, or that is kept."""
        kept = self._kept.get(row.sample) if self._kept else None
        if kept is not None:
            return kept
        pixels = _decode_rgbx(row)
        if self._kept:
            self._kept.put(row.sample, pixels)
        return pixels


def decode_threads() -> int:
    """CPUs of this process: as many as TensorFlow was given, or as the system allows."""
    given = os.environ.get("TF_NUM_INTRAOP_THREADS", "")
    return int(given) if given.isdigit() and int(given) else len(os.sched_getaffinity(0))


def _decode_rgbx(row: Row) -> Pixels:
    import simplejpeg

    try:
        pixels: Pixels = simplejpeg.decode_jpeg(row.image, colorspace="RGBX")
    except ValueError as error:
        raise InputRefused("damaged image in a dataset shard", f"training row {row.sample}", str(error)) from error
    return pixels


def _done(batch: Batch, tasks: list[Future[None]]) -> Batch:
    for task in tasks:
        task.result()
    return batch


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
