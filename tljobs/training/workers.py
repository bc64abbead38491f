"""A training process among its workers, and the threads that watch over it."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import tensorflow as tf

from tljobs.data.feed import Place
from tljobs.errors import TljobsError
from tljobs.runs import run_journal
from tljobs.store import Store

STOP_POLL_S = 2.0
STEP_TIMEOUT_S = 900.0  # a step, a trace or an upload that takes longer is a peer that no longer takes part
HUNG_EXIT_CODE = 75  # EX_TEMPFAIL: Ray replaces the worker


@dataclass(frozen=True)
class Workers:
    """This process's place, its strategy, and a way for rank 0 to tell the others (None for one process)."""

    strategy: tf.distribute.Strategy = field(default_factory=tf.distribute.get_strategy)
    place: Place = field(default_factory=Place)
    broadcast_from_rank_zero: Callable[[Any], Any] = lambda value: value

    @property
    def is_first(self) -> bool:
        return self.place.rank == 0


class StopFlag:
    """Whether somebody asked this attempt to stop: by an event in the store, or because a newer attempt began."""

    def __init__(self, store: Store, run: str, attempt: int) -> None:
        self._journal = run_journal(store, run)
        self._attempt = attempt
        self._flag = threading.Event()
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True, name="stop-flag")
        self._thread.start()

    @property
    def is_set(self) -> bool:
        return self._flag.is_set()

    def set(self) -> None:
        self._flag.set()

    def close(self) -> None:
        self._done.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._done.wait(STOP_POLL_S):
            try:
                events = self._journal.read()
            except TljobsError:
                continue  # the store is away for a moment; training's own writes will say so if it stays away
            started = [event.seq for event in events if event.kind == "attempt_started"]
            own = next(e.seq for e in events if e.kind == "attempt_started" and e.attempt == self._attempt)
            asked = any(event.kind == "stop_requested" and event.seq > own for event in events)
            if asked or started[-1] != own:
                self._flag.set()


class Watchdog:
    """Ends this process when it makes no progress: a live peer that stops taking part hangs a collective for ever.
    Ray sees the process die and starts the group again from the last checkpoint."""

    def __init__(self, timeout_s: float = STEP_TIMEOUT_S) -> None:
        self._timeout_s = timeout_s
        self._last_s = time.monotonic()
        self._done = threading.Event()
        threading.Thread(target=self._watch, daemon=True, name="watchdog").start()

    def progress(self) -> None:
        self._last_s = time.monotonic()

    def close(self) -> None:
        self._done.set()

    def _watch(self) -> None:
        while not self._done.wait(min(1.0, self._timeout_s / 4)):
            if time.monotonic() - self._last_s > self._timeout_s:
                print(f"no progress for {self._timeout_s:.0f} s: ending this worker", file=sys.stderr, flush=True)
                os._exit(HUNG_EXIT_CODE)
