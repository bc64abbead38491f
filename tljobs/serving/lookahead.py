"""Order-preserving parallel work with a bound: an iterator in, an iterator out, never more than `ahead` in flight."""

from __future__ import annotations

import itertools
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, Future
from typing import TypeVar

Item = TypeVar("Item")
Made = TypeVar("Made")

MIN_THREADS = 8  # S3 answers after 50 ms or more, however few the cores
MAX_THREADS = 16  # each may hold a large photo


def decode_threads() -> int:
    """Threads for reading and decoding: one per CPU that this process may use, within the limits above."""
    return max(MIN_THREADS, min(MAX_THREADS, len(os.sched_getaffinity(0))))


def map_ahead(pool: Executor, function: Callable[[Item], Made], items: Iterable[Item], ahead: int) -> Iterator[Made]:
    """`function` of each item in the order of the items; `items` is drawn from by the caller's thread.

    At most `ahead` results are in work or waiting, so memory does not grow with the number of items.
    """
    pending: deque[Future[Made]] = deque()
    try:
        for item in items:
            pending.append(pool.submit(function, item))
            if len(pending) >= ahead:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    finally:
        for future in pending:
            future.cancel()


def chunks(items: Iterable[Item], size: int) -> Iterator[list[Item]]:
    """The items in lists of `size`, the last one shorter."""
    iterator = iter(items)
    while chunk := list(itertools.islice(iterator, size)):
        yield chunk
