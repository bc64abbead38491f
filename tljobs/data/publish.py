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
from tljobs.data.audit import audit_files
from tljobs.data.files import probes, with_rejected
from tljobs.data.plan import DatasetPlan, Rejected, ShardReport
from tljobs.data.shards import INDEX_SCHEMA, REJECTED_SCHEMA, for_task, image_id, label_value, table_bytes
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
    return _result(manifest, data, store, " (was there already)", reused=True)


def publish(plan: DatasetPlan, reports: Sequence[ShardReport], store: Store) -> PrepareResult:
    """Writes the tables, checks that all is there, and commits the manifest.

    Raises InputRefused when the decoder refused more than the spec allows or left a class without images, and
    Unreachable when the store does not hold what was put there.
    """
    late = _refused_by_decoder(plan, reports)
    rejected = [*plan.rejected, *late]
    _check_images(plan, reports, rejected)
    found = find_published(plan, store)
    if found:  # by another process, meanwhile: its tables must stay as they are
        return found
    prefix = (plan.spec.name, plan.version)
    index = _put_table(store, layout.dataset_index(*prefix), _index_table(plan, reports))
    refused = _put_table(store, layout.dataset_rejected(*prefix), _rejected_table(rejected))
    audit = _put_audit(plan, late, store)
    manifest = _manifest(plan, reports, rejected, index, refused, audit)
    _check_sizes(store, manifest)
    data = manifest.to_bytes()
    try:
        store.create(layout.dataset_manifest(*prefix), data)
    except NameTaken:
        found = find_published(plan, store)
        if not found:
            raise
        return found
    copied = sum(report.copied for report in reports)
    return _result(manifest, data, store, f"; {copied} images copied from an earlier version" if copied else "")


def _check_images(plan: DatasetPlan, reports: Sequence[ShardReport], rejected: Sequence[Rejected]) -> None:
    plan.refuse_if_too_many(rejected)
    rows = [(row.labels, report.split) for report in reports for row in report.rows]
    names = plan.listing.classes
    require_images(names, [(tuple(names[label] for label in labels), split) for labels, split in rows])
    if len(rows) + plan.duplicates + len(rejected) != len(plan.listing.files):
        raise TljobsError(
            "images were lost on the way", plan.listing.source, "This is a bug in tljobs: please report it"
        )


def _refused_by_decoder(plan: DatasetPlan, reports: Sequence[ShardReport]) -> list[Rejected]:
    """With class names instead of indices."""
    names = plan.listing.classes

    def named(label: str) -> str:
        return "|".join(names[int(index)] for index in label.split("|") if index)

    return [each.model_copy(update={"label": named(each.label)}) for report in reports for each in report.rejected]


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
    audit: FileInfo | None,
) -> DatasetManifest:
    spec, listing = plan.spec, plan.listing
    return DatasetManifest(
        name=spec.name,
        version=plan.version,
        source=listing.source,
        task=listing.task,
        request=spec.model_dump(mode="json"),
        classes=listing.classes,
        classes_sha256=classes_digest(listing.classes),
        image_size=spec.image_size,
        stored_short_side=planning.stored_short_side(spec.image_size),
        decoder=planning.decoder_of(spec),
        splits={split: _split_info(split, reports, len(listing.classes)) for split in SPLITS},
        index=index,
        rejected=refused,
        audit=audit,
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
    counts = Counter(label for report in own for row in report.rows for label in row.labels)
    return SplitInfo(
        images=sum(report.info.rows for report in own),
        per_class=tuple(counts[label] for label in range(classes)),
        shards=tuple(report.info for report in own),
        thumbnails=tuple(report.thumbnails for report in own),
    )


def _index_table(plan: DatasetPlan, reports: Sequence[ShardReport]) -> pa.Table:
    task, known = plan.listing.task, probes(plan.files) if plan.files is not None else {}
    rows = [
        {
            **row.model_dump(),
            **known.get(row.sha256, {}),
            "id": image_id(row.sha256),
            "label": label_value(row.labels, task),
            "split": report.split,
            "shard": report.shard,
            "row": number,
        }
        for report in reports
        for number, row in enumerate(report.rows)
    ]
    return pa.Table.from_pylist(rows, schema=for_task(INDEX_SCHEMA, task))


def _rejected_table(rejected: Sequence[Rejected]) -> pa.Table:
    rows = [each.model_dump() for each in sorted(rejected, key=lambda each: each.uri)]
    return pa.Table.from_pylist(rows, schema=REJECTED_SCHEMA)


def _put_audit(plan: DatasetPlan, late: Sequence[Rejected], store: Store) -> FileInfo | None:
    if plan.files is None:
        return None
    report = audit_files(with_rejected(plan.files, late), plan.listing.classes, plan.spec)
    return _put(store, layout.dataset_audit(plan.spec.name, plan.version), report.to_bytes())


def _put_table(store: Store, key: str, table: pa.Table) -> FileInfo:
    return _put(store, key, table_bytes(table))


def _put(store: Store, key: str, data: bytes) -> FileInfo:
    store.put(key, data)
    return FileInfo(key=key, size_bytes=len(data), sha256=hashlib.sha256(data).hexdigest())


def _check_sizes(store: Store, manifest: DatasetManifest) -> None:
    """Raises Unreachable when the store does not hold what was put there."""
    sizes = {entry.key: entry.size_bytes for entry in store.list(f"{layout.dataset(manifest.name, manifest.version)}/")}
    shards = [shard for split in manifest.splits.values() for shard in (*split.shards, *split.thumbnails)]
    for file in filter(None, (manifest.index, manifest.rejected, manifest.audit, *shards)):
        if sizes.get(file.key) != file.size_bytes:
            raise Unreachable(
                f"the store holds {sizes.get(file.key, 0)} bytes instead of {file.size_bytes}",
                f"{store.uri}/{file.key}",
                "Run it again",
            )


def _result(
    manifest: DatasetManifest, data: bytes, store: Store, remark: str, *, reused: bool = False
) -> PrepareResult:
    """`data` are the manifest's bytes as they stand in the store."""
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
        reused=reused,
        made=f"dataset {manifest.name} version {manifest.version} in {store.uri}: {counts}{remark}",
        next_command=f"tljobs train {manifest.name}",
    )
