"""Which columns of a table, or features of a TFRecord file, hold image, labels, split and group: pure functions.

Names flow in; the columns in use flow out. Usual names are found by themselves where only one is there; options
overrule them.
"""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass

from tljobs.data.sources.model import SourceOptions, sample
from tljobs.errors import InputRefused, UsageError

LISTED_COLUMNS = 20


@dataclass(frozen=True, kw_only=True)
class Columns:
    """The columns in use, and those that are not."""

    image: str
    labels: tuple[str, ...]
    split: str | None = None
    group: str | None = None
    unused: tuple[str, ...] = ()

    def text(self) -> str:
        """For people."""
        parts = [("image", self.image), ("label", sample(self.labels, LISTED_COLUMNS)), ("split", self.split)]
        parts += [("group", self.group), ("not used", sample(self.unused, LISTED_COLUMNS))]
        return "; ".join(f"{what}: {name or 'none'}" for what, name in parts)


@dataclass(frozen=True, kw_only=True)
class UsualNames:
    """Names to look for. Where `ranked`, the first that is there is taken; else two of them are ambiguous."""

    image: tuple[str, ...]
    label: tuple[str, ...]
    split: tuple[str, ...] = ("split",)
    ranked: bool = False


TABLE_NAMES = UsualNames(
    image=("image", "file", "file_name", "filename", "path", "uri", "img", "filepath", "file_path", "image_path"),
    label=("label", "labels", "class", "category", "classes", "categories"),
)
# The features of TensorFlow's own conversion scripts; `image/class/text` names what `image/class/label` numbers.
TFRECORD_NAMES = UsualNames(
    image=("image/encoded", "image", "image_raw", "encoded"),
    label=("image/class/text", "image/class/label", "label", "labels", "class"),
    ranked=True,
)


def choose_columns(names: Sequence[str], options: SourceOptions, usual: UsualNames, where: str) -> Columns:
    """The columns to use.

    Raises:
        UsageError: an option names a column that is not there, one column twice, or none was asked for and the usual
            names fit none or several. InputRefused: two columns have one name.
    """
    twice = sorted({name for name in names if list(names).count(name) > 1})
    if twice:
        raise InputRefused("several columns of one name", f"{sample(twice, 5)} in {where}", "Rename them")
    asked = [options.image_column, *options.label_columns, options.split_column, options.group_by]
    for name in filter(None, asked):
        _require(name, names, where)
    image = options.image_column or _detected("image", usual.image, names, usual.ranked, where)
    labels = options.label_columns or (_detected("label", usual.label, names, usual.ranked, where),)
    split = options.split_column or next((name for name in names if name.casefold() in usual.split), None)
    used = [image, *labels, *filter(None, (split, options.group_by))]
    repeated = sorted({name for name in used[: 1 + len(labels)] if used.count(name) > 1})
    if repeated:
        raise UsageError("one column for two purposes", f"{sample(repeated, 5)} in {where}")
    unused = tuple(name for name in names if name not in used)
    return Columns(image=image, labels=tuple(labels), split=split, group=options.group_by, unused=unused)


def has_usual_columns(names: Sequence[str], options: SourceOptions, usual: UsualNames = TABLE_NAMES) -> bool:
    """Whether a table looks like one of labelled images: a file beside images may be something else."""
    folded = {name.casefold() for name in names}
    image = options.image_column in names if options.image_column else bool(folded & set(usual.image))
    label = set(options.label_columns) <= set(names) if options.label_columns else bool(folded & set(usual.label))
    return image and label


def _detected(what: str, usual: Sequence[str], names: Sequence[str], ranked: bool, where: str) -> str:
    matching = [name for each in usual for name in names if name.casefold() == each]
    if matching and (ranked or len(matching) == 1):
        return matching[0]
    found = f"{sample(list(names), LISTED_COLUMNS)} in {where}"
    hint = f"Name it with --{what}-column"
    if what == "label":
        hint += "; once for each class where every class has a column of 0 and 1"
    if matching:
        raise UsageError(f"several columns may hold the {what}: {sample(matching, 5)}", where, hint)
    raise UsageError(f"no column of a usual name holds the {what}", found, hint)


def _require(name: str, names: Sequence[str], where: str) -> None:
    if name in names:
        return
    close = difflib.get_close_matches(name, names, 1)
    hint = f"Did you mean {close[0]!r}?" if close else f"There are {sample(list(names), LISTED_COLUMNS)}"
    raise UsageError(f"no column {name!r}", where, hint)
