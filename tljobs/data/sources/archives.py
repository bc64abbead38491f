"""tar and zip: an archive flows in, the files in it flow out, as if they lay in a folder.

An archive comes from somebody else. Its members never become files: they are copied, as bytes, into packs in the store
(staging.py). Links, devices, absolute paths, '..' and anything out of proportion refuse the whole archive, by the name
of the member.
"""

from __future__ import annotations

import contextlib
import stat
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from lzma import LZMAError
from pathlib import Path
from typing import Any, NoReturn

from tljobs.data.sources.context import Context
from tljobs.data.sources.folders import IGNORED_NAMES, SPLIT_NAMES, is_hidden
from tljobs.data.sources.model import Found, Tree
from tljobs.data.sources.reading import S3, open_input
from tljobs.data.sources.staging import BLOCK_BYTES, Members, sha256_of, stage
from tljobs.errors import InputRefused

TAR_SUFFIXES = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz", ".tar.zst")
SUFFIXES = (*TAR_SUFFIXES, ".zip")
READ_BYTES = 2**18
HEADER_BYTES = 2**20  # what the headers of one member may take; usually 512 or 1,536
DAMAGED = (tarfile.TarError, zipfile.BadZipFile, zlib.error, LZMAError, EOFError, OSError, RuntimeError, ValueError)


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What an archive may hold. A member is held in memory while it is copied. The ratio of unpacked to packed bytes
    is looked at from `ratio_from_bytes` unpacked bytes on: what is smaller does no harm."""

    members: int = 5_000_000
    total_bytes: int = 2**40
    member_bytes: int = 2**30
    ratio: int = 100
    ratio_from_bytes: int = 2**26


LIMITS = Limits()


def is_archive(name: str) -> bool:
    return name.casefold().endswith(SUFFIXES)


def list_archive(uri: str, context: Context, limits: Limits = LIMITS) -> Tree:
    """The files in an archive, unpacked into the store unless they are there already.

    Raises:
        InputRefused: damaged, encrypted, or it holds what it may not. What the store raises.
    """
    with _on_disk(uri, context.endpoint_url) as path:
        digest = sha256_of(str(path), None)
        found: dict[str, Found] = {}
        for name, address, size_bytes in stage(digest, lambda: members_of(path, uri, limits), uri, context):
            found[name] = Found(path=name, uri=f"{uri}!/{name}", address=address, size_bytes=size_bytes)
    return Tree(source=uri, files=tuple(below_common_folder(list(found.values()))), sealed=True)


def members_of(path: Path, uri: str, limits: Limits = LIMITS) -> Members:
    """(name, bytes) of each regular file in the archive at `path`, which people know as `uri`."""
    guard = _Guard(uri, path.stat().st_size, limits)
    try:
        yield from _zip_members(path, guard) if uri.casefold().endswith(".zip") else _tar_members(path, uri, guard)
    except DAMAGED as error:
        where = f"{uri}, after {guard.member!r}" if guard.member else uri
        raise InputRefused("damaged archive", where, str(error)[:200] or type(error).__name__) from error


def safe_path(name: str) -> str:
    """The name of a member as a relative path with '/'. Pure.

    Raises ValueError for an absolute path, a drive, '..', or a name of nothing.
    """
    parts = name.replace("\\", "/").split("/")
    kept = [part for part in parts if part not in ("", ".")]
    if not parts[0] and len(parts) > 1:
        raise ValueError("an absolute path")
    if not kept:
        raise ValueError("no name")
    if len(kept[0]) == 2 and kept[0][1] == ":" and kept[0][0].isalpha():
        raise ValueError("a path with a drive")
    if ".." in kept:
        raise ValueError("a path with '..'")
    # Bytes that are no text come as lone surrogates, which no table and no message can hold.
    return "/".join(kept).encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def below_common_folder(files: list[Found]) -> list[Found]:
    """Paths without the one folder that all files lie in, as archives of a folder have it; a class folder or a split
    folder stays."""
    while True:
        visible = [file.path.split("/") for file in files if not is_hidden(file.path)]
        tops = {parts[0] if len(parts) > 1 else "" for parts in visible}
        if len(tops) != 1 or "" in tops:
            return files
        (top,) = tops
        holds_folders = any(len(parts) > 2 for parts in visible) or any(_is_no_image(parts[-1]) for parts in visible)
        if not holds_folders or top.casefold() in SPLIT_NAMES or top.casefold() in IGNORED_NAMES:
            return files
        cut = f"{top}/"
        files = [
            Found(path=file.path.removeprefix(cut), uri=file.uri, address=file.address, size_bytes=file.size_bytes)
            for file in files
        ]


def _is_no_image(name: str) -> bool:
    return name.casefold().endswith((".csv", ".tsv", ".jsonl", ".parquet")) or ".tfrecord" in name.casefold()


class _Guard:
    """Counts what comes out of one archive and refuses what is too much or not allowed."""

    def __init__(self, uri: str, packed_bytes: int, limits: Limits) -> None:
        self._uri, self._packed_bytes, self._limits = uri, packed_bytes, limits
        self._members = 0
        self._total_bytes = 0
        self.member = ""

    def admit(self, name: str, size_bytes: int) -> str:
        """Before a member is read: its safe path."""
        limits = self._limits
        self.member = name
        self._members += 1
        self._total_bytes += size_bytes
        try:
            path = safe_path(name)
        except ValueError as error:
            self.refuse(f"{error}", "A member must be a file below the archive's folder")
        if self._members > limits.members:
            self.refuse(f"more than {limits.members} members", "Split the archive")
        if size_bytes > limits.member_bytes:
            self.refuse(f"a member of {size_bytes} bytes, more than {limits.member_bytes}", "Leave it out")
        if self._total_bytes > limits.total_bytes:
            self.refuse(f"more than {limits.total_bytes} bytes in all", "Split the archive")
        self.check_ratio(self._total_bytes)
        return path

    def check_ratio(self, unpacked_bytes: int) -> None:
        limits = self._limits
        if unpacked_bytes > max(limits.ratio_from_bytes, limits.ratio * self._packed_bytes):
            self.refuse(f"it unpacks to more than {limits.ratio} times its size", "Unpack it yourself if you trust it")

    def refuse(self, why: str, hint: str = "") -> NoReturn:
        name = self.member.encode("utf-8", "backslashreplace").decode()
        raise InputRefused(f"refused archive: {why}", f"{self._uri}!/{name}", hint)


def _zip_members(path: Path, guard: _Guard) -> Members:
    with zipfile.ZipFile(path) as archive:
        for info in archive.infolist():
            kind = stat.S_IFMT(info.external_attr >> 16)
            guard.member = info.filename
            if kind == stat.S_IFDIR or info.filename.replace("\\", "/").endswith("/"):
                continue
            if kind not in (0, stat.S_IFREG):
                guard.refuse("a link or device", "Only regular files are taken")
            if info.flag_bits & 1:
                guard.refuse("it is encrypted", "Unpack it first")
            name = guard.admit(info.filename, info.file_size)
            with archive.open(info) as file:
                yield name, file.read()  # at most `file_size` bytes, checked against the CRC


def _tar_members(path: Path, uri: str, guard: _Guard) -> Members:
    with _decompressed(path, uri) as raw:
        stream: Any = _Metered(raw, guard)
        stream.allow(HEADER_BYTES)  # opening reads the first header
        with tarfile.open(fileobj=stream, mode="r|", tarinfo=_StrictTarInfo, bufsize=READ_BYTES) as archive:
            while True:
                stream.allow(HEADER_BYTES)
                member = archive.next()
                archive.members.clear()  # type: ignore[attr-defined]  # or a million of them stay in memory
                if member is None:
                    return
                guard.member = member.name
                if member.isdir():
                    continue
                if not member.isreg() or member.issparse():
                    guard.refuse("a link, device or sparse file", "Only regular files are taken")
                name = guard.admit(member.name, member.size)
                stream.allow(member.size + HEADER_BYTES)
                file = archive.extractfile(member)
                assert file is not None
                yield name, file.read()


class _StrictTarInfo(tarfile.TarInfo):
    """tarfile takes a damaged header, or the missing end, for the end of the archive: files would be lost silently."""

    @classmethod
    def fromtarfile(cls, tarfile_: tarfile.TarFile) -> _StrictTarInfo:
        try:
            return super().fromtarfile(tarfile_)
        except (tarfile.InvalidHeaderError, tarfile.TruncatedHeaderError, tarfile.EmptyHeaderError) as error:  # type: ignore[attr-defined]
            raise tarfile.ReadError(f"{error or 'it ends'} at byte {tarfile_.offset}") from error


class _Metered:
    """A stream that ends with a refusal where a header claims to be out of proportion: tarfile reads it whole."""

    def __init__(self, raw: Any, guard: _Guard) -> None:
        self._raw, self._guard = raw, guard
        self._done_bytes = 0
        self._limit_bytes = 0

    def allow(self, size_bytes: int) -> None:
        self._limit_bytes = self._done_bytes + size_bytes + READ_BYTES

    def read(self, size_bytes: int) -> bytes:
        data: bytes = self._raw.read(size_bytes)
        self._done_bytes += len(data)
        if self._done_bytes > self._limit_bytes:
            self._guard.refuse(f"headers of more than {HEADER_BYTES} bytes")
        self._guard.check_ratio(self._done_bytes)
        return data


@contextlib.contextmanager
def _decompressed(path: Path, uri: str) -> Iterator[Any]:
    import bz2
    import gzip
    import lzma

    name = uri.casefold()
    if name.endswith(".zst"):
        import pyarrow as pa

        with pa.OSFile(str(path)) as packed, pa.CompressedInputStream(packed, "zstd") as raw:
            yield raw
        return
    openers: dict[str, Any] = {"gz": gzip.open, "tgz": gzip.open, "bz2": bz2.open, "tbz2": bz2.open}
    openers |= {"xz": lzma.open, "txz": lzma.open}
    with openers.get(name.rpartition(".")[2], open)(path, "rb") as raw:
        yield raw


@contextlib.contextmanager
def _on_disk(uri: str, endpoint_url: str | None) -> Iterator[Path]:
    """The archive as a local file: one on S3 is copied for as long as it is read."""
    if not uri.startswith(S3):
        yield Path(uri)
        return
    with tempfile.TemporaryDirectory(prefix="tljobs-") as folder:
        path = Path(folder, "archive")
        try:
            with open_input(uri, endpoint_url) as source, path.open("wb") as copy:
                while block := source.read(BLOCK_BYTES):
                    copy.write(block)
        except OSError as error:
            raise InputRefused("the archive cannot be read", uri, str(error)[:200]) from error
        yield path
