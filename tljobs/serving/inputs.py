"""Which image files a prediction is for: names of files and folders, local or s3://, into files that can be read."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from tljobs.data.decode import BadImage
from tljobs.errors import InputRefused, NotFound, Unreachable
from tljobs.store import s3_filesystem

if TYPE_CHECKING:
    from pyarrow import fs as pafs

S3 = "s3://"
MAX_FILE_BYTES = 256 * 2**20  # a larger file is no photo, and many are in memory at a time


@dataclass(frozen=True)
class InputFile:
    """A file as the user will see it named: a path or an s3:// address. `size_bytes` is None until it is read."""

    name: str
    size_bytes: int | None = None

    def read(self) -> bytes:
        """The file's bytes. Raises BadImage with the reason `unreadable` or `too_large`."""
        try:
            return _read_s3(self) if self.name.startswith(S3) else _read_local(Path(self.name))
        except OSError as error:
            raise BadImage("unreadable", error.strerror or str(error)) from error


def find_inputs(names: tuple[str, ...]) -> list[InputFile]:
    """All files that `names` stand for, in the order of `names`; a folder gives the files below it sorted by path.

    Hidden files and folders are left out below a folder, and links to folders are not followed. Raises NotFound for
    a name that leads nowhere and InputRefused when there is no file at all, before anything is read.
    """
    files = [file for name in names for file in (_find_s3(name) if name.startswith(S3) else _find_local(Path(name)))]
    if not files:
        raise InputRefused("no files to predict", ", ".join(names), "The folders are empty")
    return files


def _find_local(path: Path) -> Iterator[InputFile]:
    if not path.exists():
        raise NotFound("no such file or folder", str(path))
    if not path.is_dir():
        yield InputFile(str(path))
        return
    for folder, folders, files in os.walk(path):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        # Not pipes and devices: reading one would wait for ever.
        yield from (
            InputFile(str(Path(folder, name)))
            for name in sorted(files)
            if not name.startswith(".") and Path(folder, name).is_file()
        )


def _read_local(path: Path) -> bytes:
    with path.open("rb") as file:
        data = file.read(MAX_FILE_BYTES + 1)
    return _limited(data, len(data))


def _find_s3(uri: str) -> Iterator[InputFile]:
    from pyarrow import fs as pafs

    path = uri.removeprefix(S3).rstrip("/")
    try:
        info = _s3().get_file_info(path)
        if info.type == pafs.FileType.NotFound:
            raise NotFound("no such object or prefix", uri)
        if info.type == pafs.FileType.File:
            yield InputFile(uri, info.size)
            return
        below = _s3().get_file_info(pafs.FileSelector(path, recursive=True))
    except OSError as error:
        raise Unreachable("the images cannot be listed", uri, str(error)) from error
    for each in sorted(below, key=lambda each: each.path):
        hidden = any(part.startswith(".") for part in each.path.removeprefix(path).split("/"))
        if each.type == pafs.FileType.File and not hidden:
            yield InputFile(S3 + each.path, each.size)


def _read_s3(file: InputFile) -> bytes:
    _limited(b"", file.size_bytes or 0)
    with _s3().open_input_file(file.name.removeprefix(S3)) as source:
        # `read_at` is one request; `read` on a stream makes many.
        data: bytes = source.read_at(source.size(), 0)
    return data


def _s3() -> pafs.FileSystem:
    return _s3_at(os.environ.get("AWS_ENDPOINT_URL"))


@cache
def _s3_at(endpoint_url: str | None) -> pafs.FileSystem:
    return s3_filesystem(endpoint_url)


def _limited(data: bytes, size_bytes: int) -> bytes:
    if size_bytes > MAX_FILE_BYTES:
        raise BadImage("too_large", f"more than {MAX_FILE_BYTES} bytes")
    return data
