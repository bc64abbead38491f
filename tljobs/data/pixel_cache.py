"""Decoded pixels of a split, kept in memory or in a file on the local disk, so that each image is decoded once.

Sizes of images from the dataset's index, and what is free on this machine, flow in; a cache, or none, and a sentence
that says which, flow out. The file has no name once it is open: it is gone when the process is, however that ends.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt

from tljobs.data.free_memory import free_memory_bytes
from tljobs.data.pixels import Pixels, target_size
from tljobs.errors import InputRefused
from tljobs.records import DatasetManifest
from tljobs.runs import dataset_index
from tljobs.store import Store

KeepPixels = Literal["auto", "memory", "disk", "none"]
Where = Literal["memory", "disk", "none"]

CHANNELS = 4  # RGBX: see tljobs.data.augment
MEMORY_SHARE = 0.25  # of what is free: the network, its gradients and other jobs need the rest
DISK_SHARE = 0.5


@dataclass(frozen=True)
class Room:
    """What is free on this machine, in bytes. `share` is this process's part of it: its CPUs among all, so that the
    workers and trials of one host together stay within the limits."""

    memory_bytes: int
    disk_bytes: int
    share: float = 1.0

    def place(self, size_bytes: int) -> Where:
        """Where pixels of this size are kept when nobody asks for a place."""
        if size_bytes <= self.memory_bytes * MEMORY_SHARE * self.share:
            return "memory"
        return "disk" if size_bytes <= self.disk_bytes * DISK_SHARE * self.share else "none"


class PixelCache:
    """Decoded images of a split by row number. One thread may write a row while others read other rows."""

    def __init__(self, sizes: npt.NDArray[np.int32], where: Where) -> None:
        """`sizes` int32 (n, 2): width and height in pixels. Raises OSError when the disk has no room."""
        self._sizes = sizes
        lengths = sizes.astype(np.int64).prod(axis=1) * CHANNELS
        self._starts = np.concatenate([[0], np.cumsum(lengths)])
        self._data: Pixels = np.frombuffer(_allocated(int(self._starts[-1]), where), np.uint8)
        self.kept = np.zeros(len(sizes), np.bool_)

    def get(self, row: int) -> Pixels | None:
        """uint8 (height, width, 4) of a row, a view that must not be changed; None while it is not kept."""
        if not self.kept[row]:
            return None
        width_px, height_px = self._sizes[row]
        return self._data[self._starts[row] : self._starts[row + 1]].reshape(height_px, width_px, CHANNELS)

    def put(self, row: int, pixels: Pixels) -> None:
        """Raises InputRefused when the image is not of the size that the index says."""
        width_px, height_px = self._sizes[row]
        if pixels.shape != (height_px, width_px, CHANNELS):
            raise InputRefused(
                "the index of the dataset does not fit its shards",
                f"training row {row}",
                "Prepare the dataset again under another name, or use --keep-pixels none",
            )
        self._data[self._starts[row] : self._starts[row + 1]] = pixels.ravel()
        self.kept[row] = True  # last: readers look at it first

    def close(self) -> None:
        """Gives the memory or the disk back; views that are still in use keep it until they go."""
        self.kept[:] = False
        self._data = np.empty(0, np.uint8)


def open_cache(
    store: Store, manifest: DatasetManifest, split: str, keep: KeepPixels, room: Room
) -> tuple[PixelCache | None, str]:
    """A cache for the split's pixels, empty, or None; and a sentence on the choice.

    A place that is asked for and has no room is not an error: one host of several may have less of it than the others,
    and the results are the same.
    """
    if keep == "none":
        return None, "decoded pixels are not kept"
    least = manifest.splits[split].images * manifest.stored_short_side**2 * CHANNELS
    if keep == "auto" and room.place(least) == "none":
        return None, _no_room(least)  # the index of such a dataset may be too large to read, too
    sizes = stored_sizes(store, manifest, split)
    size_bytes = int(sizes.astype(np.int64).prod(axis=1).sum()) * CHANNELS
    fits = size_bytes <= (room.disk_bytes if keep == "disk" else room.memory_bytes)
    where: Where = room.place(size_bytes) if keep == "auto" else keep if fits else "none"
    if where == "none":
        return None, _no_room(size_bytes)
    try:
        return PixelCache(sizes, where), f"decoded pixels are kept ({where}, {_gigabytes(size_bytes)})"
    except OSError as error:
        return None, f"decoded pixels are not kept ({error.strerror})"


def stored_sizes(store: Store, manifest: DatasetManifest, split: str) -> npt.NDArray[np.int32]:
    """Width and height in pixels of the split's images as they are stored, int32 (n, 2), by row number."""
    index = dataset_index(store, manifest)
    columns = {name: np.asarray(index[name]) for name in ("split", "shard", "row", "width_px", "height_px")}
    first_rows = np.cumsum([0, *(shard.rows for shard in manifest.splits[split].shards)])
    chosen = columns["split"] == split
    shard, row, width_px, height_px = (columns[name][chosen] for name in ("shard", "row", "width_px", "height_px"))
    sizes = np.zeros((manifest.splits[split].images, 2), np.int32)
    sizes[first_rows[shard] + row] = [
        target_size(width, height, manifest.stored_short_side)
        for width, height in zip(width_px.tolist(), height_px.tolist(), strict=True)
    ]
    return sizes


def room_here(threads: int) -> Room:
    """What is free now, for a process that uses this many CPUs."""
    share = min(1.0, threads / (os.cpu_count() or 1))
    return Room(free_memory_bytes(), shutil.disk_usage(tempfile.gettempdir()).free, share)


def _allocated(size_bytes: int, where: Where) -> mmap.mmap:
    """Zeroed bytes: of memory, taken page by page as they are written, or of a file without a name."""
    if where == "memory":
        memory = mmap.mmap(-1, size_bytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        with contextlib.suppress(OSError):  # a kernel without them
            memory.madvise(mmap.MADV_HUGEPAGE)
        return memory
    handle, path = tempfile.mkstemp(prefix="tljobs-pixels-")
    try:
        Path(path).unlink()
        os.posix_fallocate(handle, 0, size_bytes)  # a full disk is an error here, and a dead process later
        return mmap.mmap(handle, size_bytes)
    finally:
        os.close(handle)


def _no_room(size_bytes: int) -> str:
    return f"decoded pixels are not kept (no room for {_gigabytes(size_bytes)})"


def _gigabytes(size_bytes: int) -> str:
    return f"{size_bytes / 1e9:.1f} GB" if size_bytes >= 1e8 else f"{size_bytes / 1e6:.1f} MB"
