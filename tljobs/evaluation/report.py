"""The published evaluation: a split's predictions in, a table of images and a report in the store out.

The table is written first; the report is the commit.
"""

from __future__ import annotations

import hashlib
import io
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from tljobs import layout
from tljobs.errors import InputRefused, NameTaken, NotFound
from tljobs.evaluation import multi_label
from tljobs.evaluation.intervals import score_intervals
from tljobs.evaluation.scores import class_scores, confusion, image_losses, predicted_classes, score
from tljobs.records import DatasetManifest, EvaluationReport, FileInfo, ModelRecord, Task, new_token, now_utc
from tljobs.runs import dataset_index
from tljobs.store import Store

if TYPE_CHECKING:
    from tljobs.serving.replay import SplitPredictions

# One row per image: `shard` counts the shards of the split from 0, `row` the rows of that shard; loss in nats.
PREDICTIONS_SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("uri", pa.string()),
        ("label", pa.int32()),
        ("predicted", pa.int32()),
        ("probabilities", pa.list_(pa.float32())),
        ("loss", pa.float32()),
        ("shard", pa.int32()),
        ("row", pa.int32()),
    ]
)


def existing(store: Store, run: str, evaluation: str, model_sha256: str) -> EvaluationReport | None:
    """The published report of `evaluation` if it is of this very model file, else None."""
    key = layout.run_evaluation_report(run, evaluation)
    try:
        report = EvaluationReport.from_bytes(store.read(key), key)
    except NotFound:
        return None
    return report if report.model_sha256 == model_sha256 else None


def publish(
    store: Store,
    run: str,
    evaluation: str,
    *,
    manifest: DatasetManifest,
    split: str,
    model: ModelRecord,
    predictions: SplitPredictions,
) -> EvaluationReport:
    """Computes the scores, writes the table of images and then, last, the report. Returns the report as published.

    Raises InputRefused when an image is not in the dataset's index, NameTaken when the run's published model is
    another one and has this evaluation already.
    """
    table = predictions_table(predictions, _uris(store, manifest), model.task)
    data = _parquet(table)
    file = FileInfo(
        key=layout.run_evaluation_predictions(run, evaluation),
        size_bytes=len(data),
        sha256=hashlib.sha256(data).hexdigest(),
    )
    report = EvaluationReport(
        run=run,
        evaluation=evaluation,
        split=split,
        dataset=manifest.name,
        version=manifest.version,
        model_sha256=model.file.sha256,
        images=len(predictions.ids),
        task=model.task,
        classes=model.classes,
        **_scores(predictions, model),
        predictions=file,
        created_utc=now_utc(),
        token=new_token(),
    )
    return _commit(store, report, data)


def _scores(predictions: SplitPredictions, model: ModelRecord) -> dict[str, Any]:
    """The fields of the report that are computed."""
    labels, probabilities = predictions.labels, predictions.probabilities
    if model.task == "multi-label":
        return {
            "scores": multi_label.score(labels, probabilities),
            "intervals": multi_label.score_intervals(labels, probabilities, model.classes),
            "per_class": multi_label.class_scores(labels, probabilities, model.classes),
            "confusion": (),
        }
    matrix = confusion(labels, predicted_classes(probabilities), len(model.classes))
    scores = score(labels, probabilities)
    return {
        "scores": scores,
        "intervals": score_intervals(matrix, model.classes, scores),
        "per_class": class_scores(matrix, model.classes),
        "confusion": tuple(tuple(int(count) for count in row) for row in matrix),
    }


def predictions_table(predictions: SplitPredictions, uris: dict[str, str], task: Task = "single-label") -> pa.Table:
    """The table of PREDICTIONS_SCHEMA, in a multi-label task with lists of classes as `label` and `predicted`; `uris`
    maps image id -> uri. Raises InputRefused for an id without one."""
    missing = [each for each in predictions.ids if each not in uris]
    if missing:
        raise InputRefused(f"{len(missing)} images are not in the dataset's index", missing[0], "Prepare it again")
    probabilities = predictions.probabilities
    count, classes = probabilities.shape
    losses = multi_label.image_losses if task == "multi-label" else image_losses
    starts = pa.array(np.arange(count + 1, dtype=np.int32) * classes)
    columns = [
        pa.array(predictions.ids, pa.string()),
        pa.array([uris[each] for each in predictions.ids], pa.string()),
        *_label_columns(predictions, task),
        pa.ListArray.from_arrays(starts, pa.array(probabilities.ravel(), pa.float32())),
        pa.array(losses(predictions.labels, probabilities), pa.float32()),
        pa.array(predictions.shards, pa.int32()),
        pa.array(predictions.rows, pa.int32()),
    ]
    schema = PREDICTIONS_SCHEMA
    for position, field in enumerate(schema.names):
        if field in ("label", "predicted"):
            schema = schema.set(position, pa.field(field, columns[position].type))
    return pa.Table.from_arrays(columns, schema=schema)


def _label_columns(predictions: SplitPredictions, task: Task) -> list[pa.Array]:
    """`label` and `predicted`."""
    labels, probabilities = predictions.labels, predictions.probabilities
    if task == "single-label":
        return [pa.array(labels, pa.int32()), pa.array(predicted_classes(probabilities), pa.int32())]
    return [
        pa.array([np.flatnonzero(row).tolist() for row in rows], pa.list_(pa.int32()))
        for rows in (labels, multi_label.predicted_labels(probabilities))
    ]


def _uris(store: Store, manifest: DatasetManifest) -> dict[str, str]:
    index = dataset_index(store, manifest).select(["id", "uri"]).to_pydict()
    return dict(zip(index["id"], index["uri"], strict=True))


def _parquet(table: pa.Table) -> bytes:
    import pyarrow.parquet as pq

    buffer = io.BytesIO()
    pq.write_table(table, buffer)
    return buffer.getvalue()


def _commit(store: Store, report: EvaluationReport, predictions: bytes) -> EvaluationReport:
    key = layout.run_evaluation_report(report.run, report.evaluation)
    found = existing(store, report.run, report.evaluation, report.model_sha256)
    if found:
        return found
    if store.exists(key) and store.exists(layout.run_model_record(report.run)):
        raise NameTaken("the run has this evaluation of another model file", f"{store.uri}/{key}")
    # Left by an attempt that ended before it published its model: nothing refers to it.
    store.delete(key)
    store.put(report.predictions.key, predictions)
    try:
        store.create(key, report.to_bytes())
    except NameTaken:
        found = existing(store, report.run, report.evaluation, report.model_sha256)
        if found is None:
            raise
        return found
    return report
