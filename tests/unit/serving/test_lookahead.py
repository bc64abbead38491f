"""Parallel work keeps the order and never runs further ahead than allowed."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from tljobs.serving.lookahead import chunks, map_ahead

pytestmark = pytest.mark.timeout(30)


def test_results_come_in_the_order_of_the_items_whatever_finishes_first() -> None:
    later = threading.Event()

    def work(number: int) -> int:
        if number == 0:
            later.wait(10)
        if number == 2:
            later.set()
        return number

    with ThreadPoolExecutor(3) as pool:
        assert list(map_ahead(pool, work, range(50), ahead=5)) == list(range(50))


def test_no_more_items_are_drawn_than_ahead() -> None:
    drawn = 0

    def items():  # type: ignore[no-untyped-def]
        nonlocal drawn
        for number in range(1000):
            drawn = number + 1
            yield number

    with ThreadPoolExecutor(2) as pool:
        for taken, number in enumerate(map_ahead(pool, lambda each: each, items(), ahead=7), start=1):
            assert number == taken - 1
            assert drawn <= taken + 7
    assert drawn == 1000


def test_an_error_comes_at_its_place() -> None:
    with ThreadPoolExecutor(2) as pool:
        results = map_ahead(pool, lambda each: 1 / each, [2, 1, 0, 1], ahead=3)
        assert [next(results), next(results)] == [0.5, 1.0]
        with pytest.raises(ZeroDivisionError):
            next(results)


def test_chunks_hold_all_items_in_order() -> None:
    assert list(chunks(range(7), 3)) == [[0, 1, 2], [3, 4, 5], [6]]
    assert list(chunks([], 3)) == []
