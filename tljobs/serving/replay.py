"""A model on the stored images of a split: the probabilities of all of them, and their comparison with a run's own."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tljobs.data.decode import decode_stored
from tljobs.data.shards import label_array, read_row_group, verify_shard
from tljobs.errors import InputRefused, TljobsError
from tljobs.evaluation.multi_label import THRESHOLD
from tljobs.progress import Reporter, Silent
from tljobs.records import DatasetManifest, Replay, SplitInfo, Task
from tljobs.serving.bundle import BATCH_IMAGES, ModelBundle
from tljobs.serving.lookahead import chunks, decode_threads, map_ahead
from tljobs.store import Store

LOOK_AHEAD_IMAGES = 4 * BATCH_IMAGES  # decoded while the network works
MAX_ABS_DIFFERENCE = 1e-5  # float32 rounding of other kernels stays below 1e-6; a wrong preprocessing does not
MAX_LABELS_CHANGED = 0


@dataclass(frozen=True)
class SplitPredictions:
    """All n images of a split in the order of its shards: `labels` int32 (n,), multi-hot (n, C) of a multi-label
    dataset; `shards` and `rows` int32 (n,), `probabilities` float32 (n, C). `shards` counts the split's shards from 0,
    `rows` the rows of the shard."""

    ids: tuple[str, ...]
    labels: NDArray[np.int32]
    shards: NDArray[np.int32]
    rows: NDArray[np.int32]
    probabilities: NDArray[np.float32]


@dataclass(frozen=True)
class _StoredImage:
    id: str
    image: bytes
    labels: tuple[int, ...]
    shard: int
    row: int


def predict_split(
    bundle: ModelBundle, store: Store, manifest: DatasetManifest, split: str, reporter: Reporter | None = None
) -> SplitPredictions:
    """The model's probabilities for all images of `split`, read from verified shards.

    Raises InputRefused when the split has no images, a shard has changed, or the dataset's classes, decoder or image
    size are not those of the model.
    """
    _check_dataset(bundle, manifest, split)
    info, reporter = manifest.splits[split], reporter or Silent()
    found: list[_StoredImage] = []
    parts: list[NDArray[np.float32]] = []
    with ThreadPoolExecutor(decode_threads()) as pool:
        views = map_ahead(
            pool, lambda item: (item, bundle.view(decode_stored(item.image))), _images(store, info), LOOK_AHEAD_IMAGES
        )
        for chunk in chunks(views, BATCH_IMAGES):
            # Without their bytes: the images of the whole split need not fit in memory.
            found.extend(_StoredImage(item.id, b"", item.labels, item.shard, item.row) for item, _ in chunk)
            parts.append(bundle.probabilities(np.stack([view for _, view in chunk])))
            reporter.progress(f"evaluate {split}", len(found), info.images)
    return SplitPredictions(
        ids=tuple(item.id for item in found),
        labels=label_array([item.labels for item in found], len(manifest.classes), manifest.task),
        shards=np.array([item.shard for item in found], np.int32),
        rows=np.array([item.row for item in found], np.int32),
        probabilities=np.concatenate(parts),
    )


def replay(
    bundle: ModelBundle,
    store: Store,
    manifest: DatasetManifest,
    expected: Mapping[str, NDArray[np.float32]],
    reporter: Reporter | None = None,
) -> Replay:
    """The opened file on all validation images against the run's own probabilities, image id -> float32 (C,).

    Raises TljobsError when a probability differs by more than MAX_ABS_DIFFERENCE, a label changes, or `expected` has
    not exactly the images of the validation split.
    """
    got = predict_split(bundle, store, manifest, "val", reporter)
    return compare(got.ids, got.probabilities, expected, bundle.record.run, manifest.task)


def compare(
    ids: tuple[str, ...],
    got: NDArray[np.float32],
    expected: Mapping[str, NDArray[np.float32]],
    run: str,
    task: Task = "single-label",
) -> Replay:
    """Difference of the probabilities `got` (n, C) from those `expected` by id; raises as `replay` does."""
    if set(ids) != set(expected) or len(ids) != len(expected):
        raise TljobsError(f"the replay has {len(ids)} images and the run's evaluation {len(expected)} others", run)
    own = np.stack([expected[each] for each in ids])
    result = Replay(
        images=len(ids),
        max_abs_difference=float(np.max(np.abs(got.astype(np.float64) - own))),
        labels_changed=_labels_changed(got, own, task),
    )
    # `not <=`, so that a NaN is a difference as well.
    if not result.max_abs_difference <= MAX_ABS_DIFFERENCE or result.labels_changed > MAX_LABELS_CHANGED:
        raise TljobsError(
            f"the exported model does not repeat the run's validation: probabilities differ by up to"
            f" {result.max_abs_difference:.2g} (limit {MAX_ABS_DIFFERENCE:g}), {result.labels_changed} labels changed",
            run,
            "The model is not published",
        )
    return result


def _labels_changed(got: NDArray[np.float32], own: NDArray[np.float32], task: Task) -> int:
    if task == "multi-label":
        # A probability at the threshold may fall on either side of it by rounding.
        surely = np.abs(own - THRESHOLD) > MAX_ABS_DIFFERENCE
        return int(np.sum(np.any(((got >= THRESHOLD) != (own >= THRESHOLD)) & surely, axis=1)))
    return int(np.sum(got.argmax(axis=1) != own.argmax(axis=1)))


def _images(store: Store, info: SplitInfo) -> Iterator[_StoredImage]:
    for number, shard in enumerate(info.shards):
        verify_shard(store, shard)
        row = 0
        for group in range(len(shard.row_groups)):
            for each, image, labels in zip(*read_row_group(store, shard, group), strict=True):
                yield _StoredImage(each, image, labels, number, row)
                row += 1


def _check_dataset(bundle: ModelBundle, manifest: DatasetManifest, split: str) -> None:
    record, where = bundle.record, f"{manifest.name}@{manifest.version}"
    if split not in manifest.splits or not manifest.splits[split].images:
        raise InputRefused(f"the dataset has no {split} images", where, f"It has {', '.join(_filled(manifest))}")
    if manifest.task != record.task:
        raise InputRefused(f"the dataset is {manifest.task} and the model {record.task}", where)
    if manifest.classes_sha256 != record.classes_sha256:
        raise InputRefused("the dataset's classes or their order are not the model's", where)
    if manifest.decoder != record.decoder:
        raise InputRefused("the dataset was made by another decoder than the model's", where, "Prepare it again")
    if (manifest.stored_short_side, manifest.image_size) != (record.stored_short_side, record.crop_size):
        raise InputRefused(
            f"the dataset is prepared for {manifest.image_size} px and the model for {record.crop_size} px",
            where,
            f"Prepare it again with --image-size {record.crop_size}",
        )


def _filled(manifest: DatasetManifest) -> list[str]:
    return [name for name, info in manifest.splits.items() if info.images]
