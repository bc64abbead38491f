"""Evens out the splits of small classes, which a hash of the content deals unevenly.

With 20 images of a class and a tenth for validation, one class in eight would have none. Here a class gets at least
half and at most twice of the share of validation and test that was asked for, and at least one image. As few units as
possible are moved, those whose place is next to the cut, and never one that is fixed.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from tljobs.records import Split

LEAST, MOST = 0.5, 2.0  # of the share asked for


@dataclass
class Unit:
    """Images that stay together: their rows, their labels with counts, their place in [0, 1), and their split.

    `fixed` ones are not moved.
    """

    rows: list[int]
    labels: Counter[str]
    place: float
    split: Split
    fixed: bool = False


def even_out(units: Sequence[Unit], shares: Mapping[Split, float]) -> None:
    """Changes the split of as few `units` as possible; `shares` add up to 1. Where a class has too few units, it
    stays as it is: that every class has training and validation images is checked elsewhere."""
    of_class: dict[str, list[Unit]] = {}
    for unit in units:
        for label in unit.labels:
            of_class.setdefault(label, []).append(unit)
    counts = Counter[tuple[str, Split]]()
    for unit in units:
        _count(counts, unit, +1)
    for label in sorted(of_class):
        _even_out_class(label, of_class[label], shares, counts)


def _even_out_class(
    label: str, units: Sequence[Unit], shares: Mapping[Split, float], counts: Counter[tuple[str, Split]]
) -> None:
    total = sum(unit.labels[label] for unit in units)
    limits = {
        split: (max(1, math.floor(LEAST * share * total)), math.ceil(MOST * share * total))
        for split, share in shares.items()
        if split != "train" and share
    }
    for split, (least, most) in limits.items():
        for unit in _nearest(units, split, first_to_train=True):
            if counts[label, split] > most and counts[label, split] - unit.labels[label] >= least:
                _move(unit, "train", counts)
    if not shares.get("train"):
        return
    if not counts[label, "train"]:
        for largest in sorted(limits, key=lambda split: -counts[label, split])[:1]:
            for unit in _nearest(units, largest, first_to_train=True):
                if not counts[label, "train"] and counts[label, largest] > unit.labels[label]:
                    _move(unit, "train", counts)
    for split, (least, most) in limits.items():
        for unit in _nearest(units, "train", first_to_train=False):
            fits = counts[label, split] + unit.labels[label] <= most
            if counts[label, split] < least and fits and _can_leave_train(unit, counts):
                _move(unit, split, counts)
        for unit in _nearest(units, "train", first_to_train=False):  # rather a large group than nothing
            if not counts[label, split] and _can_leave_train(unit, counts):
                _move(unit, split, counts)


def _nearest(units: Iterable[Unit], split: Split, *, first_to_train: bool) -> list[Unit]:
    """The units of `split` that may move, those next to the cut between train and the others first."""
    movable = [unit for unit in units if unit.split == split and not unit.fixed]
    return sorted(movable, key=lambda unit: unit.place, reverse=not first_to_train)


def _can_leave_train(unit: Unit, counts: Counter[tuple[str, Split]]) -> bool:
    return all(counts[label, "train"] > images for label, images in unit.labels.items())


def _move(unit: Unit, split: Split, counts: Counter[tuple[str, Split]]) -> None:
    _count(counts, unit, -1)
    unit.split = split
    _count(counts, unit, +1)


def _count(counts: Counter[tuple[str, Split]], unit: Unit, sign: int) -> None:
    for label, images in unit.labels.items():
        counts[label, unit.split] += sign * images
