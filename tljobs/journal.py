"""Appends events to the history of a run or a search: numbered, create-once, safe for several writers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tljobs.errors import NameTaken, NotFound
from tljobs.records import Event, EventKind, new_token, now_utc
from tljobs.store import Store


class Journal:
    """The events of one run or search. `event_key` is `layout.run_event` or `layout.search_event` for its name."""

    def __init__(self, store: Store, event_key: Callable[[int], str]) -> None:
        self._store = store
        self._event_key = event_key
        self._known: dict[int, Event] = {}  # by number: two threads that learn the same event learn it once

    def read(self) -> list[Event]:
        """All events so far, oldest first. Events already read are not read again: they never change."""
        while True:
            seq = len(self._known)
            key = self._event_key(seq)
            try:
                data = self._store.read(key)
            except NotFound:
                return list(self._known.values())
            self._known[seq] = Event.from_bytes(data, key)

    def append(self, kind: EventKind, *, attempt: int = 0, step: int = 0, data: dict[str, Any] | None = None) -> Event:
        """Writes the next event. When another writer took the number, tries the one after."""
        while True:
            seq = len(self.read())
            event = Event(
                seq=seq, kind=kind, attempt=attempt, step=step, time_utc=now_utc(), data=data or {}, token=new_token()
            )
            try:
                self._store.create(self._event_key(seq), event.to_bytes())
            except NameTaken:
                continue
            self._known[seq] = event
            return event
