"""One training step, right for any number of workers.

Each replica computes sums over its own rows; ONE packed all-reduce carries loss, weight, correct answers, the stop
flag and all gradients; the optimizer is applied outside the replica context, to gradients that are already global.
So clipping, weight decay and schedules behave as in one process, and N workers equal one at the same global batch.
(`optimizer.apply` inside `strategy.run` would sum a second time and clip before the sum.)
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
import numpy.typing as npt
import tensorflow as tf

from tljobs.backbones.network import CutNetwork
from tljobs.errors import UsageError
from tljobs.training.objective import Objective

ONE_PACK_BYTES = 10 * 2**20  # below, one pack is fastest; above, packs of 32 MB overlap
PACK_BYTES = 32 * 2**20


@dataclass(frozen=True)
class StepOutput:
    """Means over the images of the global batch; `stop` tells that some worker was asked to stop."""

    loss: float
    accuracy: float
    images: float
    grad_norm: float
    stop: bool


class TrainStep:
    """A traced step for one phase. Call it with this worker's rows of the global batch."""

    def __init__(
        self,
        strategy: tf.distribute.Strategy,
        cut: CutNetwork,
        optimizer: keras.optimizers.Optimizer,
        objective: Objective,
    ) -> None:
        self._strategy = strategy
        self._cut = cut
        self._optimizer = optimizer
        self._variables = cut.trainable_variables
        self._objective = objective
        gradient_bytes = sum(4 * int(np.prod(variable.shape)) for variable in self._variables)
        pack = 0 if gradient_bytes < ONE_PACK_BYTES else PACK_BYTES
        self._options = tf.distribute.experimental.CommunicationOptions(bytes_per_pack=pack)
        # Without AutoGraph: it would turn our errors into its own.
        self._function = tf.function(self._step, autograph=False)

    def __call__(self, pixels: Any, labels: Any, weights: Any, stop: bool) -> StepOutput:
        outputs = self._function(pixels, labels, weights, tf.constant(float(stop)))
        loss, accuracy, images, grad_norm, stopped = (float(value) for value in outputs)
        return StepOutput(loss, accuracy, images, grad_norm, stopped > 0)

    def _step(self, pixels: Any, labels: Any, weights: Any, stop: Any) -> tuple[Any, ...]:
        loss, accuracy, images, stopped, gradients = self._strategy.run(
            self._replica, args=(pixels, labels, weights, stop)
        )
        self._optimizer.apply(gradients, self._variables)
        return loss, accuracy, images, tf.linalg.global_norm(gradients), stopped

    def _replica(self, pixels: Any, labels: Any, weights: Any, stop: Any) -> tuple[Any, ...]:
        # Frozen layers run in inference mode and outside the tape.
        inputs = pixels if self._cut.trunk is None else self._cut.trunk(pixels, training=False)
        with tf.GradientTape() as tape:
            logits = self._cut.top(inputs, training=True)
            loss = tf.reduce_sum(self._objective.losses(labels, logits) * weights)
        gradients = tape.gradient(loss, [variable.value for variable in self._variables])
        unreached = [v.path for v, gradient in zip(self._variables, gradients, strict=True) if gradient is None]
        if unreached:
            raise UsageError("no gradient reaches a trainable variable", ", ".join(unreached), "Check the head")
        hits = self._objective.hits(labels, logits)
        # An argument has no device in a graph, and the all-reduce refuses such tensors; its copy has one.
        local = [loss, tf.reduce_sum(weights), tf.reduce_sum(hits * weights), tf.identity(stop), *gradients]
        context = tf.distribute.get_replica_context()
        loss, images, correct, stopped, *gradients = context.all_reduce(
            tf.distribute.ReduceOp.SUM, local, options=self._options
        )
        return loss / images, correct / images, images, stopped, [gradient / images for gradient in gradients]


class SumOverWorkers:
    """Sums a float64 array over all workers; every worker must call it, with the same shape."""

    def __init__(self, strategy: tf.distribute.Strategy) -> None:
        self._strategy = strategy
        self._function = tf.function(self._sum, reduce_retracing=True)

    def __call__(self, values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        result: npt.NDArray[np.float64] = self._function(tf.constant(values, tf.float64)).numpy()
        return result

    def _sum(self, values: Any) -> Any:
        return self._strategy.run(self._replica, args=(values,))

    def _replica(self, values: Any) -> Any:
        return tf.distribute.get_replica_context().all_reduce(tf.distribute.ReduceOp.SUM, tf.identity(values))
