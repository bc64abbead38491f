"""Reserving a run's name: the same request finds its run again, another request is refused the name."""

from __future__ import annotations

import hashlib
import importlib.metadata
import platform
from dataclasses import dataclass

from tljobs import layout
from tljobs.errors import NameTaken, NotFound
from tljobs.records import DatasetManifest, RunRecord, new_token, now_utc
from tljobs.runs import Run, open_run
from tljobs.specs import NOT_PART_OF_REQUEST, TrainSpec
from tljobs.store import Store

PACKAGES = ("tljobs", "ray", "tensorflow", "keras", "numpy", "pyarrow", "pillow", "simplejpeg", "cykooz-resizer")


@dataclass(frozen=True)
class Reservation:
    """The run's name is ours; `run` is its state before this call (`created` if it is new)."""

    run: Run
    is_new: bool


def request_sha256(spec: TrainSpec, manifest: DatasetManifest) -> str:
    """What was asked for: the spec without where and how, on this very dataset version."""
    text = f"{spec.digest(NOT_PART_OF_REQUEST | {'dataset'})} {manifest.name}@{manifest.version}"
    return hashlib.sha256(text.encode()).hexdigest()


def default_run_name(spec: TrainSpec, manifest: DatasetManifest) -> str:
    """The same request always gets the same name."""
    digest = request_sha256(spec, manifest)[:8]
    return f"{manifest.name[:30]}-{spec.backbone[:22]}-{digest}"


def reserve(
    store: Store, spec: TrainSpec, manifest: DatasetManifest, manifest_sha256: str, search: str | None = None
) -> Reservation:
    """Creates the run's record, or finds the one of the same request.

    Raises NameTaken when the name belongs to another request, or to a run that is alive.
    """
    name = spec.name or default_run_name(spec, manifest)
    record = RunRecord(
        run=layout.checked_id(name, "run name"),
        spec=spec.model_dump(mode="json"),
        request_sha256=request_sha256(spec, manifest),
        dataset=manifest.name,
        version=manifest.version,
        manifest_sha256=manifest_sha256,
        classes=manifest.classes,
        classes_sha256=manifest.classes_sha256,
        search=search,
        environment=environment(),
        created_utc=now_utc(),
        token=new_token(),
    )
    try:
        store.create(layout.run_record(name), record.to_bytes())
    except NameTaken:
        return Reservation(_same_request(open_run(store, name), record), is_new=False)
    return Reservation(open_run(store, name), is_new=True)


def find_reserved(store: Store, spec: TrainSpec, manifest: DatasetManifest) -> Run | None:
    """The run of an equal request, without reserving anything. Raises NameTaken like `reserve`."""
    name = spec.name or default_run_name(spec, manifest)
    try:
        run = open_run(store, name)
    except NotFound:
        return None
    wanted = run.record.model_copy(update={"request_sha256": request_sha256(spec, manifest)})
    return _same_request(run, wanted)


def environment() -> dict[str, str]:
    """Versions of what computes, for the records."""
    found = {"python": platform.python_version(), "platform": platform.platform()}
    for package in PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def _same_request(run: Run, wanted: RunRecord) -> Run:
    if run.record.request_sha256 != wanted.request_sha256:
        raise NameTaken(
            "the run name is taken by another request",
            run.name,
            f"Choose another --name, or see it: tljobs runs show {run.name}",
        )
    if run.status == "running":
        raise NameTaken("the run is being trained right now", run.name, f"See it: tljobs runs show {run.name}")
    return run
