"""The end of a run, in a clean process: the exported file is opened, replayed on the validation images against the
training network's own probabilities, evaluated on validation and test, and published. Then the run is finished.

Every part may be repeated: an attempt that ended in the middle is taken up by the next.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import safetensors.numpy

from tljobs import layout
from tljobs.backbones.registry import backbone
from tljobs.evaluation import report as reports
from tljobs.evaluation.evaluate import evaluate_bundle
from tljobs.progress import Silent
from tljobs.records import DatasetManifest, EvaluationReport, FileInfo, ModelRecord, Replay, new_token, now_utc
from tljobs.runs import dataset_index, open_run, run_journal, run_metrics
from tljobs.serving.bundle import ModelBundle, open_record
from tljobs.serving.publish import publish_model
from tljobs.serving.replay import compare, predict_split
from tljobs.specs import TrainSpec
from tljobs.store import Store
from tljobs.training import checkpoint
from tljobs.training.plan import make_plan
from tljobs.training.reserve import environment

NOT_REPLAYED = Replay(images=0, max_abs_difference=0.0, labels_changed=0)


def finish_run(store: Store, manifest: DatasetManifest, run: str, spec: TrainSpec, file: FileInfo) -> None:
    """Raises TljobsError when the model does not repeat the run's validation; then nothing is published."""
    draft = _draft(store, manifest, run, spec, file)
    bundle = open_record(store, draft)
    validation, replay = _replayed_validation(bundle, store, manifest, run)
    reports_by_split = {"val": validation}
    if manifest.splits["test"].images:
        reports_by_split["test"] = evaluate_bundle(bundle, store, manifest, "test", run, Silent())
    scores = {split: _summary(report) for split, report in reports_by_split.items()}
    flat = {f"{split}_{name}": value for split, values in scores.items() for name, value in values.items()}
    publish_model(store, draft.model_copy(update={"scores": flat, "replay": replay}))
    data = {"scores": scores, "images_per_s": _images_per_s(store, run), "best_step": draft.checkpoint_step}
    run_journal(store, run).append("finished", step=draft.checkpoint_step, data=data)


def _draft(store: Store, manifest: DatasetManifest, run: str, spec: TrainSpec, file: FileInfo) -> ModelRecord:
    found = open_run(store, run)
    best = checkpoint.best(store, run)
    return ModelRecord(
        run=run,
        file=file,
        task=manifest.task,
        classes=manifest.classes,
        classes_sha256=manifest.classes_sha256,
        decoder=manifest.decoder,
        stored_short_side=manifest.stored_short_side,
        crop_size=manifest.image_size,
        image_size=make_plan(spec, manifest).image_size,
        backbone=backbone(spec.backbone).name,
        weights_sha256=found.plan[0]["weights"]["sha256"],
        dataset=manifest.name,
        version=manifest.version,
        manifest_sha256=found.record.manifest_sha256,
        checkpoint_step=best.position.step,
        scores={},
        replay=NOT_REPLAYED,
        environment=environment(),
        created_utc=now_utc(),
        token=new_token(),
    )


def _replayed_validation(
    bundle: ModelBundle, store: Store, manifest: DatasetManifest, run: str
) -> tuple[EvaluationReport, Replay]:
    predictions = predict_split(bundle, store, manifest, "val")
    replay = compare(
        predictions.ids, predictions.probabilities, _own_probabilities(store, manifest, run), run, manifest.task
    )
    published = reports.existing(store, run, "val", bundle.record.file.sha256)
    report = published or reports.publish(
        store, run, "val", manifest=manifest, split="val", model=bundle.record, predictions=predictions
    )
    return report, replay


def _own_probabilities(store: Store, manifest: DatasetManifest, run: str) -> dict[str, npt.NDArray[np.float32]]:
    """Image id -> probabilities as the training workers computed them; positions are rows in the order of shards."""
    index = dataset_index(store, manifest).to_pydict()
    rows = zip(index["split"], index["shard"], index["row"], index["id"], strict=True)
    ids = [image for split, _, _, image in sorted(rows) if split == "val"]
    own: dict[str, npt.NDArray[np.float32]] = {}
    for entry in store.list(f"{layout.run(run)}/own-validation/"):
        arrays = safetensors.numpy.load(store.read(entry.key))
        for position, probabilities in zip(arrays["positions"], arrays["probabilities"], strict=True):
            own[ids[int(position)]] = probabilities
    return own


def _summary(report: EvaluationReport) -> dict[str, float]:
    low, high = report.intervals["accuracy"]
    return {
        "accuracy": report.scores["accuracy"],
        "accuracy_low": low,
        "accuracy_high": high,
        "loss": report.scores["loss"],
        "images": float(report.images),
    }


def _images_per_s(store: Store, run: str) -> float:
    _, epochs = run_metrics(store, open_run(store, run))
    return sum(row.images for row in epochs) / max(1e-9, sum(row.wall_s for row in epochs))
