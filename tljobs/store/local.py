"""A folder as store. Commits are exclusive links of a file that is already on disk."""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from tljobs.errors import NameTaken, NotFound, TljobsError, Unreachable
from tljobs.store.base import Entry, Names, Store

if TYPE_CHECKING:
    import pyarrow as pa
    from pyarrow import fs as pafs

NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
HINTS = {
    errno.EACCES: "Check who owns the folder and its rights",
    errno.EPERM: "Check who owns the folder and its rights",
    errno.EROFS: "The disk is mounted read-only: mount it for writing, or use another --store",
    errno.EIO: "The disk reports errors: check it, and copy the store to another one",
    errno.ESTALE: "The network folder was lost: mount it again",
    errno.ENOTDIR: "Something on the way to it is a file: use another --store",
    errno.ENAMETOOLONG: "Use shorter names, or a --store with a shorter path",
    errno.EMFILE: "Too many open files: raise the limit (ulimit -n)",
}


class LocalStore(Store):
    """A folder on a local or shared disk; it is made at the first write."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.uri = str(root)

    def read(self, key: str) -> bytes:
        with self._errors("reading", key):
            return (self.root / key).read_bytes()

    def create(self, key: str, data: bytes) -> None:
        path = self.root / key
        with self._errors("creating", key):
            temporary = self._write_temporary(path, data)
            try:
                os.link(temporary, path)
            except FileExistsError:
                if path.read_bytes() != data:
                    raise NameTaken("already exists in the store", f"{self.uri}/{key}") from None
            finally:
                temporary.unlink(missing_ok=True)
            _sync_folder(path.parent)

    def put(self, key: str, data: bytes) -> None:
        path = self.root / key
        with self._errors("writing", key):
            temporary = self._write_temporary(path, data)
            try:
                temporary.replace(path)
            finally:
                temporary.unlink(missing_ok=True)
            _sync_folder(path.parent)

    def list(self, prefix: str) -> list[Entry]:
        entries: list[Entry] = []
        with self._errors("listing", prefix):
            for folder, _, files in os.walk(self.root / prefix, onerror=_raise_unless_gone):
                for path in (Path(folder, name) for name in files if not name.startswith(".tmp-")):
                    with contextlib.suppress(FileNotFoundError):  # deleted since it was listed
                        entries.append(Entry(path.relative_to(self.root).as_posix(), path.stat().st_size))
        return sorted(entries, key=lambda entry: entry.key)

    def folders(self, prefix: str) -> Names:
        names: Names = []
        with self._errors("listing", prefix), contextlib.suppress(FileNotFoundError, NotADirectoryError):
            for path in (self.root / prefix).iterdir():
                with contextlib.suppress(FileNotFoundError):  # deleted since it was listed
                    if path.is_dir() and any(path.iterdir()):
                        names.append(path.name)
        return sorted(names)

    def delete(self, key: str) -> None:
        with self._errors("deleting", key):
            (self.root / key).unlink(missing_ok=True)

    def exists(self, key: str) -> bool:
        with self._errors("reading", key):
            return (self.root / key).is_file()

    def filesystem(self) -> tuple[pafs.FileSystem, str]:
        from pyarrow import fs as pafs

        return pafs.LocalFileSystem(use_mmap=True), str(self.root)

    def open_input(self, key: str) -> pa.NativeFile:
        filesystem, root = self.filesystem()
        with self._errors("reading", key):
            return filesystem.open_input_file(f"{root}/{key}")

    def _write_temporary(self, path: Path, data: bytes) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.parent / f".tmp-{secrets.token_hex(8)}"
        try:
            with temporary.open("xb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        return temporary

    @contextlib.contextmanager
    def _errors(self, doing: str, key: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise _local_error(error, doing, f"{self.uri}/{key}") from error


def _local_error(error: OSError, doing: str, where: str) -> TljobsError:
    if isinstance(error, IsADirectoryError) or (isinstance(error, FileNotFoundError) and doing == "reading"):
        return NotFound("no such object in the store", where)
    if error.errno in NO_ROOM:
        return Unreachable("no space left in the store", where, "Free some space and run it again")
    if isinstance(error, FileNotFoundError):
        hint = "Something deletes or unmounts it: stop that, and run it again"
        return Unreachable(f"the store's folder vanished while {doing}", where, hint)
    cause = error.strerror or str(error)
    hint = HINTS.get(error.errno or 0, "Check the disk and the folder")
    return Unreachable(f"the store cannot be used while {doing}", where, f"{hint} ({cause})")


def _raise_unless_gone(error: OSError) -> None:
    """An unreadable folder is no empty folder, but one that is not there is."""
    if not isinstance(error, FileNotFoundError | NotADirectoryError):
        raise error


def _sync_folder(folder: Path) -> None:
    """Makes a new name in `folder` survive a power failure."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
