"""The verb `doctor`: can this machine, this cluster and this store do the job?

A spec and a store flow in; a list of checks flows out, each with a figure and, where it is not well, its fix. The store
is probed with a small object under a name of its own, which goes again with everything that was made for it.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import json
import os
import platform
import secrets
import shutil
import socket
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pydantic import BaseModel, ConfigDict

from tljobs.errors import NameTaken, NotFound, TljobsError, Unreachable, UsageError
from tljobs.ray_session import ray_session
from tljobs.specs import DoctorSpec
from tljobs.store import Limits, LocalStore, S3Store, Store

if TYPE_CHECKING:
    from packaging.requirements import Requirement

PROBE_LIMITS = Limits(read_timeout_s=10, attempts=4, patience_s=3, total_s=30)  # who asks is waiting for the answer
SLOW_MS = 1000
CLOCK_OFFSET_S = 60  # S3 refuses requests that are 15 minutes off
RAY_TIMEOUT_S = 5
STORE, RAY, VERSIONS, MACHINE = "store", "ray", "versions", "machine"
Status = Literal["ok", "warning", "failed"]


class Check(BaseModel):
    """One line: `area` and `name` say what was looked at, `figure` what was found, `fix` what to do about it."""

    model_config = ConfigDict(frozen=True)

    area: str
    name: str
    status: Status
    figure: str
    fix: str = ""


class Diagnosis(BaseModel):
    """All checks; `status` is the worst of them, `code` the exit code."""

    model_config = ConfigDict(frozen=True)

    checks: tuple[Check, ...]

    @property
    def status(self) -> Status:
        found = {check.status for check in self.checks}
        return "failed" if "failed" in found else "warning" if "warning" in found else "ok"

    @property
    def code(self) -> int:
        """0 without a failure; 5 if the store or the cluster is out of reach; else 1."""
        failed = {check.area for check in self.checks if check.status == "failed"}
        return Unreachable.exit_code if failed & {STORE, RAY} else int(bool(failed))


def doctor(spec: DoctorSpec, store: Store) -> Diagnosis:
    """Looks at the store, the cluster, the packages and the machine.

    Raises UsageError when the constraints file cannot be read; all else that is wrong is a check.
    """
    if isinstance(store, S3Store):
        store = S3Store(store.bucket, store.prefix, store.endpoint_url, PROBE_LIMITS)
    versions = version_checks(spec.constraints)
    return Diagnosis(checks=(*store_checks(store), *ray_checks(store), *versions, *machine_checks(spec, store)))


def diagnosis_text(diagnosis: Diagnosis) -> str:
    """One line per check, and a last one that says what it comes to."""
    width = max(len(f"{check.area}: {check.name}") for check in diagnosis.checks)
    lines = [
        f"{check.status:<8} {f'{check.area}: {check.name}':<{width}}  {check.figure}"
        + (f". Fix: {check.fix}" if check.fix else "")
        for check in diagnosis.checks
    ]
    bad = [check for check in diagnosis.checks if check.status != "ok"]
    return "\n".join([*lines, f"{len(bad)} of {len(lines)} need a look" if bad else "All is well"])


def diagnosis_json(diagnosis: Diagnosis) -> str:
    return json.dumps({"status": diagnosis.status, **diagnosis.model_dump(mode="json")})


# ------------------------------------------------------------------------------------------------------------ store


def store_checks(store: Store) -> list[Check]:
    """create, create again (which must fail), read, range read, list, delete; on S3 also the clock.

    The first, of an object that is not there, is for the connection: the times of the others are without it.
    """
    import pyarrow.fs  # noqa: F401 - a second that is not the store's

    key, data = f".doctor-{secrets.token_hex(8)}/probe", secrets.token_bytes(4096)
    steps: list[tuple[str, Callable[[], bool]]] = [
        ("answers", lambda: _is_gone(store, key)),
        ("create", lambda: store.create(key, data) is None),
        ("create again is refused", lambda: _is_refused(store, key)),
        ("read", lambda: store.read(key) == data),
        ("range read", lambda: _range_is(store, key, data[100:200])),
        ("list", lambda: [entry.key for entry in store.list(key.removesuffix("probe"))] == [key]),
        ("delete", lambda: store.delete(key) is None and _is_gone(store, key)),
    ]
    checks: list[Check] = []
    with _left_as_it_was(store, key):
        for name, step in steps:
            checks.append(_timed(name, step, store))
            if checks[-1].status == "failed":  # the rest would wait for the same store in vain
                return checks
    if isinstance(store, S3Store):
        checks.append(_clock(store))
    return checks


def _timed(name: str, step: Callable[[], bool], store: Store) -> Check:
    started_s = time.monotonic()
    try:
        right = step()
    except TljobsError as error:
        figure = f"{error.what}: {error.where}" if error.where else error.what
        return Check(area=STORE, name=name, status="failed", figure=figure, fix=error.hint)
    took_ms = 1000 * (time.monotonic() - started_s)
    figure = f"{took_ms:.1f} ms"
    if not right:
        fix = "Do not use it: it does not keep what it is given. Use another store"
        return Check(area=STORE, name=name, status="failed", figure=f"wrong answer of {store.uri}", fix=fix)
    if took_ms > SLOW_MS:
        fix = "Use a store that is nearer, or look at its load"
        return Check(area=STORE, name=name, status="warning", figure=figure, fix=fix)
    return Check(area=STORE, name=name, status="ok", figure=figure)


def _is_refused(store: Store, key: str) -> bool:
    try:
        store.create(key, b"other bytes")
    except NameTaken:
        return True
    return False


def _is_gone(store: Store, key: str) -> bool:
    try:
        store.read(key)
    except NotFound:
        return True
    return False


def _range_is(store: Store, key: str, expected: bytes) -> bool:
    with store.open_input(key) as file:
        return bool(file.read_at(100, 100) == expected)


@contextlib.contextmanager
def _left_as_it_was(store: Store, key: str) -> Iterator[None]:
    """Removes the probe also after a failure, and of a local store the folders that it was put into."""
    folders: list[Path] = []
    if isinstance(store, LocalStore):
        folders = [path for path in ((store.root / key).parent, store.root, *store.root.parents) if not path.exists()]
    try:
        yield
    finally:
        with contextlib.suppress(TljobsError):
            store.delete(key)
        with contextlib.suppress(OSError):
            for folder in folders:
                folder.rmdir()


def _clock(store: S3Store) -> Check:
    try:
        offset_s = store.clock_offset_s()
    except TljobsError as error:
        return Check(area=STORE, name="clock", status="failed", figure=str(error), fix=error.hint)
    figure = f"{offset_s:+.0f} s from the server's"
    if abs(offset_s) > CLOCK_OFFSET_S:
        fix = "Set the clock (NTP): S3 refuses requests that are 15 minutes off"
        return Check(area=STORE, name="clock", status="warning", figure=figure, fix=fix)
    return Check(area=STORE, name="clock", status="ok", figure=figure)


# -------------------------------------------------------------------------------------------------------------- ray


def ray_checks(store: Store) -> list[Check]:
    """Whether the cluster of RAY_ADDRESS answers, and what it has."""
    address = os.environ.get("RAY_ADDRESS")
    if not address:
        return [Check(area=RAY, name="cluster", status="ok", figure="none set: each command starts a Ray of its own")]
    try:
        _require_listener(address)
        with ray_session(store):
            import ray

            has = ray.cluster_resources()
            nodes = sum(node["Alive"] for node in ray.nodes())
    except TljobsError as error:
        figure = f"{error.what}: {error.where}"
        return [Check(area=RAY, name="cluster", status="failed", figure=figure, fix=error.hint)]
    figure = f"{address}: {nodes} nodes, {has.get('CPU', 0):g} CPUs, {has.get('GPU', 0):g} GPUs"
    return [Check(area=RAY, name="cluster", status="ok", figure=figure)]


def _require_listener(address: str) -> None:
    """Ray itself tries for minutes to reach an address where nothing listens."""
    host, separator, port = address.rpartition("://")[2].rpartition(":")
    if not separator or not port.isdigit():
        return
    try:
        socket.create_connection((host, int(port)), RAY_TIMEOUT_S).close()
    except OSError as error:
        hint = f"Start it (`ray start --head`), or unset RAY_ADDRESS to run on this machine alone ({error})"
        raise Unreachable("no Ray cluster answers", address, hint) from error


# --------------------------------------------------------------------------------------------- versions and machine


def version_checks(constraints: str | None) -> list[Check]:
    """The installed packages against what tljobs needs, or against a file of exact versions."""
    from packaging.requirements import InvalidRequirement, Requirement

    try:
        lines = _constraint_lines(constraints) if constraints else importlib.metadata.requires("tljobs") or []
        needed = [Requirement(line) for line in lines]
    except (OSError, UnicodeDecodeError, InvalidRequirement) as error:
        raise UsageError("the constraints cannot be read", constraints or "tljobs", str(error)) from error
    wanted = [each for each in needed if not each.marker or each.marker.evaluate({"extra": ""})]
    wrong = [check for each in wanted if (check := _version(each, constraints))]
    right = f"Python {platform.python_version()}, {len(wanted) - len(wrong)} of {len(wanted)} packages as needed"
    return [Check(area=VERSIONS, name="packages", status="ok", figure=right), *wrong]


def _constraint_lines(path: str) -> list[str]:
    lines = (line.partition("#")[0].strip() for line in Path(path).read_text(encoding="utf-8").splitlines())
    return [line for line in lines if line]


def _version(needed: Requirement, constraints: str | None) -> Check | None:
    """What is wrong with an installed package; None if nothing is."""
    fix = f"pip install '{needed}'"
    try:
        installed = importlib.metadata.version(needed.name)
    except importlib.metadata.PackageNotFoundError:
        if constraints:  # a constraint is no requirement
            return None
        return Check(area=VERSIONS, name=needed.name, status="failed", figure="not installed", fix=fix)
    if needed.specifier.contains(installed, prereleases=True):
        return None
    return Check(area=VERSIONS, name=needed.name, status="failed", figure=installed, fix=fix)


def machine_checks(spec: DoctorSpec, store: Store) -> list[Check]:
    """Free disk for temporary files and a local store, and free memory."""
    places = {"temporary files": Path(tempfile.gettempdir())}
    if isinstance(store, LocalStore):
        places["store"] = next(path for path in (store.root, *store.root.parents) if path.exists())
    disks = [
        _enough(f"free disk, {name}", shutil.disk_usage(path).free, spec.min_disk_gb, f"Free some space below {path}")
        for name, path in places.items()
    ]
    memory = _enough(
        "free memory", _free_memory_bytes(), spec.min_memory_gb, "End other programs, or use fewer workers"
    )
    cores = Check(area=MACHINE, name="CPUs", status="ok", figure=str(len(os.sched_getaffinity(0))))
    return [*disks, memory, cores]


def _enough(name: str, free_bytes: int | None, needed_gb: float, fix: str) -> Check:
    if free_bytes is None:
        return Check(area=MACHINE, name=name, status="warning", figure="unknown on this system", fix=fix)
    figure = f"{free_bytes / 1e9:.1f} GB"
    if free_bytes < needed_gb * 1e9:
        return Check(area=MACHINE, name=name, status="warning", figure=f"{figure} of {needed_gb:g} GB", fix=fix)
    return Check(area=MACHINE, name=name, status="ok", figure=figure)


def _free_memory_bytes() -> int | None:
    """What Linux calls available; None elsewhere."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return 1024 * int(line.split()[1])
    return None
