"""What one process does for prepare: inspect some files, or write one shard. It knows nothing of how processes are run.

Addresses flow in; hashes and probes, or a shard in the store and its rows, flow out. Pixels never leave the process.
"""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

from tljobs.data.decode import BadImage, decode, encode_jpeg, encode_png
from tljobs.data.earlier import IDENTITY, read_stored
from tljobs.data.plan import (
    HashReport,
    HashTask,
    IndexRow,
    PlannedImage,
    Rejected,
    ShardReport,
    ShardTask,
    Stored,
)
from tljobs.data.probe import Inspected, inspect
from tljobs.data.shards import image_id, shard_bytes, shard_info
from tljobs.data.sources import read_file
from tljobs.store import Store

READ_AHEAD_FILES = 8  # hides the latency of S3 behind the decoding of one core


def hash_files(task: HashTask, *, endpoint_url: str | None, max_bytes: int, max_pixels: int) -> HashReport:
    """SHA-256 and probe of each file, or why there is none: the decoder's reasons, `unreadable`, or `too_large`
    without reading it."""
    small = [address for address, size in zip(task.addresses, task.sizes_bytes, strict=True) if size <= max_bytes]
    contents = _read_ahead(small, endpoint_url)
    too_large = BadImage("too_large", f"a file of more than {max_bytes} bytes")
    return HashReport(
        files=tuple(
            _inspected(next(contents) if size <= max_bytes else too_large, max_pixels) for size in task.sizes_bytes
        )
    )


def write_shard(
    task: ShardTask, *, store: Store, endpoint_url: str | None, short_side: int, max_pixels: int
) -> ShardReport:
    """Decodes, resizes and encodes the task's images and puts the shard; bad images are left out and reported.

    Raises what the store raises.
    """
    rows: list[IndexRow] = []
    stored: list[bytes] = []
    rejected: list[Rejected] = []
    copies = read_stored(store, task)
    files = _read_ahead([image.address for image in task.images if image.sha256 not in copies], endpoint_url)
    for image in task.images:
        try:
            if image.stored and image.sha256 in copies:
                row, encoded = _copied(image, image.stored), copies[image.sha256]
            else:
                row, encoded = _encoded(image, next(files), task.split == "train", short_side, max_pixels)
        except BadImage as error:
            indices = "|".join(map(str, image.labels))
            rejected.append(Rejected(uri=image.uri, label=indices, reason=error.reason, detail=error.detail))
        else:
            rows.append(row)
            stored.append(encoded)
    shard = shard_bytes([image_id(row.sha256) for row in rows], stored, [row.labels for row in rows], task.task)
    store.put(task.key, shard)
    return ShardReport(
        split=task.split,
        shard=task.shard,
        info=shard_info(task.key, shard, len(rows)),
        rows=tuple(rows),
        rejected=tuple(rejected),
        copied=len(copies),
    )


def _copied(image: PlannedImage, stored: Stored) -> IndexRow:
    return IndexRow(**stored.known | image.model_dump(include=IDENTITY))


def _encoded(
    image: PlannedImage, data: bytes | BadImage, lossy: bool, short_side: int, max_pixels: int
) -> tuple[IndexRow, bytes]:
    if isinstance(data, BadImage):
        raise data
    if hashlib.sha256(data).hexdigest() != image.sha256:
        raise BadImage("unreadable", "the file changed while the dataset was prepared")
    decoded = decode(data, short_side=short_side, max_pixels=max_pixels)
    row = IndexRow(
        **image.model_dump(include=IDENTITY),
        width_px=decoded.width_px,
        height_px=decoded.height_px,
        source_format=decoded.source_format,
    )
    return row, encode_jpeg(decoded.pixels) if lossy else encode_png(decoded.pixels)


def _inspected(data: bytes | BadImage, max_pixels: int) -> Inspected:
    if isinstance(data, BadImage):
        return Inspected(reason=data.reason, detail=data.detail)
    return inspect(data, max_pixels)


def _read_ahead(addresses: Sequence[str], endpoint_url: str | None) -> Iterator[bytes | BadImage]:
    """The files' bytes in order, a few of them read beforehand."""
    with ThreadPoolExecutor(READ_AHEAD_FILES) as pool:
        pending: deque[Future[bytes | BadImage]] = deque()
        for address in addresses:
            pending.append(pool.submit(_read, address, endpoint_url))
            if len(pending) > READ_AHEAD_FILES:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()


def _read(address: str, endpoint_url: str | None) -> bytes | BadImage:
    try:
        return read_file(address, endpoint_url)
    except OSError as error:
        return BadImage("unreadable", (error.strerror or str(error))[:200])
