"""SIGKILL of `tljobs prepare` at random moments on a cluster that lives on: its tasks are ended by Ray, some later."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from images import make_class_folders
from prepare_kills import Moments, Preparing, assert_rerun_completes, content, start_command, whole_datasets

from tljobs.store import LocalStore

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]

# A few in each run of the tests; TLJOBS_TEST_KILLS=100 takes a quarter of an hour or more.
KILLS = int(os.environ.get("TLJOBS_TEST_KILLS", "3"))


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return make_class_folders(tmp_path / "source", ("a", "b", "c"), 40, size_px=40)


@pytest.fixture
def preparing(source: Path) -> Iterator[Preparing]:
    preparing = Preparing(source)
    yield preparing
    preparing.close()


def test_killed_at_random_moments_leaves_no_half_and_the_next_run_completes_it(
    preparing: Preparing, source: Path, tmp_path: Path, ray_two_cpus: None
) -> None:
    import ray

    address = ray.get_runtime_context().gcs_address
    started_s = time.monotonic()
    with start_command(source, tmp_path / "undisturbed", RAY_ADDRESS=address) as command:
        assert command.wait(timeout=300) == 0
    whole_s = time.monotonic() - started_s
    (manifest,) = whole_datasets(LocalStore(tmp_path / "undisturbed"))
    moments = Moments(KILLS, whole_s, earliest=0.4, seed=2)  # before that, Python is still importing
    for number, after_s in enumerate(moments):
        store = LocalStore(tmp_path / f"killed-{number}")
        with start_command(source, store.root, RAY_ADDRESS=address) as command:
            time.sleep(after_s)
            moments.note(command.poll() is None)
            command.kill()
        assert_rerun_completes(preparing, store, content(manifest))
    assert moments.killed == KILLS
