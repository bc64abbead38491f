import dataclasses
import itertools
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf

from tljobs.backbones.dropout import AddressedDropout
from tljobs.backbones.network import (
    Network,
    build_network,
    check_input_range,
    cut_network,
    inference_model,
)
from tljobs.backbones.registry import backbone
from tljobs.errors import UsageError

CLASSES = 5


def build(name: str, image_size: int, weights: str = "none", seed: int = 1) -> Network:
    return build_network(
        backbone=name,
        weights=weights,
        image_size=image_size,
        classes=CLASSES,
        head="linear",
        dropout=0.2,
        seed=seed,
    )


@pytest.fixture(scope="module")
def lite0() -> Network:
    return build("efficientnet-lite0", 64, "imagenet")


@pytest.fixture(scope="module")
def mobilenet() -> Network:
    return build("mobilenet-v2", 96)


@pytest.fixture
def small() -> Network:
    return build("small-cnn", 32)


@pytest.fixture(params=["lite0", "mobilenet", "small"])
def network(request: pytest.FixtureRequest) -> Network:
    return request.getfixturevalue(request.param)


def pixels_for(network: Network, images: int = 3) -> np.ndarray:
    shape = (images, network.image_size, network.image_size, 3)
    return np.random.default_rng(0).integers(0, 256, shape).astype("uint8")


def randomise_head(network: Network) -> None:
    """A kernel of zeros would hide every difference below it."""
    rng = np.random.default_rng(5)
    layer = network.model.get_layer("logits")
    layer.set_weights([rng.normal(size=weight.shape) for weight in layer.weights])


def test_top_of_trunk_equals_the_whole_network_at_every_block(network: Network) -> None:
    randomise_head(network)
    pixels = pixels_for(network)
    whole = np.asarray(network.model(pixels, training=False))
    assert np.ptp(whole) > 0
    for depth in ("head", *(block.name for block in network.blocks[:-1][::6])):
        cut = cut_network(network, depth, "frozen")
        assert cut.trunk is not None
        np.testing.assert_array_equal(cut.top(cut.trunk(pixels, training=False), training=False), whole)


def test_uint8_and_float_pixels_give_the_same_logits(small: Network) -> None:
    randomise_head(small)
    pixels = pixels_for(small)
    np.testing.assert_array_equal(small.model(pixels), small.model(pixels.astype("float32")))


def test_blocks_have_their_own_names_parameters_and_layers(network: Network) -> None:
    names = [block.name for block in network.blocks]
    assert len(set(names)) == len(names)
    assert all(block.parameters > 0 for block in network.blocks)
    layers = [layer for block in network.blocks for layer in block.layers]
    assert len(set(layers)) == len(layers)
    assert network.blocks[-1].border is None
    assert all(block.border is not None for block in network.blocks[:-1])


def test_block_names_are_those_of_the_residual_units(lite0: Network, mobilenet: Network, small: Network) -> None:
    assert [b.name for b in lite0.blocks] == ["top_conv", *(f"block{i}" for i in range(15, -1, -1)), "stem_conv"]
    units = [f"block_{i}" for i in range(16, 0, -1)]
    assert [b.name for b in mobilenet.blocks] == ["Conv_1", *units, "expanded_conv", "Conv1"]
    assert [b.name for b in small.blocks] == ["block4", "block3", "block2", "block1"]


def test_block_parameters_add_up_to_those_of_the_backbone(network: Network) -> None:
    head = sum(int(np.prod(w.shape)) for w in network.model.get_layer("logits").weights)
    everything = cut_network(network, "all", "sync").trainable_parameters
    assert sum(block.parameters for block in network.blocks) + head == everything


def test_a_deeper_cut_trains_more_and_counts_add_up(network: Network) -> None:
    total = sum(int(np.prod(weight.shape)) for weight in network.model.weights)
    counts = []
    for depth in ("head", *map(str, range(1, len(network.blocks) + 1))):
        cut = cut_network(network, depth, "sync")
        assert cut.trainable_parameters == sum(int(np.prod(v.shape)) for v in cut.trainable_variables)
        assert cut.trainable_parameters + cut.frozen_parameters == total
        counts.append(cut.trainable_parameters)
    grown_by = [deeper - shallower for shallower, deeper in itertools.pairwise(counts)]
    assert grown_by == [block.parameters for block in network.blocks]


def test_depths_by_number_name_layer_and_all(lite0: Network) -> None:
    by_number, by_name = cut_network(lite0, "2", "frozen"), cut_network(lite0, "block15", "frozen")
    assert by_number.border == by_name.border == "block14_add"
    assert by_name.notes == ()
    by_layer = cut_network(lite0, "block15_depthwise_bn", "frozen")
    assert by_layer.border == "block14_add"
    assert "the whole block is trained" in by_layer.notes[0]
    assert cut_network(lite0, "head", "frozen").border == cut_network(lite0, "logits", "frozen").border == "avg_pool"
    everything = cut_network(lite0, "all", "frozen")
    assert everything.trunk is None
    assert everything.top is lite0.model
    assert cut_network(lite0, str(len(lite0.blocks)), "frozen").trunk is None


@pytest.mark.parametrize(
    ("depth", "message"),
    [
        ("block_15", "Did you mean block15"),
        ("hed", "Did you mean head"),
        ("99", "1 to 18 blocks"),
        ("0", "1 to 18 blocks"),
        ("-1", "1 to 18 blocks"),
        ("", "Blocks from the top: top_conv, block15"),
    ],
)
def test_a_depth_that_matches_nothing_is_a_usage_error(lite0: Network, depth: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        cut_network(lite0, depth, "frozen")


def test_cutting_again_replaces_the_earlier_cut_in_both_directions(small: Network) -> None:
    def trained(depth: str) -> list[str]:
        return [variable.path for variable in cut_network(small, depth, "frozen").trainable_variables]

    head = trained("head")
    assert head == ["logits/kernel", "logits/bias"]
    assert trained("1") == ["block4_conv/kernel", *head]
    assert len(trained("all")) == 6
    assert trained("head") == head


def moving_statistics(network: Network) -> dict[str, np.ndarray]:
    return {v.path: np.asarray(v) for v in network.model.variables if "moving" in v.path}


def test_frozen_batchnorm_keeps_its_statistics_in_training(small: Network) -> None:
    before = moving_statistics(small)
    cut = cut_network(small, "all", "frozen")
    trained = np.asarray(cut.top(pixels_for(small), training=True))
    np.testing.assert_array_equal(trained.shape, (3, CLASSES))
    assert not any("bn" in variable.path for variable in cut.trainable_variables)
    for path, value in moving_statistics(small).items():
        np.testing.assert_array_equal(value, before[path])


def test_synchronised_batchnorm_moves_above_the_border_only(small: Network) -> None:
    before = moving_statistics(small)
    cut = cut_network(small, "2", "sync")
    assert cut.trunk is not None
    cut.top(cut.trunk(pixels_for(small), training=False), training=True)
    moved = {path.split("/")[0] for path, value in moving_statistics(small).items() if (value != before[path]).any()}
    assert moved == {"block3_bn", "block4_bn"}
    synchronised = [layer.name for layer in small.model.layers if getattr(layer, "synchronized", False)]
    assert synchronised == ["block3_bn", "block4_bn"]


def test_gradients_reach_the_trained_variables(small: Network) -> None:
    randomise_head(small)
    cut = cut_network(small, "2", "sync")
    assert cut.trunk is not None
    features = cut.trunk(pixels_for(small), training=False)
    with tf.GradientTape() as tape:
        loss = tf.reduce_mean(tf.square(cut.top(features, training=True)))
    gradients = tape.gradient(loss, [variable.value for variable in cut.trainable_variables])
    assert all(float(tf.reduce_max(tf.abs(gradient))) > 0 for gradient in gradients)


def test_equal_seeds_give_equal_values_and_paths_whatever_was_built_before(mobilenet: Network) -> None:
    again = build("mobilenet-v2", 96)
    assert len({variable.path for variable in again.model.variables}) == len(again.model.variables)
    assert [v.path for v in again.model.variables] == [v.path for v in mobilenet.model.variables]
    assert [layer.name for layer in again.model.layers] == [layer.name for layer in mobilenet.model.layers]
    kernels = [network.model.get_layer("Conv_1").get_weights()[0] for network in (mobilenet, again)]
    np.testing.assert_array_equal(kernels[0], kernels[1])


def test_another_seed_gives_other_values(small: Network) -> None:
    other = build("small-cnn", 32, seed=2)
    kernels = [network.model.get_layer("block1_conv").get_weights()[0] for network in (small, other)]
    assert not np.array_equal(*kernels)


def test_every_dropout_of_a_backbone_is_addressed_with_a_seed_of_its_own() -> None:
    network = build("efficientnet-b0", 32)
    dropouts = [layer for layer in network.model.layers if isinstance(layer, keras.layers.Dropout | AddressedDropout)]
    assert len(dropouts) == 10
    assert all(isinstance(layer, AddressedDropout) for layer in dropouts)
    assert len({layer.seed for layer in dropouts}) == 10
    assert network.weights.total == len(network.model.weights) - 2  # the head's; Keras' own normalisation is gone
    assert len({variable.path for variable in network.model.variables}) == len(network.model.variables)


def test_caffe_preprocessing_in_the_graph_is_the_library_s_own() -> None:
    network = build("vgg16", 32)
    pixels = pixels_for(network)
    ours = keras.Model(network.model.inputs[0], network.preprocessed)(pixels)
    theirs = keras.applications.resnet.preprocess_input(pixels.astype("float32"))
    np.testing.assert_allclose(ours, theirs, atol=1e-4)
    check_input_range(network, pixels)


@pytest.mark.parametrize(
    ("name", "module"),
    [
        ("mobilenet-v2", "mobilenet_v2"),
        ("resnet50", "resnet"),
        ("resnet50-v2", "resnet_v2"),
        ("densenet121", "densenet"),
        ("inception-v3", "inception_v3"),
        ("xception", "xception"),
        ("vgg19", "vgg19"),
        ("nasnet-mobile", "nasnet"),
    ],
)
def test_preprocessing_numbers_are_the_library_s_own(name: str, module: str) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (2, 4, 4, 3)).astype("float32")
    wanted = backbone(name).preprocessing
    ours = (pixels * np.array(wanted.scale) + wanted.offset)[..., :: -1 if wanted.channel_order == "bgr" else 1]
    theirs = getattr(keras.applications, module).preprocess_input(pixels.copy())
    np.testing.assert_allclose(ours, theirs, atol=1e-4)


def with_preprocessing(network: Network, scale: float, offset: float) -> Network:
    """The network as if its preprocessing computed `pixels * scale + offset`."""
    pixels = network.model.inputs[0]
    return dataclasses.replace(network, preprocessed=keras.layers.Rescaling(scale, offset)(pixels))


def test_missing_and_double_scaling_are_found(lite0: Network) -> None:
    pixels = pixels_for(lite0)
    check_input_range(lite0, pixels)
    with pytest.raises(UsageError, match="missing scaling"):
        check_input_range(with_preprocessing(lite0, 1.0, 0.0), pixels)
    with pytest.raises(UsageError, match="scaled twice"):
        check_input_range(with_preprocessing(lite0, 1 / 255 / 128, -127 / 128), pixels)
    grey = np.full_like(pixels, 100)
    check_input_range(lite0, grey)


def test_a_size_too_small_is_refused_and_another_than_the_default_noted(lite0: Network, small: Network) -> None:
    assert lite0.notes == ("efficientnet-lite0 was trained on 224 px images; this network takes 64 px",)
    assert small.notes == ()
    with pytest.raises(UsageError, match="needs 71 or more"):
        build("xception", 64)
    with pytest.raises(UsageError, match="needs 32 or more"):
        inference_model(small, 16)


def test_inference_model_gives_the_probabilities_of_the_network(network: Network) -> None:
    randomise_head(network)
    pixels = pixels_for(network)
    model = inference_model(network, network.image_size)
    expected = keras.ops.softmax(network.model(pixels, training=False))
    np.testing.assert_allclose(model(pixels), expected, atol=1e-6)
    assert (model.input.dtype, model.output.dtype) == ("uint8", "float32")
    assert "tljobs" not in model.to_json()
    assert not any(variable.path.endswith("seed_generator_state") for variable in model.variables)


def test_inference_model_holds_the_weights_as_they_were(small: Network) -> None:
    model = inference_model(small, 32)
    before = np.asarray(model(pixels_for(small)))
    randomise_head(small)
    np.testing.assert_array_equal(model(pixels_for(small)), before)


@pytest.mark.slow
def test_saved_inference_models_open_without_tljobs(tmp_path: Path, lite0: Network) -> None:
    vgg = build("vgg16", 64)
    pixels = pixels_for(lite0)
    models = {}
    for network in (lite0, vgg):
        randomise_head(network)
        models[network.backbone.name] = inference_model(network, 64)
        models[network.backbone.name].save(tmp_path / f"{network.backbone.name}.keras")
    np.save(tmp_path / "pixels.npy", pixels)
    code = (
        "import pathlib, sys, numpy as np, keras\n"
        "for path in pathlib.Path().glob('*.keras'):\n"
        "    model = keras.saving.load_model(path, safe_mode=True)\n"
        "    np.save(path.with_suffix('.out.npy'), model(np.load('pixels.npy')))\n"
        "assert not [name for name in sys.modules if name.startswith('tljobs')]"
    )
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True, timeout=120)
    for name, model in models.items():
        np.testing.assert_allclose(np.load(tmp_path / f"{name}.out.npy"), model(pixels), atol=1e-6)
