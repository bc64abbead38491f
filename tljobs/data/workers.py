"""What one process does for prepare: inspect some files, or write one shard. It knows nothing of how processes are run.

Addresses flow in; hashes and probes, or a shard in the store and its rows, flow out. Pixels never leave the process.
"""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from tljobs.data import isolate
from tljobs.data.earlier import IDENTITY, read_stored
from tljobs.data.foreign import Form
from tljobs.data.formats import BadImage, has_wrong_extension
from tljobs.data.plan import (
    Decoding,
    IndexRow,
    InspectReport,
    InspectTask,
    PlannedImage,
    Rejected,
    ShardReport,
    ShardTask,
    TaskImage,
)
from tljobs.data.probe import Draft, Inspected, Probe
from tljobs.data.shards import image_id, shard_bytes, shard_info
from tljobs.data.sources import read_file
from tljobs.store import Store

WRONG_EXTENSION = "wrong_extension"
CHECK_HEX_DIGITS = 16  # enough against accidents, and drafts have no enemies that shards have not
READ_AHEAD_FILES = 8  # hides the latency of S3 behind the decoding of one core


def inspect_files(
    task: InspectTask, *, store: Store, endpoint_url: str | None, max_bytes: int, decoding: Decoding
) -> InspectReport:
    """SHA-256, probe and draft of each file, or why there is none: the decoder's reasons, `unreadable`, or `too_large`
    without reading it. The drafts, one after the other, are put to the task's key.

    A child process decodes, one for all tasks of this process. Raises what the store raises, and TljobsError when the
    child does not start.
    """
    small = [address for address, size in zip(task.addresses, task.sizes_bytes, strict=True) if size <= max_bytes]
    contents = _read_ahead(small, endpoint_url)
    too_large = BadImage("too_large", f"a file of more than {max_bytes} bytes")
    sha256s: deque[str] = deque()

    def hashed() -> Iterator[bytes | BadImage]:
        for size in task.sizes_bytes:
            data = next(contents) if size <= max_bytes else too_large
            sha256s.append("" if isinstance(data, BadImage) else hashlib.sha256(data).hexdigest())
            yield data

    pack = bytearray()
    files: list[Inspected] = []
    for answer in _child(decoding).map(hashed(), _options(decoding, "draft")):
        sha256 = sha256s.popleft()
        if isinstance(answer, BadImage):
            files.append(Inspected(sha256=sha256, reason=answer.reason, detail=answer.detail))
        else:
            draft = Draft(
                offset=len(pack),
                size_bytes=len(answer.body),
                image_bytes=answer.fields["image_bytes"],
                check=_check(answer.body),
                converted=answer.fields["converted"],
            )
            files.append(Inspected(sha256=sha256, probe=Probe(**answer.fields["probe"]), draft=draft))
            pack += answer.body
    store.put(task.draft_key, bytes(pack))
    return InspectReport(files=tuple(files))


def write_shard(task: ShardTask, *, store: Store, endpoint_url: str | None, decoding: Decoding) -> ShardReport:
    """Puts the shard of the task's images and that of their thumbnails: copied from an earlier version or from the
    drafts where they are there, else decoded, resized and encoded. Bad images are left out and reported. Raises as
    `inspect_files` does."""
    copies = read_stored(store, task) | _read_drafts(task, endpoint_url)
    fresh = [image for image in task.images if image.sha256 not in copies]
    contents = _read_ahead([image.address for image in fresh], endpoint_url)
    unchanged = (_unchanged(image, data) for image, data in zip(fresh, contents, strict=True))
    answers = _child(decoding).map(unchanged, _options(decoding, "jpeg" if task.split == "train" else "png"))
    rows: list[IndexRow] = []
    stored: list[tuple[bytes, bytes]] = []
    rejected: list[Rejected] = []
    for image in task.images:
        if image.sha256 in copies:
            rows.append(_copied(image))
            stored.append(copies[image.sha256])
            continue
        answer = next(answers)
        if isinstance(answer, BadImage):
            indices = "|".join(map(str, image.labels))
            rejected.append(Rejected(uri=image.uri, label=indices, reason=answer.reason, detail=answer.detail))
        else:
            rows.append(_index_row(image, answer.fields))
            stored.append(_parted(answer.body, answer.fields["image_bytes"]))
    ids, labels = [image_id(row.sha256) for row in rows], [row.labels for row in rows]
    infos = []
    for key, files in ((task.key, [file for file, _ in stored]), (task.thumbnails_key, [small for _, small in stored])):
        data = shard_bytes(ids, files, labels, task.task)
        store.put(key, data)
        infos.append(shard_info(key, data, len(rows)))
    return ShardReport(
        split=task.split,
        shard=task.shard,
        info=infos[0],
        thumbnails=infos[1],
        rows=tuple(rows),
        rejected=tuple(rejected),
        copied=sum(image.stored is not None and image.sha256 in copies for image in task.images),
    )


def _child(decoding: Decoding) -> isolate.Isolated:
    limits = isolate.decode_limits(decoding.max_pixels, decoding.timeout_s)
    return isolate.shared("tljobs.data.foreign:stored_form", limits)


def _options(decoding: Decoding, form: Form) -> dict[str, Any]:
    return {"form": form, **decoding.model_dump(include={"short_side", "max_pixels", "background"})}


def _read_drafts(task: ShardTask, endpoint_url: str | None) -> dict[str, tuple[bytes, bytes]]:
    """SHA-256 of the original -> its draft and thumbnail, where they are what the first pass wrote."""
    wanted = [(image.sha256, image.drafted) for image in task.images if image.drafted]
    contents = _read_ahead([draft.address for _, draft in wanted], endpoint_url)
    return {
        sha256: _parted(data, draft.image_bytes)
        for (sha256, draft), data in zip(wanted, contents, strict=True)
        if isinstance(data, bytes) and _check(data) == draft.check
    }


def _parted(data: bytes, image_bytes: int) -> tuple[bytes, bytes]:
    return data[:image_bytes], data[image_bytes:]


def _check(draft: bytes) -> str:
    return hashlib.sha256(draft).hexdigest()[:CHECK_HEX_DIGITS]


def _copied(image: TaskImage) -> IndexRow:
    place = image.stored or image.drafted
    assert place
    return _index_row(image, place.known)


def _unchanged(image: PlannedImage, data: bytes | BadImage) -> bytes | BadImage:
    if isinstance(data, bytes) and hashlib.sha256(data).hexdigest() != image.sha256:
        return BadImage("unreadable", "the file changed while the dataset was prepared")
    return data


def _index_row(image: PlannedImage, fields: dict[str, Any]) -> IndexRow:
    row = IndexRow(**fields | image.model_dump(include=IDENTITY))
    converted = [each for each in row.converted if each != WRONG_EXTENSION]  # what an earlier version says of its name
    if has_wrong_extension(image.uri, row.source_format):
        converted.append(WRONG_EXTENSION)
    return row.model_copy(update={"converted": tuple(converted)})


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
