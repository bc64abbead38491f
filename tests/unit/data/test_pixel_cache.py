"""Kept pixels: what comes back, where they are put, and what is said when there is no room."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import pytest
from training_store import make_training_dataset

from tljobs.data.decode import decode_stored
from tljobs.data.feed import SplitReader
from tljobs.data.pixel_cache import PixelCache, Room, Where, open_cache, room_here, stored_sizes
from tljobs.errors import InputRefused
from tljobs.records import DatasetManifest
from tljobs.store import LocalStore, Store

SIZES = np.array([[5, 3], [4, 4], [7, 2]], np.int32)  # width, height
PLENTY = Room(10**12, 10**12)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return LocalStore(tmp_path_factory.mktemp("store"))


@pytest.fixture(scope="module")
def manifest(store: Store, tmp_path_factory: pytest.TempPathFactory) -> DatasetManifest:
    return make_training_dataset(store, tmp_path_factory.mktemp("photos"))


def image(row: int) -> np.ndarray:
    width, height = SIZES[row]
    return np.random.default_rng(row).integers(0, 256, (height, width, 4)).astype(np.uint8)


@pytest.mark.parametrize("where", ["memory", "disk"])
def test_what_is_put_comes_back_and_nothing_else(where: Where) -> None:
    cache = PixelCache(SIZES, where)
    for row in (2, 0):
        cache.put(row, image(row))
    for row in (2, 0):
        np.testing.assert_array_equal(cache.get(row), image(row))
    assert cache.get(1) is None
    cache.close()
    assert cache.get(0) is None


def test_the_file_on_disk_has_no_name_and_its_room_comes_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))

    def held() -> int:
        """Deleted files of this folder that this process has mapped."""
        lines = Path("/proc/self/maps").read_text().splitlines()
        return sum(f"{tmp_path}/tljobs-pixels-" in line for line in lines)

    cache = PixelCache(SIZES, "disk")
    assert list(tmp_path.iterdir()) == []
    assert held() == 1
    cache.close()
    assert held() == 0


def test_a_full_disk_is_an_error_at_once(tmp_path: Path) -> None:
    with pytest.raises(OSError):
        PixelCache(np.full((1000, 2), 40_000, np.int32), "disk")  # 6.4 TB


def test_an_image_of_another_size_than_the_index_says_is_refused() -> None:
    with pytest.raises(InputRefused, match="index"):
        PixelCache(SIZES, "memory").put(0, image(1))


@pytest.mark.parametrize(("size", "where"), [(25, "memory"), (26, "disk"), (500, "disk"), (501, "none")])
def test_a_quarter_of_the_memory_then_half_of_the_disk_is_taken(size: int, where: Where) -> None:
    assert Room(memory_bytes=100, disk_bytes=1000).place(size) == where
    assert Room(memory_bytes=200, disk_bytes=2000, share=0.5).place(size) == where


def test_sizes_from_the_index_are_those_of_the_stored_images(store: Store, manifest: DatasetManifest) -> None:
    reader = SplitReader(store, manifest, "train")
    images = [image for group in range(len(reader.groups)) for image in reader.read(group)[0]]
    wanted = [decode_stored(image).shape[1::-1] for image in images]
    np.testing.assert_array_equal(stored_sizes(store, manifest, "train"), wanted)


def test_the_choice_is_said(store: Store, manifest: DatasetManifest) -> None:
    size = stored_sizes(store, manifest, "train").astype(np.int64).prod(axis=1).sum() * 4
    text = f"{size / 1e6:.1f} MB"
    assert open_cache(store, manifest, "train", "auto", PLENTY)[1] == f"decoded pixels are kept (memory, {text})"
    only_disk = Room(0, 10**12)
    assert open_cache(store, manifest, "train", "auto", only_disk)[1] == f"decoded pixels are kept (disk, {text})"
    cache, note = open_cache(store, manifest, "train", "auto", Room(0, 0))
    assert cache is None
    assert note.startswith("decoded pixels are not kept (no room for")
    assert open_cache(store, manifest, "train", "none", PLENTY) == (None, "decoded pixels are not kept")


@pytest.mark.parametrize("keep", ["memory", "disk"])
def test_a_place_without_room_that_was_asked_for_is_not_taken(
    store: Store, manifest: DatasetManifest, keep: Where
) -> None:
    cache, told = open_cache(store, manifest, "train", keep, Room(1000, 1000))
    assert cache is None
    assert "not kept" in told


def test_room_on_this_machine_is_in_proportion_to_the_cpus() -> None:
    assert room_here(threads=1).share <= 1
    assert room_here(threads=10**6).share == 1
    assert room_here(threads=1).memory_bytes > 10**6
    assert room_here(threads=1).disk_bytes > 10**6
