"""From what a table says of an image (a path, an s3:// or file:// URI) to the file that it means, and its size.

Paths are relative to the table's folder. Tables written on Windows are understood: a backslash separates folders, and
a path that is there only in another spelling of upper and lower case is that file.
"""

from __future__ import annotations

import functools
import posixpath
import re
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from urllib.parse import unquote

from tljobs.data.sources.files import file_size, is_text, unreachable
from tljobs.data.sources.model import Found, Tree
from tljobs.data.sources.reading import S3, filesystem
from tljobs.errors import InputRefused

SCHEME = re.compile(r"[a-z][a-z0-9+.-]+://", re.IGNORECASE)
DRIVE = re.compile(r"[a-z]:[\\/]", re.IGNORECASE)
HEADS_PER_FOLDER = 50  # of more files in one folder on S3 the sizes come from listing it

Where = Callable[[int], str]
NamesIn = Callable[[str], dict[str, tuple[str, ...]]]


def resolve(text: str, folder: str) -> str:
    """The path or s3:// URI that a table in `folder` means by `text`. Pure.

    Raises ValueError for an address of another kind, such as http://, and for what can be no name.
    """
    _require_name(text)
    if text.startswith(S3):
        return text
    if text.startswith("file://"):
        return unquote(text.removeprefix("file://").removeprefix("localhost"))
    if SCHEME.match(text) or DRIVE.match(text):
        raise ValueError(f"an image that cannot be read from here, {text[:200]!r}")
    if text.startswith("/"):
        return posixpath.normpath(text)
    root = S3 if folder.startswith(S3) else ""
    return root + posixpath.normpath(posixpath.join(folder.removeprefix(root), text.replace("\\", "/")))


def find_images(texts: Sequence[str], folder: str, root: str, where: Where, endpoint_url: str | None) -> list[Found]:
    """The files that a table in `folder` (local or s3://) means; one that is not there has size 0. Their paths are
    relative to `root` where they lie below it."""
    uris: list[str] = []
    try:
        uris.extend(resolve(text, folder) for text in texts)
    except ValueError as error:
        hint = "Use paths relative to the table's folder, or s3:// or file:// URIs; download other images first"
        raise InputRefused(str(error), where(len(uris)), hint) from error
    sizes = _s3_sizes({uri for uri in uris if uri.startswith(S3)}, endpoint_url)
    names_in = functools.cache(_names_by_spelling)
    return [
        _found(uri, root, sizes[uri])
        if uri.startswith(S3)
        else _local(uri, folder, root, names_in, functools.partial(where, row))
        for row, uri in enumerate(uris)
    ]


def find_in_archive(texts: Sequence[str], folder: str, tree: Tree, where: Where) -> list[Found]:
    """The members of an archive that a table in its folder `folder` ("" for the top) means.

    Raises InputRefused when the table names anything that is not in the archive by its form.
    """
    members = {file.path: file for file in tree.files}
    spellings: dict[str, Found | None] = {}
    for member, file in members.items():
        spellings[member.casefold()] = None if member.casefold() in spellings else file
    found: list[Found] = []
    for row, text in enumerate(texts):
        try:
            _require_name(text)
        except ValueError as error:
            raise InputRefused(str(error), where(row)) from error
        path = posixpath.normpath(posixpath.join(folder, text.replace("\\", "/")))
        if SCHEME.match(text) or DRIVE.match(text) or path.startswith(("/", "..")):
            hint = "In an archive, paths are relative to the table's folder"
            raise InputRefused(f"a table in an archive names a file outside of it, {text[:200]!r}", where(row), hint)
        uri = f"{tree.source}!/{path}"
        missing = Found(path=path, uri=uri, address=uri, size_bytes=0)
        found.append(members.get(path) or spellings.get(path.casefold()) or missing)
    return found


def _require_name(text: str) -> None:
    """Raises ValueError for what no file system takes as a name."""
    if "\0" in text or not is_text(text):
        raise ValueError(f"an image whose name is no text, {text[:200]!r}")


def _local(path: str, folder: str, root: str, names_in: NamesIn, where: Callable[[], str]) -> Found:
    size_bytes = file_size(path)
    if size_bytes == 0 and not folder.startswith(S3) and path.startswith(f"{folder}/"):
        path = _spelled(folder, path.removeprefix(f"{folder}/"), names_in) or path
        size_bytes = file_size(path)
    if size_bytes is None:
        raise InputRefused(
            f"no regular file, {path!r}", where(), "An image must be a file, not a pipe, folder or device"
        )
    return _found(path, root, size_bytes)


def _found(uri: str, root: str, size_bytes: int) -> Found:
    return Found(path=uri.removeprefix(f"{root}/"), uri=uri, address=uri, size_bytes=size_bytes)


def _spelled(folder: str, path: str, names_in: NamesIn) -> str | None:
    """The only file below `folder` with this path in another spelling, if there is one."""
    here = folder
    for part in path.split("/"):
        matches = names_in(here).get(part.casefold(), ())
        exact = [name for name in matches if name == part] or matches
        if len(exact) != 1:
            return None
        here = f"{here}/{exact[0]}"
    return here


def _names_by_spelling(folder: str) -> dict[str, tuple[str, ...]]:
    """Names in a folder by their form without case."""
    names: dict[str, tuple[str, ...]] = {}
    try:
        for path in Path(folder).iterdir():
            names[path.name.casefold()] = (*names.get(path.name.casefold(), ()), path.name)
    except OSError:
        return {}
    return names


def _s3_sizes(uris: set[str], endpoint_url: str | None) -> dict[str, int]:
    """Bytes of each object, 0 for one that is not there; few requests where many objects lie in one folder."""
    from pyarrow import fs as pafs

    by_folder: dict[str, list[str]] = defaultdict(list)
    for uri in uris:
        path = uri.removeprefix(S3)
        by_folder[posixpath.dirname(path)].append(path)
    sizes = dict.fromkeys(uris, 0)
    for folder, paths in by_folder.items():
        selected = pafs.FileSelector(folder, allow_not_found=True) if len(paths) > HEADS_PER_FOLDER else sorted(paths)
        try:
            entries = filesystem(endpoint_url).get_file_info(selected)
        except OSError as error:
            raise unreachable(S3 + folder, endpoint_url, error) from error
        for entry in entries:
            if entry.type == pafs.FileType.File and S3 + entry.path in sizes:
                sizes[S3 + entry.path] = entry.size
    return sizes
