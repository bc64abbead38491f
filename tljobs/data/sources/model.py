"""What flows between the parts of tljobs.data.sources: files as found, options, and the list that comes out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from tljobs.records import Split, Task


@dataclass(frozen=True, kw_only=True, slots=True)
class Found:
    """A file as listed: `path` relative to the source, with '/'; `uri` for people, `address` for `read_file`."""

    path: str
    uri: str
    address: str
    size_bytes: int


@dataclass(frozen=True, kw_only=True)
class Tree:
    """The files of a folder or of an archive, and the paths of what is no regular file or has a name that is no text.

    `sealed` says that it is an archive: what it holds comes from somebody else and may not name files outside of it.
    """

    source: str
    files: tuple[Found, ...]
    unusable: tuple[str, ...] = ()
    sealed: bool = False


@dataclass(frozen=True, kw_only=True)
class SourceOptions:
    """How to read a source; see the fields of the same names in PrepareSpec. None, or empty, finds it out."""

    classes: tuple[str, ...] | None = None
    image_column: str | None = None
    label_columns: tuple[str, ...] = ()
    label_separator: str | None = None
    split_column: str | None = None
    group_by: str | None = None

    @property
    def names_columns(self) -> bool:
        """Whether any option is set that only tables and TFRecord files can obey."""
        return bool(self.image_column or self.label_columns or self.label_separator or self.split_column)


DEFAULT_OPTIONS = SourceOptions()


@dataclass(frozen=True, kw_only=True, slots=True)
class SourceFile:
    """A labelled image.

    `uri` is what a user reads in index and table of rejected files, `address` what `read_file` opens (the same for
    plain files), `path` its place in the source. `labels` holds exactly one class of a single-label source, any number
    of them, in class order, of a multi-label one. `given_split` is set where the source gives one. Files of one
    `group` belong on one side of the split; "" stands alone. `size_bytes` is 0 for a file that is not there.
    """

    uri: str
    address: str
    path: str
    labels: tuple[str, ...]
    given_split: Split | None
    group: str = ""
    size_bytes: int

    @property
    def label(self) -> str:
        """The label of a file that has exactly one; raises ValueError for another number of them."""
        (only,) = self.labels
        return only


@dataclass(frozen=True, kw_only=True)
class Listing:
    """What a source holds: labelled files sorted by path, class names in index order, the paths left out, and what was
    understood: (name, value) rows for people."""

    source: str
    task: Task = "single-label"
    files: tuple[SourceFile, ...]
    classes: tuple[str, ...]
    ignored: tuple[str, ...]
    understood: tuple[tuple[str, str], ...] = ()

    @property
    def per_class(self) -> dict[str, int]:
        """Files per class, in class order; a file with several labels counts in each."""
        counts = Counter(label for file in self.files for label in file.labels)
        return {name: counts[name] for name in self.classes}

    @property
    def has_given_split(self) -> bool:
        return any(file.given_split for file in self.files)

    @property
    def size_bytes(self) -> int:
        return sum(file.size_bytes for file in self.files)


def sample(names: Sequence[str], most: int) -> str:
    """The first `most` names, and how many more there are."""
    more = f", … ({len(names) - most} more)" if len(names) > most else ""
    return ", ".join(names[:most]) + more
