"""What a task minimises and how its answers are judged, as TensorFlow functions of labels and logits.

Single-label: softmax and cross-entropy; an image is right when its class has the highest probability. Multi-label:
sigmoid and binary cross-entropy, summed over the classes; an image is right when every class is. There is no option to
pair them otherwise: softmax with several labels per image, or sigmoid with one, is a bug.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from tljobs.evaluation.multi_label import THRESHOLD
from tljobs.records import Task

SMALLEST_PROBABILITY = 1e-7  # the loss of a surely wrong answer stays finite (16.1)


class Objective(Protocol):
    """n images, C classes; labels as the feed gives them: int32 (n,), or multi-hot (n, C)."""

    def losses(self, labels: Any, logits: Any) -> Any:
        """Loss of each image, in nats, float32 (n,)."""

    def hits(self, labels: Any, logits: Any) -> Any:
        """1 for each image that is right, float32 (n,)."""

    def probabilities(self, logits: Any) -> Any:
        """float32 (n, C)."""

    def sums(self, labels: npt.NDArray[np.int32], probabilities: npt.NDArray[np.float32]) -> tuple[float, float]:
        """Summed loss and number of right images, from probabilities."""


def objective(task: Task, classes: int, label_smoothing: float = 0.0) -> Objective:
    if task == "multi-label":
        return MultiLabel(label_smoothing)
    return SingleLabel(classes, label_smoothing)


@dataclass(frozen=True)
class SingleLabel:
    classes: int
    label_smoothing: float

    def losses(self, labels: Any, logits: Any) -> Any:
        targets = tf.one_hot(labels, self.classes, dtype=tf.float32)
        targets = targets * (1 - self.label_smoothing) + self.label_smoothing / self.classes
        return tf.nn.softmax_cross_entropy_with_logits(targets, logits)

    def hits(self, labels: Any, logits: Any) -> Any:
        return tf.cast(tf.argmax(logits, -1, output_type=tf.int32) == labels, tf.float32)

    def probabilities(self, logits: Any) -> Any:
        return tf.nn.softmax(logits)

    def sums(self, labels: npt.NDArray[np.int32], probabilities: npt.NDArray[np.float32]) -> tuple[float, float]:
        picked = probabilities[np.arange(len(labels)), labels].astype(np.float64)
        losses = -np.log(np.maximum(picked, SMALLEST_PROBABILITY))
        return float(losses.sum()), float(np.sum(np.argmax(probabilities, axis=1) == labels))


@dataclass(frozen=True)
class MultiLabel:
    label_smoothing: float

    def losses(self, labels: Any, logits: Any) -> Any:
        targets = tf.cast(labels, tf.float32) * (1 - self.label_smoothing) + self.label_smoothing / 2
        return tf.reduce_sum(tf.nn.sigmoid_cross_entropy_with_logits(targets, logits), axis=-1)

    def hits(self, labels: Any, logits: Any) -> Any:
        right = (self.probabilities(logits) >= THRESHOLD) == (labels > 0)
        return tf.cast(tf.reduce_all(right, axis=-1), tf.float32)

    def probabilities(self, logits: Any) -> Any:
        return tf.nn.sigmoid(logits)

    def sums(self, labels: npt.NDArray[np.int32], probabilities: npt.NDArray[np.float32]) -> tuple[float, float]:
        own = np.where(labels > 0, probabilities, 1 - probabilities).astype(np.float64)
        losses = -np.log(np.maximum(own, SMALLEST_PROBABILITY))
        return float(losses.sum()), float(np.sum(np.all((probabilities >= THRESHOLD) == (labels > 0), axis=1)))
