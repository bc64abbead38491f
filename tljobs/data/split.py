"""Which image goes to train, validation and test: a pure function of the image's bytes and of what the source says.

Hashes and labels flow in, splits flow out. Adding, renaming or moving files never moves another image.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

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
    """A file whose bytes are known; `address` is what is read."""

    uri: str
    address: str
    label: str
    sha256: str
    given_split: Split | None


@dataclass(frozen=True, kw_only=True)
class Uniques:
    """Images with different bytes, sorted by uri; how many further copies there were; and those whose copies disagree
    about the label."""

    kept: tuple[Image, ...]
    duplicates: int
    conflicts: tuple[Image, ...]


def split_of(sha256: str, percentages: Percentages) -> Split:
    """The split of an image by its content alone: a salted hash as a number in [0, 100) against the shares."""
    place = _uniform(sha256) * 100
    if place < percentages.train:
        return "train"
    return "val" if place < percentages.train + percentages.val else "test"


def assign_splits(images: Sequence[Image], percentages: Percentages) -> list[Split]:
    """The split of each image, as given by the source where it gives any.

    A source with train and test but without val has val taken out of train, with val's share of train and val
    together; one with train and val only has no test. Where nothing is given, or only train, `percentages` decide.
    """
    given = {image.given_split for image in images} - {None}
    if given <= {"train"}:
        return [split_of(image.sha256, percentages) for image in images]
    carve = "val" not in given
    return [
        _carved(image.sha256, percentages) if carve and image.given_split == "train" else image.given_split or "train"
        for image in images
    ]


def unique_images(files: Iterable[tuple[SourceFile, str]]) -> Uniques:
    """Of (file, SHA-256) pairs: equal bytes with one label are kept once, with several labels not at all."""
    copies: dict[str, list[Image]] = {}
    for file, sha256 in files:
        image = Image(uri=file.uri, address=file.address, label=file.label, sha256=sha256, given_split=file.given_split)
        copies.setdefault(sha256, []).append(image)
    kept: list[Image] = []
    conflicts: list[Image] = []
    duplicates = 0
    for same in copies.values():
        if len({image.label for image in same}) > 1:
            conflicts.extend(same)
        else:
            kept.append(min(same, key=lambda image: (KEEP_FIRST.index(image.given_split), image.uri)))
            duplicates += len(same) - 1
    return Uniques(
        kept=tuple(sorted(kept, key=_uri)), duplicates=duplicates, conflicts=tuple(sorted(conflicts, key=_uri))
    )


def require_images(classes: Sequence[str], placed: Iterable[tuple[str, Split]]) -> None:
    """Raises InputRefused when a class has no training or no validation images; `placed` is (label, split) of each."""
    counts = Counter(placed)
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


def _carved(sha256: str, percentages: Percentages) -> Split:
    both = percentages.train + percentages.val
    return "val" if _uniform(sha256) * both >= percentages.train and percentages.val else "train"


def _uniform(sha256: str) -> float:
    """A number in [0, 1) from the content, evenly distributed."""
    digest = hashlib.sha256(f"{SALT}{sha256}".encode()).digest()
    return int.from_bytes(digest[:6], "big") / 2**48
