"""A backbone with its start weights: ImageNet, none (random), or a file.

In: a registry entry, a side in pixels, what the user gave as --weights. Out: the Keras model of the backbone, and where
its weights came from. Files are read here and nowhere else; nothing in them is run.
"""

from __future__ import annotations

import hashlib
import importlib
import re
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras

from tljobs.backbones.graph import Operation, leaf_operations, steady_names
from tljobs.backbones.registry import Backbone
from tljobs.errors import InputRefused, NotFound, Unreachable, UsageError

_FILE_HINT = "Give --weights a .weights.h5 or .keras file, or none"
_WEIGHT_SUFFIXES = (".h5", ".keras")


@dataclass(frozen=True)
class LoadedWeights:
    """Where the start weights came from.

    Args:
        source: `imagenet`, `none`, or the file as the user wrote it.
        sha256: of the file; None for `none`, and where keras.applications kept its own cache (it checks the hash).
        loaded: arrays of the backbone that were set.
        total: arrays the backbone has, preprocessing not counted.
    """

    source: str
    sha256: str | None
    loaded: int
    total: int


def load_backbone(entry: Backbone, image_size: int, weights: str) -> tuple[keras.Model, LoadedWeights]:
    """The backbone's model, (n, s, s, 3) -> (n, d), with its start weights.

    Args:
        entry: which network.
        image_size: side of the input in pixels.
        weights: `imagenet`, `none`, or a path that ends with .weights.h5, .h5 or .keras.

    Raises:
        UsageError: weights that this network cannot have.
        NotFound: no such file, or the package with the weights is not installed.
        InputRefused: the file is damaged, or does not fit the network.
        Unreachable: the library's download failed.
    """
    if weights == "none":
        model = _build(entry, image_size)
        return model, LoadedWeights("none", None, 0, _count(model))
    if weights == "imagenet":
        return _imagenet(entry, image_size)
    path = _weights_file(weights)
    model = _build(entry, image_size)
    loaded = _load_keras(model, path) if path.suffix == ".keras" else _load_h5(model, path)
    return model, LoadedWeights(weights, _sha256(path), loaded, _count(model))


def is_preprocessing(operation: Operation) -> bool:
    """Whether a layer of a backbone only prepares pixels; ours take its place, whatever the weights."""
    return isinstance(operation, (keras.layers.Rescaling, keras.layers.Normalization))


def _build(entry: Backbone, image_size: int) -> keras.Model:
    function = _builder(entry)
    if entry.weights_origin == "keras-applications":
        return function(weights=None, include_top=False, pooling="avg", input_shape=(image_size, image_size, 3))
    return function(image_size)


def _builder(entry: Backbone) -> Any:
    module, function = entry.builder.split(":")
    return getattr(importlib.import_module(module), function)


def _imagenet(entry: Backbone, image_size: int) -> tuple[keras.Model, LoadedWeights]:
    if entry.weights_origin == "none":
        raise UsageError(f"{entry.name} has no ImageNet weights", hint="Train it from scratch: --weights none")
    if entry.weights_origin == "python-package":
        return _from_package(entry, image_size)
    try:
        model = _builder(entry)(
            weights="imagenet", include_top=False, pooling="avg", input_shape=(image_size, image_size, 3)
        )
    except Exception as error:  # Keras reports a failed download as a plain Exception
        raise Unreachable(f"cannot get the ImageNet weights of {entry.name}", str(error), _FILE_HINT) from error
    return model, LoadedWeights("imagenet", None, _count(model), _count(model))


def _from_package(entry: Backbone, image_size: int) -> tuple[keras.Model, LoadedWeights]:
    from tljobs.backbones import efficientnet_lite0, torch_state

    path = efficientnet_lite0.weights_path()
    data = path.read_bytes()
    sha256 = hashlib.sha256(data).hexdigest()
    if sha256 != efficientnet_lite0.WEIGHTS_SHA256:
        raise InputRefused("the file with the ImageNet weights is not the published one", str(path), "Reinstall it")
    values = efficientnet_lite0.weights_by_layer(torch_state.read_state(data, str(path)))
    model = _build(entry, image_size)
    layers = _weighted_layers(model)
    if {layer.name for layer in layers} != set(values):
        raise InputRefused(f"the weights do not cover {entry.name}", str(path))
    for layer in layers:
        layer.set_weights(values[layer.name])
    return model, LoadedWeights("imagenet", sha256, _count(model), _count(model))


def _weights_file(weights: str) -> Path:
    path = Path(weights).expanduser()
    if path.suffix not in _WEIGHT_SUFFIXES:
        raise UsageError("unknown weights", weights, "Weights are: imagenet, none, or a .weights.h5 or .keras file")
    if not path.is_file():
        raise NotFound("no such weights file", weights, _FILE_HINT)
    return path


def _load_h5(model: keras.Model, path: Path) -> int:
    """Weights of this very network (more layers on top of it do no harm in .weights.h5); all or nothing."""
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            model.load_weights(path)
    except (ValueError, KeyError, OSError) as error:
        raise InputRefused(f"the weights do not fit {model.name}", str(path), _first_mismatch(str(error))) from error
    skipped = [str(warning.message) for warning in caught if "freshly-initialized" in str(warning.message)]
    if skipped:
        raise InputRefused(f"the weights do not cover {model.name}", str(path), _first_mismatch(skipped[0]))
    return _count(model)


def _first_mismatch(message: str) -> str:
    """Keras' account of the first object that could not be loaded, on one line."""
    match = re.search(r"Example error message for object (.*?)\s*List of objects", message, flags=re.DOTALL)
    return " ".join((match[1] if match else message).split())[:400]


def _load_keras(model: keras.Model, path: Path) -> int:
    """Weights of the layers that have the same names in the other model, nested models opened up."""
    other = _open_keras(path)
    other_names = steady_names(other)
    theirs = {other_names[id(layer)]: layer for layer in _weighted_layers(other)}
    names = steady_names(model)
    loaded = 0
    for layer in _weighted_layers(model):
        found = theirs.get(names[id(layer)])
        if found is None:
            continue
        _check_shapes(names[id(layer)], layer, found, path)
        layer.set_weights(found.get_weights())
        loaded += len(layer.weights)
    if loaded == 0:
        raise InputRefused(f"no layer of the file has a counterpart in {model.name}: nothing was loaded", str(path))
    return loaded


def _open_keras(path: Path) -> keras.Model:
    try:
        return keras.saving.load_model(path, compile=False, safe_mode=True)
    except (ValueError, TypeError, KeyError, OSError, ImportError) as error:
        detail = " ".join(str(error).split())[:400]
        raise InputRefused("cannot open the model file", str(path), detail) from error


def _check_shapes(name: str, ours: Operation, theirs: Operation, path: Path) -> None:
    expected = [tuple(weight.shape) for weight in ours.weights]
    got = [tuple(weight.shape) for weight in theirs.weights]
    if expected != got:
        raise InputRefused("the weights do not fit", str(path), f"Layer {name} has shapes {expected}, the file {got}")


def _weighted_layers(model: keras.Model) -> list[Operation]:
    """The layers whose weights count: all that have some, but for the preprocessing."""
    return [op for op in leaf_operations(model) if getattr(op, "weights", ()) and not is_preprocessing(op)]


def _count(model: keras.Model) -> int:
    return sum(len(layer.weights) for layer in _weighted_layers(model))


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
