"""The page on coverage names tests that exist, at least one in every row."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
ROW = re.compile(r"^\| (?P<row>[A-E]\d+|bug \d+) \| (?P<statement>[^|]+) \| (?P<tests>[^|]+) \| [^|]*\|$", re.MULTILINE)
NAMED = re.compile(r"`(tests/[\w/]+\.py)::(\w+)`")
PAGE = (ROOT / "docs/explanation/coverage.md").read_text()


def functions(path: Path) -> set[str]:
    tree = ast.parse(path.read_text())
    return {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}


@pytest.mark.parametrize("path", sorted({path for path, _ in NAMED.findall(PAGE)}))
def test_every_named_test_exists(path: str) -> None:
    assert (ROOT / path).is_file()
    named = {name for file, name in NAMED.findall(PAGE) if file == path}
    assert named <= functions(ROOT / path)
    assert all(name.startswith("test_") for name in named)


def test_every_row_is_there_once_and_names_a_test() -> None:
    lines = [line for line in PAGE.splitlines() if re.match(r"\| ([A-E]\d|bug)", line)]
    rows = list(ROW.finditer(PAGE))
    assert len(rows) == len(lines) > 0
    assert len({row["row"] for row in rows}) == len(rows)
    for row in rows:
        assert NAMED.search(row["tests"]), row["row"]
        assert NAMED.sub("", row["tests"]).strip(", ") == "", f"{row['row']} names something that is no test"
