"""Validation by the training network itself: this worker's share, and the sums over all workers."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from tljobs.backbones.network import Network
from tljobs.data.feed import EvalFeed
from tljobs.training.objective import Objective
from tljobs.training.step import SumOverWorkers


@dataclass(frozen=True)
class Validation:
    """`loss` and `accuracy` over all images of the split; `positions` int64 (n,) and `probabilities` float32 (n, C)
    of this worker's share."""

    loss: float
    accuracy: float
    positions: npt.NDArray[np.int64]
    probabilities: npt.NDArray[np.float32]


@dataclass(frozen=True)
class Share:
    """This worker's images: positions (n,), labels (n,) or (n, C), probabilities (n, C)."""

    positions: npt.NDArray[np.int64]
    labels: npt.NDArray[np.int32]
    probabilities: npt.NDArray[np.float32]


class Validator:
    """Validates a network on this worker's share of a split; the function is traced once."""

    def __init__(
        self, network: Network, feed: EvalFeed, sum_over_workers: SumOverWorkers, objective: Objective
    ) -> None:
        self._feed = feed
        self._objective = objective
        self._classes = int(network.model.output_shape[-1])
        self._sum_over_workers = sum_over_workers
        self._forward = tf.function(lambda pixels: objective.probabilities(network.model(pixels, training=False)))

    def __call__(self) -> Validation:
        """Inference mode throughout; changes no variable. A collective: every worker calls it."""
        share = self._share()
        sums = [*self._objective.sums(share.labels, share.probabilities), len(share.labels)]
        loss, correct, images = self._sum_over_workers(np.asarray(sums, dtype=np.float64))
        return Validation(float(loss / images), float(correct / images), share.positions, share.probabilities)

    def _share(self) -> Share:
        rows = [(b.positions, b.labels, self._probabilities(b.pixels)) for b in self._feed.batches()]
        return Share(
            np.concatenate([np.zeros(0, np.int64), *(positions for positions, _, _ in rows)]),
            np.concatenate([np.zeros((0, *self._feed.label_shape), np.int32), *(labels for _, labels, _ in rows)]),
            np.concatenate([np.zeros((0, self._classes), np.float32), *(values for _, _, values in rows)]),
        )

    def _probabilities(self, pixels: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        """Probabilities of the classes; the last batch is padded, so that all have one shape and the same kernels."""
        padding = np.zeros((self._feed.batch_size - len(pixels), *pixels.shape[1:]), np.uint8)
        result = self._forward(tf.constant(np.concatenate([pixels, padding])))
        probabilities: npt.NDArray[np.float32] = result.numpy()[: len(pixels)]
        return probabilities
