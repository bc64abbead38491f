"""Publishes a model that tells red, green and blue images apart: `python dashboard_model.py STORE_FOLDER RUN`.

A process of its own, so that the tests that use the model import no TensorFlow.
"""

from __future__ import annotations

import sys
from pathlib import Path

import keras

from tljobs.data.decode import DECODER
from tljobs.records import ModelRecord, Replay, new_token, now_utc
from tljobs.runs import open_dataset, open_run
from tljobs.serving.publish import publish_model, write_bundle
from tljobs.store import LocalStore

GAIN = 8.0  # a pure colour gets a probability of 0.999


def colour_model(size_px: int) -> keras.Model:
    """uint8 (n, s, s, 3) -> softmax of the mean of each channel."""
    pixels = keras.Input((size_px, size_px, 3), dtype="uint8")
    means = keras.layers.GlobalAveragePooling2D()(keras.layers.Rescaling(GAIN / 255)(pixels))
    return keras.Model(pixels, keras.layers.Softmax(dtype="float32")(means))


def main(folder: str, run: str) -> None:
    store = LocalStore(Path(folder))
    record = open_run(store, run).record
    manifest = open_dataset(store, f"{record.dataset}@{record.version}")
    publish_model(
        store,
        ModelRecord(
            run=run,
            file=write_bundle(store, run, colour_model(manifest.image_size)),
            classes=manifest.classes,
            classes_sha256=manifest.classes_sha256,
            decoder=DECODER,
            stored_short_side=manifest.stored_short_side,
            crop_size=manifest.image_size,
            image_size=manifest.image_size,
            backbone="colours",
            weights_sha256=None,
            dataset=manifest.name,
            version=manifest.version,
            manifest_sha256=record.manifest_sha256,
            checkpoint_step=50,
            scores={"accuracy": 0.75},
            replay=Replay(images=0, max_abs_difference=0.0, labels_changed=0),
            environment={},
            created_utc=now_utc(),
            token=new_token(),
        ),
    )


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
