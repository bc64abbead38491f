"""What one process does for prepare: inspect some files, or write one shard. It knows nothing of how processes are run.

Addresses flow in; hashes and probes, or a shard in the store and its rows, flow out. Pixels never leave the process.
"""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

from tljobs.data import isolate
from tljobs.data.decode import DECODER
from tljobs.data.earlier import IDENTITY, read_stored
from tljobs.data.formats import BadImage, has_wrong_extension
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
    task: ShardTask,
    *,
    store: Store,
    endpoint_url: str | None,
    short_side: int,
    max_pixels: int,
    background: str = DECODER.background,
    decode_timeout_s: float = isolate.DEFAULT_TIMEOUT_S,
) -> ShardReport:
    """Decodes, resizes and encodes the task's images and puts the shard; bad images are left out and reported.

    A child process does it, one for all tasks of this process. Raises what the store raises, and TljobsError when the
    child does not start.
    """
    rows: list[IndexRow] = []
    stored: list[bytes] = []
    rejected: list[Rejected] = []
    copies = read_stored(store, task)
    fresh = [image for image in task.images if image.sha256 not in copies]
    contents = _read_ahead([image.address for image in fresh], endpoint_url)
    unchanged = (_unchanged(image, data) for image, data in zip(fresh, contents, strict=True))
    decoder = isolate.shared("tljobs.data.foreign:stored_form", isolate.decode_limits(max_pixels, decode_timeout_s))
    options = {
        "lossy": task.split == "train",
        "short_side": short_side,
        "max_pixels": max_pixels,
        "background": background,
    }
    answers = decoder.map(unchanged, options)
    for image in task.images:
        if image.stored and image.sha256 in copies:
            rows.append(_copied(image, image.stored))
            stored.append(copies[image.sha256])
            continue
        answer = next(answers)
        if isinstance(answer, BadImage):
            indices = "|".join(map(str, image.labels))
            rejected.append(Rejected(uri=image.uri, label=indices, reason=answer.reason, detail=answer.detail))
        else:
            rows.append(_index_row(image, answer))
            stored.append(answer.body)
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


def _unchanged(image: PlannedImage, data: bytes | BadImage) -> bytes | BadImage:
    if isinstance(data, bytes) and hashlib.sha256(data).hexdigest() != image.sha256:
        return BadImage("unreadable", "the file changed while the dataset was prepared")
    return data


def _index_row(image: PlannedImage, answer: isolate.Answer) -> IndexRow:
    row = IndexRow(**image.model_dump(include=IDENTITY), **answer.fields)
    if not has_wrong_extension(image.uri, row.source_format):
        return row
    return row.model_copy(update={"converted": (*row.converted, "wrong_extension")})


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
