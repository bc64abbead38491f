"""The table of a source's files that an audit is made of: one row per listed file, kept or not.

Listings, what the first pass found, and the plan's decisions flow in; a table of FILES_SCHEMA flows out. Columns, not
objects: a million rows take 300 MB.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from tljobs.data.near import Indices, group_sizes, near_groups
from tljobs.data.plan import Placed, Rejected
from tljobs.data.probe import HASH_BITS, Inspected
from tljobs.data.shards import PROBE_COLUMNS
from tljobs.data.sources import SourceFile

# What the first pass tells of a file; all but `sha256`, `reason` and `detail` is null where it is no image.
INSPECTED_SCHEMA = pa.schema(
    [
        ("sha256", pa.string()),
        ("reason", pa.string()),
        ("detail", pa.string()),
        ("source_format", pa.string()),
        ("width_px", pa.int32()),
        ("height_px", pa.int32()),
        *PROBE_COLUMNS,
    ]
)
# `labels` are class names; `split` is null for a file that is not in the dataset, `reason` empty for one that is not
# rejected. `near` numbers the groups of near duplicates and is -1 outside of the dataset; `unclear` marks images whose
# group was too large to mean anything.
FILES_SCHEMA = pa.schema(
    [
        ("uri", pa.string()),
        ("labels", pa.list_(pa.string())),
        ("given_split", pa.string()),
        ("group", pa.string()),
        ("split", pa.string()),
        ("near", pa.int64()),
        ("unclear", pa.bool_()),
        *INSPECTED_SCHEMA,
    ]
)
MAX_GROUP_SHARE = 0.05  # of all images: kept together, a larger group would upset the percentages of the splits
MAX_GROUP_IMAGES = 50  # a group of so many is always believed
# A hash has about half of its bits set; far fewer mean that most frequencies are absent, as in drawings and ramps.
MIN_HASH_ONES = HASH_BITS // 4


@dataclass(frozen=True)
class Near:
    """Groups of near duplicates among n images: int64 (n,) numbers, and bool (n,) where a group was too large."""

    groups: Indices
    unclear: npt.NDArray[np.bool_]


def inspected_table(files: Sequence[Inspected]) -> pa.Table:
    """One row per file, in order."""
    rows = [file.model_dump(exclude={"probe"}) | (file.probe.model_dump() if file.probe else {}) for file in files]
    return pa.Table.from_pylist(rows, schema=INSPECTED_SCHEMA)


def find_near(inspected: pa.Table, sha256s: Sequence[str]) -> Near:
    """Near duplicates among the images with these contents. Blank images and those without texture have none."""
    row_of = {sha256: row for row, sha256 in enumerate(inspected["sha256"].to_pylist())}
    own = inspected.select(["phash", "blank"]).take(pa.array([row_of[each] for each in sha256s], pa.int64()))
    hashes = own["phash"].fill_null(0).to_numpy().astype(np.uint64)
    plain = np.bitwise_count(hashes) < MIN_HASH_ONES
    excluded = plain | own["blank"].fill_null(False).to_numpy()
    groups = near_groups(hashes, excluded)
    most = max(MAX_GROUP_IMAGES, int(MAX_GROUP_SHARE * len(hashes)))
    unclear = group_sizes(groups) > most
    return Near(near_groups(hashes, excluded, max_images=most) if unclear.any() else groups, unclear)


def files_table(
    files: Sequence[SourceFile],
    inspected: pa.Table,
    placed: Sequence[Placed],
    rejected: Sequence[Rejected],
    near: Near | None,
) -> pa.Table:
    """Joins what is known of the files. `near` is in the order of `placed`."""
    place_of = {each.image.uri: place for place, each in enumerate(placed)}
    places = [place_of.pop(file.uri, -1) for file in files]  # a file that a table lists twice is one image
    at = np.array(places, np.int64)
    kept = at >= 0
    numbers = np.full(len(files), -1, np.int64)
    unclear = np.zeros(len(files), bool)
    if near is not None:
        numbers[kept], unclear[kept] = near.groups[at[kept]], near.unclear[at[kept]]
    own = {
        "uri": [file.uri for file in files],
        "labels": [list(file.labels) for file in files],
        "given_split": [file.given_split for file in files],
        "group": [placed[place].image.group if place >= 0 else "" for place in places],
        "split": [placed[place].split if place >= 0 else None for place in places],
        "near": numbers,
        "unclear": unclear,
    }
    table = pa.table({**own, **{name: inspected[name] for name in inspected.column_names}}, schema=FILES_SCHEMA)
    return with_rejected(table, rejected)


def with_rejected(files: pa.Table, rejected: Sequence[Rejected]) -> pa.Table:
    """The table with these files rejected."""
    why = {each.uri: each for each in rejected}
    uris = files["uri"].to_pylist()
    columns = {
        "reason": [why[uri].reason if uri in why else before for uri, before in _zipped(uris, files["reason"])],
        "detail": [why[uri].detail if uri in why else before for uri, before in _zipped(uris, files["detail"])],
        "split": [None if uri in why else before for uri, before in _zipped(uris, files["split"])],
    }
    for name, values in columns.items():
        place = files.schema.get_field_index(name)
        files = files.set_column(place, files.schema.field(place), pa.array(values, files.schema.field(place).type))
    return files


def probes(files: pa.Table) -> Mapping[str, dict[str, object]]:
    """SHA-256 -> the probe's columns, for the images of the dataset."""
    kept = files.filter(files["split"].is_valid())
    rows = kept.select([name for name, _ in PROBE_COLUMNS]).to_pylist()
    return dict(zip(kept["sha256"].to_pylist(), rows, strict=True))


def _zipped(uris: Sequence[str], column: pa.ChunkedArray) -> zip[tuple[str, str | None]]:
    return zip(uris, column.to_pylist(), strict=True)
