"""The command line: messages, exit codes, plans, specs from files."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tljobs.cli import run
from tljobs.specs import TrainSpec


@pytest.fixture
def store(tmp_path: Path) -> str:
    return str(tmp_path / "store")


def test_unknown_option_says_what_was_meant(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["train", "birds", "--unfreez", "2"]) == 2
    assert capsys.readouterr().err == "tljobs: Unknown option: --unfreez. Did you mean --unfreeze? See --help\n"


def test_unknown_command_says_what_was_meant(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["trian", "birds"]) == 2
    assert 'Did you mean "train"?' in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train", "birds", "--epochs", "0"], "Input should be greater than or equal to 1: --epochs"),
        (["train", "birds", "--epochs", "many"], "valid integer"),
        (["train", "birds", "--optimizer", "adamm"], "'adam', 'adamw' or 'sgd': --optimizer"),
        (["train", "birds", "--global-batch", "9", "--workers", "2"], "global_batch 9 is not a multiple of workers 2"),
        (["train"], "--dataset requires an argument"),
        (["prepare", "photos", "--name", "x", "--split", "80/30/10"], "add up to 100"),
        (["prepare", "photos", "--name", "x", "--allow", "everything"], "'leakage' or 'label-conflicts'"),
        (["prepare", "photos", "--name", "x", "--near-duplicates", "no"], "'together', 'report' or 'off'"),
        (["predict", "run"], "--inputs"),
    ],
)
def test_wrong_values_end_with_one_line_and_code_2(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(arguments) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert "Traceback" not in error


def test_what_is_not_there_is_code_4_and_lists_what_is(store: str, capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in (
        ["audit", "birds"],
        ["train", "birds"],
        ["evaluate", "r1"],
        ["runs", "show", "r1"],
        ["predict", "r1", "x.jpg"],
    ):
        assert run([*arguments, "--store", store]) == 4
        error = capsys.readouterr().err
        assert "no such" in error
        assert error.count("\n") == 1


def test_json_error_is_one_document_on_stdout(store: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["train", "birds", "--store", store, "--json"]) == 4
    captured = capsys.readouterr()
    error = json.loads(captured.out)["error"]
    assert (error["code"], error["what"], error["where"]) == (4, "no such dataset", "birds")
    assert error["hint"]


@pytest.mark.parametrize("name", ["../x", "A", "a/b", "", "x" * 64])
def test_hostile_names_are_refused(name: str, store: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["runs", "show", name, "--store", store]) == 2
    assert "invalid run name" in capsys.readouterr().err


def test_print_spec_is_yaml_with_every_field_and_reads_back(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["train", "birds", "--learning-rate", "3e-4", "--print-spec"]) == 0
    text = capsys.readouterr().out
    content = yaml.safe_load(text)
    assert set(content) == set(TrainSpec.model_fields)
    assert content["dataset"] == "birds"
    file = tmp_path / "train.yaml"
    file.write_text(text)
    assert run(["train", "--spec", str(file), "--print-spec"]) == 0
    assert capsys.readouterr().out == text


def test_print_spec_without_required_fields_prints_the_defaults(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["prepare", "--print-spec"]) == 0
    content = yaml.safe_load(capsys.readouterr().out)
    assert content["source"] is None
    assert content["split"] == "80/10/10"


def test_flags_override_the_spec_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "train.yaml"
    file.write_text("dataset: birds\nepochs: 7\nlearning_rate: 1e-4\n")
    assert run(["train", "--spec", str(file), "--epochs", "9", "--print-spec"]) == 0
    content = yaml.safe_load(capsys.readouterr().out)
    assert (content["epochs"], content["learning_rate"]) == (9, 1e-4)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("dataset: birds\nunfreez: 2\n", "unknown field `unfreez`: FILE. Did you mean `unfreeze`?"),
        ("dataset: [birds\n", "the spec file is no YAML"),
        ("- 1\n", "must hold keys and values"),
        ("dataset: birds\nepochs: 0\n", "greater than or equal to 1"),
    ],
)
def test_a_wrong_spec_file_is_code_2(
    text: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "train.yaml"
    file.write_text(text)
    assert run(["train", "--spec", str(file)]) == 2
    assert message.replace("FILE", str(file)) in capsys.readouterr().err


def test_a_missing_spec_file_is_code_4(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["train", "--spec", "/nowhere/train.yaml"]) == 4
    assert "no such spec file: /nowhere/train.yaml" in capsys.readouterr().err


def test_store_and_endpoint_come_from_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TLJOBS_STORE", str(tmp_path / "here"))
    assert run(["train", "birds"]) == 4
    assert str(tmp_path / "here") in capsys.readouterr().err


def test_an_empty_store_lists_nothing(store: str, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("datasets", "runs", "searches"):
        assert run([name, "--store", store, "--json"]) == 0
        assert json.loads(capsys.readouterr().out) == {name: []}


@pytest.mark.parametrize(
    "command",
    [
        [],
        ["prepare"],
        ["train"],
        ["tune"],
        ["evaluate"],
        ["predict"],
        ["export"],
        ["export-dataset"],
        ["runs"],
        ["dashboard"],
    ],
)
def test_help_shows_an_example_before_the_options(command: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run([*command, "--help"]) == 0
    text = capsys.readouterr().out
    example = text.index(" ".join(["tljobs", *command]), text.index("\n"))
    assert example < text.index("╭")


def test_help_imports_no_heavy_library() -> None:
    code = (
        "import sys; from tljobs.cli import run; run(['--help']); run(['train', '--help']);"
        "heavy = {'tensorflow', 'keras', 'ray', 'streamlit', 'pandas', 'pyarrow', 'boto3'} & set(sys.modules);"
        "sys.exit(f'imported {heavy}' if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr


def test_python_m_tljobs_is_the_same_command() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tljobs", "train", "birds", "--unfreez", "2"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert "Did you mean --unfreeze?" in done.stderr
