"""The same commands, as a user types them, on a local folder and on a real S3 server."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from images import make_class_folders
from s3_server import S3Server

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

CLASSES = ("checks", "disc", "stripes")
SMALL = ["--backbone", "small-cnn", "--weights", "none", "--batchnorm", "sync", "--fine-tune-factor", "1.0"]
Command = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module", params=["local", "s3"])
def tljobs(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Command:
    """Runs one command on the store; the working directory holds `photos` and `new-photos`."""
    folder = tmp_path_factory.mktemp(request.param)
    make_class_folders(folder / "photos", CLASSES, per_class=40, size_px=72)
    make_class_folders(folder / "new-photos", CLASSES, per_class=3, size_px=72, seed=5)
    uri = str(folder / "store")
    if request.param == "s3":
        server: S3Server = request.getfixturevalue("s3_server")
        uri = f"s3://{server.new_bucket()}/team"

    def run(*arguments: str, code: int = 0) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "tljobs", *arguments, "--store", uri]
        done = subprocess.run(command, capture_output=True, text=True, timeout=400, cwd=folder, check=False)
        assert done.returncode == code, f"{' '.join(arguments)}\n{done.stdout}\n{done.stderr}"
        assert "Traceback" not in done.stderr
        return done

    return run


def test_prepare_train_evaluate_predict_export_tune(tljobs: Command) -> None:
    prepared = json.loads(tljobs("prepare", "photos", "--name", "shapes", "--image-size", "48", "--json").stdout)
    assert prepared["classes"] == list(CLASSES)
    assert (sum(prepared["images"].values()), prepared["rejected"], prepared["reused"]) == (120, 0, False)
    again = json.loads(tljobs("prepare", "photos", "--name", "shapes", "--image-size", "48", "--json").stdout)
    assert again == {**prepared, "reused": True}

    train = ["train", "shapes", "--name", "first", *SMALL, "--unfreeze", "all", "--head-epochs", "1", "--epochs", "8"]
    plan = tljobs(*train, "--learning-rate", "1e-2", "--dry-run")
    assert "trainable parameters" in plan.stderr
    trained = json.loads(tljobs(*train, "--learning-rate", "1e-2", "--json").stdout)
    assert (trained["run"], trained["status"], trained["reused"]) == ("first", "finished", False)
    assert trained["scores"]["test"]["accuracy"] > 0.6
    assert json.loads(tljobs(*train, "--learning-rate", "1e-2", "--json").stdout)["reused"]
    assert "taken" in tljobs(*train, "--learning-rate", "2e-2", code=4).stderr

    evaluated = json.loads(tljobs("evaluate", "first", "--split", "test", "--json").stdout)
    assert evaluated["scores"]["accuracy"] == trained["scores"]["test"]["accuracy"]
    assert sum(map(sum, evaluated["confusion"])) == evaluated["images"] == prepared["images"]["test"]

    rows = [json.loads(line) for line in tljobs("predict", "first", "new-photos").stdout.splitlines()]
    assert [row["input"] for row in rows] == sorted(row["input"] for row in rows)
    assert len(rows) == 9
    assert sum(row["label"] == Path(row["input"]).parent.name for row in rows) >= 6

    tljobs("export", "first", "--out", "model")
    exported = [json.loads(line) for line in tljobs("predict", "model", "new-photos").stdout.splitlines()]
    assert exported == rows

    tune = ["tune", "shapes", "--name", "grid", *SMALL, "--learning-rate", "1e-2,1e-3", "--unfreeze", "head,all"]
    tuned = json.loads(tljobs(*tune, "--head-epochs", "1", "--epochs", "3", "--json").stdout)
    assert len(tuned["trials"]) == 4
    assert tuned["best"] in [trial["run"] for trial in tuned["trials"]]

    runs = json.loads(tljobs("runs", "--json").stdout)["runs"]
    assert {run["run"] for run in runs} == {"first", "grid-000", "grid-001", "grid-002", "grid-003"}
    assert json.loads(tljobs("searches", "--json").stdout)["searches"][0]["best"] == tuned["best"]
    assert json.loads(tljobs("datasets", "--json").stdout)["datasets"][0]["version"] == prepared["version"]
    assert "small-cnn" in tljobs("runs", "show", "first").stdout
