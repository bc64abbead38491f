"""P1: prepare against the codec itself and against other writers of training data, on the same photos and cores.

The limit is the same codec calls in a bare loop, one process per core: decode, antialiased resize, encode (JPEG for
four images of five, PNG for the fifth, as the splits ask), one file per process. Peers: TensorFlow's own reading,
resizing and TFRecordWriter; MosaicML streaming's MDSWriter where it is installed. Ray is running already. Goal: at
least 0.85 of the limit, and 1.5 times the best peer.
"""

from __future__ import annotations

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import io
import itertools
import tempfile
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np
from pairs import in_turn, report
from PIL import Image

IMAGES, WIDTH, HEIGHT, SHORT_SIDE, ROUNDS = 4000, 500, 375, 256, 3
CORES = len(os.sched_getaffinity(0))
COUNTER = itertools.count()


def main() -> None:
    import ray

    from tljobs.data.prepare import prepare
    from tljobs.progress import SILENT
    from tljobs.specs import PrepareSpec
    from tljobs.store import LocalStore

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        photos = _photos(folder / "photos")
        paths = sorted(str(path) for path in photos.rglob("*.jpg"))
        ray.init(num_cpus=CORES, include_dashboard=False, log_to_driver=False)
        with ProcessPoolExecutor(CORES, mp_context=get_context("spawn")) as pool:

            def limit() -> None:
                out = [str(folder / f"limit-{next(COUNTER)}") for _ in range(CORES)]
                list(pool.map(_bare_loop, [paths[core::CORES] for core in range(CORES)], out))

            def tensorflow() -> None:
                out = [str(folder / f"tf-{next(COUNTER)}") for _ in range(CORES)]
                list(pool.map(_tfrecord, [paths[core::CORES] for core in range(CORES)], out))

            def ours(near: str) -> None:
                spec = PrepareSpec(source=str(photos), name=f"d{next(COUNTER)}", near_duplicates=near)
                prepare(spec, LocalStore(folder / "store"), SILENT)

            contenders = {
                "bare loop": limit,
                "TensorFlow and TFRecordWriter": tensorflow,
                "tljobs prepare": lambda: ours("together"),
            }
            seconds = in_turn(contenders, ROUNDS)
        ray.shutdown()
    report(f"P1 {IMAGES} photos of {WIDTH} × {HEIGHT}, {CORES} cores", seconds, "bare loop", IMAGES, "images")


def _bare_loop(paths: list[str], out: str) -> None:
    from tljobs.data.decode import decode
    from tljobs.data.pixels import encode_jpeg, encode_png

    with Path(out).open("wb") as file:
        for number, path in enumerate(paths):
            pixels = decode(Path(path).read_bytes(), short_side=SHORT_SIDE).pixels
            file.write(encode_png(pixels) if number % 5 == 0 else encode_jpeg(pixels))


def _tfrecord(paths: list[str], out: str) -> None:
    import tensorflow as tf

    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)

    def load(path, number):  # type: ignore[no-untyped-def]
        pixels = tf.io.decode_jpeg(tf.io.read_file(path), channels=3, dct_method="INTEGER_ACCURATE")
        small = tf.image.resize(pixels, (SHORT_SIDE, SHORT_SIDE * WIDTH // HEIGHT), antialias=True)
        small = tf.cast(tf.round(small), tf.uint8)
        return tf.cond(
            number % 5 == 0,
            lambda: tf.io.encode_png(small, compression=1),
            lambda: tf.io.encode_jpeg(small, quality=95),
        )

    numbers = tf.data.Dataset.range(len(paths))
    data = tf.data.Dataset.zip((tf.data.Dataset.from_tensor_slices(paths), numbers)).map(load)
    with tf.io.TFRecordWriter(out) as writer:
        for image in data.as_numpy_iterator():
            feature = tf.train.Feature(bytes_list=tf.train.BytesList(value=[image]))
            example = tf.train.Example(features=tf.train.Features(feature={"image": feature}))
            writer.write(example.SerializeToString())


def _photos(folder: Path) -> Path:
    """Two classes of photo-like JPEGs: coloured clouds with grain, about 60 KB each."""
    generator = np.random.default_rng(0)
    for number in range(IMAGES):
        low = Image.fromarray(generator.integers(0, 256, (15, 20, 3), dtype=np.uint8))
        pixels = np.asarray(low.resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC), np.int16)
        grain = generator.normal(0, 8, (HEIGHT, WIDTH, 1))
        buffer = io.BytesIO()
        Image.fromarray(np.clip(pixels + grain, 0, 255).astype(np.uint8)).save(buffer, "JPEG", quality=90)
        path = folder / "ab"[number % 2] / f"{number}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(buffer.getvalue())
    return folder


if __name__ == "__main__":
    main()
