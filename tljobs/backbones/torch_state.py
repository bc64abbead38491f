"""Weights out of a PyTorch state file (the format before version 1.6) as numpy arrays, without PyTorch.

In: the bytes of the file. Out: tensor name -> array. The file is a series of pickles followed by raw storages. They
are not unpickled: the opcodes are read with `pickletools` by a small machine that knows plain data and two global
names, so nothing in the file can name code to run. Anything else in it is an InputRefused.
"""

from __future__ import annotations

import io
import pickletools
import struct
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from tljobs.errors import InputRefused

MAGIC_NUMBER = 0x1950A86A20F9469CFC6C
PROTOCOL_VERSION = 1001

_STORAGE_DTYPES: dict[str, np.dtype[Any]] = {
    "torch FloatStorage": np.dtype("<f4"),
    "torch HalfStorage": np.dtype("<f2"),
    "torch DoubleStorage": np.dtype("<f8"),
    "torch LongStorage": np.dtype("<i8"),
    "torch IntStorage": np.dtype("<i4"),
}
_ORDERED_DICT = "collections OrderedDict"
_REBUILD_TENSOR = "torch._utils _rebuild_tensor_v2"
_ALLOWED_GLOBALS = frozenset({_ORDERED_DICT, _REBUILD_TENSOR, *_STORAGE_DTYPES})
_MARK = object()


@dataclass(frozen=True)
class _Global:
    name: str


@dataclass(frozen=True)
class _Storage:
    key: str
    dtype: np.dtype[Any]
    elements: int


@dataclass(frozen=True)
class _Tensor:
    """A strided view of a storage; offset and strides in elements."""

    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


def read_state(data: bytes, where: str = "") -> dict[str, npt.NDArray[Any]]:
    """Tensor name -> array (a copy, in the file's dtype). Raises InputRefused for any other file."""
    stream = io.BytesIO(data)
    try:
        if _read(stream) != MAGIC_NUMBER or _read(stream) != PROTOCOL_VERSION:
            raise InputRefused("not a PyTorch state file of the format before 1.6", where)
        if _read(stream)["little_endian"] is not True:
            raise InputRefused("a PyTorch state file of a big-endian machine", where)
        tensors = _read(stream)
        storages = _read_storages(stream, tensors, keys=_read(stream))
        return {name: _array(tensor, storages[tensor.storage.key]) for name, tensor in tensors.items()}
    except InputRefused as error:
        raise InputRefused(error.what, where or error.where, error.hint) from None
    except (ValueError, KeyError, IndexError, TypeError, AttributeError, struct.error) as error:
        raise InputRefused("damaged PyTorch state file", where) from error


def _read_storages(stream: io.BytesIO, tensors: dict[str, _Tensor], keys: list[str]) -> dict[str, npt.NDArray[Any]]:
    """The raw storages behind the last pickle: for each key the number of elements (int64), then the elements."""
    expected = {tensor.storage.key: tensor.storage for tensor in tensors.values()}
    storages = {}
    for key in keys:
        (elements,) = struct.unpack("<q", stream.read(8))
        storage = expected[key]
        if elements != storage.elements:
            raise ValueError(f"storage {key} has {elements} elements, {storage.elements} were announced")
        raw = stream.read(elements * storage.dtype.itemsize)
        storages[key] = np.frombuffer(raw, dtype=storage.dtype, count=elements)
    return storages


def _array(tensor: _Tensor, storage: npt.NDArray[Any]) -> npt.NDArray[Any]:
    last = tensor.offset + sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.strides, strict=True))
    if min((tensor.offset, *tensor.shape, *tensor.strides)) < 0 or (0 not in tensor.shape and last >= len(storage)):
        raise ValueError("a tensor reaches outside its storage")
    byte_strides = tuple(stride * storage.itemsize for stride in tensor.strides)
    return np.lib.stride_tricks.as_strided(storage[tensor.offset :], tensor.shape, byte_strides).copy()


def _read(stream: io.BytesIO) -> Any:
    """The next pickle of the stream as plain data, `_Storage`s and `_Tensor`s."""
    machine = _Machine()
    for opcode, argument, _ in pickletools.genops(stream):
        machine.step(opcode.name, argument)
    return machine.stack.pop()


class _Machine:
    """The subset of the pickle machine that state files use: data on a stack, a memo, two known calls."""

    def __init__(self) -> None:
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}

    def step(self, opcode: str, argument: Any) -> None:
        match opcode:
            case "PROTO" | "STOP":
                pass
            case "BINUNICODE" | "BININT" | "BININT1" | "BININT2" | "LONG1":
                self.stack.append(argument)
            case "NONE" | "NEWTRUE" | "NEWFALSE":
                self.stack.append({"NONE": None, "NEWTRUE": True, "NEWFALSE": False}[opcode])
            case "MARK":
                self.stack.append(_MARK)
            case "EMPTY_DICT" | "EMPTY_LIST" | "EMPTY_TUPLE":
                self.stack.append({"EMPTY_DICT": dict, "EMPTY_LIST": list, "EMPTY_TUPLE": tuple}[opcode]())
            case "BINPUT" | "LONG_BINPUT":
                self.memo[argument] = self.stack[-1]
            case "BINGET" | "LONG_BINGET":
                self.stack.append(self.memo[argument])
            case "TUPLE":
                self.stack.append(tuple(self._to_mark()))
            case "TUPLE1" | "TUPLE2" | "TUPLE3":
                size = int(opcode[-1])
                self.stack[-size:] = [tuple(self.stack[-size:])]
            case "SETITEM":
                value, key = self.stack.pop(), self.stack.pop()
                self.stack[-1][key] = value
            case "SETITEMS":
                items = self._to_mark()
                self.stack[-1].update(zip(items[::2], items[1::2], strict=True))
            case "APPENDS":
                items = self._to_mark()
                self.stack[-1].extend(items)
            case "GLOBAL":
                self.stack.append(self._global(argument))
            case "BINPERSID":
                self.stack.append(self._storage(self.stack.pop()))
            case "REDUCE":
                arguments, function = self.stack.pop(), self.stack.pop()
                self.stack.append(self._call(function, arguments))
            case "BUILD":
                self.stack.pop()  # attributes of the dictionary: version numbers of the modules
            case _:
                raise InputRefused(f"the state file holds more than tensors (opcode {opcode})")

    def _to_mark(self) -> list[Any]:
        start = len(self.stack) - 1 - self.stack[::-1].index(_MARK)
        items = self.stack[start + 1 :]
        del self.stack[start:]
        return items

    @staticmethod
    def _global(name: str) -> _Global:
        if name not in _ALLOWED_GLOBALS:
            raise InputRefused(f"the state file names code: {name.replace(' ', '.')}")
        return _Global(name)

    @staticmethod
    def _storage(persistent_id: tuple[Any, ...]) -> _Storage:
        _, kind, key, _, elements = persistent_id[:5]
        return _Storage(key, _STORAGE_DTYPES[kind.name], elements)

    @staticmethod
    def _call(function: _Global, arguments: tuple[Any, ...]) -> Any:
        if function.name == _ORDERED_DICT and not arguments:
            return {}
        if function.name == _REBUILD_TENSOR and isinstance(arguments[0], _Storage):
            return _Tensor(*arguments[:4])
        raise InputRefused(f"the state file calls {function.name.replace(' ', '.')} in an unknown way")
