"""Which images must stay on one side of a split: those of a group (a patient, a video), and near duplicates.

Group names and numbers of near-duplicate groups flow in; a key per image flows out.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt


def keys_together(
    sha256s: Sequence[str], groups: Sequence[str], near: npt.NDArray[np.int64] | None = None
) -> list[str]:
    """A key per image; images that are connected by a group or by nearness have the same.

    The key of a group is made of its name, so that further images of the group do not change it; that of near
    duplicates without a group is the smallest SHA-256 of them.

    Args:
        sha256s: content of each of the n images.
        groups: name of the group of each, or "".
        near: (n,) number of the near-duplicate group of each; None where there is none.
    """
    leader = list(range(len(sha256s)))

    def find(row: int) -> int:
        while leader[row] != row:
            leader[row] = leader[leader[row]]
            row = leader[row]
        return row

    def connect(ids: Sequence[object]) -> None:
        first: dict[object, int] = {}
        for row, each in enumerate(ids):
            if each == "":
                continue
            one, other = find(first.setdefault(each, row)), find(row)
            leader[max(one, other)] = min(one, other)

    connect(groups)
    if near is not None:
        connect(near.tolist())
    names: dict[int, str] = {}
    for row, sha256 in enumerate(sha256s):
        name = f"group:{groups[row]}" if groups[row] else f"image:{sha256}"
        root = find(row)
        names[root] = min(names.get(root, name), name)
    return [names[find(row)].removeprefix("image:") for row in range(len(sha256s))]
