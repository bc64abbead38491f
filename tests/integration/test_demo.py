"""`tljobs demo` on a folder of one's own photos: every stage with its score, and the label of an unseen photo."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from images import make_class_folders

from tljobs.runs import list_runs, list_searches
from tljobs.store import LocalStore

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


def test_the_demo_shows_what_each_stage_is_worth_and_labels_a_photo_it_never_saw(
    tmp_path: Path, tljobs: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TLJOBS_CACHE", str(tmp_path / "cache"))
    make_class_folders(tmp_path / "photos", ["checks", "disc", "stripes"], per_class=40, size_px=96)
    done = tljobs("demo", "--photos", "photos", "--store", "store", folder=tmp_path)
    assert done.code == 0, done.err
    for stage in ("from scratch", "head alone", "two phases", "small search"):
        assert any(stage in line and " to " in line for line in done.out.splitlines()), done.out
    store = LocalStore(tmp_path / "store")
    assert {run.status for run in list_runs(store)} == {"finished"}
    (search,) = list_searches(store)
    assert search.best
    assert "From photos to prediction" in done.out
    label = next(line for line in done.out.splitlines() if str(tmp_path / "cache") in line and ": " in line)
    assert label.split(": ")[1].split(" ")[0] in ("checks", "disc", "stripes")
