"""Work is repeated while inside, and over when outside."""

from __future__ import annotations

import threading
import time

from tljobs.training.repeating import repeating


def test_work_is_repeated_until_the_end() -> None:
    calls: list[float] = []
    third = threading.Event()

    def work() -> None:
        calls.append(time.monotonic())
        if len(calls) == 3:
            third.set()

    with repeating(work, 0.01, "test"):
        assert third.wait(10)
    made = len(calls)
    time.sleep(0.05)
    assert len(calls) == made


def test_a_call_that_has_begun_is_waited_for() -> None:
    begun, ended = threading.Event(), threading.Event()

    def work() -> None:
        begun.set()
        time.sleep(0.1)
        ended.set()

    with repeating(work, 0.01, "test"):
        assert begun.wait(10)
    assert ended.is_set()
