"""The read side: datasets, runs and searches as the store's records tell them. Writes nothing.

The command line, the Python API and the dashboard all read through this module. It imports no heavy library.
"""

from __future__ import annotations

import datetime
import os
import socket
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tljobs import layout
from tljobs.errors import NotFound
from tljobs.journal import Journal
from tljobs.records import (
    AuditReport,
    DatasetManifest,
    EpochRow,
    EvaluationReport,
    Event,
    Heartbeat,
    MetricsPiece,
    ModelRecord,
    RunRecord,
    SearchRecord,
    Status,
    StepRow,
)
from tljobs.store import Store

if TYPE_CHECKING:
    import pyarrow as pa

HEARTBEAT_EVERY_S = 10.0
DEAD_AFTER_S = 60.0  # six missed beats
READ_THREADS = 16


# --------------------------------------------------------------------------------------------------------- datasets


def list_datasets(store: Store) -> list[DatasetManifest]:
    """All published dataset versions, newest first."""
    keys = [
        layout.dataset_manifest(name, version)
        for name in store.folders(layout.datasets_prefix())
        for version in store.folders(f"{layout.datasets_prefix()}{name}/")
    ]
    manifests = [DatasetManifest.from_bytes(data, key) for key, data in _read_present(store, keys)]
    return sorted(manifests, key=lambda manifest: manifest.created_utc, reverse=True)


def open_dataset(store: Store, reference: str) -> DatasetManifest:
    """The dataset NAME (its newest version) or NAME@VERSION. Raises NotFound with the names that exist."""
    name, _, version = reference.partition("@")
    layout.checked_id(name, "dataset name")
    versions = [version] if version else store.folders(f"{layout.datasets_prefix()}{name}/")
    keys = [layout.dataset_manifest(name, each) for each in versions]
    found = [DatasetManifest.from_bytes(data, key) for key, data in _read_present(store, keys)]
    if not found:
        known = ", ".join(sorted({manifest.name for manifest in list_datasets(store)})) or "none yet"
        raise NotFound("no such dataset", reference, f"Datasets in {store.uri}: {known}")
    return max(found, key=lambda manifest: manifest.created_utc)


def dataset_index(store: Store, manifest: DatasetManifest) -> pa.Table:
    """One row per image: see tljobs.data.shards.INDEX_SCHEMA."""
    return _read_table(store, manifest.index.key)


def dataset_rejected(store: Store, manifest: DatasetManifest) -> pa.Table:
    """One row per rejected image: uri, reason, detail."""
    return _read_table(store, manifest.rejected.key)


def dataset_audit(store: Store, manifest: DatasetManifest) -> AuditReport | None:
    """What prepare noticed about the files; None for a dataset of a release that made no audit."""
    if manifest.audit is None:
        return None
    return AuditReport.from_bytes(store.read(manifest.audit.key), manifest.audit.key)


def image_bytes(store: Store, manifest: DatasetManifest, split: str, shard: int, row: int) -> bytes:
    """The stored image (JPEG or PNG) at `row` of the `shard`-th shard of `split`; reads one row group."""
    import pyarrow.parquet as pq

    info = manifest.splits[split].shards[shard]
    group, first = 0, 0
    while row >= first + info.row_groups[group]:
        first += info.row_groups[group]
        group += 1
    with store.open_input(info.key) as file:
        column = pq.ParquetFile(file).read_row_group(group, columns=["image"], use_threads=False)["image"]
    data: bytes = column[row - first].as_py()
    return data


# ------------------------------------------------------------------------------------------------------------- runs


@dataclass(frozen=True)
class Run:
    """A run as its records tell it at one moment."""

    record: RunRecord
    events: tuple[Event, ...]
    status: Status

    @property
    def name(self) -> str:
        return self.record.run

    @property
    def attempt(self) -> int:
        """The newest attempt, counted from 1; 0 before the first."""
        return max((event.attempt for event in self.events if event.kind == "attempt_started"), default=0)

    @property
    def scores(self) -> dict[str, dict[str, float]]:
        """Split -> score -> value, once finished."""
        return dict(self._last("finished").get("scores", {}))

    @property
    def progress(self) -> dict[str, Any]:
        """Data of the newest checkpoint event: phase, epoch, val_accuracy, …"""
        return self._last("checkpoint")

    @property
    def progress_step(self) -> int:
        """Step of the newest checkpoint; 0 before the first."""
        return next((event.step for event in reversed(self.events) if event.kind == "checkpoint"), 0)

    @property
    def images_per_s(self) -> float:
        """Training images per second over the whole run, once finished."""
        return float(self._last("finished").get("images_per_s", 0.0))

    @property
    def plan(self) -> list[dict[str, Any]]:
        """The phases that have begun (records.PhasePlan as dictionaries), in order."""
        begun = {event.data["name"]: event.data for event in self.events if event.kind == "phase_started"}
        return list(begun.values())

    @property
    def failure(self) -> dict[str, Any]:
        """what, where, hint and exit code of the failure, if the run failed."""
        return self._last("failed") if self.status == "failed" else {}

    def _last(self, kind: str) -> dict[str, Any]:
        return next((event.data for event in reversed(self.events) if event.kind == kind), {})


def list_runs(store: Store) -> list[Run]:
    """All runs, newest first."""
    names = store.folders(layout.runs_prefix())
    with ThreadPoolExecutor(READ_THREADS) as pool:
        found = [run for run in pool.map(lambda name: _try_open_run(store, name), names) if run]
    return sorted(found, key=lambda run: run.record.created_utc, reverse=True)


def open_run(store: Store, name: str) -> Run:
    """Raises NotFound with the newest names that exist."""
    run = _try_open_run(store, layout.checked_id(name, "run name"))
    if run is None:
        known = ", ".join(store.folders(layout.runs_prefix())[:10]) or "none yet"
        raise NotFound("no such run", name, f"Runs in {store.uri}: {known}")
    return run


def run_journal(store: Store, name: str) -> Journal:
    return Journal(store, lambda seq: layout.run_event(name, seq))


def run_metrics(store: Store, run: Run) -> tuple[list[StepRow], list[EpochRow]]:
    """Steps and epochs that count: of each attempt, those up to the step from which the next one resumed."""
    entries = [entry.key for entry in store.list(layout.run_metrics_prefix(run.name))]
    pieces = [MetricsPiece.from_bytes(data, key) for key, data in _read_present(store, entries)]
    starts = [(event.attempt, event.step) for event in run.events if event.kind == "attempt_started"]

    def counts(attempt: int, step: int) -> bool:
        return all(step <= start for later, start in starts if later > attempt)

    steps = {row.step: row for piece in pieces for row in piece.steps if counts(piece.attempt, row.step)}
    epochs = {row.step: row for piece in pieces for row in piece.epochs if counts(piece.attempt, row.step)}
    return [steps[key] for key in sorted(steps)], [epochs[key] for key in sorted(epochs)]


def run_evaluations(store: Store, name: str) -> list[EvaluationReport]:
    """All evaluations of a run, newest first."""
    prefix = f"{layout.run(name)}/evaluations/"
    keys = [layout.run_evaluation_report(name, each) for each in store.folders(prefix)]
    reports = [EvaluationReport.from_bytes(data, key) for key, data in _read_present(store, keys)]
    return sorted(reports, key=lambda report: report.created_utc, reverse=True)


def run_predictions(store: Store, report: EvaluationReport) -> pa.Table:
    """Per-image table of an evaluation: see tljobs.evaluation.report.PREDICTIONS_SCHEMA."""
    return _read_table(store, report.predictions.key)


def run_model(store: Store, name: str) -> ModelRecord:
    """Raises NotFound when the run has no model (not finished, or a trial that did not win)."""
    key = layout.run_model_record(name)
    try:
        return ModelRecord.from_bytes(store.read(key), key)
    except NotFound:
        hint = "A run has one when it is finished: see `tljobs runs show`"
        raise NotFound("the run has no model", name, hint) from None


def _try_open_run(store: Store, name: str) -> Run | None:
    key = layout.run_record(name)
    try:
        record = RunRecord.from_bytes(store.read(key), key)
    except NotFound:
        return None
    events = tuple(run_journal(store, name).read())
    return Run(record, events, _status(store, name, events))


def _status(store: Store, name: str, events: tuple[Event, ...]) -> Status:
    """The newest end or beginning decides; while there is no end, the heartbeat does."""
    for event in reversed(events):
        if event.kind == "attempt_started":
            break
        if event.kind in ("finished", "failed", "stopped"):
            return event.kind
    if is_alive(store, name):
        return "running"
    return "interrupted" if events else "created"


def is_alive(store: Store, name: str) -> bool:
    """Whether the process that drives the run still beats. On this host its process id is asked first."""
    key = layout.run_heartbeat(name)
    try:
        beat = Heartbeat.from_bytes(store.read(key), key)
    except NotFound:
        return False
    if beat.host == socket.gethostname() and not _process_exists(beat.pid):
        return False
    age = datetime.datetime.now(datetime.UTC) - datetime.datetime.fromisoformat(beat.time_utc)
    return age.total_seconds() < DEAD_AFTER_S


def _process_exists(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


# --------------------------------------------------------------------------------------------------------- searches


@dataclass(frozen=True)
class Search:
    """A search as its records tell it; `trials` are runs, in the order they were started."""

    record: SearchRecord
    events: tuple[Event, ...]
    trials: tuple[Run, ...]

    @property
    def status(self) -> Status:
        if self.events and self.events[-1].kind in ("finished", "stopped"):
            return self.events[-1].kind
        if any(trial.status == "running" for trial in self.trials):
            return "running"
        return "interrupted" if self.trials else "created"

    @property
    def best(self) -> str | None:
        """The best run, once the search is finished."""
        return next((event.data.get("best") for event in self.events if event.kind == "finished"), None)


def list_searches(store: Store) -> list[Search]:
    """All searches, newest first."""
    runs = list_runs(store)
    found: list[Search] = []
    for name in store.folders(layout.searches_prefix()):
        try:
            found.append(_open_search(store, name, runs))
        except NotFound:
            continue
    return sorted(found, key=lambda search: search.record.created_utc, reverse=True)


def open_search(store: Store, name: str) -> Search:
    layout.checked_id(name, "search name")
    try:
        return _open_search(store, name, list_runs(store))
    except NotFound:
        known = ", ".join(store.folders(layout.searches_prefix())[:10]) or "none yet"
        raise NotFound("no such search", name, f"Searches in {store.uri}: {known}") from None


def search_journal(store: Store, name: str) -> Journal:
    return Journal(store, lambda seq: layout.search_event(name, seq))


def _open_search(store: Store, name: str, runs: list[Run]) -> Search:
    key = layout.search_record(name)
    record = SearchRecord.from_bytes(store.read(key), key)
    events = tuple(search_journal(store, name).read())
    trials = tuple(sorted((run for run in runs if run.record.search == name), key=lambda run: run.name))
    return Search(record, events, trials)


# ---------------------------------------------------------------------------------------------------------- helpers


def _read_present(store: Store, keys: list[str]) -> list[tuple[str, bytes]]:
    """Reads many small objects at a time; those that are not there (not yet committed) are left out."""

    def read(key: str) -> tuple[str, bytes] | None:
        try:
            return key, store.read(key)
        except NotFound:
            return None

    if not keys:
        return []
    with ThreadPoolExecutor(min(READ_THREADS, len(keys))) as pool:
        return [item for item in pool.map(read, keys) if item]


def _read_table(store: Store, key: str) -> pa.Table:
    import pyarrow.parquet as pq

    with store.open_input(key) as file:
        return pq.ParquetFile(file).read(use_threads=False)
