"""From the pooled vector of a backbone to logits.

In: a symbolic tensor (n, d), and the head as the user wrote it. Out: a symbolic tensor (n, classes), float32.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable
from typing import Any

import keras

from tljobs.backbones.graph import KerasTensor
from tljobs.errors import UsageError

LOGITS_LAYER = "logits"
_HEAD_FORMS = "Heads are: linear; hidden units such as 512,256; or package.module:function"


def build_head(features: KerasTensor, *, classes: int, head: str, dropout: float, seed: int) -> KerasTensor:
    """Pooled features (n, d) -> logits (n, classes), float32.

    `linear` is dropout and one Dense layer; `512,256` puts Dense layers with ReLU before them; with
    `package.module:function` the user's function takes the features and returns a tensor (n, anything). The last Dense
    layer is always added here, also after such a function, and its kernel starts at zero: every class is equally
    likely at first and the first loss is ln(classes). Until the first step no gradient passes such a kernel downwards.

    Raises UsageError for a head that cannot be read, found or used.
    """
    x = _body(features, head, seed)
    if dropout > 0:
        x = keras.layers.Dropout(dropout, seed=seed, name="head_dropout")(x)
    return keras.layers.Dense(classes, kernel_initializer="zeros", dtype="float32", name=LOGITS_LAYER)(x)


def _body(features: KerasTensor, head: str, seed: int) -> KerasTensor:
    if head == "linear":
        return features
    if re.fullmatch(r"[1-9]\d*(,[1-9]\d*)*", head):
        x = features
        for number, units in enumerate(map(int, head.split(",")), start=1):
            initializer = keras.initializers.GlorotUniform(seed=seed + number)
            x = keras.layers.Dense(
                units, activation="relu", kernel_initializer=initializer, name=f"head_dense{number}"
            )(x)
        return x
    if re.fullmatch(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*", head):
        return _checked(_hook(head)(features), head)
    raise UsageError("unknown head", head, _HEAD_FORMS)


def _hook(head: str) -> Callable[[KerasTensor], Any]:
    module_name, function_name = head.split(":")
    try:
        function: Callable[[KerasTensor], Any] = getattr(importlib.import_module(module_name), function_name)
    except ImportError as error:
        raise UsageError(
            "cannot import the head", head, f"{error}; the module must be installed on all nodes"
        ) from error
    except AttributeError as error:
        raise UsageError("the head's module has no such function", head) from error
    if not callable(function):
        raise UsageError("the head is not a function", head)
    return function


def _checked(result: Any, head: str) -> KerasTensor:
    if not isinstance(result, keras.KerasTensor) or len(result.shape) != 2 or result.shape[1] is None:
        got = f"shape {result.shape}" if hasattr(result, "shape") else type(result).__name__
        raise UsageError("the head must return one tensor of shape (n, units)", head, f"It returned {got}")
    return result
