"""Export of a dataset: every row of every shard is a record, in order, and nothing half appears."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from images import jpeg_bytes
from tfrecords import example_class
from training_store import CLASSES, SHARD_ROWS, make_training_dataset

from tljobs import cli
from tljobs.data.export import example_bytes, export_dataset
from tljobs.data.shards import read_row_group
from tljobs.data.sources import list_source
from tljobs.data.sources.model import Found
from tljobs.data.sources.tfrecord import read_records
from tljobs.errors import InputRefused, NotFound
from tljobs.records import DatasetManifest
from tljobs.results import ExportDatasetResult
from tljobs.runs import open_dataset
from tljobs.specs import ExportDatasetSpec
from tljobs.store import LocalStore, Store


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    root = tmp_path_factory.mktemp("export")
    store = LocalStore(root / "store")
    make_training_dataset(store, root / "photos")
    return store


@pytest.fixture(scope="module")
def manifest(store: Store) -> DatasetManifest:
    return open_dataset(store, "shapes")


@pytest.fixture(scope="module")
def result(store: Store, tmp_path_factory: pytest.TempPathFactory) -> ExportDatasetResult:
    out = tmp_path_factory.mktemp("out") / "records"
    made = export_dataset(ExportDatasetSpec(dataset="shapes", out=str(out)), store)
    assert made is not None
    return made


def parsed(path: Path) -> list[Any]:
    file = Found(path=path.name, uri=str(path), address=str(path), size_bytes=0)
    return [example_class().FromString(data).features.feature for _, data in read_records(file, None)]


def test_each_shard_is_a_file_of_its_rows(store: Store, manifest: DatasetManifest, result: ExportDatasetResult) -> None:
    names = [Path(shard.key).stem for info in manifest.splits.values() for shard in info.shards]
    assert result.files == sorted(["labels.txt", *(f"{name}.tfrecord" for name in names)])
    assert len(names) == sum(map(len, SHARD_ROWS.values()))
    for shard in manifest.splits["train"].shards:
        ids, images, labels = read_row_group(store, shard, 0)
        rows = parsed(Path(result.out, f"{Path(shard.key).stem}.tfrecord"))
        assert len(rows) == shard.rows
        for row, image_id, image, own in zip(rows, ids, images, labels, strict=False):
            assert list(row["image/id"].byteslist.value) == [image_id.encode()]
            assert list(row["image/encoded"].byteslist.value) == [image]
            assert list(row["image/class/label"].int64list.value) == list(own)
            assert list(row["image/class/text"].byteslist.value) == [CLASSES[own[0]].encode()]


def test_format_is_that_of_the_stored_image(result: ExportDatasetResult) -> None:
    formats = {
        path.name.partition("-")[0]: {row["image/format"].byteslist.value[0] for row in parsed(path)}
        for path in Path(result.out).glob("*.tfrecord")
    }
    assert formats == {"train": {b"jpeg"}, "val": {b"png"}, "test": {b"png"}}


def test_the_files_are_a_source_with_the_same_classes_splits_and_counts(
    manifest: DatasetManifest, result: ExportDatasetResult
) -> None:
    listing = list_source(result.out)
    assert listing.classes == manifest.classes
    counts = Counter((file.given_split, *file.labels) for file in listing.files)
    assert counts == {
        (split, name): count
        for split, info in manifest.splits.items()
        for name, count in zip(manifest.classes, info.per_class, strict=True)
    }
    assert (result.images, result.classes) == ({"train": 96, "val": 12, "test": 12}, list(CLASSES))
    assert Path(result.out, "labels.txt").read_text().split() == list(CLASSES)


def test_an_image_may_have_any_number_of_labels() -> None:
    for labels in ((), (1,), (0, 2)):
        row = example_class().FromString(example_bytes("id", jpeg_bytes(0, 0), labels, CLASSES)).features.feature
        assert list(row["image/class/label"].int64list.value) == list(labels)
        assert list(row["image/class/text"].byteslist.value) == [CLASSES[label].encode() for label in labels]


def test_only_the_asked_splits_are_exported(store: Store, tmp_path: Path) -> None:
    spec = ExportDatasetSpec(dataset="shapes", split=("test", "val"), out=str(tmp_path / "out"))
    made = export_dataset(spec, store)
    assert made is not None
    assert made.images == {"val": 12, "test": 12}
    assert {name.partition("-")[0] for name in made.files} == {"val", "test", "labels.txt"}


def test_a_changed_shard_is_refused_and_no_folder_appears(tmp_path: Path) -> None:
    store = LocalStore(tmp_path / "store")
    manifest = make_training_dataset(store, tmp_path / "photos")
    shard = manifest.splits["test"].shards[0]
    data = bytearray(store.read(shard.key))
    data[100] ^= 1
    store.put(shard.key, bytes(data))
    with pytest.raises(InputRefused, match="damaged dataset shard"):
        export_dataset(ExportDatasetSpec(dataset="shapes", out=str(tmp_path / "out/records")), store)
    assert list((tmp_path / "out").iterdir()) == []


def test_a_dataset_that_is_not_there_and_a_plan_make_no_folder(store: Store, tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="no such dataset"):
        export_dataset(ExportDatasetSpec(dataset="shape", out=str(tmp_path / "out")), store)
    assert export_dataset(ExportDatasetSpec(dataset="shapes", out=str(tmp_path / "out")), store, dry_run=True) is None
    assert list(tmp_path.iterdir()) == []


def test_the_command_says_what_was_made_and_refuses_a_folder_that_is_taken(
    store: LocalStore, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["export-dataset", "shapes", "--out", str(tmp_path / "out"), "--split", "val", "--store", store.uri]
    assert cli.run([*command, "--json"]) == 0
    told = capsys.readouterr()
    made = json.loads(told.out)
    assert (made["format"], made["images"]) == ("tfrecord", {"val": 12})
    assert made["size_bytes"] == sum(path.stat().st_size for path in (tmp_path / "out").iterdir())
    assert told.err.endswith(f"Next: tljobs prepare {tmp_path}/out --name NAME --image-size 32\n")
    assert cli.run(command) == 4
    assert "the output exists already" in capsys.readouterr().err
