"""The whole network, pixels to logits, for training; the same cut in two for a phase; the same for prediction.

In: names and sizes as the user gave them. Out: `Network`, `CutNetwork`, and a plain Keras model. The graph is always
flat: pixels, preprocessing, backbone, pooled features, head, logits.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from typing import Any, Literal

import keras
import numpy as np
import numpy.typing as npt

from tljobs.backbones.blocks import Block, find_blocks, resolve_depth
from tljobs.backbones.cuts import cut_points, split
from tljobs.backbones.dropout import AddressedDropout, addressed
from tljobs.backbones.graph import KerasTensor, copy_onto, identity, leaf_operations, producer, replay
from tljobs.backbones.heads import build_head
from tljobs.backbones.registry import Backbone, Preprocessing
from tljobs.backbones.registry import backbone as find_backbone
from tljobs.backbones.weights import LoadedWeights, is_preprocessing, load_backbone
from tljobs.errors import UsageError
from tljobs.records import Task

# An image batch that spreads over more levels than this must fill at least this share of the declared input range.
_SPREAD_LEVELS = 50
_LEAST_SHARE_OF_RANGE = 0.02


@dataclass(frozen=True, kw_only=True)
class Network:
    """A network built for training.

    Args:
        model: pixels 0..255 (n, s, s, 3), float32 or uint8 -> logits (n, classes), float32.
        backbone: the registry entry.
        weights: where the start weights came from.
        image_size: side of the input in pixels.
        blocks: the parts of the backbone, from the output side down.
        preprocessed: the symbolic tensor that enters the backbone proper.
        features: the symbolic tensor of the pooled vector (n, d), the input of the head.
        head_layers: names of the layers above it.
        notes: what the user should know.
    """

    model: keras.Model
    backbone: Backbone
    weights: LoadedWeights
    image_size: int
    blocks: tuple[Block, ...]
    preprocessed: KerasTensor
    features: KerasTensor
    head_layers: tuple[str, ...]
    notes: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class CutNetwork:
    """A network in two parts that share its layers: top(trunk(x, training=False)) equals model(x).

    Args:
        trunk: the frozen part, pixels -> the tensor at the border; None when everything is trained.
        top: the trained part, the tensor at the border (or pixels) -> logits.
        border: name of the layer whose output enters the top; of the input layer when everything is trained.
        trainable_variables: variables of the top that are trained, in the model's order.
        trainable_parameters: number of values in them.
        frozen_parameters: number of all other values of the network, moving statistics included.
        depth: the depth as it was asked for.
        notes: what the user should know.
    """

    trunk: keras.Model | None
    top: keras.Model
    border: str
    trainable_variables: list[Any]
    trainable_parameters: int
    frozen_parameters: int
    depth: str
    notes: tuple[str, ...]


def build_network(
    *, backbone: str, weights: str, image_size: int, classes: int, head: str, dropout: float, seed: int
) -> Network:
    """The network for training, all layers trainable, every dropout an AddressedDropout.

    Equal arguments give equal initial values and variable paths in every process. Seeds the random generators of
    Python, numpy and TensorFlow with `seed`.

    Args:
        backbone: name in the registry.
        weights: `imagenet`, `none`, or a .weights.h5 or .keras file.
        image_size: side of the input in pixels.
        classes: number of classes.
        head: see `build_head`.
        dropout: rate before the last layer of the head.
        seed: of the initial values and of dropout.

    Raises UsageError, NotFound, InputRefused or Unreachable: see `load_backbone` and `build_head`.
    """
    entry = find_backbone(backbone)
    notes = _size_notes(entry, image_size)
    keras.utils.set_random_seed(seed)
    body, loaded = load_backbone(entry, image_size, weights)
    draft_pixels, preprocessed, features = _body_on_pixels(entry, body, image_size)
    logits = build_head(features, classes=classes, head=head, dropout=dropout, seed=seed)
    draft = keras.Model(draft_pixels, [preprocessed, features, logits])
    _refuse_unusable_layers(draft)
    pixels = _pixels(image_size, "float32")
    preprocessed, features, logits = copy_onto(
        draft, [pixels], lambda op, name: addressed(op, name, _layer_seed(seed, name))
    )
    model = keras.Model(pixels, logits, name="network")
    cuts = cut_points(model)
    body_cuts = cuts[: 1 + next(i for i, cut in enumerate(cuts) if cut.tensor is features)]
    below_head = {operation.name for cut in body_cuts for operation in cut.new_layers}
    return Network(
        model=model,
        backbone=entry,
        weights=loaded,
        image_size=image_size,
        blocks=find_blocks(body_cuts),
        preprocessed=preprocessed,
        features=features,
        head_layers=tuple(op.name for op in leaf_operations(model) if op.name not in below_head),
        notes=notes,
    )


def cut_network(network: Network, depth: str, batchnorm: Literal["frozen", "sync"]) -> CutNetwork:
    """Freeze the network below a border and cut it there; may be called again with another depth, for a next phase.

    Args:
        network: from `build_network`.
        depth: `head`, a positive number of blocks from the top, a block's or layer's name, or `all`.
        batchnorm: BatchNorm above the border stays in inference mode (`frozen`), or is trained with statistics over
            all workers (`sync`).

    The layers are shared with the network, so a second call changes what the first one's parts train. Raises
    UsageError for an unknown depth.
    """
    count, notes = resolve_depth(depth, network.blocks, network.head_layers)
    border = network.features if count == 0 else network.blocks[count - 1].border
    trunk, top = (None, network.model) if border is None else split(network.model, border)
    _set_trainable(network.model, top, batchnorm)
    variables = list(top.trainable_variables)
    trainable = sum(math.prod(variable.shape) for variable in variables)
    total = sum(math.prod(weight.shape) for weight in network.model.weights)
    return CutNetwork(
        trunk=trunk,
        top=top,
        border=network.model.inputs[0].name if border is None else producer(border).name,
        trainable_variables=variables,
        trainable_parameters=trainable,
        frozen_parameters=total - trainable,
        depth=depth,
        notes=notes,
    )


def check_input_range(network: Network, pixels: npt.NDArray[np.uint8]) -> None:
    """Raise UsageError when the preprocessing gives the backbone values it was not trained on.

    Args:
        network: from `build_network`.
        pixels: images (n, s, s, 3), uint8, not all nearly equal: on those a scaling too many is not seen.
    """
    values = np.asarray(keras.Model(network.model.inputs[0], network.preprocessed)(pixels, training=False), np.float64)
    low, high = network.backbone.input_range
    lowest, highest = float(values.min()), float(values.max())
    got = f"Pixels {pixels.min()}..{pixels.max()} became {lowest:.4g}..{highest:.4g}, declared is {low:.4g}..{high:.4g}"
    tolerance = 1e-3 * (high - low)
    if not (low - tolerance <= lowest and highest <= high + tolerance):
        raise UsageError("the input of the backbone is out of range: missing scaling?", network.backbone.name, got)
    is_varied = int(pixels.max()) - int(pixels.min()) > _SPREAD_LEVELS
    if is_varied and highest - lowest < _LEAST_SHARE_OF_RANGE * (high - low):
        raise UsageError("the input of the backbone is nearly constant: scaled twice?", network.backbone.name, got)


def inference_model(network: Network, image_size: int, task: Task = "single-label") -> keras.Model:
    """Pixels (n, s, s, 3) uint8 -> probabilities (n, classes) float32, made of plain Keras layers without dropout:
    softmax over the classes, or for a multi-label task a sigmoid of each.

    Holds copies of the weights as they are now. The saved file opens with safe_mode and without tljobs.
    """
    _size_notes(network.backbone, image_size)
    pixels = _pixels(image_size, "uint8")
    logits = copy_onto(network.model, [pixels], lambda op, _: identity if isinstance(op, AddressedDropout) else None)
    logits = logits[0] if isinstance(logits, list) else logits
    activation = "sigmoid" if task == "multi-label" else "softmax"
    probabilities = keras.layers.Activation(activation, dtype="float32", name="probabilities")(logits)
    return keras.Model(pixels, probabilities, name="classifier")


def _size_notes(entry: Backbone, image_size: int) -> tuple[str, ...]:
    if image_size < entry.min_image_size:
        hint = f"{entry.name} needs {entry.min_image_size} or more"
        raise UsageError("image size too small for the backbone", f"{image_size}", hint)
    if entry.pretrained and image_size != entry.image_size:
        return (f"{entry.name} was trained on {entry.image_size} px images; this network takes {image_size} px",)
    return ()


def _pixels(image_size: int, dtype: str) -> KerasTensor:
    return keras.Input((image_size, image_size, 3), dtype=dtype, name="pixels")


def _body_on_pixels(
    entry: Backbone, body: keras.Model, image_size: int
) -> tuple[KerasTensor, KerasTensor, KerasTensor]:
    """(pixels, preprocessed, features) through the backbone's own layers. Preprocessing that the backbone brings along
    is replaced by the registry's, since Keras' own depends on which weights were asked for."""
    pixels = _pixels(image_size, "float32")
    preprocessed = _preprocess(pixels, entry.preprocessing)
    features = replay(body, [preprocessed], lambda op: identity if is_preprocessing(op) else op)
    return pixels, preprocessed, features[0] if isinstance(features, list) else features


def _preprocess(pixels: KerasTensor, preprocessing: Preprocessing) -> KerasTensor:
    """In float32 also under mixed precision: half precision cannot tell neighbouring levels apart."""
    x = keras.layers.Rescaling(
        list(preprocessing.scale), offset=list(preprocessing.offset), dtype="float32", name="preprocess"
    )(pixels)
    return keras.ops.flip(x, axis=-1) if preprocessing.channel_order == "bgr" else x


def _refuse_unusable_layers(model: keras.Model) -> None:
    """Only a user's head can bring them."""
    for operation in leaf_operations(model):
        kind = type(operation)
        if kind.__module__.split(".")[0] != "keras" or isinstance(operation, keras.layers.Lambda):
            raise UsageError(
                "the head uses a layer that an exported model cannot hold",
                kind.__name__,
                "Use the layers and operations of Keras, but not Lambda",
            )
        draws_numbers = len(getattr(operation, "variables", ())) > len(getattr(operation, "weights", ()))
        if draws_numbers and addressed(operation, operation.name, 0) is None:
            raise UsageError(
                "the head uses a layer with random numbers of its own", kind.__name__, "Use Dropout or SpatialDropout2D"
            )


def _layer_seed(seed: int, name: str) -> int:
    """31 bits that differ from layer to layer."""
    return int.from_bytes(hashlib.sha256(f"{seed}/{name}".encode()).digest()[:4]) >> 1


def _set_trainable(model: keras.Model, top: keras.Model, batchnorm: Literal["frozen", "sync"]) -> None:
    above = {id(layer) for layer in top.layers}
    for layer in model.layers:
        is_batchnorm = isinstance(layer, keras.layers.BatchNormalization)
        layer.trainable = id(layer) in above and not (is_batchnorm and batchnorm == "frozen")
        if is_batchnorm:
            layer.synchronized = layer.trainable
