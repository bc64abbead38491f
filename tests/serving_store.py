"""A store with a real dataset and a real run's model, made by code in a second: for tests of evaluation and serving."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from PIL import Image

from tljobs import layout
from tljobs.data.decode import DECODER, decode, decode_stored, encode_png, eval_view
from tljobs.data.shards import INDEX_SCHEMA, REJECTED_SCHEMA, image_id, shard_bytes, shard_info, table_bytes
from tljobs.records import (
    DatasetManifest,
    FileInfo,
    ModelRecord,
    Replay,
    RunRecord,
    SplitInfo,
    classes_digest,
    new_token,
    now_utc,
)
from tljobs.store import Store

IMAGE_SIZE = 32
STORED_SHORT_SIDE = 37
DATASET, VERSION = "shapes", "v1"
CLASSES = ("cross", "disc", "stripes")
SHARD_IMAGES = 70  # a shard of two row groups
NO_REPLAY = Replay(images=0, max_abs_difference=0.0, labels_changed=0)


@dataclass(frozen=True)
class Photo:
    uri: str
    label: int
    data: bytes


def png(pixels: NDArray[np.uint8]) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def plain_photo(rgb: tuple[int, int, int], size_px: int = 40) -> bytes:
    """A PNG of one colour."""
    return png(np.full((size_px, size_px, 3), rgb, np.uint8))


def make_dataset(store: Store, splits: Mapping[str, Sequence[Photo]]) -> DatasetManifest:
    """Publishes DATASET@VERSION with CLASSES: stored as `prepare` does it, validation and test without loss."""
    rows: list[dict[str, Any]] = []
    infos = {split: _write_split(store, split, photos, rows) for split, photos in splits.items()}
    manifest = DatasetManifest(
        name=DATASET,
        version=VERSION,
        source="made by a test",
        request={},
        classes=CLASSES,
        classes_sha256=classes_digest(CLASSES),
        image_size=IMAGE_SIZE,
        stored_short_side=STORED_SHORT_SIDE,
        decoder=DECODER,
        splits=infos,
        index=_put(store, layout.dataset_index(DATASET, VERSION), pa.Table.from_pylist(rows, schema=INDEX_SCHEMA)),
        rejected=_put(store, layout.dataset_rejected(DATASET, VERSION), REJECTED_SCHEMA.empty_table()),
        rejected_count=0,
        rejected_reasons={},
        duplicates=0,
        ignored=(),
        ignored_count=0,
        environment={},
        created_utc=now_utc(),
        token=new_token(),
    )
    store.create(layout.dataset_manifest(DATASET, VERSION), manifest.to_bytes())
    return manifest


def make_run(store: Store, run: str, manifest: DatasetManifest) -> RunRecord:
    record = RunRecord(
        run=run,
        spec={"dataset": DATASET},
        request_sha256="0" * 64,
        dataset=manifest.name,
        version=manifest.version,
        manifest_sha256=manifest_sha256(manifest),
        classes=manifest.classes,
        classes_sha256=manifest.classes_sha256,
        environment={},
        created_utc=now_utc(),
        token=new_token(),
    )
    store.create(layout.run_record(run), record.to_bytes())
    return record


def model_record(run: str, file: FileInfo, manifest: DatasetManifest, replay: Replay = NO_REPLAY) -> ModelRecord:
    return ModelRecord(
        run=run,
        file=file,
        classes=manifest.classes,
        classes_sha256=manifest.classes_sha256,
        decoder=manifest.decoder,
        stored_short_side=manifest.stored_short_side,
        crop_size=manifest.image_size,
        image_size=manifest.image_size,
        backbone="tiny",
        weights_sha256=None,
        dataset=manifest.name,
        version=manifest.version,
        manifest_sha256=manifest_sha256(manifest),
        checkpoint_step=7,
        scores={},
        replay=replay,
        environment={"tljobs": "0.1.0"},
        created_utc=now_utc(),
        token=new_token(),
    )


def manifest_sha256(manifest: DatasetManifest) -> str:
    return hashlib.sha256(manifest.to_bytes()).hexdigest()


def tiny_network(seed: int = 0, classes: int = len(CLASSES)) -> Any:
    """A small keras network with random weights: uint8 (n, s, s, 3) -> float32 (n, classes)."""
    import keras

    keras.utils.set_random_seed(seed)
    pixels = keras.Input((IMAGE_SIZE, IMAGE_SIZE, 3), dtype="uint8", name="pixels")
    hidden = keras.layers.Rescaling(1 / 127.5, -1, name="scale")(pixels)
    hidden = keras.layers.Conv2D(8, 3, strides=2, activation="relu", name="convolution")(hidden)
    hidden = keras.layers.GlobalAveragePooling2D(name="pool")(hidden)
    wide = keras.initializers.RandomNormal(stddev=3.0, seed=seed)
    output = keras.layers.Dense(classes, activation="softmax", kernel_initializer=wide, name="head")(hidden)
    return keras.Model(pixels, output, name="tiny")


def colour_network() -> Any:
    """A network that answers class 0 for red, 1 for green and 2 for blue images."""
    import keras

    pixels = keras.Input((IMAGE_SIZE, IMAGE_SIZE, 3), dtype="uint8", name="pixels")
    hidden = keras.layers.GlobalAveragePooling2D(name="pool")(keras.layers.Rescaling(1 / 255, name="scale")(pixels))
    model = keras.Model(pixels, keras.layers.Dense(3, activation="softmax", name="head")(hidden), name="colours")
    model.get_layer("head").set_weights([20 * np.eye(3), np.zeros(3)])
    return model


def own_probabilities(model: Any, photos: Sequence[Photo]) -> dict[str, NDArray[np.float32]]:
    """What the network in memory says of the stored form of each photo, one call of the model per photo."""
    found = {}
    for photo in photos:
        view = eval_view(decode_stored(_stored(photo)), crop_size=IMAGE_SIZE, image_size=IMAGE_SIZE)
        found[_id(photo)] = np.asarray(model(view[None], training=False))[0]
    return found


def _write_split(store: Store, split: str, photos: Sequence[Photo], rows: list[dict[str, Any]]) -> SplitInfo:
    shards = []
    starts = range(0, len(photos), SHARD_IMAGES)
    for number, first in enumerate(starts):
        members = photos[first : first + SHARD_IMAGES]
        key = layout.dataset_shard(DATASET, VERSION, split, number, len(starts))
        data = shard_bytes(*zip(*[(_id(photo), _stored(photo), (photo.label,)) for photo in members], strict=True))
        store.put(key, data)
        shards.append(shard_info(key, data, len(members)))
        rows.extend(_index_row(photo, split, number, row) for row, photo in enumerate(members))
    per_class = tuple(sum(photo.label == index for photo in photos) for index in range(len(CLASSES)))
    return SplitInfo(images=len(photos), per_class=per_class, shards=tuple(shards))


def _index_row(photo: Photo, split: str, shard: int, row: int) -> dict[str, Any]:
    decoded = decode(photo.data, short_side=None)
    return {
        "id": _id(photo),
        "uri": photo.uri,
        "label": photo.label,
        "split": split,
        "sha256": hashlib.sha256(photo.data).hexdigest(),
        "width_px": decoded.width_px,
        "height_px": decoded.height_px,
        "shard": shard,
        "row": row,
        "source_format": decoded.source_format,
    }


def _id(photo: Photo) -> str:
    return image_id(hashlib.sha256(photo.data).hexdigest())


def _stored(photo: Photo) -> bytes:
    return encode_png(decode(photo.data, short_side=STORED_SHORT_SIDE).pixels)


def _put(store: Store, key: str, table: pa.Table) -> FileInfo:
    data = table_bytes(table)
    store.put(key, data)
    return FileInfo(key=key, size_bytes=len(data), sha256=hashlib.sha256(data).hexdigest())
