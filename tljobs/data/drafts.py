"""The drafts of a first pass: images in the form that is stored for training, in packs, until the shards are written.

What the first pass reports flows in, pack by pack; where the draft of an image lies flows out. So an image is decoded
once for the audit and for its shard, although the split is known only when all images are seen.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import Any

import pyarrow as pa

from tljobs import layout
from tljobs.data.plan import Drafted
from tljobs.data.probe import Inspected
from tljobs.data.sources.reading import Place, address_of
from tljobs.errors import TljobsError
from tljobs.store import Store

DRAFTS_SCHEMA = pa.schema(
    [
        ("pack", pa.int32()),
        ("offset", pa.int64()),
        ("size_bytes", pa.int64()),
        ("image_bytes", pa.int64()),
        ("check", pa.string()),
        ("width_px", pa.int32()),
        ("height_px", pa.int32()),
        ("source_format", pa.string()),
        ("converted", pa.list_(pa.string())),
    ]
)


class Drafts:
    """The packs of one preparation, under `token` in the staging place of `store`."""

    def __init__(self, store: Store, token: str) -> None:
        self._store = store
        self._token = token
        self._keys: list[str] = []
        self._tables: list[pa.Table] = []
        self._rows: dict[str, tuple[int, int]] = {}  # SHA-256 -> (table, row)

    def new_pack(self) -> str:
        """The key of one more pack."""
        self._keys.append(layout.draft_pack(self._token, len(self._keys)))
        return self._keys[-1]

    def add(self, pack: int, files: Sequence[Inspected]) -> None:
        """Takes note of what a task reported of its files."""
        rows: list[dict[str, Any]] = []
        for file in files:
            if file.draft and file.probe:
                self._rows[file.sha256] = (len(self._tables), len(rows))
                rows.append({**file.probe.model_dump(), **file.draft.model_dump(), "pack": pack})
        self._tables.append(pa.Table.from_pylist(rows, schema=DRAFTS_SCHEMA))

    def of(self, sha256: str) -> Drafted | None:
        """Where the draft of an image lies."""
        if sha256 not in self._rows:
            return None
        table, row = self._rows[sha256]
        (known,) = self._tables[table].slice(row, 1).to_pylist()
        pack, offset, size_bytes = known.pop("pack"), known.pop("offset"), known.pop("size_bytes")
        root = self._store.uri if self._store.uri.startswith("s3://") else self._store.filesystem()[1]
        address = address_of(Place(f"{root}/{self._keys[pack]}", offset, size_bytes))
        return Drafted(address=address, check=known.pop("check"), image_bytes=known.pop("image_bytes"), known=known)

    def delete(self) -> None:
        """Deletes the packs. What cannot be deleted stays: nothing refers to it."""
        with contextlib.suppress(TljobsError):
            for key in self._keys:
                self._store.delete(key)
