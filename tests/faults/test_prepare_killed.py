"""SIGKILL while a dataset is prepared: no readable half, and the next run makes what an undisturbed one makes."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from images import make_class_folders
from s3_proxy import EVERY, Fault, Proxy
from s3_server import S3Server

from tljobs.records import DatasetManifest
from tljobs.runs import list_datasets
from tljobs.store import LocalStore, S3Store, Store

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

SCRIPT = Path(__file__).parents[1] / "forked_prepare.py"
# A few in each run of the tests; 100 take a quarter of an hour.
KILLS = int(os.environ.get("TLJOBS_TEST_KILLS", "3"))
SIGKILLED = -9


class Preparing:
    """Orders to the process that forks."""

    def __init__(self, source: Path) -> None:
        self.source = source
        self._process = subprocess.Popen(
            [sys.executable, str(SCRIPT)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def run(self, store: Store, kill_step: int = 0, proxy: Proxy | None = None) -> dict[str, Any]:
        endpoint_url = store.endpoint_url if isinstance(store, S3Store) else None
        order = {"source": str(self.source), "store": store.uri, "endpoint_url": endpoint_url, "kill_step": kill_step}
        pid = int(self._say(json.dumps(order)))
        if proxy:
            proxy.victim = pid
        ended: dict[str, Any] = json.loads(self._say("go"))
        return ended

    def close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(timeout=30)

    def _say(self, line: str) -> str:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(line + "\n")
        self._process.stdin.flush()
        return self._process.stdout.readline()


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_class_folders(tmp_path_factory.mktemp("source"), ("a", "b", "c"), 40, size_px=40)


@pytest.fixture(scope="module")
def preparing(source: Path, s3_server: S3Server) -> Iterator[Preparing]:
    """Started after the S3 server, whose keys it inherits."""
    preparing = Preparing(source)
    yield preparing
    preparing.close()


@pytest.fixture(scope="module")
def undisturbed(preparing: Preparing, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The content of a manifest that nothing disturbed."""
    store = LocalStore(tmp_path_factory.mktemp("undisturbed"))
    assert preparing.run(store)["status"] == 0
    return content(whole_datasets(store)[0])


def whole_datasets(store: Store) -> list[DatasetManifest]:
    """The datasets that can be seen, each file of which is checked against its manifest."""
    manifests = list_datasets(store)
    for manifest in manifests:
        shards = [shard for split in manifest.splits.values() for shard in split.shards]
        for file in (manifest.index, manifest.rejected, *shards):
            store.read_verified(file.key, file.size_bytes, file.sha256)
    return manifests


def content(manifest: DatasetManifest) -> dict[str, Any]:
    """All that two runs have in common: not when and by whom."""
    return manifest.model_dump(mode="json", exclude={"token", "created_utc"})


def assert_rerun_completes(preparing: Preparing, store: Store, undisturbed: dict[str, Any]) -> None:
    """After a kill: nothing or a whole dataset; then one run completes it, and another finds that very manifest."""
    before = whole_datasets(store)
    first = preparing.run(store)
    assert first["status"] == 0
    assert first["result"]["reused"] == bool(before)
    (manifest,) = whole_datasets(store)
    assert content(manifest) == undisturbed
    assert not before or before == [manifest]
    again = preparing.run(store)["result"]
    assert (again["reused"], again["manifest_sha256"]) == (True, first["result"]["manifest_sha256"])


def test_killed_before_each_step_on_the_disk(preparing: Preparing, tmp_path: Path, undisturbed: dict[str, Any]) -> None:
    steps = preparing.run(LocalStore(tmp_path / "counted"))["steps"]
    assert steps > 20
    published = []
    for step in range(1, steps + 1):
        store = LocalStore(tmp_path / f"killed-{step}")
        assert preparing.run(store, kill_step=step)["status"] == SIGKILLED
        published.append(bool(list_datasets(store)))
        assert_rerun_completes(preparing, store, undisturbed)
    assert published == sorted(published), "once published, it stays"
    assert set(published) == {False, True}


@pytest.mark.parametrize("fault", [Fault.KILL_BEFORE, Fault.KILL_AFTER])
def test_killed_at_each_request_to_s3(
    preparing: Preparing, clean: S3Store, proxy: Proxy, undisturbed: dict[str, Any], fault: Fault
) -> None:
    def through_proxy(name: str) -> S3Store:
        return S3Store(clean.bucket, f"{clean.prefix}/{name}", proxy.endpoint_url)

    assert preparing.run(through_proxy("counted"))["status"] == 0
    calls = proxy.requests[EVERY]
    assert calls > 10
    for call in range(1, calls + 1):
        proxy.inject_at(EVERY, call, fault)
        assert preparing.run(through_proxy(f"killed-{call}"), proxy=proxy)["status"] == SIGKILLED
        same = S3Store(clean.bucket, f"{clean.prefix}/killed-{call}", clean.endpoint_url)
        assert_rerun_completes(preparing, same, undisturbed)
    assert proxy.injected[fault] == calls


def test_killed_with_all_its_processes_at_random_moments(
    preparing: Preparing, source: Path, tmp_path: Path, undisturbed: dict[str, Any]
) -> None:
    """The command itself, with its Ray: driver, raylet and workers die together."""
    started_s = time.monotonic()
    with start_command(source, tmp_path / "undisturbed") as command:
        assert command.wait(timeout=300) == 0
    whole_s = time.monotonic() - started_s
    moments = random.Random(1)
    killed = 0
    for number in range(KILLS):
        root = tmp_path / f"killed-{number}"
        with start_command(source, root) as command:
            time.sleep(moments.uniform(0.2, 1) * whole_s)
            killed += command.poll() is None
            kill_all(command)
        assert_rerun_completes(preparing, LocalStore(root), undisturbed)
    assert killed > KILLS // 2


def start_command(source: Path, root: Path) -> subprocess.Popen[bytes]:
    options = f"--name d --image-size 32 --split 60/20/20 --shard-images 64 --workers 2 --store {root}".split()
    command = [sys.executable, "-m", "tljobs", "prepare", str(source), *options]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def kill_all(command: subprocess.Popen[bytes]) -> None:
    """The command first, so that nobody is left to tidy up; then all that it started."""
    try:
        children = psutil.Process(command.pid).children(recursive=True)
    except psutil.NoSuchProcess:
        children = []
    for process in (psutil.Process(command.pid), *children) if command.poll() is None else children:
        try:
            process.kill()
        except psutil.NoSuchProcess:
            continue
    psutil.wait_procs(children, timeout=30)
