"""The commit: tables, last check, manifest; and what happens when somebody else was faster or something is missing."""

from __future__ import annotations

from pathlib import Path

import pytest
from images import make_class_folders

from tljobs import layout
from tljobs.data.plan import DatasetPlan, HashTask, Placed, ShardReport, shard_tasks, stored_short_side
from tljobs.data.publish import find_published, publish
from tljobs.data.sources import list_source
from tljobs.data.split import Image
from tljobs.data.workers import hash_files, write_shard
from tljobs.errors import InputRefused, TljobsError, Unreachable
from tljobs.records import DatasetManifest
from tljobs.runs import list_datasets
from tljobs.specs import PrepareSpec
from tljobs.store import LocalStore

Work = tuple[DatasetPlan, list[ShardReport]]


class RacedStore(LocalStore):
    """Another process commits the same version an instant before each of our commits."""

    def create(self, key: str, data: bytes) -> None:
        theirs = DatasetManifest.from_bytes(data).model_copy(update={"token": "theirs"})
        super().create(key, theirs.to_bytes())
        super().create(key, data)


@pytest.fixture
def work(tmp_path: Path) -> Work:
    """A plan for 16 images and the reports of its shards, which lie in `tmp_path`/store."""
    source = make_class_folders(tmp_path / "source", ("a", "b"), 8, size_px=48)
    listing = list_source(str(source))
    task = HashTask(uris=tuple(file.uri for file in listing.files), sizes_bytes=(1,) * len(listing.files))
    hashes = hash_files(task, endpoint_url=None, max_bytes=10**6, max_pixels=10**6).files
    placed = tuple(
        Placed(
            image=Image(uri=file.uri, labels=(file.label,), sha256=each.sha256, given_split=None),
            split="val" if number % 4 == 0 else "train",
        )
        for number, (file, each) in enumerate(zip(listing.files, hashes, strict=True))
    )
    spec = PrepareSpec(source=str(source), name="d", image_size=32)
    plan = DatasetPlan(spec=spec, listing=listing, placed=placed, duplicates=0, rejected=())
    store, short_side = LocalStore(tmp_path / "store"), stored_short_side(32)
    reports = [
        write_shard(each, store=store, endpoint_url=None, short_side=short_side, max_pixels=10**6)
        for each in shard_tasks(plan)
    ]
    return plan, reports


def test_nothing_is_published_before_and_all_is_found_after(work: Work, tmp_path: Path) -> None:
    plan, reports = work
    store = LocalStore(tmp_path / "store")
    assert find_published(plan, store) is None
    result = publish(plan, reports, store)
    assert (result.images, result.reused) == ({"train": 12, "val": 4, "test": 0}, False)
    found = find_published(plan, store)
    assert found is not None
    assert found.reused
    assert found.manifest_sha256 == result.manifest_sha256
    again = publish(plan, reports, store)
    assert (again.reused, again.manifest_sha256) == (True, result.manifest_sha256)


def test_who_loses_the_race_returns_the_winners_dataset(work: Work, tmp_path: Path) -> None:
    plan, reports = work
    store = RacedStore(tmp_path / "store")
    result = publish(plan, reports, store)
    assert result.reused
    (manifest,) = list_datasets(store)
    assert manifest.token == "theirs"


def test_a_shard_that_is_not_there_stops_the_commit(work: Work, tmp_path: Path) -> None:
    plan, reports = work
    store = LocalStore(tmp_path / "store")
    store.delete(reports[0].info.key)
    with pytest.raises(Unreachable, match="0 bytes instead of"):
        publish(plan, reports, store)
    assert list_datasets(store) == []


def test_lost_images_stop_the_commit(work: Work, tmp_path: Path) -> None:
    plan, reports = work
    store = LocalStore(tmp_path / "store")
    shorter = [reports[0], *(report.model_copy(update={"rows": report.rows[1:]}) for report in reports[1:])]
    with pytest.raises(TljobsError, match="images were lost"):
        publish(plan, shorter, store)
    assert list_datasets(store) == []


def test_a_class_that_loses_its_last_validation_image_to_the_decoder_is_refused(work: Work, tmp_path: Path) -> None:
    plan, reports = work
    validation = next(report for report in reports if report.split == "val")
    left = validation.model_copy(update={"rows": tuple(row for row in validation.rows if row.labels == (0,))})
    with pytest.raises(InputRefused, match="without val images: b"):
        publish(plan, [left, *(report for report in reports if report.split != "val")], LocalStore(tmp_path / "store"))


def test_the_manifest_key_is_the_only_thing_created_once(work: Work, tmp_path: Path) -> None:
    plan, reports = work
    store = LocalStore(tmp_path / "store")
    publish(plan, reports, store)
    store.delete(layout.dataset_manifest("d", plan.version))
    assert not publish(plan, reports, store).reused
