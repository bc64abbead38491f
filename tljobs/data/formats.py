"""Which image format bytes are, by their content, and why bytes are refused. No pixel is touched.

Bytes flow in; the format's name, or a BadImage with a reason code, flows out.
"""

from __future__ import annotations

from typing import Literal

from tljobs.data import jpeg

Reason = Literal[
    "unsupported", "truncated", "corrupt", "not_an_image", "empty", "too_large", "too_small", "too_narrow", "unreadable"
]

HEIF_BRANDS = frozenset({b"heic", b"heix", b"hevc", b"heim", b"heis", b"mif1", b"msf1"})


class BadImage(ValueError):
    """Bytes that do not become pixels. `reason` is a code, `detail` says more in words."""

    def __init__(self, reason: Reason, detail: str = "") -> None:
        super().__init__(reason, detail)
        self.reason = reason
        self.detail = detail

    def __str__(self) -> str:
        return f"{self.reason}: {self.detail}" if self.detail else self.reason


def sniff(data: bytes) -> str:
    """Name of the format by the first bytes. Raises BadImage: empty, not_an_image, or unsupported."""
    if not data:
        raise BadImage("empty", "zero bytes")
    if data.startswith(jpeg.SIGNATURE):
        return "jpeg"
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        return "png"
    if data.startswith((b"GIF87a", b"GIF89a")):
        return "gif"
    if data.startswith(b"RIFF") and data[8:12] == b"WEBP":
        return "webp"
    if data.startswith((b"II*\x00", b"MM\x00*", b"II+\x00", b"MM\x00+")):
        return "tiff"
    if data.startswith(b"BM") and len(data) > 14:
        return "bmp"
    if data[4:8] == b"ftyp":
        return _sniff_iso_media(data)
    if data.startswith((b"\x00\x00\x00\x0cjP  ", b"\xff\x4f\xff\x51", b"\x00\x00\x00\x0cJXL ", b"\xff\x0a", b"8BPS")):
        raise BadImage("unsupported", "JPEG 2000, JPEG XL or Photoshop")
    raise BadImage("not_an_image", f"starts with {data[:16]!r}")


def _sniff_iso_media(data: bytes) -> str:
    """AVIF and HEIF are told apart by their brands (ISO/IEC 23008-12, 10.2)."""
    box = data[8 : int.from_bytes(data[:4], "big")]
    brands = {box[:4], *(box[start : start + 4] for start in range(8, len(box), 4))}
    if brands & {b"avif", b"avis"}:
        return "avif"
    if brands & HEIF_BRANDS:
        raise BadImage("unsupported", "HEIC; convert it to JPEG")
    raise BadImage("not_an_image", f"media file of brand {box[:4]!r}")


def is_cut(data: bytes, source_format: str) -> bool:
    """Whether a damaged file is shorter than it says itself."""
    if source_format == "jpeg":
        return data.rfind(b"\xff\xd9") < data.rfind(b"\xff\xda")  # no end of image after the last start of scan
    if source_format == "png":
        return b"IEND" not in data
    if source_format == "gif":
        return not data.rstrip(b"\x00").endswith(b";")
    if source_format == "webp":
        return len(data) < int.from_bytes(data[4:8], "little") + 8
    if source_format == "bmp":
        return len(data) < int.from_bytes(data[2:6], "little")
    if source_format == "tiff":
        return int.from_bytes(data[4:8], "little" if data.startswith(b"II") else "big") + 2 > len(data)
    return _boxes_end(data) > len(data)


def _boxes_end(data: bytes) -> int:
    """Where the top-level boxes of an AVIF file end by their own account (ISO/IEC 14496-12, 4.2)."""
    position = 0
    while position + 8 <= len(data):
        size = int.from_bytes(data[position : position + 4], "big")
        if size < 8:  # 0: to the end of the file; 1: a 64-bit length follows
            return len(data)
        position += size
    return position
