"""What the header of a JPEG file says, read marker by marker; no pixel is touched and nothing is allocated.

Bytes flow in; size, sample precision and EXIF orientation flow out. The size is read here because a header of 600
bytes can claim an image of 12 GB.
"""

from __future__ import annotations

from dataclasses import dataclass

SIGNATURE = b"\xff\xd8\xff"
EXIF_SIGNATURE = b"Exif\x00\x00"
EXIF_ORIENTATION_TAG = 0x0112
APP1 = 0xE1
START_OF_SCAN = 0xDA
END_OF_IMAGE = 0xD9
# ITU-T T.81, table B.1: SOF0 to SOF15 without DHT (C4), JPG (C8) and DAC (CC).
FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}


class Truncated(ValueError):
    """The bytes end before the first scan starts."""


@dataclass(frozen=True, kw_only=True)
class JpegHeader:
    """Size in pixels as stored (before rotation), bits per sample, number of colour components, EXIF orientation."""

    width_px: int
    height_px: int
    precision_bits: int
    components: int
    orientation: int


def read_header(data: bytes) -> JpegHeader:
    """Reads the markers up to the first scan (ITU-T T.81, annex B).

    Raises Truncated when the bytes end before it, ValueError when there is no frame header or no marker where one
    must be.
    """
    frame: bytes | None = None
    orientation = 1
    position = 2
    while True:
        marker, start, end = _segment(data, position)
        if marker in FRAMES:
            frame = data[start:end]
        elif marker == APP1 and data[start:end].startswith(EXIF_SIGNATURE):
            orientation = _orientation(data[start:end])
        if marker in (START_OF_SCAN, END_OF_IMAGE):
            break
        position = end
    if frame is None or len(frame) < 6:
        raise ValueError("no frame header before the first scan")
    return JpegHeader(
        precision_bits=frame[0],
        height_px=int.from_bytes(frame[1:3], "big"),
        width_px=int.from_bytes(frame[3:5], "big"),
        components=frame[5],
        orientation=orientation,
    )


def _segment(data: bytes, position: int) -> tuple[int, int, int]:
    """The marker at `position`, and where its content starts and ends."""
    if position < len(data) and data[position] != 0xFF:
        raise ValueError(f"no marker at byte {position}")
    while position < len(data) and data[position] == 0xFF:  # any number of fill bytes may stand before the code
        position += 1
    if position >= len(data):
        raise Truncated(f"ends in the header, after {len(data)} bytes")
    if data[position] in (START_OF_SCAN, END_OF_IMAGE):
        return data[position], position + 1, position + 1
    start = position + 3
    length = int.from_bytes(data[position + 1 : start], "big")
    if start > len(data) or start + length - 2 > len(data):
        raise Truncated(f"ends in the header, after {len(data)} bytes")
    if length < 2:
        raise ValueError(f"a segment of length {length} at byte {position}")
    return data[position], start, start + length - 2


def _orientation(exif: bytes) -> int:
    """EXIF orientation 1 to 8; 1 when there is none or the EXIF block is damaged."""
    from PIL import Image

    block = Image.Exif()
    try:
        block.load(exif)
        value = block.get(EXIF_ORIENTATION_TAG, 1)
    except Exception:  # Pillow's parser raises many types; damaged metadata do not make a damaged picture
        return 1
    return value if isinstance(value, int) and 1 <= value <= 8 else 1
