"""`ray start --head` and `ray job submit`, with the wheel in py_modules: a job trains, and a stopped job saves."""

from __future__ import annotations

import json
import os
import secrets
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from images import make_class_folders

from tljobs.runs import open_run
from tljobs.store import open_store

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

ROOT = Path(__file__).parents[2]
RAY = str(Path(sys.executable).with_name("ray"))
WAITED_S = 300.0
ENDS = ("succeeded", "failed", "was stopped")  # as `ray job status` tells them


@dataclass(frozen=True)
class Cluster:
    """A Ray head of our own, found by its dashboard's address."""

    dashboard: str
    environment: dict[str, str]
    store: str

    def submit(self, name: str, *command: str, wheel: Path) -> None:
        variables = {"TLJOBS_STORE": self.store, "RAY_JOB_STOP_WAIT_TIME_S": "120"}
        runtime = json.dumps({"py_modules": [str(wheel)], "env_vars": variables})
        job = ("submit", "--no-wait", "--submission-id", name, "--runtime-env-json", runtime, "--", *command)
        deadline_s = time.monotonic() + WAITED_S
        # A head that has just started answers so until the agent of its node is up.
        while "try again later" in (done := self._run("job", *job)).stderr and time.monotonic() < deadline_s:
            time.sleep(2)
        assert done.returncode == 0, done.stdout + done.stderr

    def ray(self, *arguments: str) -> str:
        done = self._run(*arguments)
        assert done.returncode == 0, f"{arguments}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    def _run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        command = [RAY, *arguments[:2], "--address", self.dashboard, *arguments[2:]]
        return subprocess.run(command, capture_output=True, text=True, env=self.environment, timeout=300, check=False)

    def wait(self, name: str) -> str:
        """The job's log, when it has ended."""
        deadline_s = time.monotonic() + WAITED_S
        while not any(f"' {end}" in (status := self.ray("job", "status", name)) for end in ENDS):
            assert time.monotonic() < deadline_s, status + self.ray("job", "logs", name)
            time.sleep(2)
        return status + self.ray("job", "logs", name)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder), str(ROOT)]
    subprocess.run(command, check=True, capture_output=True, timeout=200)
    return next(folder.glob("tljobs-*.whl"))


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Token authentication on, as in the documentation; everything in folders of the test."""
    folder = tmp_path_factory.mktemp("cluster")
    temporary = Path("/tmp", f"ray-{secrets.token_hex(4)}")  # Ray's socket paths must be short
    # Other heads on this host have the usual ports: an agent that does not get its own takes no jobs.
    dashboard, port, agent = _free_port(), _free_port(), _free_port()
    environment = {
        **os.environ,
        "HOME": str(folder),
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": secrets.token_hex(32),
        "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",
        "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S": "1",
    }
    options = [f"--port={port}", f"--dashboard-port={dashboard}", f"--dashboard-agent-listen-port={agent}"]
    options += [f"--temp-dir={temporary}", "--num-cpus=2"]
    workers = ["--object-store-memory=300000000", "--min-worker-port=0", "--max-worker-port=0"]
    head = subprocess.Popen(
        [RAY, "start", "--head", "--block", *options, *workers],
        env=environment,
        stdout=(folder / "head.log").open("wb"),
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    try:
        _wait_for_port(dashboard, head, folder / "head.log")
        yield Cluster(f"http://127.0.0.1:{dashboard}", environment, str(folder / "store"))
    finally:
        head.terminate()
        head.wait(timeout=60)


def test_jobs_prepare_and_train_and_a_stopped_job_saves_and_goes_on(
    cluster: Cluster, wheel: Path, tmp_path: Path
) -> None:
    photos = make_class_folders(tmp_path / "photos", ["checks", "disc"], per_class=40, size_px=72)
    tljobs = ("python", "-m", "tljobs")
    cluster.submit("prepare", *tljobs, "prepare", str(photos), "--name", "shapes", "--image-size", "48", wheel=wheel)
    assert "' succeeded" in cluster.wait("prepare")

    options = ["--backbone", "small-cnn", "--weights", "none", "--unfreeze", "head", "--global-batch", "8"]
    train = [*tljobs, "train", "shapes", "--name", "long", *options, "--epochs", "400"]
    cluster.submit("train", *train, wheel=wheel)
    store = open_store(cluster.store)
    deadline_s = time.monotonic() + WAITED_S
    while not (store.exists("runs/long/run.json") and open_run(store, "long").progress_step):
        assert time.monotonic() < deadline_s, cluster.ray("job", "logs", "train")
        time.sleep(0.5)
    cluster.ray("job", "stop", "train")
    log = cluster.wait("train")
    assert "tljobs runs resume long" in log
    run = open_run(store, "long")
    assert run.status == "stopped"

    short = [*tljobs, "train", "shapes", "--name", "short", *options, "--epochs", "2"]
    cluster.submit("short", *short, wheel=wheel)
    log = cluster.wait("short")
    assert "' succeeded" in log
    assert "Made run short" in log
    assert open_run(store, "short").status == "finished"


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def _wait_for_port(port: int, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline_s = time.monotonic() + 120
    while time.monotonic() < deadline_s:
        assert process.poll() is None, log.read_text()
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            time.sleep(0.5)
        else:
            return
    raise AssertionError(log.read_text())
