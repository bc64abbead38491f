"""The rules of class folders: files flow in, labelled files flow out. Pure functions of the paths.

The folder names directly in the source are the labels, exactly as they are written; or folders `train`, `val` and
`test` in it hold the class folders.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from tljobs.data.sources.labels import class_order
from tljobs.data.sources.model import DEFAULT_OPTIONS, Found, Listing, SourceFile, SourceOptions, Tree
from tljobs.data.sources.understood import understood_rows
from tljobs.errors import InputRefused, UsageError
from tljobs.records import Split

SPLIT_NAMES: dict[str, Split] = {
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
    r"|zip|tar|gz|tgz|bz2|xz|zst|7z|rar|npy|npz|mat|pkl|pickle|h5|hdf5|parquet|arrow|tfrecords?"
    r"|mp4|avi|mov|mkv|webm|mp3|wav|tmp|bak|lnk)",
    re.IGNORECASE,
)


def arrange(tree: Tree, options: SourceOptions = DEFAULT_OPTIONS) -> Listing:
    """Labels the files of a source by its folders; see `list_source` for the errors."""
    if options.names_columns:
        hint = "These options are for tables and TFRecord files; here the folders are the labels"
        raise UsageError("--image-column, --label-column, --label-separator and --split-column", tree.source, hint)
    kept, ignored = without_litter(tree.files)
    split_folders = split_folders_of({file.path.split("/")[0] for file in kept if "/" in file.path})
    files: list[SourceFile] = []
    groups = groups_of([file.path for file in kept], options.group_by)
    for file, group in zip(kept, groups, strict=True):
        *folders, _ = file.path.split("/")
        given = split_folders.get(folders[0]) if folders else None
        labels = folders if not split_folders else folders[1:] if given else []
        if labels:
            files.append(_labelled(file, labels[0], given, group))
        else:
            ignored.append(file.path)
    if not files:
        hint = "Expected a folder of class folders, such as SOURCE/cats/1.jpg and SOURCE/dogs/1.jpg, or a metadata.csv"
        raise InputRefused("no images found", tree.source, hint)
    names = class_order(sorted({file.label for file in files}), options.classes, tree.source, "class folders")
    columns = f"label: the folder's name; group: {options.group_by or 'none'}"
    return Listing(
        source=tree.source,
        files=tuple(files),
        classes=names,
        ignored=tuple(sorted([*ignored, *tree.unusable])),
        understood=understood_rows("class folders", columns, files, names),
    )


def without_litter(found: Iterable[Found]) -> tuple[list[Found], list[str]]:
    """Files sorted by path, apart from hidden files, companions and second spellings (`a.jpg` and `A.JPG` are one
    file)."""
    kept: dict[str, Found] = {}
    ignored: list[str] = []
    for file in sorted(found, key=lambda file: file.path):
        folder, _, name = file.path.rpartition("/")
        spelling = f"{folder}/{name.casefold()}"
        if is_hidden(file.path) or COMPANION.fullmatch(name) or spelling in kept:
            ignored.append(file.path)
        else:
            kept[spelling] = file
    return list(kept.values()), ignored


def is_hidden(path: str) -> bool:
    """Whether a file or a folder above it is hidden, or put there by an operating system."""
    return any(part.startswith(".") or part.casefold() in IGNORED_NAMES for part in path.split("/"))


def split_folders_of(names: set[str]) -> dict[str, Split]:
    """Folder name -> split, if the folders of the source are splits: one is `train`, and it is alone or not the only
    one. (`train` beside `bus` and `tram` is a class.) Raises UsageError when two folders stand for one split."""
    splits = {name: SPLIT_NAMES[name.casefold()] for name in sorted(names) if name.casefold() in SPLIT_NAMES}
    if "train" not in splits.values() or (len(splits) == 1 and len(names) > 1):
        return {}
    if len(set(splits.values())) < len(splits):
        raise UsageError("two folders for one split", ", ".join(splits), "Keep one folder each for train, val and test")
    return splits


def groups_of(paths: Sequence[str], pattern: str | None) -> list[str]:
    """What the one group of a regular expression matches in each path; "" where it matches nothing.

    Raises UsageError when it is no such expression or matches in no path at all.
    """
    if pattern is None:
        return [""] * len(paths)
    try:
        compiled = re.compile(pattern)
    except re.error as error:
        raise UsageError(f"--group-by is no regular expression ({error})", pattern) from error
    if compiled.groups != 1:
        hint = "Put the part that names the patient, video or burst in one pair of parentheses: '(p[0-9]+)_'"
        raise UsageError(f"--group-by needs one group, and has {compiled.groups}", pattern, hint)
    matches = [compiled.search(path) for path in paths]
    if paths and not any(matches):
        raise UsageError("--group-by matches no file", pattern, f"It is searched in paths such as {paths[0]}")
    return [(match[1] or "") if match else "" for match in matches]


def _labelled(file: Found, label: str, given: Split | None, group: str) -> SourceFile:
    return SourceFile(
        uri=file.uri,
        address=file.address,
        path=file.path,
        labels=(label,),
        given_split=given,
        group=group,
        size_bytes=file.size_bytes,
    )
