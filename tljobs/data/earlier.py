"""What the newest earlier version of a dataset holds: its images keep their split, and their encoded bytes are copied
instead of decoded anew where the new version would store the very same.

A store and a name flow in; splits and places in shards flow out.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tljobs.data.plan import IndexRow, ShardTask, Stored, decoder_of, stored_short_side
from tljobs.data.shards import read_row_group, verify_shard
from tljobs.errors import InputRefused, NotFound
from tljobs.records import DatasetManifest, ShardInfo, Split
from tljobs.runs import dataset_index, open_dataset
from tljobs.specs import PrepareSpec
from tljobs.store import Store

if TYPE_CHECKING:
    import pyarrow as pa


IDENTITY = {"uri", "address", "sha256", "labels"}  # fields of an IndexRow that each version says anew


@dataclass(frozen=True)
class Earlier:
    """A published version with its index."""

    manifest: DatasetManifest
    index: pa.Table
    rows: dict[str, int]  # SHA-256 -> row of the index

    def splits(self, spec: PrepareSpec) -> dict[str, Split]:
        """SHA-256 -> split, if the same shares are asked for as then."""
        if self.manifest.request.get("split") != spec.split:
            return {}
        splits: list[Split] = self.index["split"].to_pylist()
        return {sha256: splits[row] for sha256, row in self.rows.items()}

    def stored(self, sha256: str, split: Split, spec: PrepareSpec) -> Stored | None:
        """Where the image lies as the new version would store it for `split`; None where it must be decoded."""
        row = self.rows.get(sha256)
        if row is None or not self._stores_alike(spec):
            return None
        known: dict[str, Any] = {name: self.index[name][row].as_py() for name in self.index.column_names}
        if (known["split"] == "train") != (split == "train"):  # one is stored as JPEG, the others without loss
            return None
        info = self.manifest.splits[known["split"]]
        if not info.thumbnails:
            return None
        shard = info.shards[known["shard"]]
        own = {name: known[name] for name in (IndexRow.model_fields.keys() & known.keys()) - IDENTITY}
        return Stored(shard_key=shard.key, row=known["row"], known=own)

    @functools.cached_property
    def shards(self) -> dict[str, tuple[ShardInfo, ShardInfo]]:
        """All shards by key, with their thumbnails."""
        splits = self.manifest.splits.values()
        pairs = (pair for split in splits for pair in zip(split.shards, split.thumbnails, strict=False))
        return {shard.key: (shard, thumbnails) for shard, thumbnails in pairs}

    def _stores_alike(self, spec: PrepareSpec) -> bool:
        return (
            self.manifest.decoder == decoder_of(spec)
            and self.manifest.stored_short_side == stored_short_side(spec.image_size)
            and self.manifest.request.get("max_pixels") == spec.max_pixels
        )


def newest(store: Store, name: str) -> Earlier | None:
    """The newest published version of a dataset; None where there is none whose index can be read."""
    try:
        manifest = open_dataset(store, name)
        index = dataset_index(store, manifest)
    except (NotFound, InputRefused):
        return None
    return Earlier(manifest, index, {sha256: row for row, sha256 in enumerate(index["sha256"].to_pylist())})


def read_stored(store: Store, task: ShardTask) -> dict[str, tuple[bytes, bytes]]:
    """SHA-256 -> encoded image and thumbnail, for those that can be copied from a shard that is whole."""
    rows_of: dict[str, dict[int, str]] = {}
    for image in task.images:
        if image.stored:
            rows_of.setdefault(image.stored.shard_key, {})[image.stored.row] = image.sha256
    found: dict[str, tuple[bytes, bytes]] = {}
    for shard, thumbnails in task.earlier:
        try:
            images, small = (_read_rows(store, each, rows_of[shard.key]) for each in (shard, thumbnails))
            found |= {sha256: (image, small[sha256]) for sha256, image in images.items()}
        except InputRefused:  # damaged or gone: its images are decoded again
            continue
    return found


def _read_rows(store: Store, shard: ShardInfo, wanted: dict[int, str]) -> dict[str, bytes]:
    """Raises InputRefused when the shard is damaged."""
    verify_shard(store, shard)
    found: dict[str, bytes] = {}
    first = 0
    for group, rows in enumerate(shard.row_groups):
        inside = [row for row in range(first, first + rows) if row in wanted]
        if inside:
            _, images, _ = read_row_group(store, shard, group)
            found |= {wanted[row]: images[row - first] for row in inside}
        first += rows
    return found
