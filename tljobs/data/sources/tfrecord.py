"""TFRecord files of `tf.train.Example`: files flow in, a Listing flows out, without TensorFlow.

Each file is read once from end to end, its checksums are verified, and of each image the place in the file is noted,
so that later an image is read alone.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator, Sequence
from typing import Any

from tljobs.data.sources.columns import TFRECORD_NAMES, Columns, choose_columns
from tljobs.data.sources.context import Context
from tljobs.data.sources.entries import Entries, listing_of
from tljobs.data.sources.example import Span, Values, read_example
from tljobs.data.sources.folders import SPLIT_NAMES, is_hidden
from tljobs.data.sources.framing import FOOTER_BYTES, HEADER_BYTES, masked_crc
from tljobs.data.sources.model import Found, Listing, SourceOptions, Tree
from tljobs.data.sources.reading import open_input, within
from tljobs.errors import InputRefused
from tljobs.records import Split

NAME = re.compile(r".*\.tfrecords?([-_.].*)?", re.IGNORECASE)
SHARD_NAME = re.compile(r"(.*[-_.])?(?P<split>train|val|valid|validation|test)[-_.].*", re.IGNORECASE)
MAX_RECORD_BYTES = 2**30
BUFFER_BYTES = 16 * 2**20  # few requests where the file is on S3
GZIP = b"\x1f\x8b"


def is_tfrecord(name: str) -> bool:
    return NAME.fullmatch(name.rpartition("/")[2]) is not None


def tfrecords_in(tree: Tree) -> list[Found]:
    """The TFRecord files of a folder, sorted by path."""
    files = [file for file in tree.files if is_tfrecord(file.path) and not is_hidden(file.path)]
    return sorted(files, key=lambda file: file.path)


def list_tfrecords(files: Sequence[Found], tree: Tree, options: SourceOptions, context: Context) -> Listing:
    """The images of TFRecord files; see `list_source` for the errors."""
    images: list[Found] = []
    cells: dict[str, list[Any]] = {}
    columns: Columns | None = None
    owners: list[int] = []
    for number, file in enumerate(files):
        for record, (offset, data) in enumerate(read_records(file, context.endpoint_url), start=1):
            where = f"record {record} of {file.uri}"
            features = _features(data, where)
            if columns is None:
                columns = choose_columns(sorted(features), options, TFRECORD_NAMES, where)
                cells = {name: [] for name in _cell_names(columns)}
            images.append(_image(features, columns.image, file, record, offset, where))
            owners.append(number)
            for name, values in cells.items():
                values.append(_cell(features.get(name), data))
        context.reporter.progress("reading TFRecord files", number + 1, len(files))
    if columns is None:
        raise InputRefused("no images found", tree.source, "The TFRecord files hold no records")
    first = {owner: row for row, owner in reversed(list(enumerate(owners)))}
    return listing_of(
        Entries(
            source=tree.source,
            kind=f"TFRecord, {len(files)} files, {len(images)} records",
            columns=columns,
            images=images,
            labels={name: _alone(cells[name]) for name in columns.labels},
            splits=_alone(cells[columns.split]) if columns.split else None,
            groups=_alone(cells[columns.group]) if columns.group else None,
            given_splits=_splits_of_files([file.path for file in files], owners),
            where=lambda row: f"record {row - first[owners[row]] + 1} of {files[owners[row]].uri}",
            ignored=[*sorted({file.path for file in tree.files} - {file.path for file in files}), *tree.unusable],
        ),
        options,
    )


def read_records(file: Found, endpoint_url: str | None) -> Iterator[tuple[int, bytes]]:
    """(offset, data) of each record of a file.

    Raises InputRefused when a checksum is wrong, the file ends too soon, or it is compressed.
    """
    import pyarrow as pa

    def damaged(offset: int, why: str) -> InputRefused:
        return InputRefused("damaged TFRecord file", f"{file.uri} at byte {offset}", f"Copy it again ({why})")

    offset = 0
    try:
        with open_input(file.address, endpoint_url) as raw, pa.BufferedInputStream(raw, BUFFER_BYTES) as stream:
            while header := stream.read(HEADER_BYTES):
                if offset == 0 and header.startswith(GZIP):
                    raise InputRefused("a compressed TFRecord file", file.uri, "Unpack it with gunzip first")
                if len(header) < HEADER_BYTES or masked_crc(header[:8]) != int.from_bytes(header[8:], "little"):
                    raise damaged(offset, "the checksum of a length is wrong")
                (length,) = struct.unpack("<Q", header[:8])
                if length > MAX_RECORD_BYTES:
                    raise damaged(offset, f"a record of {length} bytes")
                body = stream.read(length + FOOTER_BYTES)
                if len(body) < length + FOOTER_BYTES:
                    raise damaged(offset, "it ends within a record")
                data = body[:length]
                if masked_crc(data) != int.from_bytes(body[length:], "little"):
                    raise damaged(offset, "the checksum of a record is wrong")
                yield offset + HEADER_BYTES, data
                offset += HEADER_BYTES + length + FOOTER_BYTES
    except OSError as error:
        raise InputRefused("a TFRecord file cannot be read", file.uri, str(error)[:200]) from error


def _features(data: bytes, where: str) -> dict[str, Values]:
    try:
        return read_example(data)
    except ValueError as error:
        raise InputRefused("a record that is no tf.train.Example", where, str(error)) from error


def _image(features: dict[str, Values], name: str, file: Found, record: int, offset: int, where: str) -> Found:
    values = features.get(name, [])
    if len(values) != 1 or not isinstance(values[0], Span):
        hint = "It must hold one encoded image, such as a JPEG file; name another with --image-column"
        raise InputRefused(f"feature {name!r} holds no image", where, hint)
    start, end = values[0]
    member = f"record-{record:08}"
    return Found(
        path=f"{file.path}!/{member}",
        uri=f"{file.uri}!/{member}",
        address=within(file.address, offset + start, end - start),
        size_bytes=end - start,
    )


def _cell_names(columns: Columns) -> list[str]:
    return [*columns.labels, *filter(None, (columns.split, columns.group))]


def _cell(values: Values | None, data: bytes) -> list[Any]:
    """A feature's values, byte strings as text."""
    return [
        data[value.start : value.end].decode("utf-8", "backslashreplace") if isinstance(value, Span) else value
        for value in values or []
    ]


def _alone(cells: Sequence[list[Any]]) -> list[Any]:
    """Single values, or None, instead of lists, where none has more than one: longer ones are for several labels."""
    if all(len(cell) <= 1 for cell in cells):
        return [cell[0] if cell else None for cell in cells]
    return list(cells)


def _splits_of_files(paths: Sequence[str], owners: Sequence[int]) -> list[Split | None]:
    """From names such as train-00000-of-00004.tfrecord or train/part-0.tfrecord, where all files have such names and
    one is for training."""
    splits = [_split_of_file(path) for path in paths]
    if None in splits or "train" not in splits:
        return [None] * len(owners)
    return [splits[owner] for owner in owners]


def _split_of_file(path: str) -> Split | None:
    *folders, name = path.split("/")
    if folders and folders[0].casefold() in SPLIT_NAMES:
        return SPLIT_NAMES[folders[0].casefold()]
    match = SHARD_NAME.fullmatch(name)
    return SPLIT_NAMES[match["split"].casefold()] if match else None
