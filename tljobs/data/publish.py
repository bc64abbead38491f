"""From shards that are written to a dataset that is published: tables, a last check, and the manifest.

A plan and the reports of its shards flow in; a manifest flows out. Whatever fails before the manifest is created has
published nothing.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import platform
from collections import Counter
from collections.abc import Sequence

import pyarrow as pa

from tljobs import layout
from tljobs.data import plan as planning
from tljobs.data.plan import DatasetPlan, Rejected, ShardReport
from tljobs.data.shards import INDEX_SCHEMA, REJECTED_SCHEMA, image_id, table_bytes
from tljobs.data.split import require_images
from tljobs.errors import NameTaken, NotFound, TljobsError, Unreachable
from tljobs.records import (
    SPLITS,
    DatasetManifest,
    FileInfo,
    Split,
    SplitInfo,
    classes_digest,
    new_token,
    now_utc,
)
from tljobs.results import PrepareResult
from tljobs.store import Store

LISTED_IGNORED = 100  # paths named in the manifest; the others are counted
PACKAGES = ("tljobs", "pyarrow", "pillow", "simplejpeg", "cykooz-resizer", "ray")


def find_published(plan: DatasetPlan, store: Store) -> PrepareResult | None:
    """The published dataset that equals the plan, if there is one."""
    key = layout.dataset_manifest(plan.spec.name, plan.version)
    try:
        data = store.read(key)
    except NotFound:
        return None
    manifest = DatasetManifest.from_bytes(data, key)
    _refuse_if_not_allowed_now(plan, manifest)
    return _result(manifest, data, store, " (was there already)")


def publish(plan: DatasetPlan, reports: Sequence[ShardReport], store: Store) -> PrepareResult:
    """Writes the tables, checks that all is there, and commits the manifest.

    Raises InputRefused when the decoder refused more than the spec allows or left a class without images, and
    Unreachable when the store does not hold what was put there.
    """
    rejected = [*plan.rejected, *_refused_by_decoder(plan, reports)]
    _check_images(plan, reports, rejected)
    found = find_published(plan, store)
    if found:  # by another process, meanwhile: its tables must stay as they are
        return found
    prefix = (plan.spec.name, plan.version)
    index = _put_table(store, layout.dataset_index(*prefix), _index_table(reports))
    refused = _put_table(store, layout.dataset_rejected(*prefix), _rejected_table(rejected))
    manifest = _manifest(plan, reports, rejected, index, refused)
    _check_sizes(store, manifest)
    data = manifest.to_bytes()
    try:
        store.create(layout.dataset_manifest(*prefix), data)
    except NameTaken:
        found = find_published(plan, store)
        if not found:
            raise
        return found
    return _result(manifest, data, store, "")


def _check_images(plan: DatasetPlan, reports: Sequence[ShardReport], rejected: Sequence[Rejected]) -> None:
    plan.refuse_if_too_many(rejected)
    rows = [(plan.listing.classes[row.label], report.split) for report in reports for row in report.rows]
    require_images(plan.listing.classes, rows)
    if len(rows) + plan.duplicates + len(rejected) != len(plan.listing.files):
        raise TljobsError(
            "images were lost on the way", plan.listing.source, "This is a bug in tljobs: please report it"
        )


def _refused_by_decoder(plan: DatasetPlan, reports: Sequence[ShardReport]) -> list[Rejected]:
    """With class names instead of indices."""
    names = plan.listing.classes
    return [each.model_copy(update={"label": names[int(each.label)]}) for report in reports for each in report.rejected]


def _refuse_if_not_allowed_now(plan: DatasetPlan, manifest: DatasetManifest) -> None:
    """A dataset published under a looser limit is not what is asked for now."""
    images = sum(split.images for split in manifest.splits.values())
    refused = Rejected(uri=f"see {manifest.rejected.key}", label="", reason="refused by the decoder", detail="")
    plan.refuse_if_too_many([*plan.rejected, *[refused] * (len(plan.placed) - images)])


def _manifest(
    plan: DatasetPlan,
    reports: Sequence[ShardReport],
    rejected: Sequence[Rejected],
    index: FileInfo,
    refused: FileInfo,
) -> DatasetManifest:
    spec, listing = plan.spec, plan.listing
    return DatasetManifest(
        name=spec.name,
        version=plan.version,
        source=listing.source,
        request=spec.model_dump(mode="json"),
        classes=listing.classes,
        classes_sha256=classes_digest(listing.classes),
        image_size=spec.image_size,
        stored_short_side=planning.stored_short_side(spec.image_size),
        decoder=planning.decoder_of(spec),
        splits={split: _split_info(split, reports, len(listing.classes)) for split in SPLITS},
        index=index,
        rejected=refused,
        rejected_count=len(rejected),
        rejected_reasons=dict(sorted(Counter(each.reason for each in rejected).items())),
        converted=_converted(reports),
        duplicates=plan.duplicates,
        ignored=listing.ignored[:LISTED_IGNORED],
        ignored_count=len(listing.ignored),
        environment={"python": platform.python_version()}
        | {name: importlib.metadata.version(name) for name in PACKAGES},
        created_utc=now_utc(),
        token=new_token(),
    )


def _converted(reports: Sequence[ShardReport]) -> dict[str, int]:
    return dict(sorted(Counter(each for report in reports for row in report.rows for each in row.converted).items()))


def _split_info(split: Split, reports: Sequence[ShardReport], classes: int) -> SplitInfo:
    own = [report for report in reports if report.split == split]
    counts = Counter(row.label for report in own for row in report.rows)
    return SplitInfo(
        images=counts.total(),
        per_class=tuple(counts[label] for label in range(classes)),
        shards=tuple(report.info for report in own),
    )


def _index_table(reports: Sequence[ShardReport]) -> pa.Table:
    rows = [
        {**row.model_dump(), "id": image_id(row.sha256), "split": report.split, "shard": report.shard, "row": number}
        for report in reports
        for number, row in enumerate(report.rows)
    ]
    return pa.Table.from_pylist(rows, schema=INDEX_SCHEMA)


def _rejected_table(rejected: Sequence[Rejected]) -> pa.Table:
    rows = [each.model_dump() for each in sorted(rejected, key=lambda each: each.uri)]
    return pa.Table.from_pylist(rows, schema=REJECTED_SCHEMA)


def _put_table(store: Store, key: str, table: pa.Table) -> FileInfo:
    data = table_bytes(table)
    store.put(key, data)
    return FileInfo(key=key, size_bytes=len(data), sha256=hashlib.sha256(data).hexdigest())


def _check_sizes(store: Store, manifest: DatasetManifest) -> None:
    """Raises Unreachable when the store does not hold what was put there."""
    sizes = {entry.key: entry.size_bytes for entry in store.list(f"{layout.dataset(manifest.name, manifest.version)}/")}
    shards = [shard for split in manifest.splits.values() for shard in split.shards]
    for file in (manifest.index, manifest.rejected, *shards):
        if sizes.get(file.key) != file.size_bytes:
            raise Unreachable(
                f"the store holds {sizes.get(file.key, 0)} bytes instead of {file.size_bytes}",
                f"{store.uri}/{file.key}",
                "Run it again",
            )


def _result(manifest: DatasetManifest, data: bytes, store: Store, remark: str) -> PrepareResult:
    """`data` are the manifest's bytes as they stand in the store; a remark says that they stood there before."""
    images = {split: info.images for split, info in manifest.splits.items()}
    counts = ", ".join(f"{count} {split}" for split, count in images.items())
    return PrepareResult(
        dataset=manifest.name,
        version=manifest.version,
        manifest_sha256=hashlib.sha256(data).hexdigest(),
        classes=list(manifest.classes),
        images=images,
        rejected=manifest.rejected_count,
        converted=manifest.converted,
        duplicates=manifest.duplicates,
        reused=bool(remark),
        made=f"dataset {manifest.name} version {manifest.version} in {store.uri}: {counts}{remark}",
        next_command=f"tljobs train {manifest.name}",
    )
