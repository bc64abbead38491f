"""What every store must do. A new kind of store is done when this class passes on it."""

from __future__ import annotations

import pickle
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import pytest

from tljobs.errors import NameTaken, NotFound
from tljobs.store import Entry, Store, open_store

RACING_THREADS = 8


class StoreContract:
    """Subclasses provide a fixture `store`: an empty store."""

    def test_reads_back_what_was_created(self, store: Store) -> None:
        store.create("runs/a/run.json", b"one")
        assert store.read("runs/a/run.json") == b"one"

    @pytest.mark.parametrize("size_bytes", [0, 1, 3_000_000])
    def test_keeps_every_size(self, store: Store, size_bytes: int) -> None:
        data = bytes(range(256)) * (size_bytes // 256) + b"x" * (size_bytes % 256)
        store.create("datasets/d/1/blob", data)
        assert store.read("datasets/d/1/blob") == data
        assert store.list("datasets/") == [Entry("datasets/d/1/blob", size_bytes)]

    def test_creating_the_same_bytes_again_is_no_error(self, store: Store) -> None:
        store.create("runs/a/run.json", b"one")
        store.create("runs/a/run.json", b"one")
        assert store.read("runs/a/run.json") == b"one"

    def test_creating_other_bytes_under_a_taken_key_is_refused_and_changes_nothing(self, store: Store) -> None:
        store.create("runs/a/run.json", b"one")
        with pytest.raises(NameTaken, match="runs/a/run"):
            store.create("runs/a/run.json", b"two")
        assert store.read("runs/a/run.json") == b"one"

    def test_one_of_many_racing_creators_wins(self, store: Store) -> None:
        for round_number in range(3):
            winners = _race(store, f"runs/race-{round_number}/run.json")
            assert len(winners) == 1
            assert store.read(f"runs/race-{round_number}/run.json") == winners[0]

    def test_put_overwrites(self, store: Store) -> None:
        store.put("runs/a/heartbeat.json", b"first")
        store.put("runs/a/heartbeat.json", b"second, longer")
        assert store.read("runs/a/heartbeat.json") == b"second, longer"

    def test_a_missing_key_is_not_found(self, store: Store) -> None:
        assert not store.exists("runs/a/run.json")
        with pytest.raises(NotFound, match="runs/a/run"):
            store.read("runs/a/run.json")
        with pytest.raises(NotFound, match="runs/a/run"):
            store.open_input("runs/a/run.json")

    def test_a_folder_is_no_object(self, store: Store) -> None:
        store.create("runs/a/run.json", b"one")
        assert not store.exists("runs/a")
        with pytest.raises(NotFound):
            store.read("runs/a")

    def test_lists_everything_below_a_prefix_in_order_with_sizes(self, store: Store) -> None:
        for key in ("runs/a/run.json", "runs/a/events/000001.json", "runs/a/events/000000.json", "runs/b/run.json"):
            store.put(key, key.encode())
        expected = ["runs/a/events/000000.json", "runs/a/events/000001.json", "runs/a/run.json"]
        assert store.list("runs/a/") == [Entry(key, len(key)) for key in expected]

    def test_a_prefix_does_not_reach_names_that_merely_begin_like_it(self, store: Store) -> None:
        store.put("runs/a/run.json", b"")
        store.put("runs/ab/run.json", b"")
        assert [entry.key for entry in store.list("runs/a/")] == ["runs/a/run.json"]
        assert store.folders("runs/") == ["a", "ab"]

    def test_lists_more_than_one_page(self, store: Store) -> None:
        keys = [f"runs/a/metrics/{number:05}.json" for number in range(1_050)]
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(lambda key: store.put(key, b"{}"), keys))
        assert [entry.key for entry in store.list("runs/a/metrics/")] == keys

    def test_folders_are_the_names_directly_below(self, store: Store) -> None:
        for key in ("runs/a/run.json", "runs/b/events/000000.json", "runs/readme.txt", "searches/s/search.json"):
            store.put(key, b"{}")
        assert store.folders("runs/") == ["a", "b"]
        assert store.folders("runs/b/") == ["events"]

    def test_an_empty_prefix_lists_nothing(self, store: Store) -> None:
        assert store.list("runs/") == []
        assert store.folders("runs/") == []

    def test_a_deleted_object_is_gone_and_deleting_again_is_no_error(self, store: Store) -> None:
        store.create("runs/a/run.json", b"one")
        store.delete("runs/a/run.json")
        store.delete("runs/a/run.json")
        assert not store.exists("runs/a/run.json")
        assert store.list("runs/") == []

    def test_a_deleted_key_can_be_created_again(self, store: Store) -> None:
        store.create("runs/a/run.json", b"one")
        store.delete("runs/a/run.json")
        store.create("runs/a/run.json", b"two")
        assert store.read("runs/a/run.json") == b"two"

    def test_opened_input_can_be_read_at_any_place(self, store: Store) -> None:
        store.create("datasets/d/1/shard", bytes(range(200)))
        with store.open_input("datasets/d/1/shard") as file:
            assert file.size() == 200
            file.seek(100)
            assert file.read(3) == bytes([100, 101, 102])
            assert file.read_at(2, 0) == bytes([0, 1])

    def test_survives_pickling(self, store: Store) -> None:
        store.create("runs/a/run.json", b"one")
        copy: Store = pickle.loads(pickle.dumps(store))  # noqa: S301 - what Ray does to arguments
        assert copy.read("runs/a/run.json") == b"one"
        with pytest.raises(NameTaken):
            copy.create("runs/a/run.json", b"two")

    def test_opens_by_its_own_uri(self, store: Store) -> None:
        store.create("runs/a/run.json", b"one")
        assert open_store(store.uri).read("runs/a/run.json") == b"one"

    def test_every_writer_of_many_keys_sees_them_all(self, store: Store) -> None:
        keys = [f"runs/a/events/{number:06}.json" for number in range(64)]
        with ThreadPoolExecutor(RACING_THREADS) as pool:
            list(pool.map(lambda key: store.create(key, key.encode()), keys))
        assert [store.read(key) for key in keys] == [key.encode() for key in keys]


def _race(store: Store, key: str) -> list[bytes]:
    """The bytes of those threads that believe they created `key`."""
    barrier = Barrier(RACING_THREADS)

    def create(number: int) -> bytes | None:
        data = f"writer {number}".encode()
        barrier.wait()
        try:
            store.create(key, data)
        except NameTaken:
            return None
        return data

    with ThreadPoolExecutor(RACING_THREADS) as pool:
        return [data for data in pool.map(create, range(RACING_THREADS)) if data is not None]
