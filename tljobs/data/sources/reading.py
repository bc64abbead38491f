"""Addresses, and the bytes behind them.

An address is a path, an `s3://` URI, or a piece of such a file: `range:OFFSET:LENGTH:FILE`, with which images inside
of TFRecord files and of unpacked archives are read alone. Paths are absolute, so that no name of a
file looks like a range.
"""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any, NamedTuple

from tljobs.store import s3_filesystem

RANGE = "range:"
S3 = "s3://"


class Place(NamedTuple):
    """A whole file (`length` is None), or `length` bytes of it from `offset` on."""

    file: str
    offset: int = 0
    length: int | None = None


def address_of(place: Place) -> str:
    """The place as text."""
    return place.file if place.length is None else f"{RANGE}{place.offset}:{place.length}:{place.file}"


def place_of(address: str) -> Place:
    """The reverse of `address_of`."""
    if not address.startswith(RANGE):
        return Place(address)
    offset, length, file = address.removeprefix(RANGE).split(":", 2)
    return Place(file, int(offset), int(length))


def within(address: str, offset: int, length: int) -> str:
    """The address of `length` bytes from `offset` on in what `address` stands for."""
    outer = place_of(address)
    return address_of(Place(outer.file, outer.offset + offset, length))


def read_file(address: str, endpoint_url: str | None = None) -> bytes:
    """The bytes of a listed file, in one request. Raises OSError when it cannot be read."""
    place = place_of(address)
    data = _read_s3(place, endpoint_url) if place.file.startswith(S3) else _read_local(place)
    if place.length is not None and len(data) != place.length:
        raise OSError(f"{place.file} ends before byte {place.offset + place.length}")
    return data


def open_input(address: str, endpoint_url: str | None = None) -> Any:
    """A seekable pyarrow file; a piece of a file is read whole. Raises OSError."""
    import pyarrow as pa
    from pyarrow import fs as pafs

    if address.startswith(RANGE):
        return pa.BufferReader(read_file(address, endpoint_url))
    if address.startswith(S3):
        return filesystem(endpoint_url).open_input_file(address.removeprefix(S3))
    return pafs.LocalFileSystem().open_input_file(address)


def _read_local(place: Place) -> bytes:
    if place.length is None:
        return Path(place.file).read_bytes()
    with Path(place.file).open("rb") as file:
        file.seek(place.offset)
        return file.read(place.length)


def _read_s3(place: Place, endpoint_url: str | None) -> bytes:
    with filesystem(endpoint_url).open_input_file(place.file.removeprefix(S3)) as file:
        length = file.size() if place.length is None else place.length
        data: bytes = file.read_at(length, place.offset)
    return data


@functools.lru_cache(maxsize=4)
def filesystem(endpoint_url: str | None) -> Any:
    """Arrow's S3 filesystem, one per endpoint and process."""
    return s3_filesystem(endpoint_url)
