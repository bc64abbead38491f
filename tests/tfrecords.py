"""TFRecord files as TensorFlow writes them, without TensorFlow: messages by protobuf's own library."""

from __future__ import annotations

import functools
import struct
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import google_crc32c
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

Value = bytes | str | int | float | list[bytes] | list[str] | list[int] | list[float]
KINDS = {"BytesList": 12, "FloatList": 2, "Int64List": 3}  # field types of descriptor.proto


@functools.cache
def example_class() -> Any:
    """The class of tf.train.Example, made from the definition in tensorflow/core/example."""
    file = descriptor_pb2.FileDescriptorProto(name="example.proto", package="tljobs_test", syntax="proto3")
    for name, kind in KINDS.items():
        file.message_type.add(name=name).field.add(name="value", number=1, label=3, type=kind)
    feature = file.message_type.add(name="Feature")
    feature.oneof_decl.add(name="kind")
    for number, name in enumerate(KINDS, start=1):
        field = {"number": number, "label": 1, "type": 11, "type_name": f".tljobs_test.{name}", "oneof_index": 0}
        feature.field.add(name=name.lower(), **field)
    features = file.message_type.add(name="Features")
    entry = features.nested_type.add(name="FeatureEntry")
    entry.options.map_entry = True
    entry.field.add(name="key", number=1, label=1, type=9)
    entry.field.add(name="value", number=2, label=1, type=11, type_name=".tljobs_test.Feature")
    features.field.add(name="feature", number=1, label=3, type=11, type_name=".tljobs_test.Features.FeatureEntry")
    example = file.message_type.add(name="Example")
    example.field.add(name="features", number=1, label=1, type=11, type_name=".tljobs_test.Features")
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("tljobs_test.Example"))


def example_bytes(features: Mapping[str, Value]) -> bytes:
    """A serialised tf.train.Example."""
    example = example_class()()
    for name, given in features.items():
        feature = example.features.feature[name]
        values = given if isinstance(given, list) else [given]
        texts = [value.encode() if isinstance(value, str) else value for value in values]
        if all(isinstance(value, bytes) for value in texts):
            feature.byteslist.value.extend(texts)
        elif all(isinstance(value, int) for value in texts):
            feature.int64list.value.extend(texts)
        else:
            feature.floatlist.value.extend(texts)
    data: bytes = example.SerializeToString()
    return data


def write_tfrecord(path: Path, examples: Iterable[Mapping[str, Value]]) -> Path:
    """A TFRecord file of these examples."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"".join(framed(example_bytes(example)) for example in examples))
    return path


def framed(data: bytes) -> bytes:
    length = struct.pack("<Q", len(data))
    return length + _masked_crc(length) + data + _masked_crc(data)


def _masked_crc(data: bytes) -> bytes:
    crc = google_crc32c.value(data)
    return struct.pack("<I", ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF)
