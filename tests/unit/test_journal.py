from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import pytest

from tljobs import layout
from tljobs.errors import InputRefused
from tljobs.journal import Journal
from tljobs.records import Event
from tljobs.store import LocalStore, Store

WRITERS, EVENTS_EACH = 6, 8


@pytest.fixture
def store(tmp_path: Path) -> LocalStore:
    return LocalStore(tmp_path)


def journal(store: Store) -> Journal:
    return Journal(store, partial(layout.run_event, "r"))


def append_from_threads(journal_of_writer: Callable[[int], Journal]) -> list[Event]:
    def write(writer: int) -> list[Event]:
        own = journal_of_writer(writer)
        return [own.append("warning", step=step, data={"writer": writer}) for step in range(EVENTS_EACH)]

    with ThreadPoolExecutor(WRITERS) as pool:
        return [event for written in pool.map(write, range(WRITERS)) for event in written]


def assert_nothing_lost(found: list[Event], written: list[Event]) -> None:
    assert [event.seq for event in found] == list(range(WRITERS * EVENTS_EACH))
    assert {event.token for event in found} == {event.token for event in written}
    for writer in range(WRITERS):
        assert [event.step for event in found if event.data["writer"] == writer] == list(range(EVENTS_EACH))


def test_an_empty_journal_has_no_events(store: Store) -> None:
    assert journal(store).read() == []


def test_events_come_back_in_order_with_what_was_said(store: Store) -> None:
    journal(store).append("attempt_started", attempt=1)
    journal(store).append("checkpoint", attempt=1, step=10, data={"phase": "head"})
    first, second = journal(store).read()
    assert (first.seq, first.kind, first.attempt, first.step) == (0, "attempt_started", 1, 0)
    assert (second.seq, second.kind, second.step, second.data) == (1, "checkpoint", 10, {"phase": "head"})
    assert first.time_utc <= second.time_utc


def test_a_reader_sees_what_others_append_later(store: Store) -> None:
    reader, writer = journal(store), journal(store)
    writer.append("attempt_started")
    assert [event.seq for event in reader.read()] == [0]
    writer.append("finished")
    assert [event.kind for event in reader.read()] == ["attempt_started", "finished"]
    assert reader.read() == writer.read()


def test_several_writers_with_journals_of_their_own_lose_nothing(store: Store) -> None:
    written = append_from_threads(lambda _: journal(store))
    assert_nothing_lost(journal(store).read(), written)


def test_several_threads_with_one_journal_lose_nothing(store: Store) -> None:
    shared = journal(store)
    written = append_from_threads(lambda _: shared)
    assert_nothing_lost(shared.read(), written)
    assert_nothing_lost(journal(store).read(), written)


def test_a_damaged_event_is_named(store: Store) -> None:
    journal(store).append("attempt_started")
    store.put(layout.run_event("r", 1), b"half of an ev")
    with pytest.raises(InputRefused, match="damaged Event: runs/r/events/000001"):
        journal(store).read()
