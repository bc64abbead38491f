"""The first pass of prepare in this process: what becomes of the files of a listing."""

from __future__ import annotations

from tljobs.data.plan import Decoding, InspectReport, InspectTask
from tljobs.data.sources import Listing
from tljobs.data.workers import inspect_files
from tljobs.store import Store

DECODING = Decoding(short_side=37, max_pixels=10**6)


def inspected(listing: Listing, store: Store) -> InspectReport:
    """All files in one task; their drafts are in `store`."""
    task = InspectTask(
        addresses=tuple(file.address for file in listing.files),
        sizes_bytes=(1,) * len(listing.files),
        draft_key="staging/drafts/test-000000.bin",
    )
    return inspect_files(task, store=store, endpoint_url=None, max_bytes=10**6, decoding=DECODING)
