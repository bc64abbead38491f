"""Resizing ahead of training pays: CPU time per epoch from shards against decoding and resizing originals every time.

CPU time of this process, not wall time, so that a busy machine changes little.
"""

from __future__ import annotations

import io
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image
from training_store import publish_photos

from tljobs.data.feed import Place, TrainFeed
from tljobs.specs import PrepareSpec
from tljobs.store import LocalStore

pytestmark = [pytest.mark.slow, pytest.mark.timeout(200)]

WIDTH, HEIGHT, SHORT_SIDE, SIZE, BATCH, ROUNDS = 1600, 1200, 256, 224, 16, 3


def write_photos(root: Path, per_class: int) -> list[str]:
    generator = np.random.default_rng(0)
    files = []
    for number in range(2 * per_class):
        path = root / f"class{number % 2}" / f"{number:03}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        coarse = Image.fromarray(generator.integers(0, 256, (12, 16, 3)).astype(np.uint8))
        image = np.asarray(coarse.resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC), np.float32)
        buffer = io.BytesIO()
        noisy = np.clip(image + generator.normal(0, 6, image.shape), 0, 255).astype(np.uint8)
        Image.fromarray(noisy).save(buffer, "JPEG", quality=90)
        path.write_bytes(buffer.getvalue())
        files.append(str(path))
    return files


def online(files: list[str]) -> tf.data.Dataset:
    """Training without `prepare`: decode, resize the shorter side (antialiased), a crop of the input's size, flip."""

    def load(path: tf.Tensor) -> tf.Tensor:
        pixels = tf.io.decode_jpeg(tf.io.read_file(path), channels=3)
        small = tf.image.resize(pixels, (SHORT_SIDE, SHORT_SIDE * WIDTH // HEIGHT), antialias=True)
        return tf.image.random_flip_left_right(tf.image.random_crop(small, (SIZE, SIZE, 3)))

    return tf.data.Dataset.from_tensor_slices(files).map(load, num_parallel_calls=tf.data.AUTOTUNE).batch(BATCH)


def cpu_s(epoch: Callable[[], int]) -> float:
    """Least CPU seconds of an epoch of 48 images, after one that warms up."""
    epoch()
    found = []
    for _ in range(ROUNDS):
        started_s = time.process_time()
        assert epoch() == 48
        found.append(time.process_time() - started_s)
    return min(found)


def test_an_epoch_from_shards_takes_at_most_half_the_cpu_time_of_one_from_originals(tmp_path: Path) -> None:
    files = write_photos(tmp_path / "photos", per_class=30)
    store = LocalStore(tmp_path / "store")
    spec = PrepareSpec(source=str(tmp_path / "photos"), name="large", image_size=SIZE)
    manifest = publish_photos(store, spec, {"train": (48,), "val": (6,), "test": (6,)})
    feed = TrainFeed(store, manifest, image_size=SIZE, global_batch=BATCH, seed=0, augment="crop-flip", place=Place())
    from_originals = cpu_s(lambda: sum(len(batch) for batch in online(files[:48])))
    from_shards = cpu_s(lambda: sum(len(pixels) for pixels, _, _ in feed.epoch(0)))
    print(f"48 images: {from_originals:.2f} s of CPU from originals, {from_shards:.2f} s from shards")
    assert from_shards <= from_originals / 2
