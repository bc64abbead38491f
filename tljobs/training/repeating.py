"""Work that is repeated in a thread while the caller does something else."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def repeating(work: Callable[[], None], every_s: float, name: str) -> Iterator[None]:
    """Calls `work` every `every_s` seconds while inside; a call that has begun is waited for at the end.

    `work` must not raise: that would end its repetition.
    """
    done = threading.Event()

    def loop() -> None:
        while not done.wait(every_s):
            work()

    thread = threading.Thread(target=loop, daemon=True, name=name)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
