"""SIGKILL while a dataset is prepared: no readable half, and the next run makes what an undisturbed one makes."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from images import make_class_folders
from prepare_kills import (
    Moments,
    Preparing,
    assert_rerun_completes,
    content,
    kill_all,
    start_command,
    whole_datasets,
)
from s3_proxy import EVERY, Fault, Proxy
from s3_server import S3Server

from tljobs.runs import list_datasets
from tljobs.store import LocalStore, S3Store

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

# A few in each run of the tests; TLJOBS_TEST_KILLS=100 makes them 100 of the process that prepares without Ray, at each
# of its steps and requests, and as many of the command with its Ray, which takes more than an hour.
ALL = "TLJOBS_TEST_KILLS" in os.environ
KILLS = int(os.environ.get("TLJOBS_TEST_KILLS", "2"))
QUICK_KILLS = int(os.environ.get("TLJOBS_TEST_KILLS", "5"))
SIGKILLED = -9


def chosen(count: int) -> list[int]:
    """The places, from 1, of `count` at which to kill: all, or about eight and the last two."""
    return list(range(1, count + 1)) if ALL else sorted({*range(1, count + 1, 1 + count // 8), count - 1, count})


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


def test_killed_before_each_step_on_the_disk(preparing: Preparing, tmp_path: Path, undisturbed: dict[str, Any]) -> None:
    steps = preparing.run(LocalStore(tmp_path / "counted"))["steps"]
    assert steps > 20
    published = []
    for step in chosen(steps):
        store = LocalStore(tmp_path / f"killed-{step}")
        assert preparing.run(store, kill_step=step)["status"] == SIGKILLED
        published.append(bool(list_datasets(store)))
        assert_rerun_completes(preparing, store, undisturbed)
    assert published == sorted(published), "once published, it stays"
    assert set(published) == {False, True}


def test_killed_at_random_moments(preparing: Preparing, tmp_path: Path, undisturbed: dict[str, Any]) -> None:
    started_s = time.monotonic()
    preparing.run(LocalStore(tmp_path / "whole"))
    whole_s = time.monotonic() - started_s
    moments = Moments(QUICK_KILLS, whole_s, earliest=0, seed=3)
    for number, after_s in enumerate(moments):
        store = LocalStore(tmp_path / f"killed-{number}")
        moments.note(preparing.run(store, kill_after_s=after_s)["status"] == SIGKILLED)
        assert_rerun_completes(preparing, store, undisturbed)
    assert moments.killed == QUICK_KILLS


@pytest.mark.parametrize("fault", [Fault.KILL_BEFORE, Fault.KILL_AFTER])
def test_killed_at_each_request_to_s3(
    preparing: Preparing, clean: S3Store, proxy: Proxy, undisturbed: dict[str, Any], fault: Fault
) -> None:
    def through_proxy(name: str) -> S3Store:
        return S3Store(clean.bucket, f"{clean.prefix}/{name}", proxy.endpoint_url)

    assert preparing.run(through_proxy("counted"))["status"] == 0
    calls = proxy.requests[EVERY]
    assert calls > 10
    for call in chosen(calls):
        proxy.inject_at(EVERY, call, fault)
        assert preparing.run(through_proxy(f"killed-{call}"), proxy=proxy)["status"] == SIGKILLED
        same = S3Store(clean.bucket, f"{clean.prefix}/killed-{call}", clean.endpoint_url)
        assert_rerun_completes(preparing, same, undisturbed)
    assert proxy.injected[fault] == len(chosen(calls))


def test_killed_with_all_its_processes_at_random_moments(
    preparing: Preparing, source: Path, tmp_path: Path, undisturbed: dict[str, Any]
) -> None:
    """The command itself, with its Ray: driver, raylet and workers die together."""
    started_s = time.monotonic()
    with start_command(source, tmp_path / "undisturbed") as command:
        assert command.wait(timeout=300) == 0
    whole_s = time.monotonic() - started_s
    moments = Moments(KILLS, whole_s, earliest=0.2, seed=1)
    for number, after_s in enumerate(moments):
        root = tmp_path / f"killed-{number}"
        with start_command(source, root) as command:
            time.sleep(after_s)
            moments.note(command.poll() is None)
            kill_all(command)
        assert_rerun_completes(preparing, LocalStore(root), undisturbed)
    assert moments.killed == KILLS
