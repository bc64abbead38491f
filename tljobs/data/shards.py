"""The tables of a dataset: their columns, their bytes, and reading shards back.

Tables flow in and bytes flow out when a dataset is written; rows flow out of verified shards when it is read. Images
are opaque bytes here. The same rows always give the same bytes, so that a shard can be written twice.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from tljobs.errors import InputRefused, NotFound
from tljobs.records import TASKS, ShardInfo, Task
from tljobs.store import Store

ROW_GROUP_ROWS = 64  # the unit of reading and shuffling: 2 MB of training images
ID_HEX_DIGITS = 32


# `image` is a JPEG (train) or PNG (val, test) file; `label` an index into the classes, a list of them in multi-label
# datasets (see `for_task`).
SHARD_SCHEMA = pa.schema([("id", pa.string()), ("image", pa.binary()), ("label", pa.int32())])
# What the probe tells of an image: see tljobs.data.probe. Indexes of earlier releases lack these columns.
PROBE_COLUMNS = [
    ("mode", pa.string()),
    ("rotated", pa.bool_()),
    ("animated", pa.bool_()),
    ("phash", pa.uint64()),
    ("brightness", pa.float32()),
    ("blank", pa.bool_()),
    ("border_share", pa.float32()),
]
# One row per image. Sizes are the original's, upright; `shard` counts the shards of the split, `row` the shard's rows.
# `converted` is what was done to the image: see tljobs.data.plan.IndexRow.
INDEX_SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("uri", pa.string()),
        ("label", pa.int32()),
        ("split", pa.string()),
        ("sha256", pa.string()),
        ("width_px", pa.int32()),
        ("height_px", pa.int32()),
        ("shard", pa.int32()),
        ("row", pa.int32()),
        ("source_format", pa.string()),
        *PROBE_COLUMNS,
        ("converted", pa.list_(pa.string())),
    ]
)
# One row per rejected file; `label` is the class name, `reason` a code.
REJECTED_SCHEMA = pa.schema(
    [("uri", pa.string()), ("label", pa.string()), ("reason", pa.string()), ("detail", pa.string())]
)


def image_id(sha256: str) -> str:
    """An image's id: the first 128 bits of its content's SHA-256, in hex."""
    return sha256[:ID_HEX_DIGITS]


def table_bytes(table: pa.Table) -> bytes:
    """The table as a Parquet file: uncompressed, row groups of ROW_GROUP_ROWS, without dictionaries and statistics,
    which cost more than they save on images."""
    buffer = io.BytesIO()
    pq.write_table(
        table,
        buffer,
        compression="none",
        row_group_size=ROW_GROUP_ROWS,
        use_dictionary=False,
        write_statistics=False,
    )
    return buffer.getvalue()


def for_task(schema: pa.Schema, task: Task) -> pa.Schema:
    """The schema with the type of `label` that the task asks for."""
    kind = pa.list_(pa.int32()) if task == "multi-label" else pa.int32()
    return schema.set(schema.get_field_index("label"), pa.field("label", kind))


def label_value(labels: Sequence[int], task: Task) -> int | list[int]:
    """An image's value in the column `label`."""
    return list(labels) if task == "multi-label" else labels[0]


def shard_bytes(
    ids: Sequence[str], images: Sequence[bytes], labels: Sequence[Sequence[int]], task: Task = "single-label"
) -> bytes:
    """A shard of these rows; `labels` are the class indices of each."""
    values = [label_value(each, task) for each in labels]
    return table_bytes(pa.table([list(ids), list(images), values], schema=for_task(SHARD_SCHEMA, task)))


def shard_info(key: str, data: bytes, rows: int) -> ShardInfo:
    """What the manifest says of a shard."""
    groups = [min(ROW_GROUP_ROWS, rows - first) for first in range(0, rows, ROW_GROUP_ROWS)]
    return ShardInfo(
        key=key,
        size_bytes=len(data),
        sha256=hashlib.sha256(data).hexdigest(),
        rows=rows,
        row_groups=tuple(groups),
    )


def verify_shard(store: Store, shard: ShardInfo) -> None:
    """Raises InputRefused naming the shard when it is gone, or its size or SHA-256 is not the manifest's."""
    try:
        store.read_verified(shard.key, shard.size_bytes, shard.sha256)
    except NotFound as error:
        raise _damaged(store, shard, "it is gone") from error
    except InputRefused as error:
        raise _damaged(store, shard, error.hint) from error


def read_row_group(store: Store, shard: ShardInfo, group: int) -> tuple[list[str], list[bytes], list[tuple[int, ...]]]:
    """Reads one row group.

    Returns:
        ids, encoded images, and class indices of each row (exactly one unless the dataset is multi-label).

    Raises:
        InputRefused: the shard is gone, or no shard of ours.
    """
    try:
        # A ParquetFile of its own for each call: one that threads share crashes the process.
        with store.open_input(shard.key) as file:
            table = pq.ParquetFile(file, pre_buffer=True).read_row_group(group, use_threads=False)
    except NotFound as error:
        raise _damaged(store, shard, "it is gone") from error
    except (pa.ArrowException, OSError) as error:
        raise _damaged(store, shard, str(error)) from error
    if not any(table.schema.equals(for_task(SHARD_SCHEMA, task)) for task in TASKS):
        raise _damaged(store, shard, f"columns {table.schema.names}")
    labels = [tuple(each) if isinstance(each, list) else (each,) for each in table["label"].to_pylist()]
    return table["id"].to_pylist(), table["image"].to_pylist(), labels


def label_array(labels: Sequence[Sequence[int]], classes: int, task: Task) -> npt.NDArray[np.int32]:
    """Class indices of n images as an array, int32: (n,), or multi-hot (n, classes) for a multi-label dataset."""
    if task == "single-label":
        return np.array([each[0] for each in labels], dtype=np.int32)
    array = np.zeros((len(labels), classes), dtype=np.int32)
    for row, each in enumerate(labels):
        array[row, list(each)] = 1
    return array


def _damaged(store: Store, shard: ShardInfo, why: str) -> InputRefused:
    return InputRefused(
        "damaged dataset shard", f"{store.uri}/{shard.key}", f"Prepare the dataset again under another name ({why})"
    )
