"""A thousand awkward image files made by code: seeded damage to valid files of every format that is read."""

from __future__ import annotations

import io
from collections.abc import Callable

import numpy as np
from PIL import Image

WIDTH, HEIGHT = 96, 72
EXTREME_BYTES = (0x00, 0x01, 0x7F, 0x80, 0xFE, 0xFF)


def corpus(count: int, seed: int = 0) -> list[tuple[str, bytes]]:
    """(what it is, its bytes): the same for the same arguments."""
    generator = np.random.default_rng(seed)
    whole = valid_files()
    names, kinds = sorted(whole), sorted(DAMAGE)
    made: list[tuple[str, bytes]] = []
    for number in range(count):
        name, kind = names[number % len(names)], kinds[int(generator.integers(len(kinds)))]
        other = whole[names[int(generator.integers(len(names)))]]
        made.append((f"{number} {name} {kind}", DAMAGE[kind](whole[name], other, generator)))
    return made


def valid_files() -> dict[str, bytes]:
    """One file per format and way of storing colours, by name."""
    y, x = np.mgrid[0:HEIGHT, 0:WIDTH]
    noise = np.random.default_rng(1).integers(0, 40, (HEIGHT, WIDTH, 3))
    photo = Image.fromarray((np.stack([x * 2, y * 2, 180 - x], axis=-1) + noise).astype(np.uint8))
    clear = photo.convert("RGBA")
    clear.putalpha(Image.fromarray((x * 2).astype(np.uint8)))
    turned = Image.Exif()
    turned[0x0112] = 6
    frames: dict[str, object] = {"save_all": True, "append_images": [photo.rotate(180)]}
    deep = Image.fromarray((x * 600).astype(np.uint16))
    return {
        "jpeg": _saved(photo, "JPEG", quality=90, exif=turned),
        "jpeg progressive": _saved(photo, "JPEG", quality=90, progressive=True),
        "jpeg restarts": _saved(photo, "JPEG", quality=90, restart_marker_rows=1),
        "jpeg grey": _saved(photo.convert("L"), "JPEG"),
        "jpeg cmyk": _saved(photo.convert("CMYK"), "JPEG"),
        "png": _saved(photo, "PNG"),
        "png alpha": _saved(clear, "PNG"),
        "png palette": _saved(photo.quantize(32), "PNG", transparency=3),
        "png 16 bit": _saved(deep, "PNG"),
        "png 1 bit": _saved(photo.convert("1"), "PNG"),
        "png animated": _saved(photo, "PNG", **frames),
        "gif": _saved(photo, "GIF"),
        "gif animated": _saved(photo, "GIF", **frames),
        "webp": _saved(photo, "WEBP"),
        "webp lossless": _saved(clear, "WEBP", lossless=True),
        "webp animated": _saved(photo, "WEBP", **frames),
        "bmp": _saved(photo, "BMP"),
        "bmp palette": _saved(photo.quantize(16), "BMP"),
        "tiff": _saved(photo, "TIFF"),
        "tiff lzw": _saved(clear, "TIFF", compression="tiff_lzw"),
        "tiff deflate": _saved(deep, "TIFF", compression="tiff_adobe_deflate"),
        "tiff jpeg": _saved(photo, "TIFF", compression="jpeg"),
        "tiff pages": _saved(photo, "TIFF", **frames),
        "avif": _saved(photo, "AVIF"),
        "avif alpha": _saved(clear, "AVIF"),
    }


def _saved(image: Image.Image, format: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def _truncated(data: bytes, _: bytes, generator: np.random.Generator) -> bytes:
    return data[: int(generator.integers(len(data)))]


def _flipped(data: bytes, _: bytes, generator: np.random.Generator) -> bytes:
    damaged = bytearray(data)
    for position in generator.integers(0, len(data), int(generator.integers(1, 12))):
        damaged[position] ^= 1 << int(generator.integers(8))
    return bytes(damaged)


def _extreme_header(data: bytes, _: bytes, generator: np.random.Generator) -> bytes:
    """Runs of one to four extreme bytes where sizes, counts and offsets stand."""
    damaged = bytearray(data)
    for _number in range(int(generator.integers(1, 5))):
        start, length = int(generator.integers(4, min(len(data), 200))), int(generator.integers(1, 5))
        damaged[start : start + length] = bytes([EXTREME_BYTES[int(generator.integers(6))]]) * length
    return bytes(damaged)


def _spliced(data: bytes, other: bytes, generator: np.random.Generator) -> bytes:
    return data[: int(generator.integers(len(data)))] + other[int(generator.integers(len(other))) :]


def _repeated(data: bytes, _: bytes, generator: np.random.Generator) -> bytes:
    start, end = sorted(int(each) for each in generator.integers(0, len(data), 2))
    return data[:end] + data[start:end] * int(generator.integers(1, 40)) + data[end:]


def _holed(data: bytes, _: bytes, generator: np.random.Generator) -> bytes:
    start, end = sorted(int(each) for each in generator.integers(0, len(data), 2))
    return data[:start] + data[end:]


def _zeroed(data: bytes, _: bytes, generator: np.random.Generator) -> bytes:
    start, end = sorted(int(each) for each in generator.integers(0, len(data), 2))
    return data[:start] + bytes(end - start) + data[end:]


def _disguised(data: bytes, other: bytes, _: np.random.Generator) -> bytes:
    """Starts as another format does."""
    return other[:16] + data[16:]


def _followed(data: bytes, other: bytes, _: np.random.Generator) -> bytes:
    return data + other


DAMAGE: dict[str, Callable[[bytes, bytes, np.random.Generator], bytes]] = {
    "truncated": _truncated,
    "flipped bits": _flipped,
    "extreme header": _extreme_header,
    "spliced": _spliced,
    "repeated": _repeated,
    "holed": _holed,
    "zeroed": _zeroed,
    "disguised": _disguised,
    "followed": _followed,
}
