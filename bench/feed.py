"""P2: shards to augmented batches on one core. Goals: JPEG shards at least 1.05 times TFRecord with the same kind of
augmentation and 0.9 of a bare decode loop; at least 4 times TFRecord once decoded pixels are kept. Seconds are CPU
time: everything is bound to one core."""

# ruff: noqa: E402  the core is chosen before any library counts them
from __future__ import annotations

import os

os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
os.environ.update(TF_CPP_MIN_LOG_LEVEL="3", TF_NUM_INTRAOP_THREADS="1", TF_NUM_INTEROP_THREADS="1")

import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import simplejpeg
import tensorflow as tf
from pairs import in_turn, report
from PIL import Image

from tljobs.data.augment import random_window, uniforms, view
from tljobs.data.feed import KeepPixels, Place, SplitReader, TrainFeed
from tljobs.data.prepare import prepare
from tljobs.progress import Console
from tljobs.runs import open_dataset
from tljobs.specs import PrepareSpec
from tljobs.store import LocalStore

IMAGES, WIDTH, HEIGHT, SIZE, BATCH, ROUNDS = 1500, 500, 375, 224, 32, 7
PEER = "TFRecord through tf.data"


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        photos = _photos(Path(folder, "photos"))
        store = LocalStore(Path(folder, "store"))
        prepare(PrepareSpec(source=str(photos), name="bench", split="90/5/5", workers=1), store, Console())
        encoded = _encoded(store)
        records = _records(Path(folder, "train.tfrecord"), encoded)
        shards, memory, disk = (_feed(store, keep) for keep in ("none", "memory", "disk"))
        seconds = in_turn(
            {
                PEER: lambda: _drain(_tfrecord(records)),
                "limit: decode and resize in a loop": lambda: _loop(encoded),
                "decode alone in a loop": lambda: _drain(map(simplejpeg.decode_jpeg, encoded)),
                "tljobs, JPEG shards": lambda: _drain(shards.epoch(0)),
                "tljobs, pixels kept in memory": lambda: _drain(memory.epoch(0)),
                "tljobs, pixels kept on disk": lambda: _drain(disk.epoch(0)),
            },
            ROUNDS,
            clock=time.process_time,
        )
    kilobytes = np.mean([len(each) for each in encoded]) / 1000
    title = f"P2 one epoch of {len(encoded)} images, short side 256, {kilobytes:.0f} kB, to batches of {BATCH} × {SIZE}"
    report(title, seconds, PEER, len(encoded), "images")


def _drain(batches: Iterator[object]) -> None:
    for _ in batches:
        pass


def _feed(store: LocalStore, keep: KeepPixels) -> TrainFeed:
    return TrainFeed(
        store,
        open_dataset(store, "bench"),
        image_size=SIZE,
        global_batch=BATCH,
        seed=0,
        augment="crop-flip",
        place=Place(),
        keep_pixels=keep,
    )


def _encoded(store: LocalStore) -> list[bytes]:
    reader = SplitReader(store, open_dataset(store, "bench"), "train")
    return [image for group in range(len(reader.groups)) for image in reader.read(group)[0]]


def _records(path: Path, encoded: list[bytes]) -> str:
    with tf.io.TFRecordWriter(str(path)) as writer:
        for number, image in enumerate(encoded):
            features = {
                "image": tf.train.Feature(bytes_list=tf.train.BytesList(value=[image])),
                "label": tf.train.Feature(int64_list=tf.train.Int64List(value=[number % 2])),
            }
            writer.write(tf.train.Example(features=tf.train.Features(feature=features)).SerializeToString())
    return str(path)


def _tfrecord(path: str) -> tf.data.Dataset:
    """TensorFlow's own way (sample_distorted_bounding_box, decode_and_crop_jpeg), with the limits of our crops. Its
    resize is not antialiased, which is faster."""
    spec = {"image": tf.io.FixedLenFeature((), tf.string), "label": tf.io.FixedLenFeature((), tf.int64)}

    def load(record):  # type: ignore[no-untyped-def]
        row = tf.io.parse_single_example(record, spec)
        begin, size, _ = tf.image.sample_distorted_bounding_box(
            tf.io.extract_jpeg_shape(row["image"]),
            tf.zeros((1, 0, 4)),
            aspect_ratio_range=(3 / 4, 4 / 3),
            area_range=(0.5, 1.0),
            use_image_if_no_bounding_boxes=True,
        )
        window = tf.stack([begin[0], begin[1], size[0], size[1]])
        pixels = tf.io.decode_and_crop_jpeg(row["image"], window, channels=3, dct_method="INTEGER_ACCURATE")
        resized = tf.image.random_flip_left_right(tf.image.resize(pixels, (SIZE, SIZE)))
        return tf.cast(tf.round(resized), tf.uint8), tf.cast(row["label"], tf.int32)

    data = tf.data.TFRecordDataset(path).shuffle(1280).map(load, num_parallel_calls=tf.data.AUTOTUNE)
    return data.batch(BATCH).prefetch(2)


def _loop(encoded: list[bytes]) -> None:
    """The same calls for each image as our feed makes, on bytes in memory, with nothing around them."""
    numbers = uniforms(0, 0, np.arange(len(encoded))).tolist()
    for image, own in zip(encoded, numbers, strict=True):
        pixels = simplejpeg.decode_jpeg(image, colorspace="RGBX")
        view(pixels, random_window(own, pixels.shape[1], pixels.shape[0]), SIZE)


def _photos(root: Path) -> Path:
    """Smooth colours with fine noise: JPEG files of the size that photos have."""
    generator = np.random.default_rng(0)
    noise = generator.normal(0, 6, (HEIGHT, WIDTH, 3))
    for number in range(IMAGES):
        path = root / f"class{number % 2}" / f"{number:05}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        coarse = generator.integers(0, 256, (12, 16, 3)).astype(np.uint8)
        image = np.asarray(Image.fromarray(coarse).resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC), np.float32)
        noisy = np.clip(image + np.roll(noise, number, axis=1), 0, 255).astype(np.uint8)
        path.write_bytes(simplejpeg.encode_jpeg(noisy, 90))
    return root


if __name__ == "__main__":
    main()
