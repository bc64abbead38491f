"""The commit: tables, last check, manifest; and what happens when somebody else was faster or something is missing."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
from first_pass import DECODING, inspected
from images import make_class_folders

from tljobs import layout
from tljobs.data.audit import audit
from tljobs.data.files import files_table, inspected_table
from tljobs.data.plan import DatasetPlan, Placed, Rejected, ShardReport, shard_tasks
from tljobs.data.probe import Inspected
from tljobs.data.publish import find_published, publish
from tljobs.data.sources import list_source
from tljobs.data.split import Image
from tljobs.data.workers import write_shard
from tljobs.errors import InputRefused, NotFound, TljobsError, Unreachable
from tljobs.records import DatasetManifest
from tljobs.runs import dataset_audit, dataset_index, list_datasets
from tljobs.specs import AuditSpec, PrepareSpec
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
    store = LocalStore(tmp_path / "store")
    hashes = inspected(listing, store).files
    placed = tuple(
        Placed(
            image=Image(uri=file.uri, address=file.address, labels=file.labels, sha256=each.sha256, given_split=None),
            split="val" if number % 4 == 0 else "train",
        )
        for number, (file, each) in enumerate(zip(listing.files, hashes, strict=True))
    )
    spec = PrepareSpec(source=str(source), name="d", image_size=32)
    plan = DatasetPlan(spec=spec, listing=listing, placed=placed, duplicates=0, rejected=())
    reports = [write_shard(each, store=store, endpoint_url=None, decoding=DECODING) for each in shard_tasks(plan)]
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


def test_a_plan_without_a_table_of_files_is_published_without_an_audit(work: Work, tmp_path: Path) -> None:
    plan, reports = work
    store = LocalStore(tmp_path / "store")
    publish(plan, reports, store)
    (manifest,) = list_datasets(store)
    assert (manifest.audit, dataset_audit(store, manifest)) == (None, None)
    with pytest.raises(NotFound, match=r"no audit: d@.*earlier release"):
        audit(AuditSpec(dataset="d"), store)


def test_index_and_audit_tell_what_the_probe_saw(work: Work, tmp_path: Path) -> None:
    plan, reports = work
    store = LocalStore(tmp_path / "store")
    seen = inspected_table(inspected(plan.listing, store).files)
    files = files_table(plan.listing.files, seen, plan.placed, (), None)
    publish(dataclasses.replace(plan, files=files), reports, store)
    (manifest,) = list_datasets(store)
    index = {row["sha256"]: row for row in dataset_index(store, manifest).to_pylist()}
    for row in seen.to_pylist():
        names = ("phash", "brightness", "blank", "border_share", "mode", "rotated", "animated", "width_px")
        assert {name: index[row["sha256"]][name] for name in names} == {name: row[name] for name in names}
    report = audit(AuditSpec(dataset="d"), store)
    assert [each.splits for each in report.classes] == [{"train": 6, "val": 2, "test": 0}] * 2
    assert {each.code for each in report.findings} == {"few-images"}


def test_files_that_the_decoder_refused_late_stand_in_the_audit(work: Work, tmp_path: Path) -> None:
    plan, reports = work
    seen = inspected_table([Inspected(sha256=each.image.sha256) for each in plan.placed])
    files = files_table(plan.listing.files, seen, plan.placed, (), None)
    plan = dataclasses.replace(plan, files=files, spec=plan.spec.model_copy(update={"max_rejected": 0.1}))
    place = next(place for place, report in enumerate(reports) if report.split == "train")
    lost = reports[place].rows[0]
    late = Rejected(uri=lost.uri, label=str(lost.labels[0]), reason="unreadable", detail="gone")
    changed = reports[place].model_copy(update={"rows": reports[place].rows[1:], "rejected": (late,)})
    store = LocalStore(tmp_path / "store")
    publish(plan, [*reports[:place], changed, *reports[place + 1 :]], store)
    report = audit(AuditSpec(dataset="d"), store)
    assert (report.images, report.rejected) == (15, {"unreadable": 1})
    assert [each.examples[0].uri for each in report.findings if each.code == "rejected-unreadable"] == [lost.uri]
