"""The same commands, on a local folder and on a real S3 server."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from images import make_class_folders
from s3_server import S3Server

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

CLASSES = ("checks", "disc", "stripes")
SMALL = ["--backbone", "small-cnn", "--weights", "none", "--batchnorm", "sync", "--fine-tune-factor", "1.0"]
Command = Callable[..., str]


@pytest.fixture(params=["local", "s3"])
def command(request: pytest.FixtureRequest, tmp_path: Path, tljobs: Callable[..., Any]) -> Command:
    """Runs one command on the store and returns its stdout; the working directory holds `photos` and `new-photos`."""
    make_class_folders(tmp_path / "photos", CLASSES, per_class=40, size_px=72)
    make_class_folders(tmp_path / "new-photos", CLASSES, per_class=3, size_px=72, seed=5)
    uri = "store"
    if request.param == "s3":
        server: S3Server = request.getfixturevalue("s3_server")
        uri = f"s3://{server.new_bucket()}/team"

    def run(*arguments: str, code: int = 0, stream: str = "out") -> str:
        done = tljobs(*arguments, "--store", uri, folder=tmp_path)
        assert done.code == code, f"{' '.join(arguments)}\n{done.out}\n{done.err}"
        return str(getattr(done, stream))

    return run


def test_prepare_train_evaluate_predict_export_tune(command: Command) -> None:
    prepared = json.loads(command("prepare", "photos", "--name", "shapes", "--image-size", "48", "--json"))
    assert prepared["classes"] == list(CLASSES)
    assert (sum(prepared["images"].values()), prepared["rejected"], prepared["reused"]) == (120, 0, False)
    again = json.loads(command("prepare", "photos", "--name", "shapes", "--image-size", "48", "--json"))
    assert again == {**prepared, "reused": True}

    train = ["train", "shapes", "--name", "first", *SMALL, "--unfreeze", "all", "--head-epochs", "1", "--epochs", "8"]
    plan = command(*train, "--learning-rate", "1e-2", "--dry-run", stream="err")
    assert "trainable parameters" in plan
    trained = json.loads(command(*train, "--learning-rate", "1e-2", "--json"))
    assert (trained["run"], trained["status"], trained["reused"]) == ("first", "finished", False)
    assert trained["scores"]["test"]["accuracy"] > 0.6
    assert json.loads(command(*train, "--learning-rate", "1e-2", "--json"))["reused"]
    assert "taken" in command(*train, "--learning-rate", "2e-2", code=4, stream="err")

    evaluated = json.loads(command("evaluate", "first", "--split", "test", "--json"))
    assert evaluated["scores"]["accuracy"] == trained["scores"]["test"]["accuracy"]
    assert sum(map(sum, evaluated["confusion"])) == evaluated["images"] == prepared["images"]["test"]

    rows = [json.loads(line) for line in command("predict", "first", "new-photos").splitlines()]
    assert [row["input"] for row in rows] == sorted(row["input"] for row in rows)
    assert len(rows) == 9
    assert sum(row["label"] == Path(row["input"]).parent.name for row in rows) >= 6

    command("export", "first", "--out", "model")
    exported = [json.loads(line) for line in command("predict", "model", "new-photos").splitlines()]
    assert exported == rows

    tune = ["tune", "shapes", "--name", "grid", *SMALL, "--learning-rate", "1e-2,1e-3", "--unfreeze", "head,all"]
    tuned = json.loads(command(*tune, "--head-epochs", "1", "--epochs", "3", "--json"))
    assert len(tuned["trials"]) == 4
    assert tuned["best"] in [trial["run"] for trial in tuned["trials"]]

    runs = json.loads(command("runs", "--json"))["runs"]
    assert {run["run"] for run in runs} == {"first", "grid-000", "grid-001", "grid-002", "grid-003"}
    assert json.loads(command("searches", "--json"))["searches"][0]["best"] == tuned["best"]
    assert json.loads(command("datasets", "--json"))["datasets"][0]["version"] == prepared["version"]
    assert "small-cnn" in command("runs", "show", "first")
