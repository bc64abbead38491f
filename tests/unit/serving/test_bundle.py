"""Opening a model: it answers in its own label order, and anything that is not as recorded is refused."""

from __future__ import annotations

import hashlib
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from images import jpeg_bytes
from PIL import Image
from serving_store import (
    CLASSES,
    IMAGE_SIZE,
    Photo,
    colour_network,
    make_dataset,
    make_run,
    model_record,
    plain_photo,
    tiny_network,
)

from tljobs import layout
from tljobs.data.decode import BadImage
from tljobs.data.foreign import network_view
from tljobs.errors import InputRefused, NameTaken, NotFound, TljobsError
from tljobs.records import ModelRecord, classes_digest
from tljobs.serving.bundle import BATCH_IMAGES, ModelBundle, open_bundle, open_folder, open_record
from tljobs.serving.publish import keras_bytes, publish_model, write_bundle
from tljobs.store import LocalStore


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> LocalStore:
    """A store with the published model `tiny`."""
    store = LocalStore(tmp_path_factory.mktemp("store"))
    manifest = make_dataset(store, {"val": [Photo("a.jpg", 0, jpeg_bytes(0, 0))]})
    for run, model in (("tiny", tiny_network()), ("colours", colour_network())):
        make_run(store, run, manifest)
        publish_model(store, model_record(run, write_bundle(store, run, model), manifest))
    make_run(store, "unfinished", manifest)
    return store


@pytest.fixture(scope="module")
def bundle(store: LocalStore) -> ModelBundle:
    return open_bundle(store, "tiny")


@pytest.fixture
def folder(store: LocalStore, tmp_path: Path) -> Path:
    """An exported copy of `tiny` to be damaged."""
    (tmp_path / "model.keras").write_bytes(store.read(layout.run_model_file("tiny")))
    (tmp_path / "model.json").write_bytes(store.read(layout.run_model_record("tiny")))
    return tmp_path


def _pixels(count: int, seed: int = 0) -> Any:
    return np.random.default_rng(seed).integers(0, 256, (count, IMAGE_SIZE, IMAGE_SIZE, 3), np.uint8)


def _edit(folder: Path, **changes: Any) -> None:
    path = folder / "model.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def test_probabilities_are_those_of_the_network_in_memory(bundle: ModelBundle) -> None:
    pixels = _pixels(2 * BATCH_IMAGES + 3)
    own = np.asarray(tiny_network()(pixels, training=False))
    found = bundle.probabilities(pixels)
    assert (found.dtype, found.shape) == (np.float32, own.shape)
    assert np.abs(found - own).max() < 1e-6
    assert own.std(axis=0).min() > 0.01, "the network must tell the images apart for this to mean anything"


def test_an_image_does_not_depend_on_its_batch_mates(bundle: ModelBundle) -> None:
    pixels = _pixels(BATCH_IMAGES)
    together = bundle.probabilities(pixels)
    others = np.concatenate([pixels[:1], _pixels(BATCH_IMAGES - 1, seed=1)])
    assert np.array_equal(bundle.probabilities(others)[0], together[0])
    assert np.array_equal(bundle.probabilities(pixels[:1])[0], together[0])
    moved = bundle.probabilities(pixels[::-1])[::-1]
    assert np.abs(moved - together).max() < 1e-6


def test_no_images_give_no_rows(bundle: ModelBundle) -> None:
    assert bundle.probabilities(_pixels(0)).shape == (0, len(CLASSES))


@pytest.mark.parametrize(("rgb", "label"), [((255, 0, 0), 0), ((0, 255, 0), 1), ((0, 0, 255), 2)])
def test_channels_are_red_green_blue(store: LocalStore, rgb: tuple[int, int, int], label: int) -> None:
    colours = open_bundle(store, "colours")
    row = colours.row("x.png", colours.probabilities(colours.pixels(plain_photo(rgb))[None])[0], top_k=2)
    assert (row.label, row.top[0][0], len(row.top)) == (CLASSES[label], CLASSES[label], 2)
    assert row.score == pytest.approx(1.0, abs=1e-6)


def test_equal_probabilities_are_listed_in_label_order(bundle: ModelBundle) -> None:
    row = bundle.row("x", np.full(3, 1 / 3, np.float32), top_k=5)
    assert [label for label, _ in row.top] == list(CLASSES)


def test_bad_image_has_a_reason(bundle: ModelBundle) -> None:
    with pytest.raises(BadImage) as caught:
        bundle.pixels(b"no image at all")
    assert caught.value.reason == "not_an_image"


def test_pixels_of_another_form_are_refused(bundle: ModelBundle) -> None:
    with pytest.raises(InputRefused, match="uint8"):
        bundle.probabilities(_pixels(1).astype(np.float32))
    with pytest.raises(InputRefused, match="uint8"):
        bundle.probabilities(_pixels(1)[:, :20])


def test_exported_folder_opens_as_the_run_does(folder: Path, bundle: ModelBundle) -> None:
    assert np.array_equal(open_folder(folder).probabilities(_pixels(3)), bundle.probabilities(_pixels(3)))


@pytest.mark.parametrize("position", [100, -100])
def test_changed_byte_is_refused(folder: Path, position: int) -> None:
    data = bytearray((folder / "model.keras").read_bytes())
    data[position] ^= 1
    (folder / "model.keras").write_bytes(data)
    with pytest.raises(InputRefused, match="not the one in its record"):
        open_folder(folder)


def test_swapped_class_order_is_refused(folder: Path) -> None:
    _edit(folder, classes=list(reversed(CLASSES)))
    with pytest.raises(InputRefused, match="labels or their order"):
        open_folder(folder)


@pytest.mark.parametrize("classes", [None, []])
def test_missing_labels_are_refused(folder: Path, classes: list[str] | None) -> None:
    _edit(folder, classes=classes, classes_sha256=classes_digest(()))
    with pytest.raises(InputRefused, match="no label map"):
        open_folder(folder)


@pytest.mark.parametrize("decoder", [{"id": "tljobs-decode", "version": 2}, {"id": "cv2", "version": 1}])
def test_another_decoder_is_refused_by_name_with_what_to_do(folder: Path, decoder: dict[str, Any]) -> None:
    _edit(folder, decoder=decoder)
    with pytest.raises(InputRefused, match=rf"{decoder['id']} version {decoder['version']}") as caught:
        open_folder(folder)
    assert "Use tljobs 0.1.0" in caught.value.hint


def test_transparency_is_laid_on_the_colour_that_the_dataset_was_made_with(folder: Path) -> None:
    buffer = io.BytesIO()
    Image.new("RGBA", (90, 80), (255, 0, 0, 0)).save(buffer, "PNG")
    _edit(folder, decoder={"id": "tljobs-decode", "version": 1, "background": "#2040ff"})
    bundle = open_folder(folder)
    assert (bundle.pixels(buffer.getvalue()) == (0x20, 0x40, 0xFF)).all()
    fields, body = network_view(buffer.getvalue(), **bundle.view_options)
    assert (fields, body) == ({}, bundle.pixels(buffer.getvalue()).tobytes())


def test_network_of_another_signature_is_refused(store: LocalStore) -> None:
    record = ModelRecord.from_bytes(store.read(layout.run_model_record("tiny")))
    with pytest.raises(InputRefused, match="as its record says"):
        open_record(store, record.model_copy(update={"image_size": 64}))


def test_file_that_would_run_code_is_refused(store: LocalStore, folder: Path) -> None:
    import keras

    pixels = keras.Input((IMAGE_SIZE, IMAGE_SIZE, 3), dtype="uint8")
    hidden = keras.layers.Lambda(lambda values: values[:, 0, 0, :] / 255, output_shape=(3,))(pixels)
    store.put("runs/tiny/model/other.keras", keras_bytes(keras.Model(pixels, hidden)))
    data = store.read("runs/tiny/model/other.keras")
    (folder / "model.keras").write_bytes(data)
    record = json.loads((folder / "model.json").read_text())
    _edit(folder, file={**record["file"], "size_bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()})
    with pytest.raises(InputRefused, match="cannot be opened safely"):
        open_folder(folder)


def test_no_number_is_an_error(store: LocalStore) -> None:
    model = tiny_network()
    model.get_layer("head").set_weights([np.full((8, 3), np.nan), np.zeros(3)])
    record = ModelRecord.from_bytes(store.read(layout.run_model_record("tiny")))
    file = write_bundle(store, "unfinished", model)
    broken = open_record(store, record.model_copy(update={"file": file}))
    with pytest.raises(TljobsError, match="no numbers"):
        broken.probabilities(_pixels(1))


def test_missing_run_model_and_folder_are_told_apart(store: LocalStore, tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="no such run"):
        open_bundle(store, "nobody")
    with pytest.raises(NotFound, match="the run has no model"):
        open_bundle(store, "unfinished")
    with pytest.raises(NotFound, match="no such model folder"):
        open_folder(tmp_path / "nowhere")
    with pytest.raises(NotFound, match=r"file is missing: .*model\.json"):
        open_folder(tmp_path)


def test_equal_weights_give_equal_bytes() -> None:
    assert keras_bytes(tiny_network()) == keras_bytes(tiny_network())
    assert keras_bytes(tiny_network()) != keras_bytes(tiny_network(seed=1))


def test_published_model_is_never_replaced(store: LocalStore) -> None:
    with pytest.raises(NameTaken, match="has its model already"):
        write_bundle(store, "tiny", tiny_network(seed=1))
    record = ModelRecord.from_bytes(store.read(layout.run_model_record("tiny")))
    assert publish_model(store, record.model_copy(update={"token": "of a second attempt"})) == record
    other = record.file.model_copy(update={"sha256": "0" * 64})
    with pytest.raises(NameTaken):
        publish_model(store, record.model_copy(update={"file": other}))
