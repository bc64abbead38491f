"""From a folder of class folders, local or on S3, to a list of labelled files.

What a source is: the folder names directly in it are the labels, exactly as they are written; or folders `train`,
`val` and `test` in it hold the class folders. The rules are pure functions of the paths; only `list_source` and
`read_file` touch a disk or the network.
"""

from __future__ import annotations

import functools
import os
import re
import stat
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tljobs.errors import InputRefused, NotFound, TljobsError, Unreachable, UsageError
from tljobs.records import Split, Task
from tljobs.store import s3_filesystem

SPLIT_FOLDERS: dict[str, Split] = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "test": "test",
    "testing": "test",
}
IGNORED_NAMES = frozenset({"thumbs.db", "desktop.ini", "__macosx"})  # beside all names that start with a dot
# Files that accompany images. Any other name, also one without extension, is for the decoder to judge by its content.
COMPANION = re.compile(
    r".*\.(txt|csv|tsv|jsonl?|xml|md|rst|html?|ya?ml|toml|ini|cfg|log|pdf|docx?|xlsx?|py|ipynb|sh|db|sqlite"
    r"|zip|tar|gz|tgz|bz2|xz|7z|rar|npy|npz|mat|pkl|pickle|h5|hdf5|parquet|arrow|mp4|avi|mov|mkv|webm|mp3|wav|tmp|bak|lnk)",
    re.IGNORECASE,
)


@dataclass(frozen=True, kw_only=True)
class Found:
    """A file as listed: `path` relative to the source, with '/'."""

    path: str
    size_bytes: int


@dataclass(frozen=True, kw_only=True)
class SourceFile:
    """A labelled file. `path` is relative to the source; `given_split` is set where the source has split folders."""

    uri: str
    path: str
    label: str
    given_split: Split | None
    size_bytes: int


@dataclass(frozen=True, kw_only=True)
class Listing:
    """What a source holds: labelled files sorted by path, class names in index order, and the paths left out."""

    source: str
    task: Task = "single-label"
    files: tuple[SourceFile, ...]
    classes: tuple[str, ...]
    ignored: tuple[str, ...]

    @property
    def per_class(self) -> dict[str, int]:
        """Files per class, in class order."""
        counts = Counter(file.label for file in self.files)
        return {name: counts[name] for name in self.classes}

    @property
    def has_given_split(self) -> bool:
        return any(file.given_split for file in self.files)

    @property
    def size_bytes(self) -> int:
        return sum(file.size_bytes for file in self.files)


def list_source(source: str, classes: Sequence[str] | None = None, endpoint_url: str | None = None) -> Listing:
    """Lists a folder of class folders.

    Args:
        source: a folder, `file://…` or `s3://bucket/prefix`.
        classes: class names in index order; None sorts the folder names.
        endpoint_url: of an S3-compatible server; None is AWS.

    Raises:
        NotFound: no such folder. UsageError: not a folder, or `classes` are not the folder names. InputRefused: no
        images, or a single class. Unreachable: the S3 server cannot be used.
    """
    uri = source_uri(source)
    found, unusable = _list_s3(uri, endpoint_url) if uri.startswith("s3://") else _list_local(Path(uri))
    return arrange(uri, found, unusable, classes)


def source_uri(source: str) -> str:
    """The source as an absolute path or an s3:// address, without a slash at the end. Raises UsageError."""
    if source.startswith("s3://"):
        if not source.removeprefix("s3://").strip("/"):
            raise UsageError("a source on S3 needs a bucket", source, "Use s3://bucket/prefix")
        return source.rstrip("/")
    scheme, separator, rest = source.partition("://")
    if separator and scheme != "file":
        raise UsageError("unknown kind of source", source, "Use a folder or s3://bucket/prefix")
    return str(Path(rest if separator else source).expanduser().absolute())


def read_file(uri: str, endpoint_url: str | None = None) -> bytes:
    """The bytes of a listed file, in one request. Raises OSError when it cannot be read."""
    if not uri.startswith("s3://"):
        return Path(uri).read_bytes()
    with _filesystem(endpoint_url).open_input_file(uri.removeprefix("s3://")) as file:
        data: bytes = file.read_at(file.size(), 0)
    return data


# ------------------------------------------------------------------------------------------------------- rules


def arrange(
    source: str, found: Sequence[Found], unusable: Sequence[str] = (), classes: Sequence[str] | None = None
) -> Listing:
    """Labels the files of a source by its folders; see `list_source`. `unusable` are paths to list as ignored."""
    kept, ignored = _without_litter(sorted(found, key=lambda file: file.path))
    split_folders = _split_folders({file.path.split("/")[0] for file in kept if "/" in file.path})
    files: list[SourceFile] = []
    for file in kept:
        *folders, _ = file.path.split("/")
        given = split_folders.get(folders[0]) if folders else None
        labels = folders if not split_folders else folders[1:] if given else []
        if labels:
            uri = f"{source}/{file.path}"
            files.append(
                SourceFile(uri=uri, path=file.path, label=labels[0], given_split=given, size_bytes=file.size_bytes)
            )
        else:
            ignored.append(file.path)
    if not files:
        raise InputRefused(
            "no images found",
            source,
            "Expected a folder of class folders, such as SOURCE/cats/1.jpg and SOURCE/dogs/1.jpg",
        )
    names = _class_order({file.label for file in files}, classes, source)
    return Listing(source=source, files=tuple(files), classes=names, ignored=tuple(sorted([*ignored, *unusable])))


def _without_litter(found: Sequence[Found]) -> tuple[list[Found], list[str]]:
    """Sorted files apart from hidden files, companions and second spellings (`a.jpg` and `A.JPG` are one file)."""
    kept: dict[str, Found] = {}
    ignored: list[str] = []
    for file in found:
        folder, _, name = file.path.rpartition("/")
        spelling = f"{folder}/{name.casefold()}"
        if _is_litter(file.path) or spelling in kept:
            ignored.append(file.path)
        else:
            kept[spelling] = file
    return list(kept.values()), ignored


def _is_litter(path: str) -> bool:
    parts = path.split("/")
    if any(part.startswith(".") or part.casefold() in IGNORED_NAMES for part in parts):
        return True
    return COMPANION.fullmatch(parts[-1]) is not None


def _split_folders(names: set[str]) -> dict[str, Split]:
    """Folder name -> split, if the folders of the source are splits: one is `train`, and it is alone or not the only
    one. (`train` beside `bus` and `tram` is a class.) Raises UsageError when two folders stand for one split."""
    splits = {name: SPLIT_FOLDERS[name.casefold()] for name in sorted(names) if name.casefold() in SPLIT_FOLDERS}
    if "train" not in splits.values() or (len(splits) == 1 and len(names) > 1):
        return {}
    if len(set(splits.values())) < len(splits):
        raise UsageError("two folders for one split", ", ".join(splits), "Keep one folder each for train, val and test")
    return splits


def _class_order(found: set[str], asked: Sequence[str] | None, source: str) -> tuple[str, ...]:
    names = tuple(asked) if asked is not None else tuple(sorted(found))
    missing, unknown = sorted(set(names) - found), sorted(found - set(names))
    twice = sorted(name for name, count in Counter(names).items() if count > 1)
    for what, which in (("without images", missing), ("missing", unknown), ("named twice", twice)):
        if which:
            raise UsageError(f"--classes does not match the class folders; {what}", ", ".join(map(repr, which)))
    if len(names) < 2:
        raise InputRefused(
            f"a single class, {names[0]!r}",
            source,
            "A classifier needs two; SOURCE must be the folder above the class folders",
        )
    return names


# ----------------------------------------------------------------------------------------------------- listing


def _list_local(root: Path) -> tuple[list[Found], list[str]]:
    """Files below a folder and the paths of what is no file, or has a name that is no text."""
    if not root.exists():
        raise NotFound("no such folder", str(root))
    if not root.is_dir():
        raise UsageError("not a folder", str(root), "SOURCE is a folder of class folders")
    found: list[Found] = []
    unusable: list[str] = []
    for path in _walk(root):
        relative = path.relative_to(root).as_posix()
        size_bytes = _regular_size(path)
        if size_bytes is None or not _is_text(relative):
            unusable.append(os.fsencode(relative).decode(errors="backslashreplace"))
        else:
            found.append(Found(path=relative, size_bytes=size_bytes))
    return found, unusable


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


def _regular_size(path: Path) -> int | None:
    """Bytes of a file; 0 for a link to nowhere, which reading will report; None for a pipe, socket or device."""
    try:
        status = path.stat()
    except OSError:
        return 0
    return status.st_size if stat.S_ISREG(status.st_mode) else None


def _is_text(path: str) -> bool:
    try:
        path.encode()
    except UnicodeEncodeError:
        return False
    return True


def _list_s3(uri: str, endpoint_url: str | None) -> tuple[list[Found], list[str]]:
    from pyarrow import fs as pafs

    root = uri.removeprefix("s3://")
    filesystem = _filesystem(endpoint_url)
    try:
        kind = filesystem.get_file_info(root).type
        if kind == pafs.FileType.File:
            raise UsageError("not a folder", uri, "SOURCE is a folder of class folders")
        if kind == pafs.FileType.NotFound:
            raise NotFound("no such folder", uri)
        entries = filesystem.get_file_info(pafs.FileSelector(root, recursive=True))
    except FileNotFoundError as error:
        raise NotFound("no such folder", uri) from error
    except OSError as error:
        raise _unreachable(uri, endpoint_url, error) from error
    files = [entry for entry in entries if entry.type == pafs.FileType.File]
    return [Found(path=file.path[len(root) + 1 :], size_bytes=file.size) for file in files], []


def _unreachable(uri: str, endpoint_url: str | None, error: OSError) -> TljobsError:
    hint = f"Check the network, the keys and the endpoint {endpoint_url or 'of AWS'} ({str(error)[:200]})"
    return Unreachable("the source cannot be listed", uri, hint)


@functools.lru_cache(maxsize=4)
def _filesystem(endpoint_url: str | None) -> Any:
    return s3_filesystem(endpoint_url)
