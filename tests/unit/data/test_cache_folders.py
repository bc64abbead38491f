import threading
from pathlib import Path

import pytest

from tljobs.data.cache import made_once
from tljobs.errors import Unreachable


def test_a_folder_is_made_once(tmp_path: Path) -> None:
    calls: list[Path] = []

    def make(draft: Path) -> None:
        calls.append(draft)
        (draft / "a").write_text("1")

    for _ in range(2):
        assert (made_once(tmp_path / "deep" / "x", make) / "a").read_text() == "1"
    assert len(calls) == 1
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["x"]


def test_a_failure_leaves_nothing_and_the_next_call_tries_again(tmp_path: Path) -> None:
    def fail(draft: Path) -> None:
        (draft / "half").write_text("1")
        raise KeyError("half way")

    with pytest.raises(KeyError):
        made_once(tmp_path / "x", fail)
    assert list(tmp_path.iterdir()) == []
    assert made_once(tmp_path / "x", lambda draft: None).is_dir()


def test_of_several_makers_at_a_time_one_wins_whole(tmp_path: Path) -> None:
    together = threading.Barrier(4, timeout=20)
    seen: list[set[str]] = []

    def run(number: int) -> None:
        def make(draft: Path) -> None:
            for name in "ab":
                (draft / name).write_text(str(number))
            together.wait()

        folder = made_once(tmp_path / "x", make)
        seen.append({(folder / name).read_text() for name in "ab"})

    threads = [threading.Thread(target=run, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(seen) == 4
    assert set.union(*seen) == seen[0]
    assert len(seen[0]) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["x"]


def test_a_file_in_the_way_is_named_in_the_error(tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file")
    with pytest.raises(Unreachable, match=r"cache folder cannot be used.*Not a directory"):
        made_once(tmp_path / "cache" / "x", lambda draft: None)
