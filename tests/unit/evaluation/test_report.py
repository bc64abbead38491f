"""Publishing an evaluation: the table of images, the report as its commit, once per model file."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from images import jpeg_bytes
from serving_store import CLASSES, Photo, make_dataset, make_run, model_record

from tljobs import layout
from tljobs.errors import InputRefused, NameTaken
from tljobs.evaluation.report import PREDICTIONS_SCHEMA, existing, publish
from tljobs.records import DatasetManifest, EvaluationReport, FileInfo, ModelRecord
from tljobs.runs import dataset_index, run_evaluations, run_predictions
from tljobs.serving.replay import SplitPredictions
from tljobs.store import LocalStore

RUN = "run-1"
PROBABILITIES = np.array([[0.5, 0.3, 0.2], [0.5, 0.3, 0.2], [0.1, 0.2, 0.7]], np.float32)


class StoreWithoutCommits(LocalStore):
    """A store whose process dies at the moment of every commit."""

    def create(self, key: str, data: bytes) -> None:
        raise KeyboardInterrupt


@pytest.fixture
def store(tmp_path: Path) -> LocalStore:
    return LocalStore(tmp_path)


@pytest.fixture
def manifest(store: LocalStore) -> DatasetManifest:
    photos = [Photo(f"photos/{CLASSES[label]}.jpg", label, jpeg_bytes(label, 0)) for label in range(3)]
    manifest = make_dataset(store, {"val": photos})
    make_run(store, RUN, manifest)
    return manifest


@pytest.fixture
def predictions(store: LocalStore, manifest: DatasetManifest) -> SplitPredictions:
    ids = tuple(dataset_index(store, manifest)["id"].to_pylist())
    return SplitPredictions(
        ids, np.arange(3, dtype=np.int32), np.zeros(3, np.int32), np.arange(3, dtype=np.int32), PROBABILITIES
    )


def _model(manifest: DatasetManifest, content: bytes = b"a") -> ModelRecord:
    file = FileInfo(key=layout.run_model_file(RUN), size_bytes=1, sha256=hashlib.sha256(content).hexdigest())
    return model_record(RUN, file, manifest)


def _publish(
    store: LocalStore, manifest: DatasetManifest, predictions: SplitPredictions, content: bytes = b"a"
) -> EvaluationReport:
    return publish(
        store, RUN, "val", manifest=manifest, split="val", model=_model(manifest, content), predictions=predictions
    )


def test_report_holds_scores_intervals_and_confusion(
    store: LocalStore, manifest: DatasetManifest, predictions: SplitPredictions
) -> None:
    report = _publish(store, manifest, predictions)
    assert report.scores["accuracy"] == pytest.approx(2 / 3)
    assert report.confusion == ((1, 0, 0), (1, 0, 0), (0, 0, 1))
    assert [each.recall for each in report.per_class] == [1.0, 0.0, 1.0]
    assert report.intervals["accuracy"][0] < 2 / 3 < report.intervals["accuracy"][1]
    assert (report.images, report.dataset, report.version, report.split) == (3, "shapes", "v1", "val")
    assert run_evaluations(store, RUN) == [report]


def test_table_has_one_row_per_image_with_its_source(
    store: LocalStore, manifest: DatasetManifest, predictions: SplitPredictions
) -> None:
    report = _publish(store, manifest, predictions)
    table = run_predictions(store, report)
    assert table.schema.equals(PREDICTIONS_SCHEMA)
    assert table["uri"].to_pylist() == [f"photos/{label}.jpg" for label in CLASSES]
    assert table["label"].to_pylist() == [0, 1, 2]
    assert table["predicted"].to_pylist() == [0, 0, 2]
    assert np.array_equal(np.array(table["probabilities"].to_pylist(), np.float32), PROBABILITIES)
    assert table["loss"].to_pylist() == pytest.approx(-np.log([0.5, 0.3, 0.7]))
    assert table["row"].to_pylist() == [0, 1, 2]
    data = store.read(report.predictions.key)
    assert (len(data), hashlib.sha256(data).hexdigest()) == (report.predictions.size_bytes, report.predictions.sha256)


def test_nothing_is_readable_before_the_commit(
    store: LocalStore, manifest: DatasetManifest, predictions: SplitPredictions
) -> None:
    with pytest.raises(KeyboardInterrupt):
        _publish(StoreWithoutCommits(store.root), manifest, predictions)
    assert run_evaluations(store, RUN) == []
    assert _publish(store, manifest, predictions).images == 3


def test_second_evaluation_of_the_same_model_returns_the_first(
    store: LocalStore, manifest: DatasetManifest, predictions: SplitPredictions
) -> None:
    first = _publish(store, manifest, predictions)
    assert _publish(store, manifest, replace(predictions, probabilities=PROBABILITIES[::-1])) == first
    assert existing(store, RUN, "val", first.model_sha256) == first
    assert existing(store, RUN, "test", first.model_sha256) is None


def test_evaluation_of_a_model_that_was_never_published_is_replaced(
    store: LocalStore, manifest: DatasetManifest, predictions: SplitPredictions
) -> None:
    first = _publish(store, manifest, predictions)
    second = _publish(store, manifest, predictions, content=b"of a second attempt")
    assert second.model_sha256 != first.model_sha256
    assert run_evaluations(store, RUN) == [second]


def test_evaluation_of_a_published_model_is_never_replaced(
    store: LocalStore, manifest: DatasetManifest, predictions: SplitPredictions
) -> None:
    first = _publish(store, manifest, predictions)
    store.create(layout.run_model_record(RUN), _model(manifest).to_bytes())
    with pytest.raises(NameTaken, match="another model file"):
        _publish(store, manifest, predictions, content=b"another")
    assert run_evaluations(store, RUN) == [first]


def test_image_that_is_not_in_the_index_is_refused(
    store: LocalStore, manifest: DatasetManifest, predictions: SplitPredictions
) -> None:
    with pytest.raises(InputRefused, match="not in the dataset's index"):
        _publish(store, manifest, replace(predictions, ids=("0" * 32, *predictions.ids[1:])))
    assert run_evaluations(store, RUN) == []
