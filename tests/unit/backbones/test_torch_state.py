import io
import pickletools
import struct

import numpy as np
import pytest

from tljobs.backbones.efficientnet_lite0 import WEIGHTS_SHA256, weights_by_layer, weights_path
from tljobs.backbones.torch_state import read_state
from tljobs.errors import InputRefused

# One-line pickles, written by hand: a call of os.system, a call of a class method, an object with state.
SYSTEM_CALL = b"\x80\x02cos\nsystem\n(X\x04\x00\x00\x00truetR."
BUILTIN_CALL = b"\x80\x02cbuiltins\neval\n(X\x01\x00\x00\x001tR."
STACK_GLOBAL = b"\x80\x04\x8c\x02os\x8c\x06system\x93."
BARE_REBUILD = b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n(X\x01\x00\x00\x00atR."


@pytest.fixture(scope="module")
def file_bytes() -> bytes:
    return weights_path().read_bytes()


@pytest.fixture(scope="module")
def state(file_bytes: bytes) -> dict[str, np.ndarray]:
    return read_state(file_bytes)


@pytest.fixture(scope="module")
def pickle_ends(file_bytes: bytes) -> list[int]:
    """Offsets behind each of the five pickles of the file."""
    stream = io.BytesIO(file_bytes)
    ends = []
    for _ in range(5):
        list(pickletools.genops(stream))
        ends.append(stream.tell())
    return ends


def test_reads_all_tensors_with_shapes_and_dtypes(state: dict[str, np.ndarray]) -> None:
    assert len(state) == 296
    assert state["_conv_stem.weight"].shape == (32, 3, 3, 3)
    assert state["_conv_stem.weight"].dtype == np.float32
    assert state["_fc.weight"].shape == (1000, 1280)
    assert state["_bn0.num_batches_tracked"].shape == ()


def test_values_are_those_of_the_raw_storages(
    file_bytes: bytes, pickle_ends: list[int], state: dict[str, np.ndarray]
) -> None:
    (elements,) = struct.unpack_from("<q", file_bytes, pickle_ends[4])
    first_storage = np.frombuffer(file_bytes, "<f4", elements, offset=pickle_ends[4] + 8)
    assert sum(np.array_equal(first_storage, array.ravel()) for array in state.values()) == 1


@pytest.mark.parametrize("hostile", [SYSTEM_CALL, BUILTIN_CALL], ids=["os.system", "eval"])
def test_a_foreign_global_is_refused_by_name(file_bytes: bytes, pickle_ends: list[int], hostile: bytes) -> None:
    start, end = pickle_ends[2], pickle_ends[3]
    with pytest.raises(InputRefused, match=r"names code: (os\.system|builtins\.eval)"):
        read_state(file_bytes[:start] + hostile + file_bytes[end:])


@pytest.mark.parametrize("hostile", [STACK_GLOBAL, BARE_REBUILD], ids=["stack global", "wrong call"])
def test_other_opcodes_and_calls_are_refused(file_bytes: bytes, pickle_ends: list[int], hostile: bytes) -> None:
    start, end = pickle_ends[2], pickle_ends[3]
    with pytest.raises(InputRefused):
        read_state(file_bytes[:start] + hostile + file_bytes[end:])


def test_a_shortened_file_is_refused(file_bytes: bytes) -> None:
    for size in (0, 3, 100, 30_000, len(file_bytes) - 4):
        with pytest.raises(InputRefused):
            read_state(file_bytes[:size], "x.pth")


def test_a_tensor_that_reaches_outside_its_storage_is_refused(file_bytes: bytes, pickle_ends: list[int]) -> None:
    # The stem's shape (32, 3, 3, 3) is the first MARK K32 K3 K3 K3 TUPLE: 33 filters do not lie in its storage.
    at = file_bytes.index(b"(K\x20K\x03K\x03K\x03t", pickle_ends[2])
    damaged = file_bytes[: at + 2] + b"\x21" + file_bytes[at + 3 :]
    with pytest.raises(InputRefused, match="damaged"):
        read_state(damaged)


def test_lite0_uses_every_tensor_and_names_a_missing_or_unknown_one(state: dict[str, np.ndarray]) -> None:
    weights = weights_by_layer(state)
    unused = [name for name in state if name.startswith("_fc.") or name.endswith("num_batches_tracked")]
    assert sum(len(arrays) for arrays in weights.values()) == len(state) - len(unused)
    with pytest.raises(InputRefused, match=r"lack the tensor _blocks\.3\._bn1\.bias"):
        weights_by_layer({name: array for name, array in state.items() if name != "_blocks.3._bn1.bias"})
    with pytest.raises(InputRefused, match="unknown tensors, first extra"):
        weights_by_layer({**state, "extra": np.zeros(1)})


def test_the_pinned_hash_is_that_of_the_installed_file(file_bytes: bytes) -> None:
    import hashlib

    assert hashlib.sha256(file_bytes).hexdigest() == WEIGHTS_SHA256
