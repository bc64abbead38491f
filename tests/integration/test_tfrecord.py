"""TFRecord files in, a trained run out; and a dataset out as TFRecord files that prepare and TensorFlow read."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from images import jpeg_bytes, make_class_folders
from tfrecords import write_tfrecord

from tljobs import export_dataset
from tljobs.data.prepare import prepare
from tljobs.data.shards import read_row_group
from tljobs.progress import Silent
from tljobs.records import DatasetManifest
from tljobs.runs import open_dataset
from tljobs.specs import ExportDatasetSpec, PrepareSpec
from tljobs.store import Store

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

CLASSES = ("checks", "disc", "stripes")
SMALL = ["--backbone", "small-cnn", "--weights", "none", "--batchnorm", "sync", "--fine-tune-factor", "1.0"]


def write_records(folder: Path, per_class: int) -> None:
    """Three files, with the texts and numbers of the classes."""
    examples = [
        {
            "image/encoded": jpeg_bytes(index, number, 72),
            "image/class/label": index,
            "image/class/text": name,
        }
        for number in range(per_class)
        for index, name in enumerate(CLASSES)
    ]
    for shard in range(3):
        write_tfrecord(folder / f"photos-{shard:05}-of-00003.tfrecord", examples[shard::3])


def test_a_set_of_tfrecord_files_goes_through_to_predictions(tmp_path: Path, tljobs: Callable[..., Any]) -> None:
    write_records(tmp_path / "records", per_class=40)
    make_class_folders(tmp_path / "new-photos", CLASSES, per_class=3, size_px=72, seed=5)

    def run(*arguments: str) -> str:
        done = tljobs(*arguments, "--store", "store", folder=tmp_path)
        assert done.code == 0, done.err
        return str(done.out)

    prepared = json.loads(run("prepare", "records", "--name", "shapes", "--image-size", "48", "--json"))
    assert prepared["classes"] == list(CLASSES)
    assert (sum(prepared["images"].values()), prepared["rejected"], prepared["duplicates"]) == (120, 0, 0)
    train = ["train", "shapes", "--name", "first", *SMALL, "--unfreeze", "all", "--head-epochs", "1", "--epochs", "8"]
    trained = json.loads(run(*train, "--learning-rate", "1e-2", "--json"))
    assert trained["status"] == "finished"
    assert trained["scores"]["test"]["accuracy"] > 0.6
    rows = [json.loads(line) for line in run("predict", "first", "new-photos").splitlines()]
    assert len(rows) == 9
    assert sum(row["label"] == Path(row["input"]).parent.name for row in rows) >= 6


@pytest.fixture(scope="module")
def exported(store: Store, dataset: DatasetManifest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The dataset `shapes` of the session as TFRecord files."""
    out = tmp_path_factory.mktemp("exported") / "records"
    export_dataset(ExportDatasetSpec(dataset=dataset.name, out=str(out)), store)
    return out


def test_prepare_of_an_exported_dataset_gives_its_classes_splits_and_counts(
    store: Store, dataset: DatasetManifest, exported: Path
) -> None:
    prepare(PrepareSpec(source=str(exported), name="again", image_size=48), store, Silent())
    again = open_dataset(store, "again")
    assert again.classes == dataset.classes
    assert {name: info.per_class for name, info in again.splits.items()} == {
        name: info.per_class for name, info in dataset.splits.items()
    }
    assert (again.rejected_count, again.duplicates) == (0, 0)


READ_BY_TENSORFLOW = """
import hashlib, json, sys, tensorflow as tf
features = {name: tf.io.FixedLenFeature([], tf.string) for name in
            ("image/encoded", "image/format", "image/class/text", "image/id")}
features["image/class/label"] = tf.io.FixedLenFeature([], tf.int64)
for data in tf.data.TFRecordDataset(sys.argv[1:]):
    row = tf.io.parse_single_example(data, features)
    image = row["image/encoded"].numpy()
    print(json.dumps([row["image/id"].numpy().decode(), hashlib.sha256(image).hexdigest(),
                      int(row["image/class/label"]), row["image/class/text"].numpy().decode(),
                      row["image/format"].numpy().decode(), tf.io.decode_image(image).shape.as_list()]))
"""


def test_tensorflow_reads_the_exported_images_with_their_labels(
    store: Store, dataset: DatasetManifest, exported: Path
) -> None:
    shards = [shard for info in dataset.splits.values() for shard in info.shards]
    files = [str(exported / f"{Path(shard.key).stem}.tfrecord") for shard in shards]
    command = [sys.executable, "-c", READ_BY_TENSORFLOW, *files]
    shown = subprocess.run(command, check=True, timeout=200, env=dict(os.environ), capture_output=True, text=True)
    rows = [json.loads(line) for line in shown.stdout.splitlines()]
    stored = [
        (image_id, hashlib.sha256(image).hexdigest(), label, dataset.classes[label])
        for shard in shards
        for group in range(len(shard.row_groups))
        for image_id, image, (label,) in zip(*read_row_group(store, shard, group), strict=True)
    ]
    assert [tuple(row[:4]) for row in rows] == stored
    side = dataset.stored_short_side
    assert {(row[4], *row[5]) for row in rows} == {("jpeg", side, side, 3), ("png", side, side, 3)}
