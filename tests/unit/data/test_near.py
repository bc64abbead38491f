"""Groups of near duplicates: the same as by comparing all with all, also where hashes crowd, and in linear time."""

from __future__ import annotations

import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tljobs.data import near
from tljobs.data.near import Flags, Hashes, Indices, group_sizes, near_groups


def random_hashes(count: int, seed: int = 0, bits: int = 64) -> Hashes:
    return np.random.default_rng(seed).integers(0, 2**bits, count, dtype=np.uint64)


def flipped(hashes: Hashes, bits: Indices, seed: int = 1) -> Hashes:
    """Each hash with so many of its bits flipped."""
    generator = np.random.default_rng(seed)
    masks = [sum(1 << int(bit) for bit in generator.choice(64, count, replace=False)) for count in bits]
    return hashes ^ np.array(masks, np.uint64)


def none_of(hashes: Hashes) -> Flags:
    return np.zeros(len(hashes), bool)


def by_comparing_all(hashes: Hashes, distance: int) -> list[int]:
    close = np.bitwise_count(hashes[:, None] ^ hashes[None]) <= distance
    groups = np.arange(len(hashes))
    while len(hashes):
        smaller = np.where(close, groups[None], len(hashes)).min(axis=1)
        if (smaller == groups).all():
            return groups.tolist()
        groups = smaller
    return []


@pytest.mark.parametrize("distance", [0, 1, 2, 3, 4, 6, 8])
def test_groups_are_those_of_comparing_all_with_all(distance: int) -> None:
    base = random_hashes(400)
    base[:150] &= np.uint64(0xFFFF)  # a crowd: they share three quarters of their bits
    copies = flipped(base[::3], np.arange(len(base[::3])) % 10)
    crowd = flipped(np.repeat(base[-1:], 200), np.arange(200) % 7)
    hashes = np.concatenate([base, copies, crowd])
    assert near_groups(hashes, none_of(hashes), max_distance=distance).tolist() == by_comparing_all(hashes, distance)


@given(
    st.lists(st.integers(0, 2**64 - 1) | st.integers(0, 63).map(lambda bit: 1 << bit), max_size=30), st.integers(0, 5)
)
def test_any_hashes_are_grouped_as_by_comparing_all(values: list[int], distance: int) -> None:
    hashes = np.array(values, np.uint64)
    assert near_groups(hashes, none_of(hashes), max_distance=distance).tolist() == by_comparing_all(hashes, distance)


def test_a_long_run_of_equal_keys_is_divided_by_the_other_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(near, "MAX_COMPARISONS", 100)
    monkeypatch.setattr(near, "SMALL_RUN", 4)
    alike = random_hashes(300, bits=24)
    hashes = np.concatenate([alike, flipped(alike[:60], np.arange(60) % 5)])
    assert near_groups(hashes, none_of(hashes)).tolist() == by_comparing_all(hashes, 4)


def test_groups_do_not_depend_on_the_order_of_the_images() -> None:
    hashes = np.concatenate([random_hashes(200), flipped(random_hashes(200), np.arange(200) % 6)])
    order = np.random.default_rng(2).permutation(len(hashes))
    groups, shuffled = near_groups(hashes, none_of(hashes)), near_groups(hashes[order], none_of(hashes))
    together = {frozenset(np.flatnonzero(groups == group)) for group in set(groups)}
    assert together == {frozenset(order[np.flatnonzero(shuffled == group)]) for group in set(shuffled)}


def test_excluded_images_stay_alone_and_link_nothing() -> None:
    hashes = np.array([0b0000, 0b1111, 0b11111111, 0b0000], np.uint64)
    assert near_groups(hashes, none_of(hashes)).tolist() == [0, 0, 0, 0]
    blank = np.array([False, True, False, False])
    assert near_groups(hashes, blank).tolist() == [0, 1, 2, 0]
    assert near_groups(hashes, np.ones(4, bool)).tolist() == [0, 1, 2, 3]
    assert near_groups(hashes[:0], blank[:0]).tolist() == []


def test_a_group_with_too_many_images_is_divided() -> None:
    chain = np.array([sum(1 << bit for bit in range(3 * step)) for step in range(20)], np.uint64)  # steps of 3 bits
    equal = np.full(3, 0xFFFF << 48, np.uint64)
    hashes = np.concatenate([chain, equal])
    assert group_sizes(near_groups(hashes, none_of(hashes))).tolist() == [20] * 20 + [3] * 3
    assert group_sizes(near_groups(hashes, none_of(hashes), max_images=10)).tolist() == [1] * 20 + [3] * 3
    assert group_sizes(near_groups(hashes, none_of(hashes), max_images=2)).tolist() == [1] * 23


@pytest.mark.parametrize("alike", ["equal", "nearly equal", "sharing half of their bits"])
def test_a_tenth_of_all_images_alike_does_not_make_it_quadratic(alike: str) -> None:
    count = 60_000
    base = random_hashes(count)
    crowd = {
        "equal": np.full(count // 10, 7, np.uint64),
        "nearly equal": flipped(np.full(count // 10, 7, np.uint64), np.arange(count // 10) % 5),
        "sharing half of their bits": random_hashes(count // 10, seed=5, bits=32),
    }[alike]
    copies = flipped(base[:600], 1 + np.arange(600) % 4)
    hashes = np.concatenate([base, crowd, copies])
    started = time.process_time()
    groups = near_groups(hashes, none_of(hashes))
    assert time.process_time() - started < 5  # 0.3 s measured; all pairs of the crowd alone take longer
    assert groups[-600:].tolist() == list(range(600))
