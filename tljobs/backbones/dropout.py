"""Dropout whose mask belongs to the images of the global batch, not to the process that happens to hold them.

In: the local rows of a batch. Out: the same rows, dropped as one process with the whole batch would have dropped them.
So the number of workers does not change what is learnt.
"""

from __future__ import annotations

from typing import Any

import keras


@keras.saving.register_keras_serializable(package="tljobs")
class AddressedDropout(keras.layers.Layer):
    """Inverted dropout (Srivastava et al., 2014) with a mask drawn for the global batch.

    Every worker draws the whole mask from the same seed and state and keeps its own rows. The state is a variable of
    the layer and advances by one at each call in training, so it is saved and restored with the others. Until
    `set_batch_slice` is called, the local batch is taken for the global one.

    Args:
        rate: share of the values that become 0, at least 0 and below 1.
        noise_shape: shape of the mask; None stands for the size of the input there, 1 repeats the mask.
        seed: start of the layer's random numbers.
        name: name of the layer.
        dtype: dtype or policy of the layer.
    """

    def __init__(
        self,
        rate: float,
        noise_shape: tuple[int | None, ...] | None = None,
        seed: int = 0,
        name: str | None = None,
        dtype: Any = None,
    ) -> None:
        super().__init__(name=name, dtype=dtype)
        self.rate = rate
        self.noise_shape = tuple(noise_shape) if noise_shape is not None else None
        self.seed = seed
        # Keras would number an unnamed generator over the whole process; variable names have to be the same in all.
        self.seed_generator = keras.random.SeedGenerator(seed, name=f"{self.name}_seed_generator")
        self.global_batch: int | None = None
        self.offset = 0

    def call(self, inputs: Any, training: bool | None = False) -> Any:
        if not training or self.rate == 0:
            return inputs
        keep = keras.ops.cast(self._uniform(inputs) >= self.rate, inputs.dtype)
        return inputs * (keep * (1 / (1 - self.rate)))

    def _uniform(self, inputs: Any) -> Any:
        """Numbers in [0, 1) in the shape of the mask, for the local rows."""
        local_shape = keras.ops.shape(inputs)
        rows, *rest = self.noise_shape or (None,) * len(local_shape)
        sizes = [local_shape[axis] if size is None else size for axis, size in enumerate(rest, start=1)]
        if rows is not None:
            return keras.random.uniform((rows, *sizes), dtype="float32", seed=self.seed_generator)
        total = self.global_batch or local_shape[0]
        numbers = keras.random.uniform((total, *sizes), dtype="float32", seed=self.seed_generator)
        return numbers[self.offset : self.offset + local_shape[0]]

    def compute_output_shape(self, input_shape: Any) -> Any:
        return input_shape

    def get_config(self) -> dict[str, Any]:
        return {
            "rate": self.rate,
            "noise_shape": self.noise_shape,
            "seed": self.seed,
            "name": self.name,
            "dtype": keras.saving.serialize_keras_object(self.dtype_policy),
        }


def set_batch_slice(model: keras.Model, global_batch: int, offset: int) -> None:
    """Tell every AddressedDropout of a flat model which rows [offset, offset + local batch) of the global batch this
    process holds. To be called before the training step is traced."""
    for layer in model.layers:
        if isinstance(layer, AddressedDropout):
            layer.global_batch, layer.offset = global_batch, offset


def addressed(layer: Any, name: str, seed: int) -> AddressedDropout | None:
    """The AddressedDropout that does what a Keras dropout layer does; None for any other layer."""
    if isinstance(layer, keras.layers.SpatialDropout2D):
        noise_shape: tuple[int | None, ...] | None = (None, 1, 1, None)
    elif isinstance(layer, (keras.layers.Dropout, AddressedDropout)):
        noise_shape = layer.noise_shape
    else:
        return None
    return AddressedDropout(layer.rate, noise_shape, seed, name=name, dtype=layer.dtype_policy)
