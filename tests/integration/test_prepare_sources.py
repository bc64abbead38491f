"""`prepare` on every kind of source, on a real Ray and a real S3: the same images and labels are the same dataset."""

from __future__ import annotations

import csv
import io
import os
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from images import make_class_folders
from s3_server import S3Server
from tfrecords import write_tfrecord

from tljobs.data.prepare import prepare
from tljobs.data.sources import list_source, read_file
from tljobs.progress import Silent
from tljobs.results import PrepareResult
from tljobs.runs import dataset_index, dataset_rejected, open_dataset
from tljobs.specs import PrepareSpec
from tljobs.store import LocalStore, Store, open_store

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300), pytest.mark.usefixtures("ray_two_cpus")]
CLASSES = ("a", "b")


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_class_folders(tmp_path_factory.mktemp("kinds") / "photos", CLASSES, 40, size_px=72)


@pytest.fixture(scope="module")
def published(photos: Path) -> tuple[Store, PrepareResult]:
    """The dataset of the class folders, in a store."""
    store = LocalStore(photos.parent / "store")
    return store, made(photos, store)


def made(source: Path | str, store: Store, **options: object) -> PrepareResult:
    asked = {"source": str(source), "name": "kinds", "image_size": 32, "split": "60/20/20", "shard_images": 64}
    result = prepare(PrepareSpec.model_validate(asked | options), store, Silent())
    assert result is not None
    return result


def files(photos: Path) -> list[tuple[Path, str]]:
    return [(path, path.parent.name) for path in sorted(photos.rglob("*.jpg"))]


def as_csv(photos: Path, to: Path) -> Path:
    return write_csv(to / "t.csv", [(f"..\\{path.relative_to(to.parent)}", label) for path, label in files(photos)])


def write_csv(path: Path, rows: Sequence[tuple[str, str]]) -> Path:
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([("file_name", "label"), *rows])
    return path


def as_parquet(photos: Path, to: Path) -> Path:
    rows = files(photos)
    table = pa.table({"image": [path.read_bytes() for path, _ in rows], "label": [label for _, label in rows]})
    pq.write_table(table, to / "t.parquet", row_group_size=16)
    return to / "t.parquet"


def as_tfrecord(photos: Path, to: Path) -> Path:
    examples = [{"image/encoded": path.read_bytes(), "image/class/text": label} for path, label in files(photos)]
    for shard in range(3):
        write_tfrecord(to / f"records/part-{shard}.tfrecord", examples[shard::3])
    return to / "records"


def as_tar(photos: Path, to: Path) -> Path:
    with tarfile.open(to / "t.tar.gz", "w:gz") as archive:
        archive.add(photos, "photos")
    return to / "t.tar.gz"


def as_zip_of_metadata(photos: Path, to: Path) -> Path:
    with zipfile.ZipFile(to / "t.zip", "w") as archive:
        text = io.StringIO()
        csv.writer(text).writerows(
            [("file_name", "label"), *((f"{p.parent.name}_{p.name}", c) for p, c in files(photos))]
        )
        archive.writestr("metadata.csv", text.getvalue())
        for path, _ in files(photos):
            archive.write(path, f"{path.parent.name}_{path.name}")
    return to / "t.zip"


KINDS = [as_csv, as_parquet, as_tfrecord, as_tar, as_zip_of_metadata]


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_source_gives_the_dataset_of_the_class_folders(
    kind: Callable[[Path, Path], Path], photos: Path, published: tuple[Store, PrepareResult], tmp_path: Path
) -> None:
    folder = photos.parent / kind.__name__
    folder.mkdir()
    store, expected = published
    again = made(kind(photos, folder), store)
    assert (again.version, again.reused, again.images) == (expected.version, True, expected.images)


def test_shards_from_an_archive_are_those_of_the_folder(
    photos: Path, published: tuple[Store, PrepareResult], tmp_path: Path
) -> None:
    store = LocalStore(tmp_path / "store")
    path = as_tar(photos, tmp_path)
    result = made(path, store)
    assert not result.reused
    ours, theirs = (open_dataset(each, "kinds") for each in (store, published[0]))
    assert [info.shards for info in ours.splits.values()] == [info.shards for info in theirs.splits.values()]
    uris = dataset_index(store, ours)["uri"].to_pylist()
    assert all(uri.startswith(f"{path}!/photos/") for uri in uris)


def test_an_image_that_a_table_names_and_nobody_has_is_rejected_as_unreadable(photos: Path, tmp_path: Path) -> None:
    rows = [(str(path), label) for path, label in files(photos)]
    table = write_csv(tmp_path / "t.csv", [*rows, ("gone.jpg", "a")])
    store = LocalStore(tmp_path / "store")
    result = made(table, store, max_rejected=0.05)
    (rejected,) = dataset_rejected(store, open_dataset(store, "kinds")).to_pylist()
    assert (result.rejected, rejected["uri"], rejected["reason"]) == (1, f"{tmp_path}/gone.jpg", "unreadable")


def test_every_kind_is_read_from_s3_and_a_table_may_mix_places(
    photos: Path, published: tuple[Store, PrepareResult], s3_server: S3Server, tmp_path: Path
) -> None:
    bucket, client = s3_server.new_bucket(), s3_server.client()
    for path, label in files(photos):
        client.upload_file(str(path), bucket, f"photos/{label}/{path.name}")
    store = open_store(f"s3://{bucket}/store", s3_server.endpoint_url)
    for path in (
        as_parquet(photos, tmp_path),
        as_tar(photos, tmp_path),
        *sorted(as_tfrecord(photos, tmp_path).iterdir()),
    ):
        client.upload_file(str(path), bucket, f"{'records/' if 'tfrecord' in path.name else ''}{path.name}")
    places = [
        str(path) if number % 2 else f"photos/{label}/{path.name}" for number, (path, label) in enumerate(files(photos))
    ]
    mixed = write_csv(tmp_path / "mixed.csv", list(zip(places, [label for _, label in files(photos)], strict=True)))
    client.upload_file(str(mixed), bucket, "mixed.csv")
    versions = {
        made(f"s3://{bucket}/{name}", store).version for name in ("t.tar.gz", "t.parquet", "records", "mixed.csv")
    }
    assert versions == {published[1].version}
    staged = [entry.key for entry in store.list("staging/") if entry.key.endswith("staged.json")]
    assert len(staged) == 2


WRITE_BY_TENSORFLOW = """
import sys, tensorflow as tf
def feature(**kind): return tf.train.Feature(**kind)
with tf.io.TFRecordWriter(sys.argv[1]) as writer:
    for number in range(20):
        features = {
            "image/encoded": feature(bytes_list=tf.train.BytesList(value=[bytes([number]) * (number + 200)])),
            "image/class/label": feature(int64_list=tf.train.Int64List(value=[number % 3 - 1])),
            "weights": feature(float_list=tf.train.FloatList(value=[0.5, 1.5])),
        }
        example = tf.train.Example(features=tf.train.Features(feature=features))
        writer.write(example.SerializeToString())
"""


def test_a_file_that_tensorflow_wrote_is_read_to_the_byte(tmp_path: Path) -> None:
    path = tmp_path / "x.tfrecord"
    subprocess.run(
        [sys.executable, "-c", WRITE_BY_TENSORFLOW, str(path)], check=True, timeout=200, env=dict(os.environ)
    )
    listing = list_source(str(path))
    assert listing.classes == ("-1", "0", "1")
    assert [read_file(file.address) for file in listing.files] == [bytes([n]) * (n + 200) for n in range(20)]
    assert [file.label for file in listing.files] == [str(number % 3 - 1) for number in range(20)]
