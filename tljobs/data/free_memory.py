"""How much memory this process may still take: what the machine has free, within the limits of its control groups.

Files of the Linux kernel flow in (proc_meminfo(5), cgroup documentation v1 and v2), a number of bytes flows out.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

# (limit, in use) of version 2 and of version 1.
CGROUP_FILES = (("memory.max", "memory.current"), ("memory.limit_in_bytes", "memory.usage_in_bytes"))


def free_memory_bytes(proc: Path = Path("/proc"), cgroups: Path = Path("/sys/fs/cgroup")) -> int:
    """The least of the machine's available memory and the room in each control group around this process; 0 where
    the system does not say."""
    try:
        available = _fields((proc / "meminfo").read_text())["MemAvailable:"] * 1024
    except (OSError, KeyError):
        return 0
    return min([available, *_cgroup_rooms(proc, cgroups)])


def _cgroup_rooms(proc: Path, cgroups: Path) -> Iterator[int]:
    for folder in _cgroup_folders(proc, cgroups):
        for limit_file, used_file in CGROUP_FILES:
            try:
                limit = (folder / limit_file).read_text().strip()
                used = int((folder / used_file).read_text())
                cached = _fields((folder / "memory.stat").read_text()).get("inactive_file", 0)
            except (OSError, ValueError):
                continue
            if limit != "max":
                yield max(0, int(limit) - used + cached)  # cached file pages give way


def _cgroup_folders(proc: Path, cgroups: Path) -> Iterator[Path]:
    """The groups of this process from the innermost to the root; in a container the outer path may not be there."""
    try:
        lines = (proc / "self/cgroup").read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers and "memory" not in controllers.split(","):
            continue
        root = cgroups / "memory" if controllers else cgroups
        inner = root / path.strip("/")
        yield from (folder for folder in (inner, *inner.parents) if folder.is_relative_to(root))


def _fields(text: str) -> dict[str, int]:
    """Lines of a name and a number."""
    rows = (line.split() for line in text.splitlines())
    return {row[0]: int(row[1]) for row in rows if len(row) >= 2}
