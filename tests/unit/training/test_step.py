"""The training step by itself: what it minimises, what counts, what it leaves alone; against hand and scikit-learn."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Iterator
from pathlib import Path

import keras
import numpy as np
import pytest
import scipy.special
import tensorflow as tf
from images import pixels as image
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss
from training_store import IMAGE_SIZE, make_training_dataset

from tljobs.backbones.network import CutNetwork, Network, build_network, cut_network
from tljobs.data.feed import EvalFeed, Place
from tljobs.errors import UsageError
from tljobs.store import LocalStore
from tljobs.training.checkpoint import variable_hashes
from tljobs.training.evaluating import Validator
from tljobs.training.objective import objective
from tljobs.training.schedule import learning_rate
from tljobs.training.step import StepOutput, SumOverWorkers, TrainStep

CLASSES = 3
STEPS = 600
HOOK = """
import keras

def cut_off(features):
    return keras.ops.stop_gradient(keras.layers.Dense(4, name="unreachable")(features))
"""


def build(head: str = "linear") -> Network:
    return build_network(
        backbone="small-cnn", weights="none", image_size=IMAGE_SIZE, classes=CLASSES, head=head, dropout=0.0, seed=1
    )


@pytest.fixture(scope="module")
def network() -> Network:
    return build()


def batch(images: int = 12, first: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    labels = np.arange(images, dtype=np.int32) % CLASSES
    pixels = np.stack([image(int(label), first + number, IMAGE_SIZE) for number, label in enumerate(labels)])
    return pixels.astype(np.float32), labels, np.ones(images, np.float32)


def randomise_head(network: Network, scale: float = 0.5) -> None:
    """A kernel of zeros would hide whatever depends on the logits."""
    generator = np.random.default_rng(5)
    layer = network.model.get_layer("logits")
    layer.set_weights([generator.normal(scale=scale, size=weight.shape) for weight in layer.weights])


def step_of(cut: CutNetwork, optimizer: keras.optimizers.Optimizer, label_smoothing: float = 0.0) -> TrainStep:
    optimizer.build(cut.trainable_variables)
    strategy = tf.distribute.get_strategy()
    return TrainStep(strategy, cut, optimizer, objective("single-label", CLASSES, label_smoothing))


def validator(network: Network, feed: EvalFeed) -> Validator:
    goal = objective("single-label", CLASSES)
    return Validator(network, feed, SumOverWorkers(tf.distribute.get_strategy()), goal)


def values(variables: list[keras.Variable]) -> list[np.ndarray]:
    return [np.array(variable) for variable in variables]


def moved(before: list[np.ndarray], after: list[np.ndarray]) -> float:
    """Length of the whole update."""
    return float(np.sqrt(sum(np.sum(np.square(b - a, dtype=np.float64)) for a, b in zip(before, after, strict=True))))


def log_probabilities(network: Network, pixels: np.ndarray) -> np.ndarray:
    logits = np.asarray(network.model(pixels, training=False), np.float64)
    return logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))


# -------------------------------------------------------------------------------------------- what it minimises


def test_the_head_alone_converges_to_the_loss_of_logistic_regression(network: Network) -> None:
    """Frozen random features of 12 images, each labelled 24 times and often wrongly: no head separates them.

    The step runs on features that were computed once. The reference is scikit-learn's without penalty; and because
    the features of the images are linearly independent, the least loss is the entropy of each image's labels.
    """
    cut = cut_network(network, "head", "frozen")
    assert cut.trunk is not None
    pixels, labels, _ = batch()
    generator = np.random.default_rng(0)
    counts = np.stack([generator.multinomial(24, np.where(np.arange(CLASSES) == label, 0.6, 0.2)) for label in labels])
    features = np.repeat(np.asarray(cut.trunk(pixels, training=False)), CLASSES, axis=0)
    answers, weights = np.tile(np.arange(CLASSES, dtype=np.int32), 12), counts.ravel().astype(np.float32)

    optimizer = keras.optimizers.Adam()
    step = step_of(dataclasses.replace(cut, trunk=None), optimizer)
    losses = []
    for number in range(STEPS):
        optimizer.learning_rate.assign(learning_rate(number, STEPS, 0.02, "cosine"))
        losses.append(step(tf.constant(features), tf.constant(answers), tf.constant(weights), stop=False).loss)

    regression = LogisticRegression(C=np.inf, max_iter=5000, tol=1e-8).fit(features, answers, sample_weight=weights)
    wanted = log_loss(answers, regression.predict_proba(features), sample_weight=weights)
    shares = counts / 24
    assert losses[0] == pytest.approx(np.log(CLASSES), abs=1e-6)
    assert losses[-1] == pytest.approx(wanted, rel=0.01)
    assert losses[-1] == pytest.approx(-np.mean(np.sum(scipy.special.xlogy(shares, shares), axis=1)), rel=0.01)
    assert wanted < losses[0] - 0.1


def test_loss_accuracy_and_label_smoothing_are_those_computed_by_hand(network: Network) -> None:
    randomise_head(network)
    pixels, labels, weights = batch()
    log_p = log_probabilities(network, pixels)
    for smoothing in (0.0, 0.1):
        targets = np.full((12, CLASSES), smoothing / CLASSES)
        targets[np.arange(12), labels] += 1 - smoothing
        output = step_of(cut_network(network, "head", "frozen"), keras.optimizers.SGD(0.0), smoothing)(
            pixels, labels, weights, stop=False
        )
        assert output.loss == pytest.approx(-np.mean(np.sum(targets * log_p, axis=1)), rel=1e-5)
        assert output.accuracy == pytest.approx(np.mean(log_p.argmax(axis=1) == labels))
        assert (output.images, output.stop) == (12, False)


def test_the_gradient_norm_is_that_of_the_whole_batch(network: Network) -> None:
    """At a linear head the gradient is known: features times (probability - target), averaged."""
    randomise_head(network)
    pixels, labels, weights = batch()
    features = np.asarray(keras.Model(network.model.inputs[0], network.features)(pixels, training=False), np.float64)
    error = np.exp(log_probabilities(network, pixels)) - np.eye(CLASSES)[labels]
    kernel, bias = features.T @ error / 12, error.mean(axis=0)
    output = step_of(cut_network(network, "head", "frozen"), keras.optimizers.SGD(0.0))(
        pixels, labels, weights, stop=False
    )
    assert output.grad_norm == pytest.approx(np.sqrt(np.sum(kernel**2) + np.sum(bias**2)), rel=1e-4)


# --------------------------------------------------------------------------------------------------- what counts


def test_rows_of_weight_0_do_not_count_whatever_is_in_them(network: Network) -> None:
    pixels, labels, weights = batch()
    garbage, _, _ = batch(4, first=100)
    padded = (
        np.concatenate([pixels, 255 - garbage]),
        np.concatenate([labels, np.full(4, 2, np.int32)]),
        np.concatenate([weights, np.zeros(4, np.float32)]),
    )
    found = []
    for arguments in ((pixels, labels, weights), padded):
        randomise_head(network)
        cut = cut_network(network, "1", "frozen")
        before = values(network.model.variables)
        output = step_of(cut, keras.optimizers.SGD(0.1))(*arguments, stop=True)
        after = values(network.model.variables)
        for variable, value in zip(network.model.variables, before, strict=True):
            variable.assign(value)
        found.append((output, after))
    (plain, ours), (output, theirs) = found
    assert (output.images, output.stop) == (12, True)
    assert dataclasses.astuple(output) == pytest.approx(dataclasses.astuple(plain), rel=1e-5)
    for mine, other in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(other, mine, atol=1e-6)


def test_clip_norm_bounds_the_update_and_does_nothing_below_the_bound(network: Network) -> None:
    rate, pixels, labels, weights = 0.5, *batch()

    def update(clip_norm: float | None) -> tuple[float, StepOutput]:
        randomise_head(network)
        cut = cut_network(network, "1", "frozen")
        before = values(network.model.variables)
        output = step_of(cut, keras.optimizers.SGD(rate, global_clipnorm=clip_norm))(
            pixels, labels, weights, stop=False
        )
        length = moved(before, values(network.model.variables))
        for variable, value in zip(network.model.variables, before, strict=True):
            variable.assign(value)
        return length, output

    free, output = update(None)
    assert free == pytest.approx(rate * output.grad_norm, rel=1e-3)
    assert output.grad_norm > 0.2
    bound, clipped = update(0.05)
    assert bound == pytest.approx(rate * 0.05, rel=1e-3)
    assert clipped.grad_norm == pytest.approx(output.grad_norm), "the norm is reported as it was before clipping"
    assert update(1e3)[0] == pytest.approx(free, rel=1e-5)


# ---------------------------------------------------------------------------------------------- what is left alone


def test_a_step_moves_the_trainable_variables_and_no_other(network: Network) -> None:
    randomise_head(network)
    cut = cut_network(network, "2", "frozen")
    trained = {variable.path for variable in cut.trainable_variables}
    before = {variable.path: np.array(variable) for variable in network.model.variables}
    step_of(cut, keras.optimizers.SGD(0.1))(*batch(), stop=False)
    changed = {
        variable.path
        for variable in network.model.variables
        if not np.array_equal(np.array(variable), before[variable.path])
    }
    assert changed == trained
    assert {path.split("/")[0] for path in trained} == {"block3_conv", "block4_conv", "logits"}


def test_evaluation_leaves_every_variable_as_it_was_also_between_steps_with_batchnorm(tmp_path: Path) -> None:
    store = LocalStore(tmp_path / "store")
    manifest = make_training_dataset(store, tmp_path / "photos")
    network = build("8")
    feed = EvalFeed(store, manifest, "val", image_size=IMAGE_SIZE, batch=5, place=Place())
    validate = Validator(
        network, feed, SumOverWorkers(tf.distribute.get_strategy()), objective("single-label", CLASSES)
    )
    cut = cut_network(network, "all", "sync")
    optimizer = keras.optimizers.Adam(1e-2)
    step = step_of(cut, optimizer)
    variables = [*network.model.variables, *optimizer.variables]
    for _ in range(2):
        step(*batch(), stop=False)
        before = variable_hashes(variables)
        first, second = validate(), validate()
        np.testing.assert_array_equal(variable_hashes(variables), before)
        np.testing.assert_array_equal(second.probabilities, first.probabilities)
        step(*batch(), stop=False)
        assert not np.array_equal(variable_hashes(variables), before)


def test_validation_of_an_image_does_not_depend_on_its_batch_mates(tmp_path: Path) -> None:
    """BatchNorm that is being trained included: in validation it uses its moving statistics."""
    store = LocalStore(tmp_path / "store")
    manifest = make_training_dataset(store, tmp_path / "photos")
    network = build()
    randomise_head(network)
    cut_network(network, "all", "sync")
    found = []
    for images in (1, 5, 12):
        feed = EvalFeed(store, manifest, "val", image_size=IMAGE_SIZE, batch=images, place=Place())
        found.append(
            Validator(network, feed, SumOverWorkers(tf.distribute.get_strategy()), objective("single-label", CLASSES))()
        )
    for other in found[1:]:
        np.testing.assert_allclose(other.probabilities, found[0].probabilities, atol=1e-6)
        assert other.loss == pytest.approx(found[0].loss, rel=1e-5)


# ------------------------------------------------------------------------------------------------------ mistakes


@pytest.fixture
def hook_module(tmp_path: Path) -> Iterator[None]:
    (tmp_path / "step_hook_for_tests.py").write_text(HOOK)
    sys.path.insert(0, str(tmp_path))
    yield
    sys.path.remove(str(tmp_path))


def test_a_variable_that_no_gradient_reaches_is_named(hook_module: None) -> None:
    cut = cut_network(build("step_hook_for_tests:cut_off"), "head", "frozen")
    with pytest.raises(UsageError, match=r"no gradient reaches .*: unreachable/kernel, unreachable/bias"):
        step_of(cut, keras.optimizers.SGD(0.1))(*batch(), stop=False)
