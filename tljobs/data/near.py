"""Near duplicates: groups of images whose 64-bit perceptual hashes differ in a few bits.

Hashes flow in, a group number per image flows out; nothing else is read. Pairs are never listed, because a group of n
images has n² of them, and no image is compared with all others.

Method: hashes that differ in at most d of k blocks of bits agree in k - d blocks, so that for each choice of k - d
blocks only hashes that agree in them are compared: Manku, Jain, Das Sarma, "Detecting near-duplicates for web
crawling" (WWW 2007); the same pigeonhole as in Norouzi, Punjani, Fleet, "Fast search in Hamming space with
multi-index hashing" (CVPR 2012). Comparisons are numpy operations on a sorted array, linked pairs are merged by
union-find.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

Hashes = npt.NDArray[np.uint64]
Indices = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool_]

# Zero of 231,540 pairs of different photos are this near, 98 to 100 % of re-encoded, resized or brighter copies are.
DEFAULT_DISTANCE = 4
HASH_BITS = 64
SMALL_RUN = 128  # hashes that share a key: up to here they are compared all with all
SORT_COST = 6.0  # of one element, in comparisons; measured, and not critical
MAX_COMPARISONS = 2**26  # in one run of equal keys, before further bits are used to divide it


def near_groups(
    hashes: Hashes, excluded: Flags, *, max_distance: int = DEFAULT_DISTANCE, max_images: int | None = None
) -> Indices:
    """Groups of images that are linked by near duplicates.

    Two images are near duplicates if their hashes differ in at most `max_distance` bits; a group is all that hangs
    together through such pairs.

    Args:
        hashes: uint64 (n,).
        excluded: bool (n,), True for images that belong to no group whatever their hash, such as blank ones.
        max_distance: in bits; 0 groups equal hashes only.
        max_images: a group with more images is divided by smaller distances, and where even equal hashes are too
            many, into single images: the hash does not tell such images apart.

    Returns:
        int64 (n,): the smallest index in the image's group; its own index for an image that is alone.
    """
    groups = np.arange(len(hashes))
    todo = np.flatnonzero(~excluded)
    for distance in range(max_distance, -1, -1):
        groups[todo] = todo[_linked(hashes[todo], distance)]
        if max_images is None:
            return groups
        _, inverse, sizes = np.unique(groups[todo], return_inverse=True, return_counts=True)
        todo = todo[sizes[inverse] > max_images]
        if not len(todo):
            return groups
    groups[todo] = todo
    return groups


def group_sizes(groups: Indices) -> Indices:
    """int64 (n,): how many images the group of each image has."""
    _, inverse, sizes = np.unique(groups, return_inverse=True, return_counts=True)
    return sizes[inverse].astype(np.int64)


def _linked(hashes: Hashes, distance: int) -> Indices:
    """Smallest index in the group of each hash."""
    if not len(hashes):
        return np.zeros(0, np.int64)
    unique, first, inverse = np.unique(hashes, return_index=True, return_inverse=True)
    roots = np.arange(len(unique))
    if distance:
        roots = _link(unique, roots, np.arange(len(unique)), tuple(range(HASH_BITS)), distance)
    smallest = np.full(len(unique), len(hashes))
    np.minimum.at(smallest, roots, first)
    return smallest[roots][inverse]


def _link(hashes: Hashes, roots: Indices, members: Indices, bits: tuple[int, ...], distance: int) -> Indices:
    """`roots` with all near duplicates among `members` merged, which agree in all bits but `bits`."""
    for mask, rest in _tables(bits, len(members), distance):
        keys = hashes[members] & np.uint64(mask)
        order = np.argsort(keys)
        own, keys = members[order], keys[order]
        starts = np.flatnonzero(np.concatenate([[True], keys[1:] != keys[:-1]]))
        ends = np.append(starts[1:], len(own))
        roots = _merge(roots, *_compare_small(hashes[own], own, starts, ends, distance))
        for run in np.flatnonzero(ends - starts > SMALL_RUN):
            roots = _link_run(hashes, roots, own[starts[run] : ends[run]], rest, distance)
    return roots


def _tables(bits: tuple[int, ...], count: int, distance: int) -> Iterator[tuple[int, tuple[int, ...]]]:
    """Masks such that two hashes within the distance agree under at least one of them, each with the bits that are
    left; as many blocks as cost least for this number of hashes."""

    def cost(blocks: int) -> float:
        key_bits = len(bits) * (blocks - distance) / blocks
        return math.comb(blocks, distance) * (SORT_COST + count / 2**key_bits)

    blocks = min(range(distance + 1, min(2 * distance + 1, len(bits)) + 1), key=cost)
    edges = [len(bits) * block // blocks for block in range(blocks + 1)]
    parts = [bits[first:end] for first, end in itertools.pairwise(edges)]
    for chosen in itertools.combinations(range(blocks), blocks - distance):
        key = {bit for block in chosen for bit in parts[block]}
        yield sum(1 << bit for bit in key), tuple(bit for bit in bits if bit not in key)


def _compare_small(
    hashes: Hashes, members: Indices, starts: Indices, ends: Indices, distance: int
) -> tuple[Indices, Indices]:
    """Near pairs within the runs that are short, by comparing each hash with the next, the one after it, and so on."""
    sizes = ends - starts
    end_of = np.repeat(np.where(sizes <= SMALL_RUN, ends, 0), sizes)
    left, right = [], []
    here = np.flatnonzero(np.arange(len(hashes)) + 1 < end_of)
    for shift in range(1, SMALL_RUN):
        if not len(here):
            break
        near = here[np.bitwise_count(hashes[here] ^ hashes[here + shift]) <= distance]
        left.append(members[near])
        right.append(members[near + shift])
        here = here[here + shift + 1 < end_of[here]]
    empty = np.zeros(0, np.int64)
    return np.concatenate([empty, *left]), np.concatenate([empty, *right])


def _link_run(hashes: Hashes, roots: Indices, run: Indices, rest: tuple[int, ...], distance: int) -> Indices:
    """Merges within a long run of equal keys: grows groups one by one as long as that is cheap, as it is where most
    are near each other; what is left then is divided by the bits that the key did not use."""
    if (roots[run] == roots[run[0]]).all():
        return roots
    can_divide = len(rest) > distance
    found, left = _grow(hashes[run], distance, MAX_COMPARISONS if can_divide else None)
    roots = _merge(roots, run, run[found])
    return _link(hashes, roots, run[left], rest, distance) if len(left) else roots


def _grow(hashes: Hashes, distance: int, max_comparisons: int | None) -> tuple[Indices, Indices]:
    """Groups by breadth-first search, each hash compared with those not reached yet.

    Returns an index in the same group for each hash, and the indices of which not all comparisons were made.
    """
    found = np.arange(len(hashes))
    fresh = np.arange(len(hashes))
    comparisons = 0
    while len(fresh):
        seed, fresh = fresh[0], fresh[1:]
        frontier = [seed]
        while frontier and len(fresh):
            if max_comparisons is not None and comparisons > max_comparisons:
                return found, np.concatenate([np.array(frontier), fresh])
            here = frontier.pop()
            comparisons += len(fresh)
            near = np.bitwise_count(hashes[fresh] ^ hashes[here]) <= distance
            if near.any():
                found[fresh[near]] = seed
                frontier.extend(fresh[near].tolist())
                fresh = fresh[~near]
    return found, fresh


def _merge(roots: Indices, left: Indices, right: Indices) -> Indices:
    """Union of the groups of each pair. `roots` maps to the smallest member and is returned likewise."""
    roots = roots.copy()
    while True:
        one, other = roots[left], roots[right]
        apart = one != other
        if not apart.any():
            return roots
        np.minimum.at(roots, np.maximum(one, other)[apart], np.minimum(one, other)[apart])
        while (roots[roots] != roots).any():
            roots = roots[roots]
