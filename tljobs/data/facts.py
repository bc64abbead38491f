"""The facts of an audit: the table of a source's files as arrays, and findings about some of its rows.

A table of FILES_SCHEMA flows in; arrays with one entry per file, and findings, flow out.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from tljobs.data.shards import image_id
from tljobs.records import Example, Finding, Severity
from tljobs.specs import PrepareSpec

Flags = npt.NDArray[np.bool_]
Objects = npt.NDArray[np.object_]

MAX_EXAMPLES = 10


@dataclass(frozen=True)
class Facts:
    """The table of files and the request. Arrays have one entry per file unless they say otherwise."""

    table: pa.Table
    classes: Sequence[str]
    spec: PrepareSpec

    def column(self, name: str, missing: Any = "") -> npt.NDArray[Any]:
        values: npt.NDArray[Any] = self.table[name].fill_null(missing).to_numpy()
        return values

    @functools.cached_property
    def kept(self) -> Flags:
        """Files that are in the dataset."""
        return self.table["split"].is_valid().to_numpy()  # type: ignore[no-any-return]

    @functools.cached_property
    def content(self) -> npt.NDArray[np.int64]:
        """Equal numbers for equal bytes; -1 for files that could not be read."""
        codes: npt.NDArray[np.int64] = self.table["sha256"].combine_chunks().dictionary_encode().indices.to_numpy()
        return np.where(self.column("sha256") == "", -1, codes)

    @functools.cached_property
    def pairs(self) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """(file, class) for every label of every file."""
        number = {name: index for index, name in enumerate(self.classes)}
        labels = self.table["labels"].to_pylist()
        files = np.repeat(np.arange(len(labels)), [len(each) for each in labels])
        return files, np.array([number[name] for each in labels for name in each], np.int64)

    def per_class(self, flags: Flags) -> npt.NDArray[np.int64]:
        """How many of the flagged files each class has: int64 (classes,)."""
        files, classes = self.pairs
        return np.bincount(classes[flags[files]], minlength=len(self.classes))

    def finding(
        self, code: str, severity: Severity, text: str, flags: Flags, *, count: int | None = None, option: str = ""
    ) -> Finding:
        """A finding about the flagged files; `{count}` in the text is their number, or `count` if given."""
        rows = np.flatnonzero(flags)
        count = len(rows) if count is None else count
        names = ("sha256", "uri", "labels")
        shown = self.table.select(names).take(rows[:MAX_EXAMPLES]).to_pylist()
        return Finding(
            code=code,
            severity=severity,
            count=count,
            text=text.replace("{count}", str(count)),
            examples=tuple(
                Example(id=image_id(row["sha256"]), uri=row["uri"], label="|".join(row["labels"])) for row in shown
            ),
            option=option,
        )

    def of_class(self, number: int) -> Flags:
        """Files with this label."""
        files, classes = self.pairs
        flags = np.zeros(len(self.kept), bool)
        flags[files[classes == number]] = True
        return flags

    def label_texts(self) -> Objects:
        """All labels of each file as one text."""
        return np.array(["|".join(labels) for labels in self.table["labels"].to_pylist()], object)


def mixed_keys(keys: npt.NDArray[np.int64], values: Objects, flags: Flags) -> Flags:
    """The flagged rows whose key has several values among the flagged rows."""
    if not flags.any():
        return flags
    rows = np.flatnonzero(flags)
    codes = pa.array(values[rows]).dictionary_encode().indices.to_numpy()
    pairs = np.unique(np.stack([keys[rows], codes]), axis=1)
    found, counts = np.unique(pairs[0], return_counts=True)
    mixed = np.zeros(len(flags), bool)
    mixed[rows] = np.isin(keys[rows], found[counts > 1])
    return mixed
