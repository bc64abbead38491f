"""Where a network can be cut in two, and the cutting.

In: a functional model. Out: its cut points; or trunk and top, which share their layers with the model, so that
top(trunk(x)) equals model(x). A tensor is a cut point when every way from input to output leads through it: in any
order of the graph these are the places where a single tensor is still needed.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import keras

from tljobs.backbones.graph import KerasTensor, Operation, nodes_in_order, producer


@dataclass(frozen=True)
class Cut:
    """A tensor that separates input from output.

    Args:
        tensor: the symbolic tensor.
        layer: name of the layer that makes it.
        bytes_per_image: its size in float32.
        new_layers: the operations below this cut that are not below the one before it.
    """

    tensor: KerasTensor
    layer: str
    bytes_per_image: int
    new_layers: tuple[Operation, ...]


def cut_points(model: keras.Model) -> tuple[Cut, ...]:
    """All cut points of a flat functional model with one input and one output, from the input side up; neither the
    input nor the output itself. A place that would put one layer with weights on both sides is left out."""
    nodes = nodes_in_order(model)
    last_use = {id(tensor): position for position, node in enumerate(nodes) for tensor in node.input_tensors}
    last_use |= {id(tensor): len(nodes) for tensor in model.outputs}
    last_call = {id(node.operation): position for position, node in enumerate(nodes)}
    cuts: list[Cut] = []
    live: dict[int, KerasTensor] = {}
    below: list[Operation] = []
    shared_until = -1
    for position, node in enumerate(nodes):
        live = {key: tensor for key, tensor in live.items() if last_use[key] > position}
        live |= {id(tensor): tensor for tensor in node.outputs if last_use.get(id(tensor), -1) > position}
        if node.is_input:
            continue
        below.append(node.operation)
        if getattr(node.operation, "weights", ()):
            shared_until = max(shared_until, last_call[id(node.operation)])
        if len(live) == 1 and shared_until <= position < len(nodes) - 1:
            (tensor,) = live.values()
            cuts.append(Cut(tensor, producer(tensor).name, _bytes_per_image(tensor), tuple(below)))
            below = []
    return tuple(cuts)


def split(model: keras.Model, tensor: KerasTensor) -> tuple[keras.Model, keras.Model]:
    """(trunk: inputs to tensor, top: tensor to outputs). The layers, and so the weights, are those of the model."""
    return keras.Model(model.inputs[0], tensor, name="trunk"), keras.Model(tensor, model.outputs[0], name="top")


def _bytes_per_image(tensor: KerasTensor) -> int:
    shape: tuple[Any, ...] = tensor.shape[1:]
    return 4 * int(math.prod(shape))
