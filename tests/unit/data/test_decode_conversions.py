"""Accepted images that need more than decoding: what becomes of them, and that it is counted."""

from __future__ import annotations

import base64
import importlib.util
import io
import struct
import sys

import numpy as np
import pytest
from PIL import Image

from tljobs.data.decode import BadImage, decode
from tljobs.data.formats import has_wrong_extension

HEIGHT, WIDTH = 90, 120
Y, X = np.mgrid[0:HEIGHT, 0:WIDTH]
PHOTO = np.stack([X * 2, Y * 2 + 20, 200 - X - Y // 2], axis=-1).astype(np.uint8)

# Made by `cjpeg -arithmetic -quality 90`, baseline and with `-progressive`: 24 × 16 pixels (10 x, 15 y, 200 - 4 x).
ARITHMETIC = [
    "|JeWF01!$>Nk#wx0RR9200961|JwjV00RO70|EjA0|NsD0|NvF2n7WM1O*BQ2L=cX3JeSj3JVJj4iXRz4iOFu3lJ6%5fc;@6%`B*"
    "7Z?^47!ni}6#v@*LjeN>1O)^I2?YfS6b%av6ciK`6ciK`6ciK`6ciK`6ciK`6ciK`6ciK`6ciK`6ciK`6ciK`6ciK`6ciK`6cqo-"
    "01*fP5C9kh0U`hb5di}c0sqVZ3IGrg1pyEd1^?Or3<CiG0ucid06zf#0Nx!Y@S0Y~t`B(U-(Ko_s5M_g-"
    "o?fS&;v6vahnD<$!O`77Y*4^Vu{Td{6U9D0yus_M=}6>rp*&Qh?2Y}bnGH}K>yh",
    "|JeWF01!$>Nk#wx0RR9200961|JwjV00RO70|EjA0|NsD0|NvF2n7WM1O*BQ2L=cX3JeSj3JVJj4iXRz4iOFu3lJ6%5fc;@6%`B*"
    "7Z?^47!ni}6#v@*LjeN>1O)^I2?YfS6b%av6ciK`6ciK`6ciK`6ciK`6ciK`6ciK`6ciK`6ciK`6ciK`6ciK`6ciK`6ciK`6cqo;"
    "01*fP5C9kh0U`hb5di}c0sqVZ1^^HN5dYc$3<CiG0uTcb000610K7K$JjmGSZCC02n+d$bD*wy?1P}%P+5iXv0RRC70u(^vi~^(9"
    "1UWRK|I7dc5e5I+00;pC0RcY&7B2o&kb-+^>i^6D1Q7-"
    "Q+5iXv0s#R(0XlmxgpRWx$AJIL00a;P|Jncu0RaF8KLTD8^8d^L1P}%P+5iXv0RRC%A*x^T#{b#?3<CiG0ssR5000pBK>y4D1Q7-"
    "Q+5iXv0|5a)5YwK3|I7dc5e5I+00;pB0RcY{B%S}v00a;P|Jncu0RaF3KM<wk3EM5MPXE~",
]


def saved(image: Image.Image, format: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def assert_near(pixels: np.ndarray, expected: np.ndarray, levels: float) -> None:
    assert pixels.shape == expected.shape
    assert np.abs(pixels.astype(int) - expected.astype(int)).mean() <= levels


def conversions(data: bytes) -> tuple[str, ...]:
    return decode(data, short_side=None).conversions


@pytest.mark.parametrize("text", ARITHMETIC, ids=["baseline", "progressive"])
def test_arithmetic_coding_is_decoded(text: str) -> None:
    y, x = np.mgrid[0:16, 0:24]
    pixels = decode(base64.b85decode(text), short_side=None).pixels
    assert_near(pixels, np.stack([x * 10, y * 15, 200 - x * 4], axis=-1), 4)


def test_a_jpeg_that_stores_rgb_itself_keeps_its_colours() -> None:
    assert_near(
        decode(saved(Image.fromarray(PHOTO), "JPEG", quality=95, keep_rgb=True), short_side=None).pixels, PHOTO, 2
    )


def test_a_ycck_jpeg_is_what_its_cmyk_twin_is() -> None:
    cmyk = np.asarray(Image.fromarray(PHOTO).convert("CMYK")).copy()
    cmyk[:, :, 3] = X // 2
    plain = saved(Image.fromarray(cmyk, "CMYK"), "JPEG", quality=97, subsampling=0)
    # Adobe's YCCK: colours are inverted inks as YCbCr. Pillow stores 255 - plane, and writes no YCCK itself.
    ycc = np.asarray(Image.fromarray(cmyk[:, :, :3]).convert("YCbCr"))
    planes = np.concatenate([255 - ycc, cmyk[:, :, 3:]], axis=2)
    data = bytearray(saved(Image.fromarray(planes, "CMYK"), "JPEG", quality=97, subsampling=0))
    data[data.index(b"Adobe") + 11] = 2
    twin = decode(plain, short_side=None)
    assert_near(decode(bytes(data), short_side=None).pixels, twin.pixels, 3)
    assert conversions(bytes(data)) == twin.conversions == ("cmyk",)


def test_a_cmyk_tiff_is_counted() -> None:
    assert conversions(saved(Image.fromarray(PHOTO).convert("CMYK"), "TIFF")) == ("cmyk",)


def test_sixteen_bits_are_counted_in_grey_and_colour() -> None:
    assert conversions(saved(Image.fromarray(X.astype(np.uint16) * 300), "PNG")) == ("sixteen_bit",)
    assert conversions(saved(Image.fromarray(X.astype(np.uint16) * 300), "TIFF")) == ("sixteen_bit",)
    assert conversions(saved(Image.fromarray(PHOTO), "PNG")) == ()


def test_transparency_is_laid_on_the_asked_colour() -> None:
    alpha = np.where(X < 60, 0, 255).astype(np.uint8)[:, :, None]
    data = saved(Image.fromarray(np.concatenate([PHOTO, alpha], axis=2)), "PNG")
    decoded = decode(data, short_side=None, background="#10ff80")
    assert (decoded.pixels[:, :60] == (0x10, 0xFF, 0x80)).all()
    assert np.array_equal(decoded.pixels[:, 60:], PHOTO[:, 60:])
    assert decoded.conversions == ("transparent",)


@pytest.mark.skipif(importlib.util.find_spec("pillow_heif") is None, reason="needs the extra heif")
def test_heif_is_decoded_where_its_library_is_installed() -> None:
    import pillow_heif

    pillow_heif.register_heif_opener()
    data = saved(Image.fromarray(PHOTO), "HEIF", quality=95)
    decoded = decode(data, short_side=None)
    assert_near(decoded.pixels, PHOTO, 3)
    assert (decoded.source_format, decoded.conversions) == ("heif", ())
    with pytest.raises(BadImage) as caught:
        decode(data[: len(data) // 2], short_side=None)
    assert caught.value.reason == "truncated"
    with pytest.raises(BadImage) as caught:
        decode(data, short_side=None, max_pixels=WIDTH * HEIGHT - 1)
    assert caught.value.reason == "too_large"


def test_heif_is_unsupported_without_its_library_and_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    with pytest.raises(BadImage, match=r"unsupported.*extra `heif`"):
        decode(b"\x00\x00\x00\x18ftypheic\x00\x00\x00\x00mif1heic" + b"\0" * 100, short_side=None)


@pytest.mark.parametrize(
    "chunk",
    [
        b"VP8X" + struct.pack("<IB3x", 10, 0) + (16_383).to_bytes(3, "little") * 2,
        b"VP8L" + struct.pack("<IB", 5, 0x2F) + (0x3FFF | 0x3FFF << 14).to_bytes(4, "little"),
        b"VP8 " + struct.pack("<I", 10) + b"\0\0\0\x9d\x01\x2a" + struct.pack("<HH", 16_383, 16_383),
    ],
    ids=["extended", "lossless", "lossy"],
)
def test_a_webp_bomb_is_refused_by_its_header(chunk: bytes) -> None:
    data = b"RIFF" + struct.pack("<I", 4 + len(chunk) + 64) + b"WEBP" + chunk + b"\0" * 64
    with pytest.raises(BadImage, match="too_large"):
        decode(data, short_side=None)


@pytest.mark.parametrize("frames", [1, 2])
@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "GIF"])
def test_a_file_cut_anywhere_is_truncated_or_no_image_yet(format: str, frames: int) -> None:
    """Never accepted, also where only a later frame or the end marker is missing."""
    others = {"save_all": True, "append_images": [Image.fromarray(255 - PHOTO)]} if frames == 2 else {}
    if format == "JPEG" and others:
        pytest.skip("has one frame")
    data = saved(Image.fromarray(PHOTO), format, **others)
    for end in [*range(1, 40), *range(40, len(data) - 40, 97), *range(len(data) - 40, len(data))]:
        with pytest.raises(BadImage) as caught:
            decode(data[:end], short_side=None)
        expected = {"truncated"} if end >= 40 else {"truncated", "not_an_image", "corrupt"}
        assert caught.value.reason in expected, end


@pytest.mark.parametrize(
    ("name", "source_format", "wrong"),
    [
        ("a.jpg", "jpeg", False),
        ("b/A.JPEG", "jpeg", False),
        ("a.jpg", "png", True),
        ("a.PNG", "webp", True),
        ("a.gif", "jpeg", True),
        ("a.heic", "jpeg", True),
        ("a", "png", False),
        ("photo.1234", "png", False),
        ("jpg/a", "png", False),
    ],
)
def test_a_name_that_claims_another_format_is_told(name: str, source_format: str, wrong: bool) -> None:
    assert has_wrong_extension(name, source_format) == wrong
