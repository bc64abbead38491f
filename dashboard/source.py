"""Cached reading of the store through tljobs.runs: an address in, records and tables out. Nothing else reads it.

What can still change is kept for seconds, what never changes for an hour. The address is part of every cache key.
"""

from __future__ import annotations

import os
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import streamlit as st

import tljobs.runs
from tljobs import layout
from tljobs.errors import NotFound
from tljobs.records import DatasetManifest, EpochRow, EvaluationReport, ModelRecord, StepRow
from tljobs.runs import Run
from tljobs.store import Store, open_store

if TYPE_CHECKING:
    import pyarrow as pa

LIVE_TTL_S = 4.0
SETTLED_TTL_S = 3600.0
READ_THREADS = 4  # each may hold one row group of full-size images
DEFAULT_STORE = "./tljobs-store"


class Address(NamedTuple):
    """Where the store is: a folder or `s3://bucket/prefix`, and the server of the latter (None: AWS)."""

    uri: str
    endpoint_url: str | None


class Place(NamedTuple):
    """An image of a dataset: the `row` of the `shard`-th shard of a split."""

    shard: int
    row: int


def address() -> Address:
    """The store that this server was started for."""
    return Address(os.environ.get("TLJOBS_STORE", DEFAULT_STORE), os.environ.get("AWS_ENDPOINT_URL"))


@st.cache_resource(show_spinner=False)
def _store(at: Address) -> Store:
    return open_store(at.uri, at.endpoint_url)


# ------------------------------------------------------------------------------------------------------------- runs


@st.cache_data(ttl=LIVE_TTL_S, show_spinner="Reading the runs…")
def list_runs(at: Address) -> list[Run]:
    """All runs, newest first."""
    return tljobs.runs.list_runs(_store(at))


@st.cache_data(ttl=LIVE_TTL_S, show_spinner=False)
def open_run(at: Address, name: str) -> Run:
    """Raises NotFound when there is no such run."""
    return tljobs.runs.open_run(_store(at), name)


def metrics(at: Address, run: Run) -> tuple[list[StepRow], list[EpochRow]]:
    """Steps and epochs of a run: read anew while it runs, kept once it has ended (until an event follows)."""
    if run.status == "running":
        return tljobs.runs.run_metrics(_store(at), run)
    return _settled_metrics(at, run.name, len(run.events), run)


@st.cache_data(ttl=SETTLED_TTL_S, max_entries=64, show_spinner="Reading the metrics…")
def _settled_metrics(at: Address, name: str, events: int, _run: Run) -> tuple[list[StepRow], list[EpochRow]]:
    return tljobs.runs.run_metrics(_store(at), _run)


@st.cache_data(ttl=LIVE_TTL_S, show_spinner=False)
def evaluations(at: Address, name: str) -> list[EvaluationReport]:
    """All evaluations of a run, newest first."""
    return tljobs.runs.run_evaluations(_store(at), name)


def predictions(at: Address, report: EvaluationReport) -> pa.Table:
    """One row per image of an evaluation: id, uri, label, predicted, probabilities, loss, shard, row."""
    return _predictions(at, report.predictions.key, report.predictions.sha256, report)


@st.cache_data(ttl=SETTLED_TTL_S, max_entries=16, show_spinner="Reading the predictions…")
def _predictions(at: Address, key: str, sha256: str, _report: EvaluationReport) -> pa.Table:
    return tljobs.runs.run_predictions(_store(at), _report)


# ----------------------------------------------------------------------------------------------------------- images


@st.cache_data(ttl=SETTLED_TTL_S, max_entries=64, show_spinner=False)
def dataset(at: Address, name: str, version: str) -> DatasetManifest:
    """Raises NotFound when there is no such version."""
    return tljobs.runs.open_dataset(_store(at), f"{name}@{version}")


@st.cache_data(ttl=SETTLED_TTL_S, max_entries=128, show_spinner="Reading the images…")
def images(at: Address, name: str, version: str, split: str, places: tuple[Place, ...]) -> list[bytes]:
    """The stored images (JPEG or PNG) at `places` of a dataset's split, in that order."""
    store, manifest = _store(at), dataset(at, name, version)
    with ThreadPoolExecutor(READ_THREADS) as pool:
        return list(
            pool.map(lambda place: tljobs.runs.image_bytes(store, manifest, split, place.shard, place.row), places)
        )


# ----------------------------------------------------------------------------------------------------------- models


def runs_with_model(at: Address) -> list[str]:
    """Names of the finished runs that have a model, newest first."""
    finished = tuple(run.name for run in list_runs(at) if run.status == "finished")
    return [record.run for record in _models(at, finished)]


@st.cache_data(ttl=SETTLED_TTL_S, max_entries=8, show_spinner="Looking for models…")
def _models(at: Address, names: tuple[str, ...]) -> list[ModelRecord]:
    store = _store(at)

    def read(name: str) -> ModelRecord | None:
        try:
            return tljobs.runs.run_model(store, name)
        except NotFound:
            return None

    with ThreadPoolExecutor(tljobs.runs.READ_THREADS) as pool:
        return [record for record in pool.map(read, names) if record]


def model(at: Address, name: str) -> ModelRecord:
    """Raises NotFound when the run has no model."""
    return tljobs.runs.run_model(_store(at), name)


def fetch_model(at: Address, record: ModelRecord) -> tempfile.TemporaryDirectory[str]:
    """A run's model as a folder of its own (model.keras, model.json), which disappears with the returned object."""
    store = _store(at)
    folder = tempfile.TemporaryDirectory(prefix="tljobs-model-")
    Path(folder.name, "model.keras").write_bytes(store.read(layout.run_model_file(record.run)))
    Path(folder.name, "model.json").write_bytes(store.read(layout.run_model_record(record.run)))
    return folder
