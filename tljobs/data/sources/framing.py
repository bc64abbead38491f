"""The frame around each record of a TFRecord file, for reading and writing.

A record is a length (8 bytes, little-endian), the masked CRC-32C of the length (4), the data, and the masked CRC-32C of
the data (4); see tensorflow/core/lib/io/record_writer.h.
"""

from __future__ import annotations

import struct
from typing import BinaryIO

import google_crc32c

HEADER_BYTES, FOOTER_BYTES = 12, 4
MASK_DELTA = 0xA282EAD8  # of tensorflow/core/lib/hash/crc32c.h


def masked_crc(data: bytes) -> int:
    """The CRC-32C as TFRecord files hold it: rotated and shifted, so that it may stand in data that has a CRC too."""
    crc: int = google_crc32c.value(data)
    return ((crc >> 15 | crc << 17) + MASK_DELTA) & 0xFFFFFFFF


def write_record(file: BinaryIO, data: bytes) -> None:
    """Appends a record."""
    length = struct.pack("<Q", len(data))
    file.write(length + struct.pack("<I", masked_crc(length)))
    file.write(data)
    file.write(struct.pack("<I", masked_crc(data)))
