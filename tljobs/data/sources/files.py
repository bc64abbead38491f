"""Listing folders, local and on S3: a source's name flows in, its files flow out. Nothing here knows of labels."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from tljobs.data.sources.model import Found, Tree
from tljobs.data.sources.reading import S3, filesystem
from tljobs.errors import InputRefused, NotFound, TljobsError, Unreachable, UsageError


def source_uri(source: str) -> str:
    """The source as an absolute path or an s3:// address, without a slash at the end. Raises UsageError."""
    if source.startswith(S3):
        if not source.removeprefix(S3).strip("/"):
            raise UsageError("a source on S3 needs a bucket", source, "Use s3://bucket/prefix")
        return source.rstrip("/")
    scheme, separator, rest = source.partition("://")
    if separator and scheme != "file":
        raise UsageError("unknown kind of source", source, "Use a file or folder, or s3://bucket/prefix")
    return str(Path(rest if separator else source).expanduser().absolute())


def file_or_folder(uri: str, endpoint_url: str | None) -> Literal["file", "folder"]:
    """Raises NotFound when it is neither, Unreachable when the S3 server cannot be used."""
    from pyarrow import fs as pafs

    if not uri.startswith(S3):
        path = Path(uri)
        if path.is_dir():
            return "folder"
        if path.is_file():
            return "file"
        raise NotFound("no such file or folder", uri)
    try:
        kind = filesystem(endpoint_url).get_file_info(uri.removeprefix(S3)).type
    except OSError as error:
        raise unreachable(uri, endpoint_url, error) from error
    if kind == pafs.FileType.NotFound:
        raise NotFound("no such file or folder", uri)
    return "file" if kind == pafs.FileType.File else "folder"


def list_folder(uri: str, endpoint_url: str | None) -> Tree:
    """All files below a folder, through links to folders too. Raises Unreachable, NotFound, InputRefused."""
    return _list_s3(uri, endpoint_url) if uri.startswith(S3) else _list_local(Path(uri))


def file_size(path: Path | str) -> int | None:
    """Bytes of a file; 0 where there is none, which reading will report; None for a pipe, socket or device."""
    try:
        status = os.stat(path)  # noqa: PTH116  a Path for each of a million names costs more than the call
    except (OSError, ValueError):  # ValueError: a zero byte in the name
        return 0
    return status.st_size if stat.S_ISREG(status.st_mode) else None


def unreachable(uri: str, endpoint_url: str | None, error: OSError) -> TljobsError:
    """The S3 server's refusal as a message that names the server."""
    hint = f"Check the network, the keys and the endpoint {endpoint_url or 'of AWS'} ({str(error)[:200]})"
    return Unreachable("the source cannot be listed", uri, hint)


def is_text(path: str) -> bool:
    """Whether a name is text, and not bytes that the file system could not decode."""
    try:
        path.encode()
    except UnicodeEncodeError:
        return False
    return True


def escaped(path: str) -> str:
    """A name that is no text, with its odd bytes as \\xNN."""
    return os.fsencode(path).decode(errors="backslashreplace")


def _list_local(root: Path) -> Tree:
    found: list[Found] = []
    unusable: list[str] = []
    for path in _walk(root):
        relative = path.relative_to(root).as_posix()
        size_bytes = file_size(path)
        if size_bytes is None or not is_text(relative):
            unusable.append(escaped(relative))
        else:
            uri = f"{root}/{relative}"
            found.append(Found(path=relative, uri=uri, address=uri, size_bytes=size_bytes))
    return Tree(source=str(root), files=tuple(found), unusable=tuple(unusable))


def _walk(root: Path) -> Iterator[Path]:
    """All files, through links to folders too, but each folder once, so that a link to a parent ends."""

    def refuse(error: OSError) -> None:
        raise InputRefused("a folder cannot be read", str(error.filename), error.strerror or str(error)) from error

    seen: set[tuple[int, int]] = set()
    for folder, subfolders, names in os.walk(root, followlinks=True, onerror=refuse):
        status = Path(folder).stat()
        if (status.st_dev, status.st_ino) in seen:
            subfolders.clear()
            continue
        seen.add((status.st_dev, status.st_ino))
        subfolders.sort()
        yield from (Path(folder, name) for name in names)


def _list_s3(uri: str, endpoint_url: str | None) -> Tree:
    from pyarrow import fs as pafs

    root = uri.removeprefix(S3)
    try:
        entries = filesystem(endpoint_url).get_file_info(pafs.FileSelector(root, recursive=True))
    except FileNotFoundError as error:
        raise NotFound("no such folder", uri) from error
    except OSError as error:
        raise unreachable(uri, endpoint_url, error) from error
    found = [
        Found(path=each.path[len(root) + 1 :], uri=S3 + each.path, address=S3 + each.path, size_bytes=each.size)
        for each in entries
        if each.type == pafs.FileType.File
    ]
    return Tree(source=uri, files=tuple(found))
