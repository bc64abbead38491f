"""Reading and writing `tf.train.Example` messages without TensorFlow, whose import takes seconds.

A serialised message flows in and its features flow out, or the other way round. The three messages and their field
numbers are those of tensorflow/core/example/example.proto and feature.proto; the wire format is that of protocol
buffers: https://protobuf.dev/programming-guides/encoding/.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

VARINT, FIXED64, LENGTH, FIXED32 = 0, 1, 2, 5
BYTES_LIST, FLOAT_LIST, INT64_LIST = 1, 2, 3
MAX_VARINT_BYTES = 10


class Span(NamedTuple):
    """Bytes `start` to `end` of the message: so that an image can be found in the file without being copied."""

    start: int
    end: int


Values = list[Span] | list[float] | list[int]


def read_example(data: bytes) -> dict[str, Values]:
    """The features by name: spans of byte strings, floats, or whole numbers.

    Raises ValueError when `data` is no such message.
    """
    features: dict[str, Values] = {}
    for field, outer in _messages(data, Span(0, len(data))):
        if field != 1:
            continue
        for entry_field, entry in _messages(data, outer):
            if entry_field != 1:
                continue
            name, values = "", Span(0, 0)
            for part, span in _messages(data, entry):
                if part == 1:
                    name = data[span.start : span.end].decode()
                elif part == 2:
                    values = span
            features[name] = _feature(data, values)
    return features


def _feature(data: bytes, span: Span) -> Values:
    for kind, values in _messages(data, span):
        if kind == BYTES_LIST:
            return [value for field, value in _messages(data, values) if field == 1]
        if kind == FLOAT_LIST:
            return _floats(data, values)
        if kind == INT64_LIST:
            return _integers(data, values)
    return []


def _floats(data: bytes, span: Span) -> list[float]:
    values: list[float] = []
    for _, wire, value in _fields(data, span):
        if wire == LENGTH:
            packed = data[value.start : value.end]
            values.extend(each for (each,) in struct.iter_unpack("<f", packed))
        elif wire == FIXED32:
            values.extend(struct.unpack("<f", data[value.start : value.end]))
    return values


def _integers(data: bytes, span: Span) -> list[int]:
    values: list[int] = []
    for _, wire, value in _fields(data, span):
        if wire not in (LENGTH, VARINT):
            continue
        position = value.start
        while position < value.end:
            number, position = _varint(data, position, value.end)
            values.append(number - 2**64 if number >= 2**63 else number)
    return values


def _messages(data: bytes, span: Span) -> Iterator[tuple[int, Span]]:
    """Fields that hold messages, texts or byte strings."""
    return ((field, value) for field, wire, value in _fields(data, span) if wire == LENGTH)


def _fields(data: bytes, span: Span) -> Iterator[tuple[int, int, Span]]:
    """(number, wire type, place of the value) of each field of a message."""
    position, end = span
    while position < end:
        key, position = _varint(data, position, end)
        wire = key & 7
        if wire == VARINT:
            _, after = _varint(data, position, end)
        elif wire == LENGTH:
            length, position = _varint(data, position, end)
            after = position + length
        elif wire in (FIXED32, FIXED64):
            after = position + (4 if wire == FIXED32 else 8)
        else:
            raise ValueError(f"wire type {wire}")
        if after > end:
            raise ValueError("a field longer than its message")
        yield key >> 3, wire, Span(position, after)
        position = after


def _varint(data: bytes, position: int, end: int) -> tuple[int, int]:
    """A number and the place after it."""
    number = 0
    for shift in range(MAX_VARINT_BYTES):
        if position >= end:
            break
        byte = data[position]
        position += 1
        number |= (byte & 0x7F) << (7 * shift)
        if byte < 0x80:
            return number & (2**64 - 1), position
    raise ValueError("a number without an end")


# --------------------------------------------------------------------------------------------------------- writing


def bytes_feature(values: Sequence[bytes]) -> bytes:
    """A feature of byte strings, serialised."""
    return _written(BYTES_LIST, b"".join(_written(1, value) for value in values))


def int64_feature(values: Sequence[int]) -> bytes:
    """A feature of whole numbers of 64 bits, serialised (packed)."""
    return _written(INT64_LIST, _written(1, b"".join(_written_varint(value % 2**64) for value in values)))


def write_example(features: Mapping[str, bytes]) -> bytes:
    """The message of serialised features, in the order of their names: the same bytes for the same features."""
    entries = (_written(1, name.encode()) + _written(2, features[name]) for name in sorted(features))
    return _written(1, b"".join(_written(1, entry) for entry in entries))


def _written(number: int, value: bytes) -> bytes:
    """Field `number`, which holds a message, a text or a byte string."""
    return _written_varint(number << 3 | LENGTH) + _written_varint(len(value)) + value


def _written_varint(number: int) -> bytes:
    data = bytearray()
    while number >= 0x80:
        data.append(number & 0x7F | 0x80)
        number >>= 7
    data.append(number)
    return bytes(data)
