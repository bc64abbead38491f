"""Training on more images takes no more memory: the resident size of a process that feeds 1 and 10 times as many."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from training_store import make_training_dataset

from tljobs.data.decode import encode_jpeg
from tljobs.data.shards import shard_bytes, shard_info
from tljobs.records import DatasetManifest, SplitInfo
from tljobs.store import LocalStore

pytestmark = [pytest.mark.slow, pytest.mark.timeout(200)]

IMAGES, SHARD_ROWS, SIDE = 7680, 320, 96  # six pools of row groups; 10 kB an image, 37 kB decoded
FEED = """
import re, sys
from pathlib import Path
from tljobs.data.feed import Place, TrainFeed
from tljobs.records import DatasetManifest
from tljobs.store import LocalStore

store, manifest = LocalStore(Path(sys.argv[1])), DatasetManifest.from_bytes(Path(sys.argv[2]).read_bytes())
numpy_of = lambda batch: [part.numpy() for part in batch]
feed = TrainFeed(store, manifest, image_size=32, global_batch=64, seed=0, augment="crop-flip", place=Place(), threads=2)
print(sum(int(weights.sum()) for _, _, weights in map(numpy_of, feed.epoch(0))))
print(int(re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1]) * 1024)
"""


def jpegs(count: int) -> list[bytes]:
    generator = np.random.default_rng(0)
    noise = generator.integers(0, 256, (count, SIDE // 2, SIDE // 2, 3)).astype(np.uint8)
    return [encode_jpeg(np.asarray(Image.fromarray(each).resize((SIDE, SIDE)))) for each in noise]


def with_train_rows(store: LocalStore, manifest: DatasetManifest, images: int) -> DatasetManifest:
    """The dataset with other training shards, of the same photos again and again."""
    photos, shards = jpegs(64), []
    for first in range(0, images, SHARD_ROWS):
        rows = [photos[number % len(photos)] for number in range(first, first + SHARD_ROWS)]
        data = shard_bytes([f"{first + row:032}" for row in range(SHARD_ROWS)], rows, [[0]] * SHARD_ROWS)
        key = f"many/{images}/{first:06}.parquet"
        store.put(key, data)
        shards.append(shard_info(key, data, SHARD_ROWS))
    train = SplitInfo(images=images, per_class=(images, 0, 0), shards=tuple(shards))
    return manifest.model_copy(update={"splits": {**manifest.splits, "train": train}})


def stored_bytes(manifest: DatasetManifest) -> int:
    return sum(shard.size_bytes for shard in manifest.splits["train"].shards)


def peak_bytes(store: LocalStore, manifest: DatasetManifest, file: Path) -> int:
    """Most resident memory (VmHWM: `ru_maxrss` would count the parent's) of a process that feeds one epoch and keeps no
    pixels."""
    file.write_bytes(manifest.to_bytes())
    command = [sys.executable, "-c", FEED, str(store.root), str(file)]
    shown = subprocess.run(command, capture_output=True, text=True, timeout=150, check=True).stdout
    images, peak = map(int, shown.split())
    assert images == manifest.splits["train"].images
    return peak


def test_ten_times_the_images_take_at_most_a_tenth_more_memory(tmp_path: Path) -> None:
    store = LocalStore(tmp_path / "store")
    manifest = make_training_dataset(store, tmp_path / "photos")
    few, many = (with_train_rows(store, manifest, times * IMAGES) for times in (1, 10))
    one, ten = (peak_bytes(store, each, tmp_path / "manifest.json") for each in (few, many))
    print(f"{one / 1e6:.0f} MB with {IMAGES} images, {ten / 1e6:.0f} MB with {10 * IMAGES}")
    assert ten <= 1.1 * one
    assert ten - one <= 0.1 * (stored_bytes(many) - stored_bytes(few))
