"""Files that lie inside of another file are copied into the store once, so that every process can read each alone.

Named bytes flow in; addresses flow out. Many files share a pack, an object of some 64 MB, because a million small
objects cost more than their bytes. A record written last says that all of them are there: half a copy is never used.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable, Iterator

from tljobs import layout
from tljobs.data.sources.context import Context
from tljobs.data.sources.model import Found
from tljobs.data.sources.reading import open_input, within
from tljobs.errors import InputRefused, NotFound, Unreachable
from tljobs.records import FileInfo, StagedSource
from tljobs.store import Store

PACK_BYTES = 64 * 2**20
PACK_FILES = 100_000  # bounds the memory of the index of a pack of tiny files
BLOCK_BYTES = 16 * 2**20
KEY_HEX_DIGITS = 32  # 128 bits of the digest in the key, all of them in the record

Members = Iterator[tuple[str, bytes]]
Staged = tuple[str, str, int]  # name, address, bytes


def stage(digest: str, members: Callable[[], Members], what: str, context: Context) -> Iterator[Staged]:
    """Name, address and size of each of the members, in their order; copies them into the store if they are not there.

    Args:
        digest: names the content: equal digests, equal members.
        members: gives (name, bytes) of each; called only where they must be copied.
        what: the source, for messages.

    Raises:
        What `members` and the store raise; UsageError without a store.
    """
    store = context.staging_store(what)
    record = _committed(store, digest)
    if record is None:
        context.reporter.note(f"unpacking {what} into {store.uri}/{layout.staging(digest[:KEY_HEX_DIGITS])}")
        record = _copy(store, digest, members())
    return _addresses(store, record)


def stage_images(images: Iterator[bytes], file: Found, column: str, context: Context) -> list[Found]:
    """The images that stand in a column of a table, row by row, each with an address of its own."""
    content = sha256_of(file.address, context.endpoint_url)
    digest = hashlib.sha256(f"{content}:{column}".encode()).hexdigest()

    def members() -> Members:
        return ((f"row-{row:08}", data) for row, data in enumerate(images, start=1))

    return [
        Found(path=f"{file.path}!/{name}", uri=f"{file.uri}!/{name}", address=address, size_bytes=size_bytes)
        for name, address, size_bytes in stage(digest, members, file.uri, context)
    ]


def sha256_of(address: str, endpoint_url: str | None) -> str:
    """SHA-256 of a file, read in blocks. Raises InputRefused when it cannot be read."""
    digest = hashlib.sha256()
    try:
        with open_input(address, endpoint_url) as file:
            while block := file.read(BLOCK_BYTES):
                digest.update(block)
    except OSError as error:
        raise InputRefused("the file cannot be read", address, str(error)[:200]) from error
    return digest.hexdigest()


class _Pack:
    """Collects files until they are enough for an object."""

    def __init__(self) -> None:
        self.data = io.BytesIO()
        self.names: list[str] = []
        self.offsets: list[int] = []
        self.sizes_bytes: list[int] = []

    def add(self, name: str, data: bytes) -> None:
        self.names.append(name)
        self.offsets.append(self.data.tell())
        self.sizes_bytes.append(len(data))
        self.data.write(data)

    @property
    def is_full(self) -> bool:
        return self.data.tell() >= PACK_BYTES or len(self.names) >= PACK_FILES

    def index(self) -> bytes:
        import pyarrow as pa
        import pyarrow.parquet as pq

        table = pa.table({"name": self.names, "offset": self.offsets, "size_bytes": self.sizes_bytes})
        buffer = io.BytesIO()
        pq.write_table(table, buffer, compression="zstd")
        return buffer.getvalue()


def _copy(store: Store, digest: str, members: Members) -> StagedSource:
    packs: list[FileInfo] = []
    indexes: list[FileInfo] = []
    files = 0

    key = digest[:KEY_HEX_DIGITS]

    def put(pack: _Pack) -> None:
        number = len(packs)
        packs.append(_put(store, layout.staging_pack(key, number), pack.data.getvalue()))
        indexes.append(_put(store, layout.staging_index(key, number), pack.index()))

    pack = _Pack()
    for name, data in members:
        pack.add(name, data)
        files += 1
        if pack.is_full:
            put(pack)
            pack = _Pack()
    if pack.names:
        put(pack)
    record = StagedSource(digest=digest, files=files, packs=tuple(packs), indexes=tuple(indexes))
    store.create(layout.staging_record(key), record.to_bytes())
    return record


def _put(store: Store, key: str, data: bytes) -> FileInfo:
    store.put(key, data)
    return FileInfo(key=key, size_bytes=len(data), sha256=hashlib.sha256(data).hexdigest())


def _committed(store: Store, digest: str) -> StagedSource | None:
    """The record of an earlier copy; None when there is none, or objects of it are gone or of another size. (Bytes are
    checked where they are used: indexes here, images against the hashes of the first pass.)"""
    key = layout.staging_record(digest[:KEY_HEX_DIGITS])
    try:
        record = StagedSource.from_bytes(store.read(key), key)
    except NotFound:
        return None
    sizes = {entry.key: entry.size_bytes for entry in store.list(f"{layout.staging(digest[:KEY_HEX_DIGITS])}/")}
    if record.digest == digest and all(
        sizes.get(file.key) == file.size_bytes for file in (*record.packs, *record.indexes)
    ):
        return record
    store.delete(key)
    return None


def _addresses(store: Store, record: StagedSource) -> Iterator[Staged]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    for pack, index in zip(record.packs, record.indexes, strict=True):
        data = store.read(index.key)
        if hashlib.sha256(data).hexdigest() != index.sha256:
            hint = f"Delete the folder of {index.key} in the store and run it again"
            raise Unreachable("damaged unpacked source", f"{store.uri}/{index.key}", hint)
        columns = pq.read_table(pa.BufferReader(data)).to_pydict()
        for name, offset, size_bytes in zip(columns["name"], columns["offset"], columns["size_bytes"], strict=True):
            yield name, within(f"{store.uri}/{pack.key}", offset, size_bytes), size_bytes
