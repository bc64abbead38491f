"""What each training worker asks of the cluster."""

import pytest

from tljobs.errors import Unreachable
from tljobs.training.resources import worker_resources


def test_one_machine_is_divided_among_the_workers() -> None:
    assert worker_resources([{"CPU": 8}], 2, "auto", can_grow=False) == {"CPU": 4}


def test_more_workers_than_cores_share_them() -> None:
    assert worker_resources([{"CPU": 2}], 4, "cpu", can_grow=False) == {"CPU": 0.5}


def test_gpus_are_used_when_there_are_any_one_per_worker_with_their_share_of_cores() -> None:
    nodes = [{"CPU": 16, "GPU": 4}, {"CPU": 64}]
    assert worker_resources(nodes, 4, "auto", can_grow=False) == {"CPU": 4, "GPU": 1}
    assert worker_resources(nodes, 4, "cpu", can_grow=False) == {"CPU": 16}


def test_a_worker_fits_on_the_largest_node() -> None:
    assert worker_resources([{"CPU": 4}] * 4, 2, "cpu", can_grow=False)["CPU"] <= 4


@pytest.mark.parametrize(("nodes", "hint"), [([{"CPU": 8}], "--device cpu"), ([{"CPU": 8, "GPU": 1}], "--workers 1")])
def test_missing_gpus_are_said_before_the_start(nodes: list[dict[str, int]], hint: str) -> None:
    with pytest.raises(Unreachable, match=hint):
        worker_resources(nodes, 2, "gpu", can_grow=False)


def test_a_cluster_that_can_grow_may_get_gpus_later() -> None:
    assert worker_resources([{"CPU": 8}], 2, "gpu", can_grow=True) == {"CPU": 1, "GPU": 1}
