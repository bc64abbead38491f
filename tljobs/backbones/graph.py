"""The graph behind a functional Keras model: its nodes in order, a replay of it on other tensors, steady names.

In: a functional, possibly nested model. Out: nodes, tensors, names. The parts of Keras used here that are not public
(`_nodes_by_depth`, `_run_through_graph`, `_keras_history`) are used nowhere else in tljobs.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any

import keras

from tljobs.errors import InputRefused

KerasTensor = Any  # keras.KerasTensor: symbolic, no values
Operation = Any  # keras.Operation: a layer, or a function of keras.ops


def functional(operation: Operation) -> Any | None:
    """The functional model behind a (built) model, or None for a plain layer or a subclassed model."""
    if isinstance(operation, keras.Sequential):
        operation = operation._functional
    return operation if hasattr(operation, "_run_through_graph") else None


def _graph_of(model: keras.Model) -> Any:
    graph = functional(model)
    if graph is None:
        raise InputRefused("not a functional model", model.name, "Build it from layers, without a class of its own")
    return graph


def nodes_in_order(model: keras.Model) -> list[Any]:
    """The nodes (calls of operations) of a functional model, each after those whose results it takes."""
    depths: dict[int, list[Any]] = _graph_of(model)._nodes_by_depth
    return [node for depth in sorted(depths, reverse=True) for node in depths[depth]]


def producer(tensor: KerasTensor) -> Operation:
    """The operation that made a symbolic tensor."""
    return tensor._keras_history.operation


def replay(model: keras.Model, inputs: list[KerasTensor], operation_fn: Callable[[Operation], Any]) -> Any:
    """Call the operations of a model on other tensors, nested models opened up. Returns the outputs in the model's
    structure. `operation_fn` gives, for each leaf operation, what is called in its place."""

    def inner(operation: Operation) -> Any:
        if functional(operation) is None:
            return operation_fn(operation)
        return lambda *tensors, **_: replay(operation, list(tensors), operation_fn)

    return _graph_of(model)._run_through_graph(inputs, operation_fn=inner)


def leaf_operations(model: keras.Model) -> Iterator[Operation]:
    """All operations of a model but its inputs, nested models opened up, in the model's order; shared ones once."""
    seen: set[int] = set()
    for operation in _graph_of(model).operations:
        if isinstance(operation, keras.layers.InputLayer):
            continue
        for leaf in [operation] if functional(operation) is None else leaf_operations(operation):
            if id(leaf) not in seen:
                seen.add(id(leaf))
                yield leaf


def flatten(model: keras.Model) -> keras.Model:
    """The same model without nested models: every operation is a leaf; weights are shared, nothing is copied."""
    if not any(functional(operation) for operation in _graph_of(model).operations):
        return _graph_of(model)
    inputs = [keras.Input(batch_shape=t.shape, dtype=t.dtype, name=t.name) for t in model.inputs]
    outputs = replay(model, inputs, lambda operation: operation)
    return keras.Model(inputs[0] if len(inputs) == 1 else inputs, outputs, name=model.name)


def copy_onto(model: keras.Model, inputs: list[KerasTensor], substitute: Callable[[Operation, str], Any]) -> Any:
    """Rebuild a model on other tensors from copies of its layers, with their weights, under steady names.

    `substitute(operation, name)` gives what is called instead of an operation, or None to copy it. Returns the outputs
    in the model's structure.
    """
    names = steady_names(model)
    copies: dict[int, Any] = {}

    def copy(operation: Operation) -> Any:
        if id(operation) not in copies:
            name = names[id(operation)]
            copies[id(operation)] = substitute(operation, name) or _renamed_copy(operation, name)
        return copies[id(operation)]

    outputs = replay(model, inputs, copy)
    for operation in leaf_operations(model):
        copied = copies[id(operation)]
        if getattr(copied, "weights", ()):
            copied.set_weights(operation.get_weights())
            _name_unnamed_weights(copied)
    return outputs


def identity(tensor: KerasTensor, **_: Any) -> KerasTensor:
    """Stands in for an operation that is left out."""
    return tensor


def _renamed_copy(operation: Operation, name: str) -> Operation:
    config = operation.get_config()
    if "name" in config:
        config["name"] = name
    return type(operation).from_config(config)


def _name_unnamed_weights(layer: Operation) -> None:
    """Keras numbers weights without a name over the whole process too (ConvNeXt's LayerScale has one)."""
    for number, weight in enumerate(layer.weights):
        if re.fullmatch(r"variable(_\d+)?", weight.name):
            weight._name = f"weight{number}"
            weight._path = f"{layer.name}/{weight._name}"


def steady_names(model: keras.Model) -> dict[int, str]:
    """id of a leaf operation -> a name that depends on the model alone.

    Keras numbers unnamed layers over the whole process (`conv2d_188`); here they are numbered within the model, in
    their order of creation, as in a fresh process. A name that occurs twice gets a number.
    """
    names: dict[int, str] = {}
    counters: dict[str, int] = {}
    automatic: dict[str, list[tuple[int, Operation]]] = {}
    for operation in leaf_operations(model):
        prefix = _automatic_prefix(operation)
        match = re.fullmatch(rf"{prefix}(?:_(\d+))?", operation.name)
        if match:
            automatic.setdefault(prefix, []).append((int(match[1] or 0), operation))
        else:
            names[id(operation)] = _free_name(operation.name, counters)
    for prefix, numbered in automatic.items():
        for _, operation in sorted(numbered, key=lambda pair: pair[0]):
            names[id(operation)] = _free_name(prefix, counters)
    return names


def _free_name(name: str, counters: dict[str, int]) -> str:
    count = counters.get(name, 0)
    counters[name] = count + 1
    return _free_name(f"{name}_{count}", counters) if count else name


def _automatic_prefix(operation: Operation) -> str:
    """The name Keras gives to an unnamed operation: its class in snake case."""
    words = re.sub(r"(.)([A-Z][a-z]+)", r"\1_\2", type(operation).__name__)
    return re.sub(r"([a-z])([A-Z])", r"\1_\2", words).lower()
