"""The verb `prepare`: a source of labelled files into a published dataset.

In: a PrepareSpec and a store. Out: shards, index and table of rejected files in the store, and the manifest that
commits them, written last. Two parallel passes of Ray Data carry addresses and hashes between processes, never pixels:
the first inspects the files and leaves their drafts (the form stored for training) in the store, the second has one
task write one shard. In between, everything is decided by the pure functions of tljobs.data.plan, tljobs.data.split and
tljobs.data.audit.
"""

from __future__ import annotations

import functools
import json
import logging
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, TypeVar

import pyarrow as pa

from tljobs import errors, layout
from tljobs.data import plan as planning
from tljobs.data import workers
from tljobs.data.audit import audit_files, refuse_blocked
from tljobs.data.drafts import Drafts
from tljobs.data.earlier import Earlier, newest
from tljobs.data.files import files_table, find_near, inspected_table
from tljobs.data.groups import keys_together
from tljobs.data.plan import DatasetPlan, InspectReport, InspectTask, Placed, Rejected, ShardReport
from tljobs.data.publish import find_published, publish
from tljobs.data.sources import Listing, SourceFile, SourceOptions, list_source
from tljobs.data.split import Percentages, assign_splits, require_images, unique_images
from tljobs.progress import SILENT, Reporter
from tljobs.ray_session import ray_session
from tljobs.records import SPLITS, Part, new_token
from tljobs.results import PrepareResult
from tljobs.specs import PrepareSpec
from tljobs.store import S3Store, Store

MAX_FILE_BYTES = 2**30  # a file is read whole; the largest image accepted by default is 600 MB raw
MAX_INSPECT_FILES = 512  # per task: enough work to outweigh its start, few enough to show progress

TaskT = TypeVar("TaskT", bound=Part)
ReportT = TypeVar("ReportT", bound=Part)


def prepare(
    spec: PrepareSpec, store: Store, reporter: Reporter = SILENT, *, dry_run: bool = False
) -> PrepareResult | None:
    """Prepares a dataset and publishes it, or finds the equal one that is published.

    Args:
        spec: what is asked for.
        store: where the dataset goes; all workers must see it.
        reporter: hears the plan and the progress.
        dry_run: return after the plan, with no image read; archives are unpacked into the store all the same.

    Returns:
        What was made; None after a dry run.

    Raises:
        UsageError, NotFound: the source, its columns or the class names are wrong. InputRefused: no images, a damaged
        source, a class without training or validation images, too many rejected. Unreachable: the store, source or
        cluster cannot be used.
        Nothing is published in any of these cases.
    """
    layout.checked_id(spec.name, "dataset name")
    endpoint_url = store.endpoint_url if isinstance(store, S3Store) else os.environ.get("AWS_ENDPOINT_URL")
    listing = list_source(spec.source, _source_options(spec), endpoint_url, store=store, reporter=reporter)
    reporter.plan(f"prepare {spec.name}", _plan_rows(spec, listing, store))
    if dry_run:
        return None
    with ray_session(store):
        processes = spec.workers or _cluster_cpus()
        drafts = Drafts(store, new_token())
        try:
            inspected = _inspect_files(spec, listing.files, drafts, store, processes, endpoint_url, reporter)
            before = newest(store, spec.name)
            plan = _plan_dataset(spec, listing, inspected, before)
            _audit(plan, reporter)
            found = find_published(plan, store)
            if found:
                return found
            reports = _write_shards(plan, before, drafts, store, processes, endpoint_url, reporter)
        finally:
            drafts.delete()
    return publish(plan, reports, store)


def _source_options(spec: PrepareSpec) -> SourceOptions:
    return SourceOptions(
        classes=spec.classes,
        image_column=spec.image_column,
        label_columns=spec.label_column or (),
        label_separator=spec.label_separator,
        split_column=spec.split_column,
        group_by=spec.group_by,
    )


def _plan_rows(spec: PrepareSpec, listing: Listing, store: Store) -> list[tuple[str, str]]:
    short_side = planning.stored_short_side(spec.image_size)
    split = "as the source says" if listing.has_given_split else f"{spec.split} (train/val/test) by content"
    return [
        ("source", listing.source),
        ("images", f"{len(listing.files)} files, {listing.size_bytes / 1e6:.1f} MB; {len(listing.ignored)} ignored"),
        *listing.understood,
        ("split", split),
        ("stored as", f"shorter side {short_side} px for {spec.image_size} px networks, {spec.shard_images} per shard"),
        ("workers", str(spec.workers or "all CPUs of the cluster")),
        ("output", f"{store.uri}/{layout.datasets_prefix()}{spec.name}"),
    ]


def _inspect_files(
    spec: PrepareSpec,
    files: Sequence[SourceFile],
    drafts: Drafts,
    store: Store,
    processes: int,
    endpoint_url: str | None,
    reporter: Reporter,
) -> pa.Table:
    """First pass: one row of INSPECTED_SCHEMA per file, in the files' order; `drafts` learns of the drafts."""
    size = min(MAX_INSPECT_FILES, -(-len(files) // (4 * processes)))
    chunks = [files[first : first + size] for first in range(0, len(files), size)]
    tasks = [
        InspectTask(
            addresses=tuple(file.address for file in chunk),
            sizes_bytes=tuple(file.size_bytes for file in chunk),
            draft_key=drafts.new_pack(),
        )
        for chunk in chunks
    ]
    work = functools.partial(
        workers.inspect_files,
        store=store,
        endpoint_url=endpoint_url,
        max_bytes=MAX_FILE_BYTES,
        decoding=planning.decoding_of(spec),
    )
    tables: dict[int, pa.Table] = {}
    done = 0
    for number, report in _run_tasks(tasks, work, InspectReport, processes):
        tables[number] = inspected_table(report.files)
        drafts.add(number, report.files)
        done += len(report.files)
        reporter.progress("reading", done, len(files))
    return pa.concat_tables([tables[number] for number in range(len(tasks))])


def _plan_dataset(spec: PrepareSpec, listing: Listing, inspected: pa.Table, before: Earlier | None) -> DatasetPlan:
    """Settles duplicates, conflicts, near duplicates and splits. Raises InputRefused: see `prepare`."""
    told = [inspected[name].to_pylist() for name in ("sha256", "reason", "detail")]
    rows = list(zip(listing.files, *told, strict=True))
    unique = unique_images((file, sha256) for file, sha256, reason, _ in rows if not reason)
    rejected = [
        Rejected(uri=file.uri, label="|".join(file.labels), reason=reason, detail=detail)
        for file, _, reason, detail in rows
        if reason
    ]
    rejected += [
        Rejected(uri=image.uri, label="|".join(image.labels), reason="label_conflict", detail=f"SHA-256 {image.sha256}")
        for image in unique.conflicts
    ]
    sha256s = [image.sha256 for image in unique.kept]
    near = None if spec.near_duplicates == "off" else find_near(inspected, sha256s)
    numbers = near.groups if near and spec.near_duplicates == "together" else None
    together = keys_together(sha256s, [image.group for image in unique.kept], numbers)
    earlier = before.splits(spec) if before else {}
    splits = assign_splits(unique.kept, Percentages.parse(spec.split), together, earlier)
    placed = tuple(Placed(image=image, split=split) for image, split in zip(unique.kept, splits, strict=True))
    plan = DatasetPlan(
        spec=spec,
        listing=listing,
        placed=placed,
        duplicates=unique.duplicates,
        rejected=tuple(rejected),
        files=files_table(listing.files, inspected, placed, rejected, near),
    )
    plan.refuse_if_too_many(rejected)
    require_images(listing.classes, [(each.image.labels, each.split) for each in plan.placed])
    return plan


def _audit(plan: DatasetPlan, reporter: Reporter) -> None:
    """Tells what warns. Raises InputRefused for what blocks."""
    report = audit_files(plan.files, plan.listing.classes, plan.spec)
    warnings = [(finding.code, finding.text) for finding in report.findings if finding.severity == "warns"]
    if warnings:
        reporter.plan("audit", warnings)
    refuse_blocked(report, plan.listing.source)


def _write_shards(
    plan: DatasetPlan,
    before: Earlier | None,
    drafts: Drafts,
    store: Store,
    processes: int,
    endpoint_url: str | None,
    reporter: Reporter,
) -> list[ShardReport]:
    """Second pass: the reports, ordered by split and shard."""
    work = functools.partial(
        workers.write_shard,
        store=store,
        endpoint_url=endpoint_url,
        decoding=planning.decoding_of(plan.spec),
    )
    reports: list[ShardReport] = []
    done, bad = 0, len(plan.rejected)
    tasks = planning.shard_tasks(plan, drafted=drafts.of)
    if before:
        stored = functools.partial(before.stored, spec=plan.spec)
        tasks = planning.shard_tasks(plan, stored, before.shards, drafts.of)
    for _, report in _run_tasks(tasks, work, ShardReport, processes):
        reports.append(report)
        done += len(report.rows) + len(report.rejected)
        bad += len(report.rejected)
        reporter.progress("writing", done, len(plan.placed), f"{bad} rejected")
    return sorted(reports, key=lambda report: (SPLITS.index(report.split), report.shard))


def _cluster_cpus() -> int:
    import ray

    return max(1, int(ray.cluster_resources().get("CPU", 1)))


def _run_tasks(
    tasks: Iterable[TaskT], work: Callable[[TaskT], ReportT], report_type: type[ReportT], processes: int
) -> Iterator[tuple[int, ReportT]]:
    """Runs `work` on every task in at most `processes` processes of one CPU each.

    Yields (number of the task, report) as tasks finish. A TljobsError that `work` raises is raised here, as the same
    class with the same texts: Ray Data itself would wrap it beyond recognition.
    """
    import ray.data
    from ray.data import DataContext, TaskPoolStrategy

    logging.getLogger("ray.data").setLevel(logging.ERROR)  # the reporter says how far it is
    DataContext.get_current().enable_progress_bars = False
    rows: list[dict[str, Any]] = []
    task_type: type[TaskT] | None = None
    for number, task in enumerate(tasks):
        task_type = type(task)
        rows.append({"number": number, "task": task.model_dump_json()})

    def run(row: dict[str, Any]) -> dict[str, Any]:
        assert task_type
        try:
            report, error = work(task_type.model_validate_json(row["task"])).model_dump_json(), ""
        except errors.TljobsError as raised:
            report, error = "", json.dumps([type(raised).__name__, *raised.args])
        return {"number": row["number"], "report": report, "error": error}

    # One block per task: a block is what Ray Data gives to a process at a time.
    data = ray.data.from_items(rows, override_num_blocks=len(rows))
    rows.clear()  # Ray's object store has them now
    for row in data.map(run, num_cpus=1, compute=TaskPoolStrategy(size=processes)).iter_rows():
        if row["error"]:
            kind, *texts = json.loads(row["error"])
            raise getattr(errors, kind)(*texts)
        yield row["number"], report_type.model_validate_json(row["report"])
