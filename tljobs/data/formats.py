"""Which image format bytes are, by their content, and why bytes are refused. No pixel is touched.

Bytes flow in; the format's name, or a BadImage with a reason code, flows out.
"""

from __future__ import annotations

import importlib.util
from typing import Literal

from tljobs.data import jpeg

Reason = Literal[
    "unsupported",
    "truncated",
    "corrupt",
    "not_an_image",
    "empty",
    "too_large",
    "too_small",
    "too_narrow",
    "unreadable",
    "decoder_crash",
    "decoder_timeout",
]

HEIF_BRANDS = frozenset({b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs", b"mif1", b"msf1"})
EXTENSIONS = {
    "jpeg": ("jpg", "jpeg", "jpe", "jfif", "mpo"),
    "png": ("png", "apng"),
    "gif": ("gif",),
    "webp": ("webp",),
    "bmp": ("bmp", "dib"),
    "tiff": ("tif", "tiff"),
    "avif": ("avif", "avifs"),
    "heif": ("heic", "heif", "hif", "heics", "heifs"),
}


class BadImage(ValueError):
    """Bytes that do not become pixels. `reason` is a code, `detail` says more in words."""

    def __init__(self, reason: Reason, detail: str = "") -> None:
        super().__init__(reason, detail)
        self.reason = reason
        self.detail = detail

    def __str__(self) -> str:
        return f"{self.reason}: {self.detail}" if self.detail else self.reason


def sniff(data: bytes) -> str:
    """Name of the format by the first bytes, a key of EXTENSIONS. Raises BadImage: empty, not_an_image, unsupported."""
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
        if not heif_is_installed():
            raise BadImage("unsupported", "HEIC; convert it to JPEG, or install tljobs with the extra `heif`")
        return "heif"
    raise BadImage("not_an_image", f"media file of brand {box[:4]!r}")


def heif_is_installed() -> bool:
    """Whether the optional library for HEIF (HEIC) files is there."""
    return importlib.util.find_spec("pillow_heif") is not None


def has_wrong_extension(name: str, source_format: str) -> bool:
    """Whether a file's name claims another known format than the one its content has."""
    extension = name.rpartition(".")[2].lower()
    return any(extension in known for known in EXTENSIONS.values()) and extension not in EXTENSIONS[source_format]


def webp_size(data: bytes) -> tuple[int, int]:
    """Width and height in pixels by the first chunk of a WebP file (RFC 9649, 2.5 to 2.7). Raises BadImage."""
    kind, chunk = data[12:16], data[20:30]
    if kind == b"VP8X" and len(chunk) == 10:
        return int.from_bytes(chunk[4:7], "little") + 1, int.from_bytes(chunk[7:10], "little") + 1
    if kind == b"VP8L" and len(chunk) >= 5:
        bits = int.from_bytes(chunk[1:5], "little")
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    if kind == b"VP8 " and len(chunk) == 10:
        return int.from_bytes(chunk[6:8], "little") & 0x3FFF, int.from_bytes(chunk[8:10], "little") & 0x3FFF
    raise BadImage("truncated" if is_cut(data, "webp") else "corrupt", "webp: no first chunk of a known kind")


def is_cut(data: bytes, source_format: str) -> bool:
    """Whether a file is shorter than it says itself; for PNG and GIF also when its picture is whole."""
    if source_format == "jpeg":
        return data.rfind(b"\xff\xd9") < data.rfind(b"\xff\xda")  # no end of image after the last start of scan
    if source_format == "png":
        return b"IEND\xaeB`\x82" not in data  # the last chunk with its check sum
    if source_format == "gif":
        return _gif_is_cut(data)
    if source_format == "webp":
        return len(data) < int.from_bytes(data[4:8], "little") + 8
    if source_format == "bmp":
        return len(data) < int.from_bytes(data[2:6], "little")
    if source_format == "tiff":
        return int.from_bytes(data[4:8], "little" if data.startswith(b"II") else "big") + 2 > len(data)
    return _boxes_end(data) > len(data)  # avif, heif


def _gif_is_cut(data: bytes) -> bool:
    """Follows the blocks of all frames to the trailer (GIF89a specification, 17 to 27)."""

    def after_colours(position: int, flags: int) -> int:
        return position + (3 << (flags & 7) + 1 if flags & 0x80 else 0)

    def after_sub_blocks(position: int) -> int:
        while position < len(data) and data[position]:
            position += data[position] + 1
        return position + 1

    position = after_colours(13, data[10]) if len(data) > 13 else len(data)
    while position < len(data):
        if data[position] == 0x21:  # extension
            position = after_sub_blocks(position + 2)
        elif data[position] == 0x2C and position + 9 < len(data):  # image
            position = after_sub_blocks(after_colours(position + 10, data[position + 9]) + 1)
        else:
            return data[position] == 0x2C  # else the trailer, or damage of another kind
    return True


def _boxes_end(data: bytes) -> int:
    """Where the top-level boxes of an AVIF or HEIF file end by their own account (ISO/IEC 14496-12, 4.2)."""
    position = 0
    while position + 8 <= len(data):
        size = int.from_bytes(data[position : position + 4], "big")
        if size < 8:  # 0: to the end of the file; 1: a 64-bit length follows
            return len(data)
        position += size
    return position
