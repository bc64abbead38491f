"""A small store with real records for the dashboard's tests: a dataset with images in shards, and runs of each kind.

`build_store(store)` writes: run `first-run` (finished, two attempts, evaluations val and test, with errors),
`broken-run` (failed), `lost-run` (two attempts, the second without an end), `live-run` (its heartbeat is of the
process that built the store). Labels and file names are hostile on purpose.
"""

from __future__ import annotations

import datetime
import hashlib
import io
import os
import socket
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from images import pixels
from PIL import Image

from tljobs import layout
from tljobs.records import (
    ClassScores,
    DatasetManifest,
    DecoderId,
    EpochRow,
    EvaluationReport,
    Event,
    FileInfo,
    Heartbeat,
    MetricsPiece,
    PhasePlan,
    RunRecord,
    ShardInfo,
    SplitInfo,
    StepRow,
    classes_digest,
    new_token,
    now_utc,
)
from tljobs.specs import TrainSpec
from tljobs.store import Store

CLASSES = ("<img src=x onerror=alert(1)>", "rose *bold* `code` :smile: $x$", "tulip")
SPLIT_IMAGES = {"train": 12, "val": 12, "test": 9}
ROWS_PER_GROUP = 4
STEPS_PER_EPOCH = 10
# Predicted class of each validation image in order of rows; row r is of class r % 3. Rows 1, 4 and 8 are wrong.
VAL_PREDICTED = (0, 2, 2, 0, 0, 2, 0, 1, 1, 0, 1, 2)
TEST_PREDICTED = (0, 1, 2, 0, 1, 2, 0, 1, 2)
WRONG_VAL_ROWS = (1, 4, 8)
PARAMETERS = {"head": 3843, "unfrozen-2": 1_203_843}
START = datetime.datetime(2026, 11, 30, 8, 0, tzinfo=datetime.UTC)


@dataclass(frozen=True)
class Phase:
    name: str
    depth: str
    epochs: int
    learning_rate: float


HEAD = Phase("head", "head", 2, 1e-3)
UNFROZEN = Phase("unfrozen-2", "2", 3, 1e-4)


def build_store(store: Store) -> None:
    """Writes everything the module's docstring names; the newest run is `live-run`."""
    manifest = publish_dataset(store)
    publish_finished_run(store, manifest)
    publish_failed_run(store, manifest)
    publish_interrupted_run(store, manifest)
    publish_running_run(store, manifest)


# ---------------------------------------------------------------------------------------------------------- dataset


def image_of(split: str, row: int, size_px: int = 64) -> bytes:
    """The stored image of a row: JPEG in train, PNG elsewhere, as prepare writes them."""
    number = row + 100 * list(SPLIT_IMAGES).index(split)
    buffer = io.BytesIO()
    image = Image.fromarray(pixels(row % len(CLASSES), number, size_px))
    image.save(buffer, "JPEG" if split == "train" else "PNG")
    return buffer.getvalue()


def publish_dataset(store: Store, name: str = "flowers", version: str = "v1") -> DatasetManifest:
    """A dataset version of CLASSES: one shard per split in groups of ROWS_PER_GROUP rows."""
    splits = {split: _publish_split(store, name, version, split, count) for split, count in SPLIT_IMAGES.items()}
    empty = pa.table({"uri": pa.array([], pa.string())})
    manifest = DatasetManifest(
        name=name,
        version=version,
        source="/photos",
        request={"source": "/photos", "name": name},
        classes=CLASSES,
        classes_sha256=classes_digest(CLASSES),
        image_size=56,
        stored_short_side=64,
        decoder=DecoderId(id="tljobs-decode", version=1),
        splits=splits,
        index=_put_table(store, layout.dataset_index(name, version), empty),
        rejected=_put_table(store, layout.dataset_rejected(name, version), empty),
        rejected_count=0,
        rejected_reasons={},
        duplicates=0,
        ignored=(),
        ignored_count=0,
        environment={},
        created_utc=_time(0),
        token=new_token(),
    )
    store.create(layout.dataset_manifest(name, version), manifest.to_bytes())
    return manifest


def _publish_split(store: Store, name: str, version: str, split: str, count: int) -> SplitInfo:
    table = pa.table(
        {
            "id": [f"{split}-{row:04}" for row in range(count)],
            "image": pa.array([image_of(split, row) for row in range(count)], pa.binary()),
            "label": pa.array([row % len(CLASSES) for row in range(count)], pa.int32()),
        }
    )
    file = _put_table(store, layout.dataset_shard(name, version, split, 0, 1), table)
    groups = tuple(min(ROWS_PER_GROUP, count - first) for first in range(0, count, ROWS_PER_GROUP))
    shard = ShardInfo(**file.model_dump(), rows=count, row_groups=groups)
    per_class = tuple(len(range(index, count, len(CLASSES))) for index in range(len(CLASSES)))
    return SplitInfo(images=count, per_class=per_class, shards=(shard,))


def _put_table(store: Store, key: str, table: pa.Table) -> FileInfo:
    buffer = io.BytesIO()
    pq.write_table(table, buffer, compression="none", use_dictionary=False, row_group_size=ROWS_PER_GROUP)
    data = buffer.getvalue()
    store.put(key, data)
    return FileInfo(key=key, size_bytes=len(data), sha256=hashlib.sha256(data).hexdigest())


# ------------------------------------------------------------------------------------------------------------- runs


def publish_finished_run(store: Store, manifest: DatasetManifest) -> None:
    """`first-run`: attempt 1 is lost after step 25, attempt 2 resumes at step 20 and finishes at step 50."""
    name = "first-run"
    _reserve(store, name, manifest, 1)
    _put_metrics(store, name, 1, (HEAD, UNFROZEN), 1, 25)
    _put_metrics(store, name, 2, (HEAD, UNFROZEN), 21, 50)
    scores = {
        "val": {"accuracy": 0.75, "loss": 0.6, "accuracy_low": 0.468, "accuracy_high": 0.911},
        "test": {"accuracy": 1.0, "loss": 0.2, "accuracy_low": 0.701, "accuracy_high": 1.0},
    }
    _write_events(
        store,
        name,
        [
            ("attempt_started", 1, 0, 2, {"workers": 1}),
            ("phase_started", 1, 0, 2, _plan(HEAD)),
            ("phase_started", 1, 20, 4, _plan(UNFROZEN)),
            ("attempt_started", 2, 20, 10, {"workers": 1}),
            ("phase_started", 2, 20, 10, _plan(UNFROZEN)),
            ("checkpoint", 2, 50, 14, {"phase": "unfrozen-2", "epoch": 3, "val_accuracy": 0.7, "val_loss": 0.7}),
            ("finished", 0, 50, 15, {"scores": scores, "images_per_s": 40.0}),
        ],
    )
    publish_evaluation(store, name, manifest, "val", VAL_PREDICTED)
    publish_evaluation(store, name, manifest, "test", TEST_PREDICTED)


def publish_failed_run(store: Store, manifest: DatasetManifest) -> None:
    """`broken-run`: its loss was no number at step 7."""
    _reserve(store, "broken-run", manifest, 20, learning_rate=30.0)
    _put_metrics(store, "broken-run", 1, (HEAD,), 1, 7)
    failure = {"what": "the loss is not a number", "where": "step 7, [x](javascript:1)", "hint": "Lower the rate"}
    _write_events(
        store,
        "broken-run",
        [
            ("attempt_started", 1, 0, 21, {"workers": 1}),
            ("phase_started", 1, 0, 21, _plan(HEAD)),
            ("failed", 0, 7, 22, failure),
        ],
    )


def publish_interrupted_run(store: Store, manifest: DatasetManifest) -> None:
    """`lost-run`: two attempts, no end and no heartbeat."""
    _reserve(store, "lost-run", manifest, 30)
    _put_metrics(store, "lost-run", 1, (HEAD, UNFROZEN), 1, 10)
    _put_metrics(store, "lost-run", 2, (HEAD, UNFROZEN), 11, 30)
    _write_events(
        store,
        "lost-run",
        [
            ("attempt_started", 1, 0, 31, {"workers": 1}),
            ("phase_started", 1, 0, 31, _plan(HEAD)),
            ("attempt_started", 2, 10, 40, {"workers": 2}),
            ("phase_started", 2, 20, 41, _plan(UNFROZEN)),
        ],
    )


def publish_running_run(store: Store, manifest: DatasetManifest) -> None:
    """`live-run`: alive as long as this process, and for a minute after each `beat`."""
    _reserve(store, "live-run", manifest, 50, backbone="mobilenetv2")
    _put_metrics(store, "live-run", 1, (HEAD, UNFROZEN), 1, 15)
    beat(store)
    _write_events(
        store,
        "live-run",
        [("attempt_started", 1, 0, 51, {"workers": 1}), ("phase_started", 1, 0, 51, _plan(HEAD))],
    )


def beat(store: Store) -> None:
    """The sign of life of `live-run`."""
    sign = Heartbeat(host=socket.gethostname(), pid=os.getpid(), time_utc=now_utc())
    store.put(layout.run_heartbeat("live-run"), sign.to_bytes())


def finish_run(store: Store, name: str, seq: int) -> None:
    """Appends the end of a run as event number `seq`."""
    event = Event(seq=seq, kind="finished", time_utc=now_utc(), data={"scores": {}}, token=new_token())
    store.create(layout.run_event(name, seq), event.to_bytes())


def _reserve(
    store: Store,
    name: str,
    manifest: DatasetManifest,
    minute: int,
    *,
    learning_rate: float = 1e-3,
    backbone: str = "efficientnet-lite0",
) -> None:
    spec = TrainSpec(dataset=manifest.name, backbone=backbone, learning_rate=learning_rate, epochs=5, head_epochs=2)
    record = RunRecord(
        run=name,
        spec=spec.model_dump(mode="json"),
        request_sha256=spec.digest(),
        dataset=manifest.name,
        version=manifest.version,
        manifest_sha256="0" * 64,
        classes=manifest.classes,
        classes_sha256=manifest.classes_sha256,
        environment={},
        created_utc=_time(minute),
        token=new_token(),
    )
    store.create(layout.run_record(name), record.to_bytes())


def _plan(phase: Phase) -> dict[str, object]:
    plan = PhasePlan(
        name=phase.name,
        depth=phase.depth,
        epochs=phase.epochs,
        steps=phase.epochs * STEPS_PER_EPOCH,
        learning_rate=phase.learning_rate,
        trainable_parameters=PARAMETERS[phase.name],
        frozen_parameters=3_374_856 - PARAMETERS[phase.name],
    )
    return {**plan.model_dump(mode="json"), "notes": []}


def _write_events(store: Store, name: str, events: Sequence[tuple[object, int, int, int, dict[str, object]]]) -> None:
    for seq, (kind, attempt, step, minute, data) in enumerate(events):
        event = Event.model_validate(
            {"seq": seq, "kind": kind, "attempt": attempt, "step": step, "time_utc": _time(minute), "data": data}
            | {"token": new_token()}
        )
        store.create(layout.run_event(name, seq), event.to_bytes())


def _put_metrics(store: Store, name: str, attempt: int, phases: Sequence[Phase], first: int, last: int) -> None:
    """Steps `first` to `last` of an attempt and the epochs that end among them, as one piece."""
    wanted = range(first, last + 1)
    steps = tuple(_step(phases, step) for step in wanted)
    epochs = tuple(_epoch(phases, step) for step in wanted if step % STEPS_PER_EPOCH == 0)
    piece = MetricsPiece(attempt=attempt, steps=steps, epochs=epochs)
    store.put(layout.run_metrics_piece(name, attempt, last), piece.to_bytes())


def _phase_at(phases: Sequence[Phase], step: int) -> tuple[Phase, int]:
    """The phase that `step` (from 1) belongs to, and its epoch in that phase, from 1."""
    epoch = (step - 1) // STEPS_PER_EPOCH
    for phase in phases:
        if epoch < phase.epochs:
            return phase, epoch + 1
        epoch -= phase.epochs
    raise ValueError(step)


def _step(phases: Sequence[Phase], step: int) -> StepRow:
    phase, epoch = _phase_at(phases, step)
    loss = 1.1 * np.exp(-step / 25) + 0.05 * np.sin(step)
    accuracy = 1 - loss / 1.3
    return StepRow(
        step=step,
        phase=phase.name,
        epoch=epoch,
        loss=loss,
        accuracy=accuracy,
        learning_rate=phase.learning_rate,
        grad_norm=1.0,
    )


def _epoch(phases: Sequence[Phase], step: int) -> EpochRow:
    """Validation accuracy rises until step 40 and falls at step 50: the best epoch is the fourth."""
    phase, epoch = _phase_at(phases, step)
    loss = float(1.1 * np.exp(-step / 25))
    val_accuracy = {10: 0.42, 20: 0.58, 30: 0.67, 40: 0.75, 50: 0.7}[step]
    return EpochRow(
        phase=phase.name,
        epoch=epoch,
        step=step,
        images=SPLIT_IMAGES["train"],
        train_loss=loss,
        train_accuracy=1 - loss / 1.3,
        val_loss=loss + 0.1 + step / 500,
        val_accuracy=val_accuracy,
        learning_rate=phase.learning_rate,
        wall_s=30.0,
        wait_s=1.0,
    )


# ------------------------------------------------------------------------------------------------------ evaluations


def publish_evaluation(
    store: Store, run: str, manifest: DatasetManifest, split: str, predicted: Sequence[int]
) -> EvaluationReport:
    """An evaluation whose row r is of class r % 3; a wrong row's loss grows with r."""
    labels = [row % len(CLASSES) for row in range(len(predicted))]
    file = _put_table(store, layout.run_evaluation_predictions(run, split), predictions_table(split, predicted))
    matrix = np.zeros((len(CLASSES), len(CLASSES)), np.int64)
    np.add.at(matrix, (labels, list(predicted)), 1)
    accuracy = float(np.trace(matrix) / len(labels))
    report = EvaluationReport(
        run=run,
        evaluation=split,
        split=split,
        dataset=manifest.name,
        version=manifest.version,
        model_sha256="1" * 64,
        images=len(labels),
        classes=CLASSES,
        scores={"accuracy": accuracy, "macro_f1": accuracy, "loss": 0.6},
        intervals={"accuracy": (max(0.0, accuracy - 0.2), min(1.0, accuracy + 0.15))},
        per_class=tuple(
            ClassScores(label=label, images=int(matrix[i].sum()), precision=0.75, recall=0.75, f1=0.75 - i / 10)
            for i, label in enumerate(CLASSES)
        ),
        confusion=tuple(tuple(int(count) for count in row) for row in matrix),
        predictions=file,
        created_utc=_time(15),
        token=new_token(),
    )
    store.create(layout.run_evaluation_report(run, split), report.to_bytes())
    return report


def predictions_table(split: str, predicted: Sequence[int]) -> pa.Table:
    """The per-image table: id, uri, label, predicted, probabilities, loss, shard, row."""
    rows = range(len(predicted))
    probabilities = [[0.8 if index == each else 0.1 for index in range(len(CLASSES))] for each in predicted]
    right = [row % len(CLASSES) == predicted[row] for row in rows]
    return pa.table(
        {
            "id": [f"{split}-{row:04}" for row in rows],
            "uri": [f"/photos/{split}/<i>{row} *a* --> :smile: $x$.jpg" for row in rows],
            "label": pa.array([row % len(CLASSES) for row in rows], pa.int32()),
            "predicted": pa.array(predicted, pa.int32()),
            "probabilities": pa.array(probabilities, pa.list_(pa.float32())),
            "loss": pa.array([0.2 if right[row] else 2.0 + row / 10 for row in rows], pa.float32()),
            "shard": pa.array([0] * len(rows), pa.int32()),
            "row": pa.array(list(rows), pa.int32()),
        }
    )


def _time(minute: int) -> str:
    return (START + datetime.timedelta(minutes=minute)).isoformat(timespec="milliseconds")
