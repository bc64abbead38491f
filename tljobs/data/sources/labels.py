"""From the cells of label columns to the labels of each image: pure functions.

Cells flow in as the reader of the file gives them (text, numbers, lists, None); label tuples and class names flow out.
Labels are text and taken exactly as written. Only columns of whole numbers are ordered as numbers.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tljobs.data.sources.model import sample
from tljobs.errors import InputRefused, UsageError
from tljobs.records import Task

Cell = Any  # str, int, float, bool, a sequence of these, or None
Where = Callable[[int], str]
NAMED_EXAMPLES = 3
FLAGS = {"0": False, "1": True, "0.0": False, "1.0": True, "false": False, "true": True}
MAY_ALL_DIFFER = 2  # rows in which each label may be another one


@dataclass(frozen=True, kw_only=True)
class Labels:
    """Labels of every row, and the classes in their natural order."""

    task: Task
    rows: list[tuple[str, ...]]
    classes: tuple[str, ...]


def read_labels(columns: Mapping[str, Sequence[Cell]], separator: str | None, where: Where) -> Labels:
    """Labels from one column (a label, a list of labels, or labels with a separator), or from several of 0 and 1.

    `where` names a row by its place in the columns, for messages. Raises InputRefused naming the first bad rows, and
    UsageError for a separator where there are lists.
    """
    if len(columns) > 1:
        return _flags(columns, where)
    ((name, cells),) = columns.items()
    if separator is not None:
        if any(isinstance(cell, list | tuple) for cell in cells):
            raise UsageError("--label-separator is for text", f"column {name!r} holds lists", "Leave it out")
        return _lists(name, [_split(cell, separator) for cell in cells], where)
    if any(isinstance(cell, list | tuple) for cell in cells):
        return _lists(name, [[] if cell is None else cell for cell in cells], where)
    return _single(name, cells, where)


def class_order(found: Sequence[str], asked: Sequence[str] | None, source: str, what: str) -> tuple[str, ...]:
    """Class names in index order: as asked for, or as found. Raises UsageError when the two are not the same set."""
    names = tuple(asked) if asked is not None else tuple(found)
    missing, unknown = sorted(set(names) - set(found)), sorted(set(found) - set(names))
    twice = sorted(name for name, count in Counter(names).items() if count > 1)
    for why, which in (("without images", missing), ("missing", unknown), ("named twice", twice)):
        if which:
            raise UsageError(f"--classes does not match the {what}; {why}", sample([*map(repr, which)], 20))
    if len(names) < 2:
        hint = "A classifier needs two"
        if what == "class folders":
            hint += "; SOURCE must be the folder above the class folders"
        raise InputRefused(f"a single class, {names[0]!r}" if names else "no class", source, hint)
    return names


def cell_text(cell: Cell) -> str:
    """A cell as text: "" for nothing, `true` and `false`, whole numbers without a point."""
    if cell is None or cell != cell:  # NaN
        return ""
    if isinstance(cell, bool):
        return str(cell).lower()
    if isinstance(cell, bytes):
        return cell.decode("utf-8", "backslashreplace")
    return str(cell)


def rows_named(rows: Sequence[int], where: Where) -> str:
    """The first of some rows, for a message."""
    return sample([where(row) for row in rows], NAMED_EXAMPLES)


def _single(name: str, cells: Sequence[Cell], where: Where) -> Labels:
    texts = [cell_text(cell) for cell in cells]
    empty = [row for row, text in enumerate(texts) if not text.strip()]
    if empty:
        hint = "Fill it in, or remove the rows; for images that may have no label give --label-separator"
        raise InputRefused(f"{len(empty)} rows without a label in column {name!r}", rows_named(empty, where), hint)
    odd = [row for row, cell in enumerate(cells) if isinstance(cell, float | dict)]
    if odd:
        hint = "Labels are text or whole numbers"
        raise InputRefused(f"{texts[odd[0]]!r} in label column {name!r} is no label", rows_named(odd, where), hint)
    if len(texts) > MAY_ALL_DIFFER and len(set(texts)) == len(texts):
        hint = "Name the column of the classes with --label-column"
        raise InputRefused(f"every row has another label in column {name!r}", sample(texts, NAMED_EXAMPLES), hint)
    return Labels(task="single-label", rows=[(text,) for text in texts], classes=_natural_order(cells, set(texts)))


def _lists(name: str, lists: Sequence[Sequence[Cell]], where: Where) -> Labels:
    classes = _natural_order([cell for cells in lists for cell in cells], {cell_text(c) for cs in lists for c in cs})
    empty = [row for row, cells in enumerate(lists) if any(not cell_text(cell).strip() for cell in cells)]
    if empty:
        raise InputRefused(f"empty labels in column {name!r}", rows_named(empty, where), "Remove them from the lists")
    return Labels(
        task="multi-label", rows=[_in_order(map(cell_text, cells), classes) for cells in lists], classes=classes
    )


def _flags(columns: Mapping[str, Sequence[Cell]], where: Where) -> Labels:
    """One column per class. The classes keep the order in which the columns were named."""
    marked = {
        name: [_flag(name, cell, row, where) for row, cell in enumerate(cells)] for name, cells in columns.items()
    }
    rows = [
        tuple(name for name, is_set in zip(marked, each, strict=True) if is_set)
        for each in zip(*marked.values(), strict=True)
    ]
    return Labels(task="multi-label", rows=rows, classes=tuple(columns))


def _flag(name: str, cell: Cell, row: int, where: Where) -> bool:
    text = cell_text(cell).strip().casefold()
    if text not in FLAGS:
        hint = "With several label columns each holds 0 or 1; uncertain or missing values must be decided first"
        raise InputRefused(f"{cell_text(cell)!r} in label column {name!r} is neither 0 nor 1", where(row), hint)
    return FLAGS[text]


def _split(cell: Cell, separator: str) -> list[str]:
    return [part for part in (part.strip() for part in cell_text(cell).split(separator)) if part]


def _in_order(labels: Any, classes: Sequence[str]) -> tuple[str, ...]:
    """Without repetitions, in class order."""
    present = set(labels)
    if len(present) <= 1:
        return tuple(present)
    return tuple(name for name in classes if name in present)


def _natural_order(cells: Sequence[Cell], names: set[str]) -> tuple[str, ...]:
    """Whole numbers by value, anything else as text."""
    if cells and all(isinstance(cell, int) and not isinstance(cell, bool) for cell in cells):
        return tuple(sorted(names, key=int))
    return tuple(sorted(names))
