"""Free memory from the files of the kernel: of the machine, and within control groups of both versions."""

from __future__ import annotations

from pathlib import Path

import psutil
import pytest

from tljobs.data.free_memory import free_memory_bytes

MEGABYTE = 2**20


@pytest.fixture
def system(tmp_path: Path) -> Path:
    """A machine with 1000 MB available."""
    write(tmp_path / "proc/meminfo", f"MemTotal: 4096000 kB\nMemAvailable: {1000 * 1024} kB\nHugePages_Total: 0\n")
    return tmp_path


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def free_mb(system: Path) -> float:
    return free_memory_bytes(system / "proc", system / "cgroup") / MEGABYTE


def group(folder: Path, limit: str, used_mb: int, *, cached_mb: int = 0, version: int = 2) -> None:
    names = ("memory.max", "memory.current") if version == 2 else ("memory.limit_in_bytes", "memory.usage_in_bytes")
    for name, text in zip(names, (limit, str(used_mb * MEGABYTE)), strict=True):
        write(folder / name, text + "\n")
    write(folder / "memory.stat", f"anon 1\ninactive_file {cached_mb * MEGABYTE}\n")


def test_without_groups_it_is_what_the_machine_has_available(system: Path) -> None:
    assert free_mb(system) == 1000


def test_the_tightest_group_around_the_process_counts(system: Path) -> None:
    write(system / "proc/self/cgroup", "0::/outer/inner\n")
    group(system / "cgroup/outer/inner", "max", 100)
    group(system / "cgroup/outer", str(500 * MEGABYTE), 200)
    assert free_mb(system) == 300


def test_cached_file_pages_of_a_group_give_way(system: Path) -> None:
    write(system / "proc/self/cgroup", "0::/\n")
    group(system / "cgroup", str(500 * MEGABYTE), 400, cached_mb=150)
    assert free_mb(system) == 250


def test_groups_of_version_1_count_by_their_memory_controller(system: Path) -> None:
    write(system / "proc/self/cgroup", "5:cpu,cpuacct:/job\n4:memory:/job\n")
    group(system / "cgroup/memory/job", str(500 * MEGABYTE), 450, version=1)
    assert free_mb(system) == 50


def test_a_path_of_outside_the_container_falls_back_to_the_root_inside(system: Path) -> None:
    write(system / "proc/self/cgroup", "0::/docker/0123\n")
    group(system / "cgroup", str(64 * MEGABYTE), 0)
    assert free_mb(system) == 64


def test_a_system_that_does_not_say_has_none(tmp_path: Path) -> None:
    assert free_memory_bytes(tmp_path, tmp_path) == 0


def test_this_machine_has_no_more_than_it_says() -> None:
    assert 0 < free_memory_bytes() <= psutil.virtual_memory().total
