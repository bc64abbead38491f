"""Every command in the documentation runs, in the order of the pages, on one store."""

from __future__ import annotations

import re
import shlex
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from images import make_class_folders
from tfrecords import write_tfrecord

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]

ROOT = Path(__file__).parents[2]
PAGES = [
    "README.md",
    "docs/tasks/prepare.md",
    "docs/tasks/audit.md",
    "docs/tasks/export-dataset.md",
    "docs/tasks/commands.md",
    "docs/tasks/train.md",
    "docs/tasks/tune.md",
    "docs/tasks/predict.md",
    "docs/tasks/dashboard.md",
    "docs/tasks/doctor.md",
    "docs/explanation/how-it-works.md",
]
# Commands that other tests run: the demo and the dashboard do not end by themselves or take minutes.
ELSEWHERE = {"make demo": "test_demo.py", "tljobs dashboard": "browser/test_dashboard.py"}


def commands(page: str) -> list[str]:
    blocks = re.findall(r"```console\n(.*?)```", (ROOT / page).read_text(), re.DOTALL)
    return [line[2:] for block in blocks for line in block.splitlines() if line.startswith("$ ")]


def python_blocks(page: str) -> list[str]:
    return re.findall(r"```python\n(.*?)```", (ROOT / page).read_text(), re.DOTALL)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("docs")
    make_class_folders(folder / "photos", ["checks", "disc", "stripes"], per_class=40, size_px=110)
    _same_photos_in_other_forms(folder)
    make_class_folders(folder / "new-photos", ["checks", "disc", "stripes"], per_class=2, size_px=110, seed=7)
    return folder


def _same_photos_in_other_forms(folder: Path) -> None:
    """`labels.csv`, `records` and `photos.tar.gz`."""
    paths = sorted((folder / "photos").rglob("*.jpg"))
    rows = [f"{path.relative_to(folder)},{path.parent.name},p{number // 4}" for number, path in enumerate(paths)]
    (folder / "labels.csv").write_text("\n".join(["file,label,patient", *rows]))
    examples = [{"image/encoded": path.read_bytes(), "image/class/text": path.parent.name} for path in paths]
    write_tfrecord(folder / "records/photos-00000-of-00001.tfrecord", examples)
    with tarfile.open(folder / "photos.tar.gz", "w:gz") as archive:
        archive.add(folder / "photos", "photos")


@pytest.mark.parametrize("page", PAGES)
def test_commands_of_the_page_run(page: str, folder: Path, tljobs: Callable[..., Any]) -> None:
    for command in commands(page):
        if command in ELSEWHERE:
            continue
        program, *arguments = shlex.split(command)
        assert program == "tljobs", command
        done = tljobs(*arguments, folder=folder)
        assert done.code == 0, f"{command}\n{done.out}\n{done.err}"
    for code in python_blocks(page):
        exec(compile(code, page, "exec"), {})  # in the folder of the commands before


def test_every_page_with_commands_is_run() -> None:
    pages = [path.relative_to(ROOT).as_posix() for path in [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")]]
    assert {page for page in pages if commands(page)} <= set(PAGES)
