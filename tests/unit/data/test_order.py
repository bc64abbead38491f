"""The order of images is a pure function of (row groups, seed, epoch), whatever the number of workers."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tljobs.data import order

GROUPS = [64, 64, 17, 64, 3, 1] * 9  # more than two pools


def sequence(groups: list[int], seed: int, epoch: int) -> list[tuple[int, int]]:
    """(group, row) of every image in order."""
    return [
        (int(pool.groups[which]), int(row))
        for pool in order.pools(groups, seed, epoch)
        for which, row in zip(pool.which, pool.rows, strict=True)
    ]


def dealt(images: int, global_batch: int, world_size: int, first_step: int = 0) -> list[list[int]]:
    """Positions with weight 1 of every step from `first_step`, over all workers in their order."""
    steps = []
    for step in range(first_step, order.steps_per_epoch(images, global_batch)):
        slices = [order.batch_slice(images, global_batch, step, rank, world_size) for rank in range(world_size)]
        steps.append([int(p) for s in slices for p, w in zip(s.positions, s.weights, strict=True) if w])
    return steps


def test_every_image_comes_exactly_once_in_an_epoch() -> None:
    everything = {(group, row) for group, rows in enumerate(GROUPS) for row in range(rows)}
    found = sequence(GROUPS, seed=3, epoch=5)
    assert len(found) == len(everything)
    assert set(found) == everything


def test_order_repeats_with_seed_and_epoch_and_differs_with_either() -> None:
    first = sequence(GROUPS, 3, 5)
    assert sequence(GROUPS, 3, 5) == first
    assert sequence(GROUPS, 3, 6) != first
    assert sequence(GROUPS, 4, 5) != first


@pytest.mark.parametrize("world_size", [1, 2, 3, 4, 6, 12])
@pytest.mark.parametrize("images", [1, 11, 12, 13, 100])
def test_batches_are_the_same_for_any_number_of_workers(images: int, world_size: int) -> None:
    one = dealt(images, 12, 1)
    assert dealt(images, 12, world_size) == one
    assert [p for step in one for p in step] == list(range(images))


@pytest.mark.parametrize("first_step", range(9))
def test_a_resume_at_any_step_sees_the_rest_of_the_sequence(first_step: int) -> None:
    assert dealt(100, 12, 4, first_step) == dealt(100, 12, 1)[first_step:]


@given(images=st.integers(1, 300), local=st.integers(1, 9), world_size=st.integers(1, 5))
@settings(max_examples=200, deadline=None)
def test_shapes_are_fixed_and_padding_repeats_images_of_its_batch(images: int, local: int, world_size: int) -> None:
    batch = local * world_size
    for step in range(order.steps_per_epoch(images, batch)):
        real = range(step * batch, min((step + 1) * batch, images))
        for rank in range(world_size):
            piece = order.batch_slice(images, batch, step, rank, world_size)
            assert len(piece.positions) == len(piece.weights) == local
            assert set(map(int, piece.positions)) <= set(real)


def test_shuffled_labels_are_not_correlated() -> None:
    """Shards in label order: neighbours in the shuffled sequence agree about as often as by chance."""
    labels = np.repeat(np.arange(4), 320)
    groups = [64] * 20
    flat = np.array([group * 64 + row for group, row in sequence(groups, 0, 0)])
    agree = float(np.mean(labels[flat][1:] == labels[flat][:-1]))
    assert agree == pytest.approx(0.25, abs=0.05)
