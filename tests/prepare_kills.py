"""What tests need that kill `prepare`: runs of it to disturb, and a check that nothing is half done afterwards."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
from s3_proxy import Proxy

from tljobs.records import DatasetManifest
from tljobs.runs import list_datasets
from tljobs.store import S3Store, Store

SCRIPT = Path(__file__).with_name("forked_prepare.py")


class Preparing:
    """Orders to the process that forks."""

    def __init__(self, source: Path) -> None:
        self.source = source
        self._process = subprocess.Popen(
            [sys.executable, str(SCRIPT)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def run(
        self, store: Store, *, kill_step: int = 0, kill_after_s: float = 0, proxy: Proxy | None = None
    ) -> dict[str, Any]:
        """How the run ended. It is killed before a step on the disk, after a time, by the proxy, or not at all."""
        endpoint_url = store.endpoint_url if isinstance(store, S3Store) else None
        order = {
            "source": str(self.source),
            "store": store.uri,
            "endpoint_url": endpoint_url,
            "kill_step": kill_step,
            "kill_after_s": kill_after_s,
        }
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


def whole_datasets(store: Store) -> list[DatasetManifest]:
    """The datasets that can be seen, each file of which is checked against its manifest."""
    manifests = list_datasets(store)
    for manifest in manifests:
        shards = [shard for split in manifest.splits.values() for shard in (*split.shards, *split.thumbnails)]
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


class Moments:
    """Random moments to kill at, until so many kills have met a living process. A busy machine makes runs longer and
    shorter: the span that moments are drawn from follows."""

    def __init__(self, kills: int, whole_s: float, earliest: float, seed: int) -> None:
        self._wanted, self._whole_s, self._earliest = kills, whole_s, earliest
        self._chance = random.Random(seed)
        self.killed = 0

    def __iter__(self) -> Iterator[float]:
        for _ in range(6 * self._wanted):
            if self.killed < self._wanted:
                yield self._chance.uniform(self._earliest, 1) * self._whole_s

    def note(self, was_killed: bool) -> None:
        self.killed += was_killed
        self._whole_s *= 1.03 if was_killed else 0.9


def start_command(source: Path, root: Path, **environment: str) -> subprocess.Popen[bytes]:
    """`tljobs prepare` in a process of its own, with the options that `Preparing` uses."""
    options = f"--name d --image-size 32 --split 60/20/20 --shard-images 64 --workers 2 --store {root}".split()
    command = [sys.executable, "-m", "tljobs", "prepare", str(source), *options]
    return subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env={**os.environ, **environment}
    )


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
