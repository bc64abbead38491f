"""Which image goes to train, validation and test: a function of the image's bytes and of what the source says.

Hashes, labels and groups flow in, splits flow out. Each image, or group of images that must stay together, has a place
in [0, 1) by a hash of its content, and the shares cut that interval: adding, renaming or moving files moves no other
image. A class whose validation or test share came out far off is evened out by the images next to the cut; once a
version is published, its images keep their splits in all later versions of the dataset.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from tljobs.data.even_out import Unit, even_out
from tljobs.data.sources import SourceFile
from tljobs.errors import InputRefused
from tljobs.records import SPLITS, Split

SALT = "tljobs-split-1:"  # keeps the split independent of the shuffle, which hashes the same content
REQUIRED: tuple[Split, ...] = ("train", "val")
# Of equal bytes in several given splits, the copy that the user evaluates on stays.
KEEP_FIRST: tuple[Split | None, ...] = ("test", "val", "train", None)


@dataclass(frozen=True, kw_only=True)
class Percentages:
    """Shares of the splits; they add up to 100."""

    train: int
    val: int
    test: int

    @classmethod
    def parse(cls, text: str) -> Percentages:
        """From '80/10/10', as PrepareSpec.split has checked it."""
        train, val, test = map(int, text.split("/"))
        return cls(train=train, val=val, test=test)


@dataclass(frozen=True, kw_only=True)
class Image:
    """A file whose bytes are known. `labels` holds exactly one unless the dataset is multi-label."""

    uri: str
    labels: tuple[str, ...]
    sha256: str
    given_split: Split | None
    group: str = ""


@dataclass(frozen=True, kw_only=True)
class Uniques:
    """Images with different bytes, sorted by uri; how many further copies there were; and those whose copies disagree
    about the label."""

    kept: tuple[Image, ...]
    duplicates: int
    conflicts: tuple[Image, ...]


def split_of(sha256: str, percentages: Percentages) -> Split:
    """The split of an image by its content alone: a salted hash as a number in [0, 1) against the shares."""
    return _cut(_uniform(sha256), _shares(percentages))


def assign_splits(
    images: Sequence[Image],
    percentages: Percentages,
    together: Sequence[str] | None = None,
    earlier: Mapping[str, Split] = MappingProxyType({}),
) -> list[Split]:
    """The split of each image, as given by the source where it gives any.

    A source with train and test but without val has val taken out of train, with val's share of train and val
    together; one with train and val only has no test. Where nothing is given, or only train, `percentages` decide.

    Args:
        images: with different contents.
        percentages: the shares asked for.
        together: a key per image; images of one key get one split, unless the source gives them several. None: each
            image for itself.
        earlier: SHA-256 -> split in an earlier version of the dataset, which is kept.
    """
    given = {image.given_split for image in images} - {None}
    undecided = given <= {"train"}
    carve = not undecided and "val" not in given
    free = [undecided or (carve and image.given_split == "train") for image in images]
    shares = _shares(percentages)
    if carve:
        both = percentages.train + percentages.val
        shares = {"train": percentages.train / both, "val": percentages.val / both} if both else {"train": 1.0}
    units = _units(images, together or [image.sha256 for image in images], free, shares, earlier)
    even_out(units, shares)
    splits: list[Split] = [image.given_split or "train" for image in images]
    for unit in units:
        for row in unit.rows:
            splits[row] = unit.split
    return splits


def _units(
    images: Sequence[Image],
    keys: Sequence[str],
    free: Sequence[bool],
    shares: Mapping[Split, float],
    earlier: Mapping[str, Split],
) -> list[Unit]:
    rows_of: dict[str, list[int]] = {}
    for row, key in enumerate(keys):
        if free[row]:
            rows_of.setdefault(key, []).append(row)
    units: list[Unit] = []
    for key, rows in rows_of.items():
        place = _uniform(key)
        before = {earlier[images[row].sha256] for row in rows if images[row].sha256 in earlier} & set(shares)
        split = min(before, key=KEEP_FIRST.index) if before else _cut(place, shares)
        labels = Counter(label for row in rows for label in images[row].labels)
        units.append(Unit(rows=rows, labels=labels, place=place, split=split, fixed=bool(before)))
    return units


def _shares(percentages: Percentages) -> dict[Split, float]:
    return {"train": percentages.train / 100, "val": percentages.val / 100, "test": percentages.test / 100}


def _cut(place: float, shares: Mapping[Split, float]) -> Split:
    end, last = 0.0, next(iter(shares))
    for split, share in shares.items():
        end += share
        if place < end:
            return split
        last = split if share else last
    return last


def unique_images(files: Iterable[tuple[SourceFile, str]]) -> Uniques:
    """Of (file, SHA-256) pairs: equal bytes with one label are kept once, with several labels not at all."""
    copies: dict[str, list[Image]] = {}
    for file, sha256 in files:
        image = Image(uri=file.uri, labels=(file.label,), sha256=sha256, given_split=file.given_split)
        copies.setdefault(sha256, []).append(image)
    kept: list[Image] = []
    conflicts: list[Image] = []
    duplicates = 0
    for same in copies.values():
        if len({frozenset(image.labels) for image in same}) > 1:
            conflicts.extend(same)
        else:
            kept.append(min(same, key=lambda image: (KEEP_FIRST.index(image.given_split), image.uri)))
            duplicates += len(same) - 1
    return Uniques(
        kept=tuple(sorted(kept, key=_uri)), duplicates=duplicates, conflicts=tuple(sorted(conflicts, key=_uri))
    )


def require_images(classes: Sequence[str], placed: Iterable[tuple[Sequence[str], Split]]) -> None:
    """Raises InputRefused when a class has no training or no validation images; `placed` is (labels, split) of each."""
    counts = Counter((label, split) for labels, split in placed for label in labels)
    for split in REQUIRED:
        empty = [name for name in classes if not counts[name, split]]
        if empty:
            table = "; ".join(
                f"{name}: " + ", ".join(f"{counts[name, each]} {each}" for each in SPLITS) for name in empty[:10]
            )
            raise InputRefused(
                f"{len(empty)} of {len(classes)} classes without {split} images",
                table,
                f"Add images, give {split} a larger share with --split, or lay out train/ and val/ folders yourself",
            )


def _uri(image: Image) -> str:
    return image.uri


def _uniform(sha256: str) -> float:
    """A number in [0, 1) from the content, evenly distributed."""
    digest = hashlib.sha256(f"{SALT}{sha256}".encode()).digest()
    return int.from_bytes(digest[:6], "big") / 2**48
