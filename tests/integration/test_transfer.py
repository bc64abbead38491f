"""What transfer is worth, and what two phases are for: a pretrained network on crops of real photos.

The photos are those that scikit-image and scikit-learn bring along, in grey levels of equal mean and contrast, so that
colour and exposure give nothing away. Each photo is a class; training crops come from its left half and test crops
from its right half.
"""

from __future__ import annotations

import dataclasses
import importlib.resources
from dataclasses import dataclass

import keras
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from tljobs.backbones.network import build_network, cut_network
from tljobs.training.objective import objective
from tljobs.training.schedule import learning_rate
from tljobs.training.step import TrainStep

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

PHOTOS = {
    "skimage": (
        *("astronaut.png", "brick.png", "camera.png", "chelsea.png", "coffee.png"),
        *("coins.png", "grass.png", "gravel.png", "motorcycle_left.png", "rocket.jpg"),
    ),
    "sklearn": ("china.jpg", "flower.jpg"),
}
FOLDERS = {"skimage": ("data",), "sklearn": ("datasets", "images")}
CLASSES, SIZE, STEPS = 12, 96, 200


@dataclass(frozen=True)
class Crops:
    pixels: np.ndarray
    labels: np.ndarray


def photos() -> list[np.ndarray]:
    """Grey levels, uint8 (height, width)."""
    found = []
    for package, names in PHOTOS.items():
        folder = importlib.resources.files(package).joinpath(*FOLDERS[package])
        for name in names:
            with importlib.resources.as_file(folder / name) as path, Image.open(path) as photo:
                found.append(np.asarray(photo.convert("L")))
    return found


def crop(half: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """A random square of a half photo at SIZE, mean 128 and standard deviation 40, mirrored half of the time."""
    side = int(generator.integers(72, 128))
    top, left = (int(generator.integers(0, length - side + 1)) for length in half.shape)
    square = Image.fromarray(half[top : top + side, left : left + side]).resize((SIZE, SIZE), Image.Resampling.BILINEAR)
    levels = np.asarray(square, np.float32)
    levels = np.clip(128 + 40 * (levels - levels.mean()) / (levels.std() + 1e-3), 0, 255)
    levels = levels[:, ::-1] if generator.random() < 0.5 else levels
    return np.repeat(levels[..., None], 3, axis=2)


def crops(photos: list[np.ndarray], part: slice, per_class: int, seed: int) -> Crops:
    """`part` is the share of columns that the crops come from."""
    generator = np.random.default_rng(seed)
    pixels, labels = [], []
    for label, photo in enumerate(photos):
        half = photo[:, part.start * photo.shape[1] // 2 : part.stop * photo.shape[1] // 2]
        pixels += [crop(half, generator) for _ in range(per_class)]
        labels += [label] * per_class
    return Crops(np.stack(pixels), np.asarray(labels, np.int32))


@pytest.fixture(scope="module")
def halves() -> tuple[Crops, Crops]:
    found = photos()
    assert len(found) == CLASSES
    return crops(found, slice(0, 1), 20, seed=0), crops(found, slice(1, 2), 15, seed=1)


def head_accuracy(weights: str, train: Crops, test: Crops) -> float:
    """Test accuracy of a linear head on standardised features: those of a random network are tiny numbers, and their
    scale alone should not decide."""
    network = build_network(
        backbone="efficientnet-lite0",
        weights=weights,
        image_size=SIZE,
        classes=CLASSES,
        head="linear",
        dropout=0.0,
        seed=0,
    )
    cut = cut_network(network, "head", "frozen")
    assert cut.trunk is not None
    features, test_features = (cut.trunk.predict(part.pixels, batch_size=60, verbose=0) for part in (train, test))
    mean, deviation = features.mean(axis=0), features.std(axis=0) + 1e-30
    optimizer = keras.optimizers.Adam()
    optimizer.build(cut.trainable_variables)
    head = dataclasses.replace(cut, trunk=None)
    step = TrainStep(tf.distribute.get_strategy(), head, optimizer, objective("single-label", CLASSES))
    inputs = tf.constant((features - mean) / deviation)
    weights_of_rows = tf.ones(len(train.labels))
    for number in range(STEPS):
        optimizer.learning_rate.assign(learning_rate(number, STEPS, 0.01, "cosine"))
        step(inputs, tf.constant(train.labels), weights_of_rows, stop=False)
    logits = np.asarray(cut.top(tf.constant((test_features - mean) / deviation), training=False))
    return float(np.mean(logits.argmax(axis=1) == test.labels))


def test_a_head_on_pretrained_features_beats_the_same_head_on_random_ones(halves: tuple[Crops, Crops]) -> None:
    pretrained, random = (head_accuracy(weights, *halves) for weights in ("imagenet", "none"))
    print(f"accuracy on {len(halves[1].labels)} crops of {CLASSES} photos: {pretrained:.3f}, random {random:.3f}")
    assert pretrained > 0.7
    assert pretrained > random + 0.25


def test_features_drift_less_behind_a_trained_head_than_behind_a_fresh_one(halves: tuple[Crops, Crops]) -> None:
    """Why there are two phases (Kumar et al. 2022). A fresh head starts at zero, so that the very first step cannot
    move what is below it; from the second step on it tears at the features."""
    train, _ = halves
    images = slice(None, None, 10)
    pixels, labels = train.pixels[images], train.labels[images]
    network = build_network(
        backbone="efficientnet-lite0",
        weights="imagenet",
        image_size=SIZE,
        classes=CLASSES,
        head="linear",
        dropout=0.0,
        seed=0,
    )
    features = tf.function(keras.Model(network.model.inputs[0], network.features))
    start = [np.array(variable) for variable in network.model.variables]
    reference = np.asarray(features(pixels, training=False))

    def fit(depth: str, steps: int, rate: float) -> list[float]:
        """Relative drift of the features after each step."""
        cut = cut_network(network, depth, "frozen")
        optimizer = keras.optimizers.Adam(rate)
        optimizer.build(cut.trainable_variables)
        step = TrainStep(tf.distribute.get_strategy(), cut, optimizer, objective("single-label", CLASSES))
        drift = []
        for _ in range(steps):
            step(pixels, labels, np.ones(len(labels), np.float32), stop=False)
            moved = np.asarray(features(pixels, training=False)) - reference
            drift.append(float(np.linalg.norm(moved) / np.linalg.norm(reference)))
        return drift

    fresh = fit("2", steps=6, rate=3e-4)
    for variable, value in zip(network.model.variables, start, strict=True):
        variable.assign(value)
    assert max(fit("head", steps=30, rate=3e-3)) == 0
    trained = fit("2", steps=6, rate=3e-4)
    print(f"drift after each step: fresh head {fresh}, trained head {trained}")
    assert fresh[0] == 0
    assert trained[0] < fresh[1]
    assert trained[-1] < 0.5 * fresh[-1]
