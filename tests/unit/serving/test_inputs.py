"""Names of files and folders into the files to predict."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tljobs.data.decode import BadImage
from tljobs.errors import InputRefused, NotFound
from tljobs.serving import inputs
from tljobs.serving.inputs import InputFile, find_inputs

pytestmark = pytest.mark.timeout(30)


def _write(root: Path, *names: str) -> None:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")


def test_folders_are_searched_to_the_bottom_and_sorted_and_names_keep_their_order(tmp_path: Path) -> None:
    _write(tmp_path, "folder/b.jpg", "folder/a/z.jpg", "folder/c.png", "z.jpg", "a.jpg")
    names = tuple(str(tmp_path / name) for name in ("z.jpg", "folder", "a.jpg"))
    found = [Path(file.name).relative_to(tmp_path).as_posix() for file in find_inputs(names)]
    assert found == ["z.jpg", "folder/b.jpg", "folder/c.png", "folder/a/z.jpg", "a.jpg"]


def test_hidden_files_and_folders_and_pipes_are_left_out(tmp_path: Path) -> None:
    _write(tmp_path, "a.jpg", ".DS_Store", ".thumbs/a.jpg")
    os.mkfifo(tmp_path / "pipe.jpg")
    assert [Path(file.name).name for file in find_inputs((str(tmp_path),))] == ["a.jpg"]


def test_a_hidden_file_that_is_named_is_taken(tmp_path: Path) -> None:
    _write(tmp_path, ".a.jpg")
    assert len(find_inputs((str(tmp_path / ".a.jpg"),))) == 1


def test_a_missing_name_and_an_empty_folder_are_errors(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match=r"missing\.jpg"):
        find_inputs((str(tmp_path), str(tmp_path / "missing.jpg")))
    with pytest.raises(InputRefused, match="no files"):
        find_inputs((str(tmp_path),))


def test_a_file_that_has_gone_is_unreadable_and_a_huge_one_is_too_large(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(BadImage) as gone:
        InputFile(str(tmp_path / "gone.jpg")).read()
    assert gone.value.reason == "unreadable"
    _write(tmp_path, "a.jpg")
    monkeypatch.setattr(inputs, "MAX_FILE_BYTES", 0)
    with pytest.raises(BadImage) as large:
        InputFile(str(tmp_path / "a.jpg")).read()
    assert large.value.reason == "too_large"
