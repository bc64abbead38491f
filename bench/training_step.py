"""P11: one training step of one worker against Keras `fit` with the same network, batch and optimizer.
Goal: at most 1.02 times its time."""

from __future__ import annotations

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
import tensorflow as tf
from pairs import in_turn, report

from tljobs.backbones.network import build_network, cut_network
from tljobs.training.objective import objective
from tljobs.training.step import TrainStep

BATCH, SIZE, CLASSES, STEPS, ROUNDS = 16, 96, 5, 8, 7


def main() -> None:
    generator = np.random.default_rng(0)
    pixels = generator.integers(0, 256, (BATCH * STEPS, SIZE, SIZE, 3)).astype(np.uint8)
    labels = generator.integers(0, CLASSES, BATCH * STEPS).astype(np.int32)
    for depth in ("head", "3", "all"):
        ours, peer = _ours(pixels, labels, depth), _fit(pixels, labels, depth)
        seconds = in_turn({"keras fit": peer, "tljobs step": ours}, ROUNDS)
        report(
            f"P11 training step, efficientnet-lite0 at {SIZE} px, depth {depth}", seconds, "keras fit", STEPS, "steps"
        )


def _network(depth: str):  # type: ignore[no-untyped-def]
    network = build_network(
        backbone="efficientnet-lite0",
        weights="none",
        image_size=SIZE,
        classes=CLASSES,
        head="linear",
        dropout=0.2,
        seed=0,
    )
    return network, cut_network(network, depth, "frozen")


def _batches(pixels, labels):  # type: ignore[no-untyped-def]
    weights = np.ones(len(labels), np.float32)
    return tf.data.Dataset.from_tensor_slices((pixels, labels, weights)).batch(BATCH)


def _ours(pixels, labels, depth):  # type: ignore[no-untyped-def]
    _, cut = _network(depth)
    optimizer = keras.optimizers.Adam(1e-3)
    optimizer.build(cut.trainable_variables)
    step = TrainStep(tf.distribute.get_strategy(), cut, optimizer, objective("single-label", CLASSES))
    data = _batches(pixels, labels)
    return lambda: [step(*batch, stop=False) for batch in data]


def _fit(pixels, labels, depth):  # type: ignore[no-untyped-def]
    network, _ = _network(depth)  # leaves the layers frozen to this depth
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    network.model.compile(keras.optimizers.Adam(1e-3), loss, metrics=["accuracy"], jit_compile=False)
    data = _batches(pixels, labels)
    return lambda: network.model.fit(data, epochs=1, verbose=0)


if __name__ == "__main__":
    main()
