"""Stopping on request: SIGTERM and Ctrl-C of the driver become an event in the store, which the workers see."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from types import FrameType

from tljobs.errors import UsageError
from tljobs.runs import open_run, run_journal
from tljobs.store import Store


def request_stop(store: Store, name: str) -> None:
    """Asks a running run to save and stop. Raises UsageError when it is not running."""
    run = open_run(store, name)
    if run.status != "running":
        raise UsageError(f"the run is not running but {run.status}", name)
    ask_to_stop(store, name, by="command")


def ask_to_stop(store: Store, name: str, *, by: str) -> None:
    run_journal(store, name).append("stop_requested", data={"by": by})


@contextlib.contextmanager
def stop_on_signal(ask: Callable[[], None]) -> Iterator[threading.Event]:
    """Inside, SIGTERM and SIGINT call `ask` once, in a thread; a second SIGINT interrupts at once.

    Must be entered after `ray.init()`, whose own handlers would end the process after 3 s.
    """
    asked = threading.Event()
    closing = threading.Event()

    def handle(number: int, frame: FrameType | None) -> None:
        if asked.is_set() and number == signal.SIGINT:
            raise KeyboardInterrupt
        asked.set()

    def tell() -> None:
        asked.wait()
        if not closing.is_set():
            ask()

    before = {number: signal.signal(number, handle) for number in (signal.SIGTERM, signal.SIGINT)}
    # The event is written by a thread: a handler may interrupt the main thread in the middle of another write.
    thread = threading.Thread(target=tell, daemon=True, name="stop-on-signal")
    thread.start()
    try:
        yield asked
    finally:
        was_asked = asked.is_set()
        for number, handler in before.items():
            signal.signal(number, handler)
        if not was_asked:
            closing.set()
            asked.set()
        thread.join()
        if not was_asked:
            asked.clear()
