"""`prepare` as a whole on a real Ray: what is published, what is refused, and that both are repeatable."""

from __future__ import annotations

import hashlib
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from images import jpeg_bytes, make_class_folders
from PIL import Image
from s3_server import S3Server

from tljobs import layout
from tljobs.data.decode import decode, decode_stored
from tljobs.data.prepare import prepare
from tljobs.data.shards import INDEX_SCHEMA, REJECTED_SCHEMA, SHARD_SCHEMA, verify_shard
from tljobs.errors import InputRefused, Unreachable
from tljobs.progress import Silent
from tljobs.records import SPLITS, DatasetManifest
from tljobs.results import PrepareResult
from tljobs.runs import dataset_index, dataset_rejected, image_bytes, list_datasets, open_dataset
from tljobs.specs import PrepareSpec
from tljobs.store import LocalStore, Store, open_store

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300), pytest.mark.usefixtures("ray_two_cpus")]
CLASSES = ("a", "b", "c")
PER_CLASS = 60


class Recorder(Silent):
    """Keeps what the reporter was told."""

    def __init__(self) -> None:
        self.rows: dict[str, str] = {}
        self.steps: list[tuple[str, int, int]] = []

    def plan(self, title: str, rows: list[tuple[str, str]]) -> None:
        self.rows |= dict(rows)

    def progress(self, what: str, done: int, total: int, detail: str = "") -> None:
        self.steps.append((what, done, total))


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return make_class_folders(tmp_path / "source", CLASSES, PER_CLASS, size_px=72)


@pytest.fixture
def store(tmp_path: Path) -> LocalStore:
    return LocalStore(tmp_path / "store")


def spec(source: Path | str, **options: object) -> PrepareSpec:
    asked = {"source": str(source), "name": "small", "image_size": 32, "split": "60/20/20", "shard_images": 64}
    return PrepareSpec.model_validate(asked | options)


def made(spec: PrepareSpec, store: Store) -> PrepareResult:
    result = prepare(spec, store, Silent())
    assert result is not None
    return result


def contents(store: Store) -> dict[str, str]:
    """Key -> SHA-256 of all that does not depend on the moment."""
    keys = [entry.key for entry in store.list("datasets/")]
    return {key: hashlib.sha256(store.read(key)).hexdigest() for key in keys if not key.endswith("manifest.json")}


def assert_consistent(store: Store, manifest: DatasetManifest) -> None:
    """Index, shards and manifest say the same, image by image."""
    index = dataset_index(store, manifest)
    assert index.schema.equals(INDEX_SCHEMA)
    rows = index.to_pylist()
    for split in SPLITS:
        info = manifest.splits[split]
        own = [row for row in rows if row["split"] == split]
        assert info.images == len(own) == sum(shard.rows for shard in info.shards) == sum(info.per_class)
        assert dict(enumerate(info.per_class)) == {
            label: Counter(row["label"] for row in own)[label] for label in range(len(manifest.classes))
        }
        assert [each.row_groups for each in info.thumbnails] == [each.row_groups for each in info.shards]
        for shard in (*info.shards, *info.thumbnails):
            verify_shard(store, shard)
    for row in rows[:: max(1, len(rows) // 20)]:
        stored = decode_stored(image_bytes(store, manifest, row["split"], row["shard"], row["row"]))
        assert min(stored.shape[:2]) == manifest.stored_short_side
        assert f"/{manifest.classes[row['label']]}/" in row["uri"]


def test_everything_on_disk_is_in_the_dataset_with_its_class(source: Path, store: LocalStore) -> None:
    recorder = Recorder()
    result = prepare(spec(source), store, recorder)
    on_disk = sorted(str(path) for path in source.rglob("*.jpg"))
    assert result is not None
    assert sum(result.images.values()) == len(on_disk) == PER_CLASS * len(CLASSES)
    assert (result.rejected, result.duplicates, result.reused, result.classes) == (0, 0, False, list(CLASSES))
    manifest = open_dataset(store, "small")
    assert (
        result.manifest_sha256
        == hashlib.sha256(store.read(layout.dataset_manifest("small", result.version))).hexdigest()
    )
    assert (manifest.image_size, manifest.stored_short_side, manifest.classes) == (32, 37, CLASSES)
    assert_consistent(store, manifest)
    rows = dataset_index(store, manifest).to_pylist()
    assert sorted(row["uri"] for row in rows) == on_disk
    assert all(row["sha256"] == hashlib.sha256(Path(row["uri"]).read_bytes()).hexdigest() for row in rows)
    assert result.made.startswith(
        f"dataset small version {result.version} in {store.uri}: {result.images['train']} train"
    )
    assert result.next_command == "tljobs train small"
    assert "a 60, b 60, c 60" in recorder.rows["classes"]
    assert ("reading", 180, 180) in recorder.steps
    assert recorder.steps[-1] == ("writing", 180, 180)


def test_evaluation_rows_are_what_predict_will_see_of_the_original(source: Path, store: LocalStore) -> None:
    made(spec(source), store)
    manifest = open_dataset(store, "small")
    for row in [row for row in dataset_index(store, manifest).to_pylist() if row["split"] != "train"][:20]:
        stored = decode_stored(image_bytes(store, manifest, row["split"], row["shard"], row["row"]))
        original = decode(Path(row["uri"]).read_bytes(), short_side=manifest.stored_short_side)
        assert np.array_equal(stored, original.pixels)


def test_the_same_bytes_come_out_with_one_and_with_two_workers(source: Path, tmp_path: Path) -> None:
    stores = [LocalStore(tmp_path / f"store-{workers}") for workers in (1, 2)]
    results = [made(spec(source, workers=workers), store) for workers, store in enumerate(stores, start=1)]
    assert results[0].version == results[1].version
    assert contents(stores[0]) == contents(stores[1])
    assert len(contents(stores[0])) >= 6


def test_a_second_run_finds_the_first_and_a_changed_one_does_not(source: Path, store: LocalStore) -> None:
    first = made(spec(source), store)
    before = {entry.key for entry in store.list("datasets/")}
    moved = source.rename(source.with_name("moved"))
    (moved / "a/0000.jpg").rename(moved / "a/renamed.jpg")
    again = made(spec(moved), store)
    assert again.reused
    assert "was there already" in again.made
    assert (again.version, again.manifest_sha256, again.images) == (first.version, first.manifest_sha256, first.images)
    assert {entry.key for entry in store.list("datasets/")} == before
    (moved / "a/new.jpg").write_bytes(jpeg_bytes(0, 999, 72))
    third = made(spec(moved), store)
    assert not third.reused
    assert third.version != first.version
    old, new = (
        {
            row["sha256"]: row["split"]
            for row in dataset_index(store, open_dataset(store, f"small@{version}")).to_pylist()
        }
        for version in (first.version, third.version)
    )
    assert len(new) == len(old) + 1
    assert old.items() <= new.items()


def test_bad_images_are_rejected_with_reasons_and_the_rest_is_kept(source: Path, store: LocalStore) -> None:
    whole = (source / "b/0001.jpg").read_bytes()
    (source / "a/0000.jpg").write_bytes(whole[: len(whole) // 2])
    (source / "b/0002.jpg").write_text("this is a text named like an image")
    (source / "c/0003.jpg").write_bytes(b"")
    (source / "c/gone.jpg").symlink_to(source / "nowhere")
    result = made(spec(source, max_rejected=0.05), store)
    manifest = open_dataset(store, "small")
    assert (result.rejected, sum(result.images.values())) == (4, PER_CLASS * len(CLASSES) - 3)
    assert manifest.rejected_reasons == {"empty": 1, "not_an_image": 1, "truncated": 1, "unreadable": 1}
    rejected = dataset_rejected(store, manifest)
    assert rejected.schema.equals(REJECTED_SCHEMA)
    assert [(row["uri"].removeprefix(f"{source}/"), row["label"], row["reason"]) for row in rejected.to_pylist()] == [
        ("a/0000.jpg", "a", "truncated"),
        ("b/0002.jpg", "b", "not_an_image"),
        ("c/0003.jpg", "c", "empty"),
        ("c/gone.jpg", "c", "unreadable"),
    ]
    assert_consistent(store, manifest)
    with pytest.raises(InputRefused, match="4 of 181"):
        prepare(spec(source, max_rejected=0.015), store, Silent())


def test_conversions_are_counted_and_the_background_goes_into_the_decoder(source: Path, store: LocalStore) -> None:
    Image.new("RGBA", (50, 40), (9, 9, 9, 0)).save(source / "a/clear.jpg", "PNG")
    Image.new("CMYK", (50, 40), (9, 99, 9, 0)).save(source / "b/ink.jpg", "JPEG")
    result = made(spec(source, background="black"), store)
    manifest = open_dataset(store, "small")
    assert result.converted == manifest.converted == {"cmyk": 1, "transparent": 1, "wrong_extension": 1}
    assert manifest.decoder.background == "#000000"
    rows = {Path(row["uri"]).name: row["converted"] for row in dataset_index(store, manifest).to_pylist()}
    assert (rows["clear.jpg"], rows["ink.jpg"], rows["0001.jpg"]) == (["transparent", "wrong_extension"], ["cmyk"], [])


def test_an_image_that_takes_too_long_costs_itself_only(source: Path, store: LocalStore) -> None:
    Image.new("RGBA", (8000, 8000)).save(source / "a/slow.png", compress_level=1)
    result = made(spec(source, max_rejected=0.05, decode_timeout_s=0.4), store)
    assert (result.rejected, sum(result.images.values())) == (1, PER_CLASS * len(CLASSES))
    (row,) = dataset_rejected(store, open_dataset(store, "small")).to_pylist()
    assert (Path(row["uri"]).name, row["reason"]) == ("slow.png", "decoder_timeout")


@pytest.mark.parametrize("bad", [b"", b"no image"], ids=["found while hashing", "found while decoding"])
def test_too_many_bad_images_publish_nothing(source: Path, store: LocalStore, bad: bytes) -> None:
    for number in range(10):
        (source / f"a/{number:04}.jpg").write_bytes(bad + (bytes([number]) if bad else b""))
    with pytest.raises(InputRefused, match="10 of 180 images rejected") as caught:
        prepare(spec(source), store, Silent())
    assert f"{source}/a/0000.jpg" in caught.value.hint
    assert list_datasets(store) == []


def test_duplicates_are_kept_once_and_conflicts_not_at_all(source: Path, store: LocalStore) -> None:
    shutil.copy(source / "a/0000.jpg", source / "a/copy.jpg")
    shutil.copy(source / "a/0000.jpg", source / "a/zopy.jpg")
    shutil.copy(source / "b/0000.jpg", source / "c/from_b.jpg")
    result = made(spec(source, max_rejected=0.05), store)
    manifest = open_dataset(store, "small")
    assert (result.duplicates, result.rejected, sum(result.images.values())) == (2, 2, 179)
    assert manifest.rejected_reasons == {"label_conflict": 2}
    uris = set(dataset_index(store, manifest)["uri"].to_pylist())
    assert f"{source}/a/0000.jpg" in uris
    assert not uris & {f"{source}/a/copy.jpg", f"{source}/b/0000.jpg", f"{source}/c/from_b.jpg"}


def test_given_splits_are_kept_and_a_copy_in_train_and_test_stays_in_test(tmp_path: Path, store: LocalStore) -> None:
    root = tmp_path / "given"
    for seed, split in enumerate(("train", "val", "test")):
        make_class_folders(root / split, ("b", "a"), 8, size_px=72, seed=seed)
    shutil.copy(root / "test/a/0000.jpg", root / "train/a/leak.jpg")
    result = made(spec(root, classes=("b", "a")), store)
    assert (result.images, result.duplicates) == ({"train": 16, "val": 16, "test": 16}, 1)
    manifest = open_dataset(store, "small")
    assert manifest.classes == ("b", "a")
    assert all(f"/{row['split']}/" in row["uri"] for row in dataset_index(store, manifest).to_pylist())
    assert_consistent(store, manifest)


def test_a_source_without_a_test_split_has_none(tmp_path: Path, store: LocalStore) -> None:
    for seed, split in enumerate(("train", "val")):
        make_class_folders(tmp_path / "given" / split, ("a", "b"), 8, size_px=72, seed=seed)
    assert made(spec(tmp_path / "given"), store).images == {"train": 16, "val": 16, "test": 0}
    assert open_dataset(store, "small").splits["test"].shards == ()


def test_a_dry_run_prints_the_plan_and_writes_nothing(source: Path, store: LocalStore) -> None:
    recorder = Recorder()
    assert prepare(spec(source), store, recorder, dry_run=True) is None
    assert recorder.rows["images"].startswith("180 files")
    assert recorder.rows["split"].startswith("60/20/20")
    assert not store.root.exists()


def test_a_store_that_fails_under_the_workers_is_named(source: Path, tmp_path: Path) -> None:
    (tmp_path / "store/datasets/small").mkdir(parents=True)
    version = made(spec(source), LocalStore(tmp_path / "good")).version
    (tmp_path / "store/datasets/small" / version).mkdir()
    (tmp_path / "store/datasets/small" / version / "shards").write_text("a file where a folder must be")
    with pytest.raises(Unreachable, match="the store cannot be used"):
        prepare(spec(source), LocalStore(tmp_path / "store"), Silent())
    assert list_datasets(LocalStore(tmp_path / "store")) == []


def test_from_s3_into_s3_is_the_same_dataset_as_from_disk(source: Path, store: LocalStore, s3_server: S3Server) -> None:
    bucket, client = s3_server.new_bucket(), s3_server.client()
    for path in source.rglob("*.jpg"):
        client.upload_file(str(path), bucket, f"photos/{path.relative_to(source).as_posix()}")
    remote = open_store(f"s3://{bucket}/store", s3_server.endpoint_url)
    result = made(spec(f"s3://{bucket}/photos"), remote)
    local = made(spec(source), store)
    assert (result.version, result.images) == (local.version, local.images)
    manifest = open_dataset(remote, "small")
    assert manifest.source == f"s3://{bucket}/photos"
    assert_consistent(remote, manifest)
    assert {split: info.shards for split, info in manifest.splits.items()} == {
        split: info.shards for split, info in open_dataset(store, "small").splits.items()
    }
    assert made(spec(f"s3://{bucket}/photos"), remote).reused
    assert SHARD_SCHEMA.names == ["id", "image", "label"]


def test_a_version_with_more_images_copies_the_old_ones_and_moves_none(source: Path, store: LocalStore) -> None:
    first = made(spec(source), store)
    old = {row["sha256"]: row for row in dataset_index(store, open_dataset(store, "small")).to_pylist()}
    make_class_folders(source / "new", CLASSES, 6, size_px=72, seed=9)
    for label in CLASSES:
        for path in sorted((source / "new" / label).iterdir()):
            path.rename(source / label / f"new-{path.name}")
    shutil.rmtree(source / "new")
    second = made(spec(source), store)
    assert second.version != first.version
    assert second.made.endswith("180 images copied from an earlier version")
    manifest = open_dataset(store, f"small@{second.version}")
    assert_consistent(store, manifest)
    rows = dataset_index(store, manifest).to_pylist()
    assert len(rows) == 198
    same = ("split", "width_px", "height_px", "source_format", "label", "uri", "id")
    for row in rows:
        if row["sha256"] in old:
            assert [row[name] for name in same] == [old[row["sha256"]][name] for name in same]

    fresh = LocalStore(store.root.parent / "fresh")
    made(spec(source), fresh)
    anew = open_dataset(fresh, "small")
    again = {row["sha256"]: row for row in dataset_index(fresh, anew).to_pylist()}
    alike = [row for row in rows if again[row["sha256"]]["split"] == row["split"]]
    assert len(alike) > 180
    for row in alike:
        other = again[row["sha256"]]
        copied = image_bytes(store, manifest, row["split"], row["shard"], row["row"])
        assert copied == image_bytes(fresh, anew, other["split"], other["shard"], other["row"])


def test_a_damaged_earlier_shard_is_not_copied(source: Path, store: LocalStore) -> None:
    first = made(spec(source), store)
    shard = open_dataset(store, "small").splits["train"].shards[0]
    (store.root / shard.key).write_bytes(store.read(shard.key)[:-9] + b"damage..!")
    (source / "a" / "0000.jpg").write_bytes(jpeg_bytes(0, 999, 72, seed=99))
    second = made(spec(source), store)
    assert second.version != first.version
    assert_consistent(store, open_dataset(store, f"small@{second.version}"))
