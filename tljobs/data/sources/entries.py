"""From rows of a table or records of TFRecord files to a Listing: what the two have in common. Pure functions."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tljobs.data.sources.columns import Columns
from tljobs.data.sources.folders import SPLIT_NAMES
from tljobs.data.sources.labels import Where, cell_text, class_order, read_labels, rows_named
from tljobs.data.sources.model import Found, Listing, SourceFile, SourceOptions, sample
from tljobs.data.sources.understood import understood_rows
from tljobs.errors import InputRefused
from tljobs.records import Split


@dataclass(frozen=True, kw_only=True)
class Entries:
    """Images and the cells of the columns in use, one per row; `where` names a row for messages. `given_splits` come
    from folders or names of files, and count where there is no split column."""

    source: str
    kind: str
    columns: Columns
    images: Sequence[Found]
    labels: Mapping[str, Sequence[Any]]
    splits: Sequence[Any] | None
    groups: Sequence[Any] | None
    given_splits: Sequence[Split | None]
    where: Where
    ignored: Sequence[str] = ()


def listing_of(entries: Entries, options: SourceOptions) -> Listing:
    """Labels, splits and groups of all rows, sorted by path.

    Raises InputRefused naming the first bad rows, UsageError when `options.classes` do not match.
    """
    if not entries.images:
        raise InputRefused("no images found", entries.source, "It has no rows")
    labels = read_labels(entries.labels, options.label_separator, entries.where)
    what = f"labels of {entries.source}"
    if labels.task == "single-label" or options.classes is not None or not labels.classes:
        classes = class_order(labels.classes, options.classes, entries.source, what)
    else:
        classes = labels.classes
    splits = _splits(entries) if entries.splits is not None else entries.given_splits
    groups = [cell_text(cell) for cell in entries.groups] if entries.groups is not None else [""] * len(entries.images)
    place = {name: number for number, name in enumerate(classes)}
    files = [
        SourceFile(
            uri=image.uri,
            address=image.address,
            path=image.path,
            labels=tuple(sorted(own, key=place.__getitem__)) if len(own) > 1 else own,
            given_split=split,
            group=group,
            size_bytes=image.size_bytes,
        )
        for image, own, split, group in zip(entries.images, labels.rows, splits, groups, strict=True)
    ]
    repeated = _refuse_contradictions(files, entries.where)
    files.sort(key=lambda file: file.path)
    kind = f"{entries.kind}, {labels.task}" + (f"; {repeated} repeated rows" if repeated else "")
    return Listing(
        source=entries.source,
        task=labels.task,
        files=tuple(files),
        classes=classes,
        ignored=tuple(sorted(entries.ignored)),
        understood=understood_rows(kind, entries.columns.text(), files, classes),
    )


def _splits(entries: Entries) -> list[Split | None]:
    """From the split column, in which every row must name a split."""
    assert entries.splits is not None
    texts = [cell_text(cell) for cell in entries.splits]
    unknown = [row for row, text in enumerate(texts) if text.strip().casefold() not in SPLIT_NAMES]
    if unknown:
        values = sample(sorted({repr(texts[row]) for row in unknown}), 5)
        hint = f"Use train, val and test in every row, or rename the column ({rows_named(unknown, entries.where)})"
        raise InputRefused(f"column {entries.columns.split!r} holds what is no split: {values}", entries.source, hint)
    return [SPLIT_NAMES[text.strip().casefold()] for text in texts]


def _refuse_contradictions(files: Sequence[SourceFile], where: Where) -> int:
    """How many rows repeat another one; raises InputRefused when rows of one image differ in labels or split."""
    if len({file.uri for file in files}) == len(files):
        return 0
    count = Counter(file.uri for file in files)
    first: dict[str, tuple[int, SourceFile]] = {}
    for row, file in enumerate(files):
        if count[file.uri] == 1:
            continue
        before, other = first.setdefault(file.uri, (row, file))
        if (file.labels, file.given_split, file.group) != (other.labels, other.given_split, other.group):
            hint = "Keep one row per image; several labels go into one cell (--label-separator) or columns of 0 and 1"
            raise InputRefused(
                "two rows of one image disagree", f"{file.uri} in {where(before)} and {where(row)}", hint
            )
    return len(files) - len(count)
