"""Scores of a run's model on a split of its dataset: computed once, published, and returned ever after."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

from tljobs import layout
from tljobs.errors import InputRefused, NotFound
from tljobs.evaluation import report as reports
from tljobs.progress import SILENT, Reporter
from tljobs.records import DatasetManifest, EvaluationReport, ModelRecord
from tljobs.results import EvaluateResult
from tljobs.runs import open_dataset, open_run, run_model
from tljobs.specs import EvaluateSpec
from tljobs.store import Store

if TYPE_CHECKING:
    from tljobs.serving.bundle import ModelBundle


def evaluate(
    spec: EvaluateSpec, store: Store, reporter: Reporter = SILENT, *, dry_run: bool = False
) -> EvaluateResult | None:
    """Scores of the model of `spec.run` on `spec.split`. None after the plan with `dry_run`.

    An evaluation of the same model file that is published already is returned as it is, so that a test split is used
    once. Raises NotFound without the run, its model or its dataset, InputRefused when the dataset is not the one the
    model was trained on or has no such images.
    """
    record, manifest = _open(store, spec.run)
    images = manifest.splits[spec.split].images if spec.split in manifest.splits else 0
    if not images:
        raise InputRefused(f"the dataset has no {spec.split} images", f"{manifest.name}@{manifest.version}")
    published = reports.existing(store, spec.run, spec.split, record.file.sha256)
    reporter.plan(
        f"evaluate {spec.run}",
        [
            ("dataset", f"{manifest.name}@{manifest.version}"),
            ("split", f"{spec.split}, {images} images"),
            ("classes", str(len(record.classes))),
            ("published", f"on {published.created_utc}: nothing to compute" if published else "not yet"),
        ],
    )
    if dry_run:
        return None
    return _result(store, published or _compute(store, record, manifest, spec.split, reporter))


def evaluate_bundle(
    bundle: ModelBundle, store: Store, manifest: DatasetManifest, split: str, run: str, reporter: Reporter
) -> EvaluationReport:
    """Publishes evaluation `split` of `run`: all images of the split through the opened model.

    Returns the published one if it is of the same model file. Raises as `predict_split` and `report.publish` do.
    """
    from tljobs.serving.replay import predict_split

    published = reports.existing(store, run, split, bundle.record.file.sha256)
    if published:
        return published
    predictions = predict_split(bundle, store, manifest, split, reporter)
    return reports.publish(
        store, run, split, manifest=manifest, split=split, model=bundle.record, predictions=predictions
    )


def _open(store: Store, run: str) -> tuple[ModelRecord, DatasetManifest]:
    open_run(store, run)
    record = run_model(store, run)
    reference = f"{record.dataset}@{record.version}"
    try:
        manifest = open_dataset(store, reference)
    except NotFound:
        raise NotFound("the dataset of the run is gone", reference, "Prepare it again from the same images") from None
    stored = store.read(layout.dataset_manifest(record.dataset, record.version))
    if hashlib.sha256(stored).hexdigest() != record.manifest_sha256:
        raise InputRefused("the dataset is not the one the model was trained on", reference, "Its manifest was changed")
    return record, manifest


def _compute(
    store: Store, record: ModelRecord, manifest: DatasetManifest, split: str, reporter: Reporter
) -> EvaluationReport:
    from tljobs.serving.bundle import open_record

    return evaluate_bundle(open_record(store, record), store, manifest, split, record.run, reporter)


def _result(store: Store, report: EvaluationReport) -> EvaluateResult:
    low, high = report.intervals["accuracy"]
    return EvaluateResult(
        run=report.run,
        split=report.split,
        images=report.images,
        scores=report.scores,
        intervals=report.intervals,
        per_class=[each.model_dump() for each in report.per_class],
        confusion=[list(row) for row in report.confusion],
        classes=list(report.classes),
        predictions=f"{store.uri}/{report.predictions.key}",
        made=f"evaluation {report.evaluation} of {report.run} in {store.uri}: accuracy"
        f" {report.scores['accuracy']:.4f} (95 % interval {low:.4f} to {high:.4f}) on {report.images} images",
        next_command=f"tljobs predict {report.run} IMAGE",
    )
