"""What starts in a moment must not load what takes seconds."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]
HEAVY = {"tensorflow", "keras", "ray", "streamlit", "pandas", "pyarrow", "boto3", "sklearn", "matplotlib"}
SHOW_LOADED = "import importlib, json, sys; importlib.import_module(sys.argv[1]); print(json.dumps(list(sys.modules)))"


def loaded_by(code: str, *arguments: str) -> set[str]:
    """Top-level modules that a fresh interpreter holds after running the code."""
    command = [sys.executable, "-c", code, *arguments]
    shown = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout
    return {name.partition(".")[0] for name in json.loads(shown.splitlines()[-1])}


@pytest.mark.parametrize(
    "module",
    ["tljobs", "tljobs.errors", "tljobs.records", "tljobs.specs", "tljobs.store", "tljobs.runs", "tljobs.cli"],
)
def test_imports_nothing_heavy(module: str) -> None:
    assert loaded_by(SHOW_LOADED, module) & HEAVY == set()


def test_listing_a_local_store_loads_nothing_heavy() -> None:
    code = """
import json, sys, tempfile
from tljobs import runs, store
opened = store.open_store(tempfile.mkdtemp())
assert runs.list_runs(opened) == runs.list_datasets(opened) == runs.list_searches(opened) == []
print(json.dumps(list(sys.modules)))
"""
    assert loaded_by(code) & HEAVY == set()


def test_help_loads_nothing_heavy() -> None:
    code = """
import json, sys
from tljobs.cli import main
try:
    main(["--help"])
except SystemExit as end:
    assert not end.code
print()
print(json.dumps(list(sys.modules)))
"""
    assert loaded_by(code) & HEAVY == set()


def test_imports_follow_the_rules_of_the_import_linter() -> None:
    command = [Path(sys.executable).with_name("lint-imports"), "--no-logo", "--no-cache"]
    shown = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=60, check=False)
    assert shown.returncode == 0, shown.stdout
