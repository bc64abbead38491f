"""Validation by the training network itself: this worker's share, and the sums over all workers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from tljobs.backbones.network import Network
from tljobs.data.feed import EvalFeed
from tljobs.training.step import SumOverWorkers

SMALLEST_PROBABILITY = 1e-7  # the loss of a surely wrong answer stays finite (16.1)


@dataclass(frozen=True)
class Validation:
    """`loss` and `accuracy` over all images of the split; `positions` int64 (n,) and `probabilities` float32 (n, C)
    of this worker's share."""

    loss: float
    accuracy: float
    positions: npt.NDArray[np.int64]
    probabilities: npt.NDArray[np.float32]


def validate(network: Network, feed: EvalFeed, sum_over_workers: SumOverWorkers) -> Validation:
    """Inference mode throughout; changes no variable. A collective: every worker calls it."""
    positions, probabilities, labels = [], [], []
    for batch in feed.batches():
        positions.append(batch.positions)
        labels.append(batch.labels)
        probabilities.append(_probabilities(network, batch.pixels, feed.batch_size))
    classes = int(network.model.output_shape[-1])
    own = Share(
        np.concatenate(positions) if positions else np.zeros(0, np.int64),
        np.concatenate(labels) if labels else np.zeros(0, np.int32),
        np.concatenate(probabilities) if probabilities else np.zeros((0, classes), np.float32),
    )
    loss, correct, images = sum_over_workers(own.sums())
    return Validation(float(loss / images), float(correct / images), own.positions, own.probabilities)


@dataclass(frozen=True)
class Share:
    """This worker's images: positions (n,), labels (n,), probabilities (n, C)."""

    positions: npt.NDArray[np.int64]
    labels: npt.NDArray[np.int32]
    probabilities: npt.NDArray[np.float32]

    def sums(self) -> npt.NDArray[np.float64]:
        """Summed cross-entropy, correct answers, images."""
        picked = self.probabilities[np.arange(len(self.labels)), self.labels].astype(np.float64)
        losses = -np.log(np.maximum(picked, SMALLEST_PROBABILITY))
        correct = np.argmax(self.probabilities, axis=1) == self.labels
        return np.asarray([losses.sum(), correct.sum(), len(self.labels)], dtype=np.float64)


def _probabilities(network: Network, pixels: npt.NDArray[np.uint8], batch_size: int) -> npt.NDArray[np.float32]:
    """Softmax of the logits; the last batch is padded so that the function is traced once."""
    rows = len(pixels)
    if rows < batch_size:
        pixels = np.concatenate([pixels, np.zeros((batch_size - rows, *pixels.shape[1:]), np.uint8)])
    result: npt.NDArray[np.float32] = _forward(network)(tf.constant(pixels)).numpy()[:rows]
    return result


def _forward(network: Network) -> Any:
    """The traced inference function, one per network."""
    if network.inference is None:
        network.inference = tf.function(lambda pixels: tf.nn.softmax(network.model(pixels, training=False)))
    return network.inference
