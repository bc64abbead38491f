"""Shards: the same bytes for the same rows, read back row group by row group, damage noticed."""

from __future__ import annotations

import io
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tljobs.data.shards import (
    SHARD_SCHEMA,
    image_id,
    label_array,
    read_row_group,
    shard_bytes,
    shard_info,
    table_bytes,
    verify_shard,
)
from tljobs.errors import InputRefused
from tljobs.records import ShardInfo
from tljobs.store import LocalStore

ROWS = 150
IDS = [f"{number:032x}" for number in range(ROWS)]
IMAGES = [bytes([number]) * (1000 + number) for number in range(ROWS)]
LABELS = [(number % 3,) for number in range(ROWS)]
KEY = "datasets/d/v/shards/train-00000-of-00001.parquet"


@pytest.fixture
def shard(tmp_path: Path) -> tuple[LocalStore, ShardInfo]:
    store, data = LocalStore(tmp_path), shard_bytes(IDS, IMAGES, LABELS)
    store.put(KEY, data)
    return store, shard_info(KEY, data, ROWS)


def test_rows_come_back_group_by_group(shard: tuple[LocalStore, ShardInfo]) -> None:
    store, info = shard
    assert (info.rows, info.row_groups) == (ROWS, (64, 64, 22))
    verify_shard(store, info)
    groups = [read_row_group(store, info, group) for group in range(len(info.row_groups))]
    assert [each for ids, _, _ in groups for each in ids] == IDS
    assert [each for _, images, _ in groups for each in images] == IMAGES
    assert [each for _, _, labels in groups for each in labels] == LABELS


def test_rows_of_a_multi_label_shard_have_any_number_of_labels(tmp_path: Path) -> None:
    labels = [(), (2,), (0, 2)]
    store, data = LocalStore(tmp_path), shard_bytes(IDS[:3], IMAGES[:3], labels, "multi-label")
    store.put(KEY, data)
    assert read_row_group(store, shard_info(KEY, data, 3), 0)[2] == labels


def test_labels_as_an_array_are_indices_or_multi_hot() -> None:
    single = label_array([(2,), (0,)], 3, "single-label")
    assert (single.dtype, single.tolist()) == (np.int32, [2, 0])
    several = label_array([(), (2,), (0, 2)], 3, "multi-label")
    assert (several.dtype, several.tolist()) == (np.int32, [[0, 0, 0], [0, 0, 1], [1, 0, 1]])


def test_the_same_rows_give_the_same_bytes_uncompressed() -> None:
    data = shard_bytes(IDS, IMAGES, LABELS)
    assert data == shard_bytes(list(IDS), list(IMAGES), list(LABELS))
    assert data != shard_bytes(IDS, IMAGES, LABELS[::-1])
    metadata = pq.ParquetFile(io.BytesIO(data)).metadata
    column = metadata.row_group(0).column(1)
    assert (column.compression, column.statistics, column.has_dictionary_page) == ("UNCOMPRESSED", None, False)
    assert [metadata.row_group(group).num_rows for group in range(metadata.num_row_groups)] == [64, 64, 22]


def test_an_empty_shard_has_no_row_groups(tmp_path: Path) -> None:
    data = shard_bytes([], [], [])
    assert shard_info(KEY, data, 0).row_groups == ()
    assert pq.read_table(io.BytesIO(data)).num_rows == 0


def test_threads_may_read_one_shard_at_a_time(shard: tuple[LocalStore, ShardInfo]) -> None:
    store, info = shard
    with ThreadPoolExecutor(8) as pool:
        rows = list(pool.map(lambda group: len(read_row_group(store, info, group % 3)[0]), range(300)))
    assert rows == [64, 64, 22] * 100


@pytest.mark.parametrize("damage", ["flip", "cut", "gone"])
def test_a_damaged_shard_is_refused_by_name(shard: tuple[LocalStore, ShardInfo], damage: str) -> None:
    store, info = shard
    data = bytearray(store.read(KEY))
    if damage == "gone":
        store.delete(KEY)
    elif damage == "cut":
        store.put(KEY, bytes(data[:-100]))
    else:
        data[500] ^= 1
        store.put(KEY, bytes(data))
    with pytest.raises(InputRefused, match="train-00000-of-00001"):
        verify_shard(store, info)


def test_a_file_that_is_no_shard_is_refused_when_read(shard: tuple[LocalStore, ShardInfo]) -> None:
    store, info = shard
    for data in (b"nothing of the kind", table_bytes(pa.table({"id": ["x"]})), table_bytes(pa.table({"other": [1]}))):
        store.put(KEY, data)
        with pytest.raises(InputRefused, match="train-00000-of-00001"):
            read_row_group(store, info, 0)


def test_ids_are_the_first_half_of_the_hash() -> None:
    assert image_id("ab" * 32) == "ab" * 16
    assert SHARD_SCHEMA.field("image").type == pa.binary()
