"""A folder for the user is there when it is complete, and nothing is overwritten."""

from __future__ import annotations

from pathlib import Path

import pytest

from tljobs.errors import NameTaken, Unreachable, UsageError
from tljobs.new_folder import free_folder, new_folder


def test_the_folder_appears_at_the_end_with_its_parents(tmp_path: Path) -> None:
    out = tmp_path / "deep/out"
    with new_folder(out, "it") as draft:
        (draft / "a").write_text("a")
        assert not out.exists()
    assert [path.name for path in out.parent.iterdir()] == ["out"]
    assert (out / "a").read_text() == "a"


def test_nothing_is_left_of_work_that_failed(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="half"), new_folder(tmp_path / "out", "it") as draft:
        (draft / "a").write_text("a")
        raise ValueError("half")
    assert list(tmp_path.iterdir()) == []


def test_a_place_that_cannot_be_written_is_out_of_reach(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(Unreachable, match="it cannot be written"), new_folder(tmp_path / "file/out", "it"):
        pass


def test_a_folder_with_something_in_it_and_a_uri_are_refused(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    assert free_folder(str(tmp_path / "empty"), "it") == tmp_path / "empty"
    for taken in (tmp_path, tmp_path / "empty/file"):
        (tmp_path / "empty/file").touch()
        with pytest.raises(NameTaken, match="exists already"):
            free_folder(str(taken), "it")
    with pytest.raises(UsageError, match="local folder"):
        free_folder("s3://bucket/out", "it")
