"""The parts of a backbone that a user unfreezes, named after its layers, and what a depth such as `2` means.

In: the cut points of a network, and the depth as the user wrote it. Out: blocks from the output side down, and how many
of them are to be trained.
"""

from __future__ import annotations

import difflib
import math
import re
from dataclasses import dataclass, field

import keras

from tljobs.backbones.cuts import Cut
from tljobs.backbones.graph import KerasTensor, Operation
from tljobs.errors import UsageError

# How the networks of the registry name their residual units, stages and modules.
_UNIT = re.compile(r"(?:stage_\d+_|conv\d+_)?block_?\d+[a-z]?|expanded_conv(?:_\d+)?|pool\d+")
_INCEPTION_MODULE = re.compile(r"mixed\d+")


@dataclass(frozen=True)
class Block:
    """A stretch of the backbone between two cut points.

    Args:
        name: `block15`, `conv5_block3`, or the name of its first layer with weights.
        layers: names of all its layers.
        parameters: number of its trainable values (BatchNorm's scale and shift included); never 0.
        border: the tensor that enters it; None for the lowest block, which takes the preprocessed image.
    """

    name: str
    layers: tuple[str, ...]
    parameters: int
    border: KerasTensor | None


@dataclass
class _Segment:
    """Operations with the same trainable layers below them; `above` is the smallest tensor that leaves them."""

    above: Cut
    below: Cut | None
    operations: list[Operation] = field(default_factory=list)


def find_blocks(cuts: tuple[Cut, ...]) -> tuple[Block, ...]:
    """The blocks below the last of the cuts (the pooled features), from the top down.

    Neighbouring cuts with the same trainable layers below count as one, at the smallest tensor (of equals the upper
    one, behind the activation). Neighbours of one unit, by their names, are one block, and a lone normalisation
    belongs to what it normalises.
    """
    merged: list[tuple[str | None, _Segment]] = []
    for segment in _segments(cuts):
        unit = _unit(segment)
        if merged and (unit == merged[-1][0] if unit else _only_normalises(segment)):
            merged[-1][1].operations += segment.operations
            merged[-1][1].above = segment.above
        else:
            merged.append((unit, segment))
    return tuple(_block(unit, segment) for unit, segment in reversed(merged))


def resolve_depth(depth: str, blocks: tuple[Block, ...], head_layers: tuple[str, ...]) -> tuple[int, tuple[str, ...]]:
    """(number of blocks to train, notes for the user) for `head`, a positive number, a block's or layer's name, `all`.

    Raises UsageError for anything else: with the nearest name, or the number of blocks there are.
    """
    if depth in ("head", "all"):
        return (0 if depth == "head" else len(blocks)), ()
    if re.fullmatch(r"-?\d+", depth):
        if not 1 <= int(depth) <= len(blocks):
            raise UsageError(
                "unfreeze depth out of range",
                depth,
                f"This network takes head, 1 to {len(blocks)} blocks, or all",
            )
        return int(depth), ()
    for number, block in enumerate(blocks, start=1):
        if depth == block.name:
            return number, ()
    for number, block in enumerate(blocks, start=1):
        if depth in block.layers:
            return number, (f"layer {depth} lies in {block.name}: the whole block is trained, and all above it",)
    if depth in head_layers:
        return 0, (f"layer {depth} belongs to the head: only the head is trained",)
    raise UsageError("unknown unfreeze depth", depth, _suggestion(depth, blocks))


def _suggestion(depth: str, blocks: tuple[Block, ...]) -> str:
    names = ["head", "all", *(block.name for block in blocks)]
    layers = [layer for block in blocks for layer in block.layers]
    close = difflib.get_close_matches(depth, names, n=1) or difflib.get_close_matches(depth, layers, n=1)
    start = f"Did you mean {close[0]}? " if close else ""
    return f"{start}Blocks from the top: {', '.join(block.name for block in blocks)}"


def _segments(cuts: tuple[Cut, ...]) -> list[_Segment]:
    segments: list[_Segment] = []
    start: Cut | None = None
    for cut in cuts:
        if _trainable(cut.new_layers):
            segments.append(_Segment(cut, start, list(cut.new_layers)))
        elif segments:
            segments[-1].operations += cut.new_layers
            if cut.bytes_per_image <= segments[-1].above.bytes_per_image:
                segments[-1].above = cut
        else:
            continue  # nothing to train below: the border of the lowest block stays the image
        start = segments[-1].above
    return segments


def _unit(segment: _Segment) -> str | None:
    """The unit by the names of the layers with weights, or by the layer that joins a module of Inception."""
    matches = [_UNIT.search(layer.name) for layer in _trainable(segment.operations)]
    matches += [_INCEPTION_MODULE.search(operation.name) for operation in reversed(segment.operations)]
    return next((match[0] for match in matches if match), None)


def _block(unit: str | None, segment: _Segment) -> Block:
    trainable = _trainable(segment.operations)
    return Block(
        name=unit or trainable[0].name,
        layers=tuple(operation.name for operation in segment.operations),
        parameters=sum(math.prod(weight.shape) for layer in trainable for weight in layer.trainable_weights),
        border=segment.below.tensor if segment.below else None,
    )


def _trainable(operations: tuple[Operation, ...] | list[Operation]) -> list[Operation]:
    return [operation for operation in operations if getattr(operation, "trainable_weights", ())]


def _only_normalises(segment: _Segment) -> bool:
    kinds = (keras.layers.BatchNormalization, keras.layers.LayerNormalization, keras.layers.GroupNormalization)
    return all(isinstance(layer, kinds) for layer in _trainable(segment.operations))
