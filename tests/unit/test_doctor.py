"""What doctor says of a local store and of the machine, and that it leaves nothing behind."""

from __future__ import annotations

import importlib.metadata
import json
import socket
from pathlib import Path

import pytest

from tljobs.cli import run
from tljobs.doctor import Check, Diagnosis, doctor, ray_checks, store_checks, version_checks
from tljobs.errors import UsageError
from tljobs.specs import DoctorSpec
from tljobs.store import LocalStore

STEPS = ["answers", "create", "create again is refused", "read", "range read", "list", "delete"]


class OverwritingStore(LocalStore):
    """What a folder without exclusive links would do."""

    def create(self, key: str, data: bytes) -> None:
        self.put(key, data)


def by_name(checks: list[Check]) -> dict[str, Check]:
    return {check.name: check for check in checks}


def test_a_good_store_passes_every_step_with_its_time(tmp_path: Path) -> None:
    checks = store_checks(LocalStore(tmp_path))
    assert [check.name for check in checks] == STEPS
    assert {check.status for check in checks} == {"ok"}
    assert all(0 <= float(check.figure.removesuffix(" ms")) < 1000 for check in checks)


@pytest.mark.parametrize("place", ["", "new", "new/deeper"])
def test_it_leaves_the_disk_as_it_was(tmp_path: Path, place: str) -> None:
    (tmp_path / "kept").write_text("")
    store_checks(LocalStore(tmp_path / place))
    assert [path.name for path in tmp_path.rglob("*")] == ["kept"]


def test_a_store_that_overwrites_is_unfit_and_nothing_stays(tmp_path: Path) -> None:
    diagnosis = Diagnosis(checks=tuple(store_checks(OverwritingStore(tmp_path))))
    assert diagnosis.checks[-1].name == "create again is refused"
    assert (diagnosis.status, diagnosis.code) == ("failed", 5)
    assert list(tmp_path.iterdir()) == []


def test_a_file_in_place_of_the_folder_is_code_5_with_its_fix(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "store").write_text("")
    assert run(["doctor", "--store", str(tmp_path / "store")]) == 5
    failed = [line for line in capsys.readouterr().out.splitlines() if line.startswith("failed")]
    assert len(failed) == 1
    assert "Something on the way to it is a file" in failed[0]


def test_json_is_one_document(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["doctor", "--store", str(tmp_path), "--json", "--min-disk-gb", "1e9"]) == 0
    content = json.loads(capsys.readouterr().out)
    assert content["status"] == "warning", "too little disk is a warning, and no failure"
    assert {check["area"] for check in content["checks"]} == {"store", "ray", "versions", "machine"}
    assert [check["name"] for check in content["checks"] if check["area"] == "store"] == STEPS


def test_the_installed_packages_are_those_that_are_needed() -> None:
    assert [check.status for check in version_checks(None)] == ["ok"]


def test_another_version_than_the_constraint_is_named_with_its_fix(tmp_path: Path) -> None:
    installed = importlib.metadata.version("pydantic")
    (tmp_path / "constraints.txt").write_text(f"# exact\npydantic=={installed}\nnumpy==0.1\nnot-here==1\n")
    right, wrong = version_checks(str(tmp_path / "constraints.txt"))
    assert "2 of 3 packages" in right.figure
    assert (wrong.name, wrong.status, wrong.fix) == ("numpy", "failed", "pip install 'numpy==0.1'")
    assert Diagnosis(checks=(right, wrong)).code == 1


@pytest.mark.parametrize("text", ["numpy==", "=="])
def test_constraints_that_are_none_are_the_users_mistake(tmp_path: Path, text: str) -> None:
    (tmp_path / "constraints.txt").write_text(text)
    with pytest.raises(UsageError, match=r"constraints cannot be read: .*constraints\.txt"):
        doctor(DoctorSpec(constraints=str(tmp_path / "constraints.txt")), LocalStore(tmp_path))
    assert run(["doctor", "--constraints", str(tmp_path / "missing.txt")]) == 2


def test_a_cluster_where_nothing_listens_is_code_5_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound, but nobody listens
        monkeypatch.setenv("RAY_ADDRESS", f"127.0.0.1:{taken.getsockname()[1]}")
        (check,) = ray_checks(LocalStore(tmp_path))
    assert (check.status, check.figure[:22]) == ("failed", "no Ray cluster answers")
    assert "unset RAY_ADDRESS" in check.fix
    assert Diagnosis(checks=(check,)).code == 5
