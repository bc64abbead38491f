import sys
from collections.abc import Iterator
from pathlib import Path

import keras
import numpy as np
import pytest

from tljobs.backbones.heads import build_head
from tljobs.backbones.network import Network, build_network, inference_model
from tljobs.errors import UsageError

HOOKS = """
import keras

def branches(features):
    a = keras.layers.Dense(8, activation="relu")(features)
    b = keras.layers.Dropout(0.5)(keras.layers.Dense(8, activation="tanh")(features))
    return keras.layers.Concatenate()([a, b])

def a_map(features):
    return keras.layers.Reshape((16, 12, 1))(features)

def nothing(features):
    return None

def noise(features):
    return keras.layers.GaussianNoise(0.1)(features)

class Own(keras.layers.Layer):
    def call(self, x):
        return x

def own(features):
    return Own()(features)

def a_lambda(features):
    return keras.layers.Lambda(lambda x: x)(features)

number = 3
"""


@pytest.fixture(scope="module", autouse=True)
def hooks_module(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    folder: Path = tmp_path_factory.mktemp("hooks")
    (folder / "head_hooks_for_tests.py").write_text(HOOKS)
    sys.path.insert(0, str(folder))
    yield
    sys.path.remove(str(folder))


def small(head: str, dropout: float = 0.2) -> Network:
    return build_network(
        backbone="small-cnn", weights="none", image_size=32, classes=7, head=head, dropout=dropout, seed=3
    )


PIXELS = np.random.default_rng(0).integers(0, 256, (6, 32, 32, 3)).astype("uint8")


@pytest.mark.parametrize("head", ["linear", "32", "64,16", "head_hooks_for_tests:branches"])
def test_first_loss_is_the_logarithm_of_the_number_of_classes(head: str) -> None:
    logits = small(head).model(PIXELS, training=True)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)(np.arange(6) % 7, logits)
    assert float(loss) == pytest.approx(np.log(7), abs=1e-6)
    assert logits.shape == (6, 7)
    assert logits.dtype == "float32"


def test_hidden_units_and_dropout_become_layers() -> None:
    network = small("64,16")
    assert network.head_layers == ("head_dense1", "head_dense2", "head_dropout", "logits")
    assert [network.model.get_layer(f"head_dense{i}").units for i in (1, 2)] == [64, 16]
    assert small("linear", dropout=0).head_layers == ("logits",)


def test_logits_are_float32_under_mixed_precision() -> None:
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        network = small("16")
    finally:
        keras.config.set_dtype_policy(before)
    assert network.model.get_layer("block1_conv").compute_dtype == "bfloat16"
    assert network.model(PIXELS).dtype == "float32"
    assert network.preprocessed.dtype == "float32"


def test_a_function_may_branch_and_its_dropout_is_addressed_and_left_out_of_the_export() -> None:
    network = small("head_hooks_for_tests:branches")
    kinds = {name: type(network.model.get_layer(name)).__name__ for name in network.head_layers}
    assert kinds["dropout"] == "AddressedDropout"
    assert {"dense", "dense_1", "concatenate", "logits"} <= set(kinds)
    exported = inference_model(network, 32)
    assert not any("Dropout" in type(layer).__name__ for layer in exported.layers)


@pytest.mark.parametrize(
    ("head", "message"),
    [
        ("linaer", "unknown head"),
        ("512,", "unknown head"),
        ("0", "unknown head"),
        ("no_such_module_anywhere:f", "cannot import the head"),
        ("head_hooks_for_tests:missing", "no such function"),
        ("head_hooks_for_tests:number", "not a function"),
        ("head_hooks_for_tests:a_map", r"must return one tensor .* It returned shape \(None, 16, 12, 1\)"),
        ("head_hooks_for_tests:nothing", "It returned NoneType"),
        ("head_hooks_for_tests:noise", "random numbers of its own: GaussianNoise"),
        ("head_hooks_for_tests:own", "cannot hold: Own"),
        ("head_hooks_for_tests:a_lambda", "cannot hold: Lambda"),
    ],
)
def test_a_head_that_cannot_work_is_a_usage_error(head: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        small(head)


def test_build_head_ends_in_a_layer_named_logits() -> None:
    features = keras.Input((12,))
    model = keras.Model(features, build_head(features, classes=3, head="8", dropout=0, seed=0))
    assert [layer.name for layer in model.layers[1:]] == ["head_dense1", "logits"]
    assert model.output_shape == (None, 3)
