import datetime
import inspect
import json

import pytest
from pydantic import ValidationError

from tljobs import records
from tljobs.errors import InputRefused
from tljobs.records import Event, MetricsPiece, Record, StepRow, classes_digest, new_token, now_utc

FILE = {"key": "runs/r/f", "size_bytes": 3, "sha256": "ab"}
SHARD = FILE | {"rows": 3, "row_groups": [2, 1]}
COMMON = {"created_utc": "2026-01-01T00:00:00.000+00:00", "token": "t", "environment": {"ray": "2.60.0"}}
REQUEST = {"spec": {"seed": 0}, "request_sha256": "ab", "dataset": "d", "version": "v", **COMMON}
CLASSES = {"classes": ["cat", "chien é"], "classes_sha256": "ab"}
DECODER = {"id": "tljobs", "version": 1}
SAMPLES: dict[str, dict[str, object]] = {
    "DatasetManifest": {
        **COMMON,
        **CLASSES,
        "name": "d",
        "version": "v",
        "source": "/photos",
        "request": {},
        "image_size": 224,
        "stored_short_side": 256,
        "decoder": DECODER,
        "splits": {"train": {"images": 3, "per_class": [2, 1], "shards": [SHARD]}},
        "index": FILE,
        "rejected": FILE,
        "audit": FILE,
        "rejected_count": 1,
        "rejected_reasons": {"truncated": 1},
        "duplicates": 0,
        "ignored": ["Thumbs.db"],
        "ignored_count": 1,
    },
    "AuditReport": {
        "files": 5,
        "images": 3,
        "rejected": {"truncated": 1},
        "duplicates": 1,
        "near_groups": 0,
        "classes": [{"label": "cat", "splits": {"train": 2, "val": 1, "test": 0}, "rejected": 1}],
        "formats": {"jpeg": 3},
        "modes": {"RGB": 3},
        "short_side_px": {"min": 96.0},
        "brightness": {"median": 120.5},
        "findings": [
            {
                "code": "duplicates",
                "severity": "info",
                "count": 1,
                "text": "a copy",
                "examples": [{"id": "ab", "uri": "/photos/cat/é.jpg", "label": "cat"}],
            }
        ],
    },
    "RunRecord": {**REQUEST, **CLASSES, "run": "r", "manifest_sha256": "ab", "search": None},
    "SearchRecord": {**REQUEST, "search": "s"},
    "StagedSource": {"digest": "ab", "files": 2, "packs": [FILE], "indexes": [FILE]},
    "Event": {
        "seq": 4,
        "kind": "checkpoint",
        "attempt": 1,
        "step": 9,
        "time_utc": "x",
        "data": {"a": [1]},
        "token": "t",
    },
    "Heartbeat": {"host": "h", "pid": 1, "time_utc": "x"},
    "MetricsPiece": {
        "attempt": 1,
        "steps": [
            {
                "step": 1,
                "phase": "head",
                "epoch": 0,
                "loss": 0.1,
                "accuracy": 1.0,
                "learning_rate": 1e-3,
                "grad_norm": 2.0,
            }
        ],
        "epochs": [],
    },
    "CheckpointCommit": {
        **COMMON,
        "run": "r",
        "attempt": 2,
        "position": {"phase": 1, "epoch": 2, "epoch_step": 3, "step": 40},
        "state": FILE,
        "variables_sha256": "ab",
        "loop_state": {"best": 0.5},
        "val_accuracy": 0.1 + 0.2,
        "val_loss": None,
    },
    "EvaluationReport": {
        **COMMON,
        "run": "r",
        "evaluation": "val",
        "split": "val",
        "dataset": "d",
        "version": "v",
        "model_sha256": "ab",
        "images": 2,
        "classes": ["cat", "dog"],
        "scores": {"accuracy": 0.5},
        "intervals": {"accuracy": [0.1, 0.9]},
        "per_class": [{"label": "cat", "images": 2, "precision": None, "recall": 0.5, "f1": None}],
        "confusion": [[1, 1], [0, 0]],
        "predictions": FILE,
    },
    "ModelRecord": {
        **COMMON,
        **CLASSES,
        "run": "r",
        "file": FILE,
        "decoder": DECODER,
        "stored_short_side": 256,
        "crop_size": 224,
        "image_size": 224,
        "backbone": "b",
        "weights_sha256": None,
        "dataset": "d",
        "version": "v",
        "manifest_sha256": "ab",
        "checkpoint_step": 40,
        "scores": {"val_accuracy": 0.5},
        "replay": {"images": 2, "max_abs_difference": 1e-7, "labels_changed": 0},
    },
}
RECORD_CLASSES = {
    name: each
    for name, each in inspect.getmembers(records, inspect.isclass)
    if issubclass(each, Record) and each is not Record
}


def sample(name: str) -> Record:
    return RECORD_CLASSES[name].model_validate(SAMPLES[name])


def test_there_is_a_sample_of_every_record() -> None:
    assert set(SAMPLES) == set(RECORD_CLASSES)


@pytest.mark.parametrize("name", sorted(SAMPLES))
def test_comes_back_from_its_bytes_unchanged(name: str) -> None:
    record = sample(name)
    assert type(record).from_bytes(record.to_bytes()) == record


@pytest.mark.parametrize("name", sorted(SAMPLES))
def test_a_record_of_a_newer_release_is_refused_with_the_remedy(name: str) -> None:
    record = sample(name)
    newer = json.loads(record.to_bytes()) | {"schema_version": record.schema_version + 1}
    with pytest.raises(InputRefused, match=rf"{name} of schema .*some/key\. Update tljobs"):
        type(record).from_bytes(json.dumps(newer).encode(), "some/key")


@pytest.mark.parametrize("name", sorted(SAMPLES))
def test_every_truncation_is_noticed(name: str) -> None:
    record = sample(name)
    data = record.to_bytes().rstrip()
    for length in range(len(data)):
        with pytest.raises(InputRefused, match="damaged"):
            type(record).from_bytes(data[:length], "some/key")


@pytest.mark.parametrize("name", sorted(SAMPLES))
def test_fields_cannot_be_changed(name: str) -> None:
    record = sample(name)
    with pytest.raises(ValidationError, match="frozen"):
        record.schema_version = 2


@pytest.mark.parametrize("data", [b"", b"null", b"[]", b"{}", b"\xff\xfe", b'{"seq": "x"}'])
def test_bytes_that_are_no_record_are_refused(data: bytes) -> None:
    with pytest.raises(InputRefused, match=r"damaged Event: some/key"):
        Event.from_bytes(data, "some/key")


def test_fields_added_by_a_later_release_of_the_same_schema_are_ignored() -> None:
    record = sample("Event")
    data = json.loads(record.to_bytes()) | {"colour": "blue"}
    assert Event.from_bytes(json.dumps(data).encode()) == record


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf"), 1e-320, 0.1])
def test_every_number_that_training_can_measure_comes_back(value: float) -> None:
    row = StepRow(step=1, phase="head", epoch=0, loss=value, accuracy=0, learning_rate=1e-3, grad_norm=value)
    piece = MetricsPiece(attempt=1, steps=(row,))
    back = MetricsPiece.from_bytes(piece.to_bytes()).steps[0]
    assert repr((back.loss, back.grad_norm)) == repr((value, value))
    event = Event(seq=0, kind="failed", time_utc="x", data={"loss": value, "recent": [value]}, token="t")
    assert repr(Event.from_bytes(event.to_bytes()).data) == repr({"loss": value, "recent": [value]})


def test_the_digest_of_classes_depends_on_names_and_order() -> None:
    digests = [classes_digest(each) for each in (("a", "b"), ("b", "a"), ("a,b",), ("ab",), ("a", "b", ""))]
    assert len(set(digests)) == len(digests)
    assert classes_digest(("é", "b")) == classes_digest(("é", "b"))


def test_tokens_do_not_repeat() -> None:
    assert len({new_token() for _ in range(1000)}) == 1000


def test_moments_are_utc_and_read_back() -> None:
    moment = datetime.datetime.fromisoformat(now_utc())
    assert moment.utcoffset() == datetime.timedelta(0)
    assert abs((datetime.datetime.now(datetime.UTC) - moment).total_seconds()) < 5


def test_a_manifest_from_before_there_were_audits_is_readable() -> None:
    data = json.loads(sample("DatasetManifest").to_bytes())
    del data["audit"]
    assert records.DatasetManifest.from_bytes(json.dumps(data).encode()).audit is None
