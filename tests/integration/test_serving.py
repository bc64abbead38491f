"""A real model from its run through export, clean processes, many files and evaluation."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from images import jpeg_bytes
from s3_server import S3Server
from serving_store import CLASSES, Photo, make_dataset, make_run, model_record, own_probabilities, tiny_network

from tljobs import layout
from tljobs.errors import InputRefused, NameTaken, NotFound, TljobsError
from tljobs.evaluation.evaluate import evaluate, evaluate_bundle
from tljobs.progress import Silent
from tljobs.records import DatasetManifest, EvaluationReport
from tljobs.runs import open_dataset, run_evaluations, run_model, run_predictions
from tljobs.serving.bundle import BATCH_IMAGES, open_bundle, open_record
from tljobs.serving.child import PredictChild
from tljobs.serving.export import export
from tljobs.serving.predict import predict
from tljobs.serving.publish import publish_model, write_bundle
from tljobs.serving.replay import replay
from tljobs.specs import EvaluateSpec, ExportSpec, PredictSpec
from tljobs.store import LocalStore, S3Store, Store

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]

RUN = "shapes-1"
ANSWER_TIMEOUT_S = 60.0
CANARY = "canary-6421"


def _photos(start: int, count: int) -> list[Photo]:
    """`count` photos of each class; sizes differ, so that some are resized up, some down, and all cropped."""
    return [
        Photo(f"photos/{CLASSES[label]}/{number}.jpg", label, jpeg_bytes(label, number, size_px=33 + 7 * (number % 9)))
        for number in range(start, start + count)
        for label in range(len(CLASSES))
    ]


VAL, TEST = _photos(0, 25), _photos(25, 4)


def _publish_run(store: Store) -> EvaluationReport:
    """What the end of training does: file, replay against the network in memory, evaluation, record."""
    manifest = make_dataset(store, {"train": _photos(29, 1), "val": VAL, "test": TEST})
    make_run(store, RUN, manifest)
    network = tiny_network()
    draft = model_record(RUN, write_bundle(store, RUN, network), manifest)
    bundle = open_record(store, draft)
    result = replay(bundle, store, manifest, own_probabilities(network, VAL))
    report = evaluate_bundle(bundle, store, manifest, "val", RUN, Silent())
    publish_model(store, draft.model_copy(update={"replay": result, "scores": report.scores}))
    return report


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> LocalStore:
    store = LocalStore(tmp_path_factory.mktemp("store"))
    _publish_run(store)
    return store


@pytest.fixture(scope="module")
def exported(store: LocalStore, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("exported") / "model"
    result = export(ExportSpec(run=RUN, out=str(out)), store, Silent())
    assert result is not None
    assert sorted(path.name for path in out.iterdir()) == result.files
    return out


@pytest.fixture(scope="module")
def child(exported: Path) -> Iterator[PredictChild]:
    """A child of a process with secrets in its environment."""
    with PredictChild(exported) as child:
        with pytest.MonkeyPatch.context() as patch:
            for name in ("AWS_SECRET_ACCESS_KEY", "RAY_AUTH_TOKEN", "SOME_TOKEN"):
                patch.setenv(name, CANARY)
            child.start()
        yield child


# ----------------------------------------------------------------------------------------------------------- export


def test_replay_of_the_published_file_is_exact(store: LocalStore) -> None:
    result = run_model(store, RUN).replay
    assert (result.images, result.labels_changed) == (len(VAL), 0)
    assert result.max_abs_difference < 1e-6


def test_export_opens_in_a_clean_process_and_repeats_the_networks_probabilities(exported: Path, tmp_path: Path) -> None:
    files = []
    for number, photo in enumerate(VAL[:40]):
        files.append(tmp_path / f"{number:02}.jpg")
        files[-1].write_bytes(photo.data)
    done = subprocess.run(
        [sys.executable, str(exported / "predict.py"), *map(str, files)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    own = list(own_probabilities(tiny_network(), VAL[:40]).values())
    assert [row["input"] for row in rows] == [str(file) for file in files]
    for row, probabilities in zip(rows, own, strict=True):
        found = dict(row["top"])
        assert [found[label] for label in CLASSES] == pytest.approx(probabilities.tolist(), abs=1e-5)
        assert row["label"] == CLASSES[int(probabilities.argmax())]


def test_export_carries_labels_in_order_and_a_card(exported: Path) -> None:
    assert (exported / "labels.txt").read_text().splitlines() == list(CLASSES)
    card = (exported / "README.md").read_text()
    assert f"| val | {len(VAL)} | accuracy |" in card
    assert "shapes@v1" in card


def test_export_into_a_folder_with_something_in_it_is_refused(store: LocalStore, tmp_path: Path) -> None:
    (tmp_path / "own.txt").write_text("mine")
    with pytest.raises(NameTaken):
        export(ExportSpec(run=RUN, out=str(tmp_path)), store, Silent())
    assert [path.name for path in tmp_path.iterdir()] == ["own.txt"]


def test_export_dry_run_and_unknown_run_write_nothing(store: LocalStore, tmp_path: Path) -> None:
    out = tmp_path / "model"
    assert export(ExportSpec(run=RUN, out=str(out)), store, Silent(), dry_run=True) is None
    with pytest.raises(NotFound, match="no such run"):
        export(ExportSpec(run="nobody", out=str(out)), store, Silent())
    assert not list(tmp_path.iterdir())


# ---------------------------------------------------------------------------------------------------------- predict


def test_rows_come_in_input_order_with_bad_files_among_them(store: LocalStore, tmp_path: Path) -> None:
    names, expected = [], []
    own = [CLASSES[int(each.argmax())] for each in own_probabilities(tiny_network(), VAL).values()]
    for number in range(2 * BATCH_IMAGES + 11):
        path = tmp_path / f"{(number * 37) % 100:02}-{number}.jpg"
        bad = {3: b"", 40: b"text, not an image", 41: VAL[0].data[:300]}.get(number)
        path.write_bytes(VAL[number].data if bad is None else bad)
        names.append(str(path))
        expected.append(
            ("ok", own[number]) if bad is None else ({3: "empty", 40: "not_an_image"}.get(number, "truncated"), None)
        )
    rows = list(predict(PredictSpec(model=RUN, inputs=tuple(names), top_k=2), store, Silent()))
    assert [row.input for row in rows] == names
    assert [(row.status, row.label) for row in rows] == expected
    assert {len(row.top) for row in rows} == {0, 2}


def test_run_and_exported_folder_give_the_same_rows(store: LocalStore, exported: Path, tmp_path: Path) -> None:
    for number, photo in enumerate(TEST):
        (tmp_path / f"{number:02}.jpg").write_bytes(photo.data)
    by_run, by_folder = (
        list(predict(PredictSpec(model=model, inputs=(str(tmp_path),)), store, Silent()))
        for model in (RUN, str(exported))
    )
    assert by_run == by_folder
    assert len(by_run) == len(TEST)


def test_missing_input_is_found_before_the_model_is_opened(store: LocalStore) -> None:
    with pytest.raises(NotFound, match=r"nowhere\.jpg"):
        predict(PredictSpec(model="nobody", inputs=("nowhere.jpg",)), store, Silent())


def test_predict_reads_images_and_model_from_s3(s3_server: S3Server) -> None:
    store = S3Store(s3_server.new_bucket(), "jobs", s3_server.endpoint_url)
    _publish_run(store)
    for number, photo in enumerate(TEST):
        store.put(f"inbox/{number:02}.jpg", photo.data)
    store.put("inbox/.hidden.jpg", b"")
    rows = list(predict(PredictSpec(model=RUN, inputs=(f"{store.uri}/inbox",)), store, Silent()))
    own = [CLASSES[int(each.argmax())] for each in own_probabilities(tiny_network(), TEST).values()]
    assert [row.input for row in rows] == [f"{store.uri}/inbox/{number:02}.jpg" for number in range(len(TEST))]
    assert [row.label for row in rows] == own
    with pytest.raises(NotFound, match="no such object"):
        predict(PredictSpec(model=RUN, inputs=(f"{store.uri}/nothing",)), store, Silent())


# --------------------------------------------------------------------------------------------------------- evaluate


def test_evaluation_repeats_the_networks_own_answers(store: LocalStore) -> None:
    result = evaluate(EvaluateSpec(run=RUN, split="test"), store, Silent())
    own = np.stack(list(own_probabilities(tiny_network(), TEST).values()))
    labels = np.array([photo.label for photo in TEST])
    assert result is not None
    assert result.images == len(TEST)
    assert result.scores["accuracy"] == pytest.approx(np.mean(own.argmax(axis=1) == labels))
    assert result.scores["loss"] == pytest.approx(-np.log(own[np.arange(len(TEST)), labels]).mean(), rel=1e-4)
    report = next(report for report in run_evaluations(store, RUN) if report.evaluation == "test")
    table = run_predictions(store, report)
    assert table["uri"].to_pylist() == [photo.uri for photo in TEST]
    assert np.abs(np.array(table["probabilities"].to_pylist()) - own).max() < 1e-6


def test_evaluation_is_computed_once_and_recorded(store: LocalStore) -> None:
    first = run_evaluations(store, RUN)
    again = evaluate(EvaluateSpec(run=RUN, split="val"), store, Silent())
    assert again is not None
    assert again.images == len(VAL)
    assert run_evaluations(store, RUN) == first


def test_evaluation_dry_run_publishes_nothing(store: LocalStore) -> None:
    before = {report.evaluation for report in run_evaluations(store, RUN)}
    assert evaluate(EvaluateSpec(run=RUN, split="train"), store, Silent(), dry_run=True) is None
    assert {report.evaluation for report in run_evaluations(store, RUN)} == before


def test_dataset_with_other_class_order_is_refused(store: LocalStore) -> None:
    manifest = open_dataset(store, "shapes")
    other: DatasetManifest = manifest.model_copy(update={"classes_sha256": "0" * 64})
    with pytest.raises(InputRefused, match="classes or their order"):
        replay(open_bundle(store, RUN), store, other, {})


def test_changed_shard_is_refused(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    manifest = make_dataset(store, {"val": VAL})
    make_run(store, RUN, manifest)
    bundle = open_record(store, model_record(RUN, write_bundle(store, RUN, tiny_network()), manifest))
    key = layout.dataset_shard("shapes", "v1", "val", 1, len(manifest.splits["val"].shards))
    data = bytearray(store.read(key))
    data[len(data) // 2] ^= 1
    store.put(key, bytes(data))
    with pytest.raises(InputRefused, match="val-00001"):
        evaluate_bundle(bundle, store, manifest, "val", RUN, Silent())
    assert run_evaluations(store, RUN) == []


# ------------------------------------------------------------------------------------------------------------ child


def test_child_predicts_and_survives_a_bad_image(child: PredictChild) -> None:
    own = next(iter(own_probabilities(tiny_network(), VAL).values()))
    first = child.predict(VAL[0].data, ANSWER_TIMEOUT_S)
    pid = child.pid
    assert child.predict(b"not an image", ANSWER_TIMEOUT_S).status == "not_an_image"
    assert child.predict(b"", ANSWER_TIMEOUT_S).status == "empty"
    assert child.predict(VAL[0].data, ANSWER_TIMEOUT_S) == first
    assert child.pid == pid
    assert first.label == CLASSES[int(own.argmax())]
    assert [dict(first.top)[label] for label in CLASSES] == pytest.approx(own.tolist(), abs=1e-5)


def test_child_has_no_secrets_in_its_environment(child: PredictChild) -> None:
    content = Path(f"/proc/{child.pid}/environ").read_bytes()
    assert b"PATH=" in content
    assert CANARY.encode() not in content
    assert not [name for name in content.split(b"\0") if name.startswith((b"AWS_", b"RAY_"))]


def test_child_that_was_killed_is_an_error_and_is_replaced_at_the_next_call(child: PredictChild) -> None:
    child.start()
    dead = child.pid
    assert dead
    os.kill(dead, signal.SIGSTOP)
    with pytest.raises(TljobsError, match=r"not answered within 0\.5 s"):
        child.predict(VAL[0].data, timeout_s=0.5)
    assert child.pid is None
    assert not Path(f"/proc/{dead}").exists()
    assert child.predict(VAL[0].data, ANSWER_TIMEOUT_S).status == "ok"
    assert child.pid not in (None, dead)


def test_child_that_dies_during_a_call_is_an_error(child: PredictChild) -> None:
    child.start()
    assert child.pid
    os.kill(child.pid, signal.SIGSTOP)
    killer = subprocess.Popen(["sh", "-c", f"sleep 0.5; kill -9 {child.pid}"])
    with pytest.raises(TljobsError, match=r"has died \(exit status -9\)"):
        child.predict(VAL[0].data, ANSWER_TIMEOUT_S)
    killer.wait(10)


def test_child_that_cannot_start_is_an_error_with_its_last_words(
    exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = tmp_path / "python"
    broken.write_text("#!/bin/sh\necho first >&2; echo 'no module named tljobs' >&2; exit 3\n")
    broken.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(broken))
    with PredictChild(exported) as child, pytest.raises(TljobsError, match="exit status 3") as caught:
        child.start()
    assert caught.value.hint == "no module named tljobs"


def test_child_of_a_changed_model_says_so(exported: Path, tmp_path: Path) -> None:
    (tmp_path / "model.json").write_bytes((exported / "model.json").read_bytes())
    (tmp_path / "model.keras").write_bytes((exported / "model.keras").read_bytes() + b"x")
    with PredictChild(tmp_path) as child, pytest.raises(InputRefused, match="not the one in its record"):
        child.predict(VAL[0].data, ANSWER_TIMEOUT_S)


def test_child_module_imports_no_heavy_library() -> None:
    script = (
        "import sys, tljobs.serving.child;"
        "print([m for m in ('tensorflow', 'keras', 'ray', 'streamlit', 'pandas') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == "[]"
