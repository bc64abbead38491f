"""What is taken for a model or for start weights: formats of Keras' past only where they hold nothing but arrays."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import keras
import numpy as np
import pytest
from images import jpeg_bytes
from serving_store import Photo, make_dataset, make_run, model_record, tiny_network

from tljobs.backbones.registry import backbone
from tljobs.backbones.small_cnn import small_cnn
from tljobs.backbones.weights import load_backbone
from tljobs.errors import InputRefused, NotFound
from tljobs.progress import Silent
from tljobs.serving.export import export
from tljobs.serving.predict import predict
from tljobs.serving.publish import publish_model, write_bundle
from tljobs.specs import ExportSpec, PredictSpec
from tljobs.store import LocalStore


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> LocalStore:
    """A store with the published model of the run `tiny`."""
    store = LocalStore(tmp_path_factory.mktemp("store"))
    manifest = make_dataset(store, {"val": [Photo("a.jpg", 0, jpeg_bytes(0, 0))]})
    make_run(store, "tiny", manifest)
    publish_model(store, model_record("tiny", write_bundle(store, "tiny", tiny_network()), manifest))
    return store


@pytest.fixture
def photo(tmp_path: Path) -> str:
    (tmp_path / "photo.jpg").write_bytes(jpeg_bytes(1, 1))
    return str(tmp_path / "photo.jpg")


@pytest.fixture
def exported(store: LocalStore, tmp_path: Path) -> Path:
    export(ExportSpec(run="tiny", out=str(tmp_path / "exported")), store, Silent())
    return tmp_path / "exported"


@pytest.mark.parametrize("missing", ["classes", "classes_sha256"])
def test_predict_refuses_a_model_without_label_map_or_its_hash(
    store: LocalStore, exported: Path, photo: str, missing: str
) -> None:
    record = json.loads((exported / "model.json").read_text())
    assert record.pop(missing)
    (exported / "model.json").write_text(json.dumps(record))
    with pytest.raises(InputRefused, match="no label map" if missing == "classes" else "damaged ModelRecord"):
        predict(PredictSpec(model=str(exported), inputs=(photo,)), store, Silent())


def test_predict_refuses_a_model_file_without_its_record(store: LocalStore, exported: Path, photo: str) -> None:
    (exported / "model.json").unlink()
    with pytest.raises(NotFound, match=r"file is missing: .*model\.json"):
        predict(PredictSpec(model=str(exported), inputs=(photo,)), store, Silent())


@pytest.mark.parametrize("suffix", [".h5", ".keras"])
def test_a_lone_model_file_is_no_model(store: LocalStore, photo: str, tmp_path: Path, suffix: str) -> None:
    """It has no labels and no preprocessing: a model is a run, or the folder of an exported one."""
    path = tmp_path / f"model{suffix}"
    tiny_network().save(path)
    with pytest.raises(NotFound, match=f"no such model folder: .*{suffix}"):
        predict(PredictSpec(model=str(path), inputs=(photo,)), store, Silent())


def test_an_exported_folder_is_enough_without_the_store(
    store: LocalStore, exported: Path, photo: str, tmp_path: Path
) -> None:
    """Model, labels, preprocessing and card; the same answer from another place with another, empty store."""
    assert {path.name for path in exported.iterdir()} == {
        *("model.keras", "model.json", "labels.txt", "README.md", "predict.py")
    }
    record = json.loads((exported / "model.json").read_text())
    assert {"decoder", "stored_short_side", "crop_size", "image_size", "classes", "classes_sha256"} <= set(record)
    wanted = list(predict(PredictSpec(model="tiny", inputs=(photo,)), store, Silent()))
    moved = shutil.move(exported, tmp_path / "elsewhere")
    empty = LocalStore(tmp_path / "empty")
    assert list(predict(PredictSpec(model=str(moved), inputs=(photo,)), empty, Silent())) == wanted


def test_start_weights_may_be_an_h5_file_of_keras_past(tmp_path: Path) -> None:
    """As keras.applications publishes them: arrays of this very network, matched as a whole."""
    source = small_cnn(32)
    generator = np.random.default_rng(0)
    source.set_weights([generator.uniform(0.1, 1, weight.shape) for weight in source.weights])
    path = tmp_path / "old.h5"
    source.save(path)
    model, loaded = load_backbone(backbone("small-cnn"), 32, str(path))
    assert (loaded.loaded, loaded.total) == (20, 20)
    for ours, theirs in zip(model.get_weights(), source.get_weights(), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_an_h5_file_of_another_network_and_one_without_weights_are_refused(tmp_path: Path) -> None:
    inputs = keras.Input((32, 32, 3))
    hidden = keras.layers.GlobalAveragePooling2D()(keras.layers.Conv2D(4, 3)(inputs))
    keras.Model(inputs, hidden).save(tmp_path / "other.h5")
    (tmp_path / "text.h5").write_text("weights? no")
    for name in ("other.h5", "text.h5"):
        with pytest.raises(InputRefused, match=rf"do not fit small_cnn: .*{name}"):
            load_backbone(backbone("small-cnn"), 32, str(tmp_path / name))
