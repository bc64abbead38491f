"""Says that the process which drives a run is alive: an object that is overwritten every few seconds."""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from tljobs import layout
from tljobs.errors import TljobsError
from tljobs.records import Heartbeat, now_utc
from tljobs.runs import HEARTBEAT_EVERY_S
from tljobs.store import Store
from tljobs.training.repeating import repeating


@contextmanager
def heartbeat(store: Store, run: str) -> Iterator[None]:
    """Beats while inside, so that others see the run as alive."""

    def beat() -> None:
        record = Heartbeat(host=socket.gethostname(), pid=os.getpid(), time_utc=now_utc())
        store.put(layout.run_heartbeat(run), record.to_bytes())

    def beat_again() -> None:
        try:
            beat()
        except TljobsError as error:
            print(f"heartbeat of {run}: {error}", file=sys.stderr)

    beat()
    with repeating(beat_again, HEARTBEAT_EVERY_S, "heartbeat"):
        yield
