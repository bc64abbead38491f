"""Batches of training and evaluation: which pixels, labels and weights, for any number of workers and any resume."""

from __future__ import annotations

import gc
import threading
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from training_store import IMAGE_SIZE, make_training_dataset

from tljobs.data.decode import decode_stored, eval_view
from tljobs.data.feed import Augment, EvalFeed, KeepPixels, Place, SplitReader, TrainFeed
from tljobs.errors import InputRefused
from tljobs.records import DatasetManifest
from tljobs.store import LocalStore, Store

GLOBAL_BATCH = 36  # 96 images: the last batch holds 24, so the last of three workers has only padding
Batch = tuple[np.ndarray, np.ndarray, np.ndarray]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return LocalStore(tmp_path_factory.mktemp("store"))


@pytest.fixture(scope="module")
def manifest(store: Store, tmp_path_factory: pytest.TempPathFactory) -> DatasetManifest:
    return make_training_dataset(store, tmp_path_factory.mktemp("photos"))


def feed(
    store: Store,
    manifest: DatasetManifest,
    augment: Augment,
    place: Place | None = None,
    keep_pixels: KeepPixels = "none",
) -> TrainFeed:
    return TrainFeed(
        store,
        manifest,
        image_size=IMAGE_SIZE,
        global_batch=GLOBAL_BATCH,
        seed=5,
        augment=augment,
        place=place or Place(),
        keep_pixels=keep_pixels,
    )


def batches(feed: TrainFeed, epoch: int, first_step: int = 0) -> list[Batch]:
    return [tuple(np.asarray(part) for part in batch) for batch in feed.epoch(epoch, first_step)]  # type: ignore[misc]


def arrays(feed: TrainFeed, epoch: int, first_step: int = 0) -> list[Batch]:
    """As `batches`, without tf.data."""
    return list(feed.batches(epoch, first_step))


def stored_rows(store: Store, manifest: DatasetManifest, split: str) -> list[tuple[bytes, int]]:
    """(encoded image, label) of every row of a split, in the order of the shards."""
    reader = SplitReader(store, manifest, split)
    groups = [reader.read(group) for group in range(len(reader.groups))]
    return [(image, int(label)) for images, labels in groups for image, label in zip(images, labels, strict=True)]


def view(image: bytes) -> np.ndarray:
    return eval_view(decode_stored(image), crop_size=IMAGE_SIZE, image_size=IMAGE_SIZE)


def real_rows(batches: list[Batch]) -> list[tuple[bytes, int]]:
    """(bytes of the pixels, label) of all rows with weight."""
    return sorted(
        (pixels.tobytes(), int(label))
        for batch in batches
        for pixels, label, weight in zip(*batch, strict=True)
        if weight
    )


def assert_same(got: list[Batch], wanted: list[Batch]) -> None:
    assert len(got) == len(wanted)
    for mine, theirs in zip(got, wanted, strict=True):
        for part, other in zip(mine, theirs, strict=True):
            np.testing.assert_array_equal(part, other)


def test_without_augmentation_training_sees_the_centre_crop_of_every_stored_image_once(
    store: Store, manifest: DatasetManifest
) -> None:
    wanted = sorted((view(image).tobytes(), label) for image, label in stored_rows(store, manifest, "train"))
    assert len(wanted) == 96
    got = batches(feed(store, manifest, "none"), epoch=0)
    assert real_rows(got) == wanted
    assert {batch[0].dtype for batch in got} == {np.dtype("uint8")}


@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_uneven_shards_give_every_worker_the_same_steps_and_every_image_once(
    store: Store, manifest: DatasetManifest, world_size: int
) -> None:
    assert [shard.rows for shard in manifest.splits["train"].shards] == [70, 3, 23]
    workers = [batches(feed(store, manifest, "none", Place(rank, world_size)), epoch=2) for rank in range(world_size)]
    assert {len(worker) for worker in workers} == {3}
    assert {len(batch[0]) for worker in workers for batch in worker} == {GLOBAL_BATCH // world_size}
    joined = [tuple(np.concatenate(parts) for parts in zip(*step, strict=True)) for step in zip(*workers, strict=True)]
    assert_same(joined, batches(feed(store, manifest, "none"), epoch=2))  # type: ignore[arg-type]
    assert len(real_rows(joined)) == 96  # type: ignore[arg-type]


def test_padded_rows_have_weight_0_and_repeat_images_of_their_own_batch(
    store: Store, manifest: DatasetManifest
) -> None:
    *full, (pixels, labels, weights) = batches(feed(store, manifest, "none"), epoch=0)
    assert all((batch[2] == 1).all() for batch in full)
    np.testing.assert_array_equal(weights, [1.0] * 24 + [0.0] * 12)
    np.testing.assert_array_equal(pixels[24:], pixels[:12])
    np.testing.assert_array_equal(labels[24:], labels[:12])


def test_augmented_pixels_repeat_with_the_epoch_and_differ_from_epoch_to_epoch(
    store: Store, manifest: DatasetManifest
) -> None:
    first = batches(feed(store, manifest, "crop-flip"), epoch=0)
    assert_same(batches(feed(store, manifest, "crop-flip"), epoch=0), first)
    second = batches(feed(store, manifest, "crop-flip"), epoch=1)
    assert not {pixels for pixels, _ in real_rows(first)} & {pixels for pixels, _ in real_rows(second)}


@pytest.mark.parametrize("first_step", [0, 1, 2, 3])
def test_a_resume_at_any_step_sees_the_pixels_of_the_rest(
    store: Store, manifest: DatasetManifest, first_step: int
) -> None:
    whole = batches(feed(store, manifest, "crop-flip"), epoch=4)
    assert_same(batches(feed(store, manifest, "crop-flip"), 4, first_step), whole[first_step:])


@pytest.mark.parametrize("world_size", [2, 3])
def test_workers_together_see_the_augmented_pixels_of_one(
    store: Store, manifest: DatasetManifest, world_size: int
) -> None:
    """A resume in the middle of an epoch with another number of workers included."""
    workers = [batches(feed(store, manifest, "crop-flip", Place(rank, world_size)), 1, 1) for rank in range(world_size)]
    joined = [tuple(np.concatenate(parts) for parts in zip(*step, strict=True)) for step in zip(*workers, strict=True)]
    assert_same(joined, batches(feed(store, manifest, "crop-flip"), 1, 1))  # type: ignore[arg-type]


class CountingStore(LocalStore):
    """Counts what is opened to read columns."""

    opened = 0

    def open_input(self, key: str) -> pa.NativeFile:
        self.opened += 1
        return super().open_input(key)


def open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def threads_of_feeds() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith(("read_", "decode_"))]


@pytest.mark.parametrize("keep", ["memory", "disk"])
@pytest.mark.parametrize("augment", ["crop-flip", "none"])
def test_batches_of_kept_pixels_equal_those_decoded_anew_and_read_nothing(
    store: LocalStore, manifest: DatasetManifest, keep: KeepPixels, augment: Augment
) -> None:
    counting = CountingStore(store.root)
    kept = feed(counting, manifest, augment, keep_pixels=keep)
    assert keep in kept.note
    before = counting.opened
    for epoch in range(3):
        assert_same(arrays(kept, epoch), arrays(feed(store, manifest, augment), epoch))
        assert counting.opened - before == 4  # the row groups of 70, 3 and 23 rows, in the first epoch
    kept.close()


def test_a_resume_in_mid_epoch_starts_cold_and_sees_the_pixels_of_the_rest(
    store: Store, manifest: DatasetManifest
) -> None:
    warm = feed(store, manifest, "crop-flip", keep_pixels="memory")
    arrays(warm, 0)
    cold = feed(store, manifest, "crop-flip", keep_pixels="memory")
    assert_same(arrays(cold, 1, 2), arrays(warm, 1)[2:])
    assert_same(arrays(cold, 2), arrays(warm, 2))  # with the rest read now


@pytest.mark.parametrize("world_size", [2, 3])
def test_workers_that_keep_pixels_see_those_of_one_that_does_not(
    store: Store, manifest: DatasetManifest, world_size: int
) -> None:
    """A worker keeps what it was dealt; what it is dealt later for the first time, it reads then."""
    feeds = [
        feed(store, manifest, "crop-flip", Place(rank, world_size), keep_pixels="memory") for rank in range(world_size)
    ]
    for epoch in range(3):
        steps = zip(*(arrays(each, epoch) for each in feeds), strict=True)
        joined = [tuple(np.concatenate(parts) for parts in zip(*step, strict=True)) for step in steps]
        assert_same(joined, arrays(feed(store, manifest, "crop-flip"), epoch))  # type: ignore[arg-type]


def test_an_epoch_that_is_left_and_a_closed_feed_hold_no_file_and_no_thread(
    store: Store, manifest: DatasetManifest
) -> None:
    batches(feed(store, manifest, "none"), 0)  # what is loaded once
    files = open_files()
    left = feed(store, manifest, "none", keep_pixels="disk")
    for batch in left.epoch(0):
        assert len(batch[0]) == GLOBAL_BATCH
        assert threads_of_feeds()
        break
    gc.collect()
    left.close()
    assert threads_of_feeds() == []
    assert open_files() <= files


def test_a_damaged_shard_is_refused_with_its_name(tmp_path: Path) -> None:
    store = LocalStore(tmp_path / "store")
    manifest = make_training_dataset(store, tmp_path / "photos")
    shard = store.root / manifest.splits["train"].shards[0].key
    data = bytearray(shard.read_bytes())
    data[len(data) // 2] ^= 1
    shard.write_bytes(data)
    with pytest.raises(InputRefused) as refused:
        batches(feed(store, manifest, "crop-flip"), 0)
    assert "damaged dataset shard" in str(refused.value)
    assert manifest.splits["train"].shards[0].key in str(refused.value)


@pytest.mark.parametrize("world_size", [1, 2, 5])
def test_evaluation_sees_the_centre_crop_of_every_image_once_in_order(
    store: Store, manifest: DatasetManifest, world_size: int
) -> None:
    feeds = [
        EvalFeed(store, manifest, "val", image_size=IMAGE_SIZE, batch=4, place=Place(rank, world_size))
        for rank in range(world_size)
    ]
    for _ in range(2):  # the second time from memory
        found = [batch for feed in feeds for batch in feed.batches()]
        assert np.concatenate([batch.positions for batch in found]).tolist() == list(range(12))
        rows = [
            (pixels.tobytes(), int(label))
            for batch in found
            for pixels, label in zip(batch.pixels, batch.labels, strict=True)
        ]
        assert rows == [(view(image).tobytes(), label) for image, label in stored_rows(store, manifest, "val")]
