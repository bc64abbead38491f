"""Every awkward image of the decoder's contract, made by code: an upright RGB image, or a reason."""

from __future__ import annotations

import io
import pickle
import struct
import zlib

import numpy as np
import pytest
import simplejpeg
from PIL import Image

from tljobs.data.decode import BadImage, decode, decode_stored, encode_jpeg, encode_png

WIDTH, HEIGHT = 120, 90
Y, X = np.mgrid[0:HEIGHT, 0:WIDTH]
# Smooth, no symmetry: a wrong rotation, channel order or gamma moves every pixel by many levels.
PHOTO = np.stack([X * 2, Y * 2 + 20, 200 - X - Y // 2], axis=-1).astype(np.uint8)
GREY = (X * 2).astype(np.uint8)


def saved(image: Image.Image, format: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def rgb(pixels: np.ndarray = PHOTO) -> Image.Image:
    return Image.fromarray(pixels)


def full(data: bytes) -> np.ndarray:
    return decode(data, short_side=None).pixels


def reason(data: bytes, **options: int) -> str:
    with pytest.raises(BadImage) as caught:
        decode(data, short_side=64, **options)
    assert caught.value.detail
    return caught.value.reason


def assert_near(pixels: np.ndarray, expected: np.ndarray, levels: int) -> None:
    assert pixels.dtype == np.uint8
    assert pixels.shape == expected.shape
    assert np.abs(pixels.astype(int) - expected.astype(int)).mean() <= levels


# What the camera has stored when the upright picture is the photo: the inverse of what Pillow's exif_transpose does.
AS_STORED = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}
JPEG = saved(rgb(), "JPEG", quality=95)
PNG = saved(rgb(), "PNG")


@pytest.mark.parametrize(
    ("format", "options", "levels"),
    [
        ("JPEG", {"quality": 95}, 2),
        ("JPEG", {"quality": 95, "progressive": True}, 2),
        ("JPEG", {"quality": 95, "restart_marker_rows": 1}, 2),
        ("PNG", {}, 0),
        ("BMP", {}, 0),
        ("TIFF", {}, 0),
        ("TIFF", {"compression": "tiff_lzw"}, 0),
        ("WEBP", {"lossless": True}, 0),
        ("AVIF", {"quality": 95}, 3),
        ("GIF", {}, 12),
    ],
)
def test_every_accepted_format_gives_its_pixels_and_its_name(format: str, options: dict, levels: int) -> None:
    decoded = decode(saved(rgb(), format, **options), short_side=None)
    assert_near(decoded.pixels, PHOTO, levels)
    assert (decoded.source_format, decoded.width_px, decoded.height_px) == (format.lower(), WIDTH, HEIGHT)
    assert decoded.conversions == ()


def test_garbage_after_the_end_of_a_jpeg_is_ignored() -> None:
    assert np.array_equal(full(JPEG + b"garbage" * 20), full(JPEG))


@pytest.mark.parametrize("format", ["JPEG", "PNG", "TIFF", "WEBP"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_undone(format: str, orientation: int) -> None:
    stored = PHOTO if orientation == 1 else np.asarray(rgb().transpose(AS_STORED[orientation]))
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"JPEG": {"quality": 95}, "WEBP": {"lossless": True}}.get(format, {})
    decoded = decode(saved(rgb(stored), format, exif=exif, **options), short_side=None)
    assert_near(decoded.pixels, PHOTO, 2)
    assert (decoded.width_px, decoded.height_px) == (WIDTH, HEIGHT)
    assert ("rotated" in decoded.conversions) == (orientation > 1)


@pytest.mark.filterwarnings("ignore::UserWarning")  # Pillow also warns
def test_damaged_exif_leaves_the_picture_as_it_is() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    damaged = saved(rgb(), "JPEG", quality=95, exif=exif.tobytes()[:10] + b"\xff" * 20)
    assert_near(full(damaged), PHOTO, 2)


def test_grey_is_repeated_in_all_channels() -> None:
    expected = np.repeat(GREY[:, :, None], 3, axis=2)
    assert_near(full(saved(Image.fromarray(GREY), "PNG")), expected, 0)
    jpeg = decode(saved(Image.fromarray(GREY), "JPEG", quality=95), short_side=None)
    assert jpeg.mode == "L"
    assert_near(jpeg.pixels, expected, 2)


def test_one_bit_becomes_black_and_white() -> None:
    pixels = full(saved(Image.fromarray(GREY > 100), "PNG"))
    assert np.array_equal(pixels[:, :, 0], np.where(GREY > 100, 255, 0))


def test_a_palette_gives_its_colours() -> None:
    picture = rgb().quantize(64)
    assert np.array_equal(full(saved(picture, "PNG")), np.asarray(picture.convert("RGB")))


@pytest.mark.parametrize("format", ["PNG", "WEBP", "TIFF"])
def test_alpha_is_composited_on_white(format: str) -> None:
    alpha = np.zeros((HEIGHT, WIDTH, 1), np.uint8)
    alpha[:, 60:] = 255
    alpha[:, 30:60] = 128
    data = saved(Image.fromarray(np.concatenate([PHOTO, alpha], axis=2)), format, lossless=True, exact=True)
    share = alpha / 255
    assert_near(full(data), np.round(PHOTO * share + 255 * (1 - share)).astype(np.uint8), 1)
    assert (full(data)[:, :30] == 255).all()


def test_transparent_colours_of_a_palette_and_of_grey_become_white() -> None:
    palette = Image.fromarray((X >= 60).astype(np.uint8)).convert("P")
    palette.putpalette([10, 20, 30, 40, 50, 60])
    pixels = full(saved(palette, "PNG", transparency=0))
    assert (pixels[:, :60] == 255).all()
    assert (pixels[:, 60:] == (40, 50, 60)).all()
    grey_alpha = np.stack([GREY, np.where(X < 60, 0, 255).astype(np.uint8)], axis=2)
    pixels = full(saved(Image.fromarray(grey_alpha), "PNG"))
    assert (pixels[:, :60] == 255).all()
    assert np.array_equal(pixels[:, 60:, 1], GREY[:, 60:])


@pytest.mark.parametrize("format", ["PNG", "TIFF"])
def test_16_bit_grey_is_scaled_not_clipped(format: str) -> None:
    deep = GREY.astype(np.uint16) * 256 + 77
    assert np.array_equal(full(saved(Image.fromarray(deep), format))[:, :, 2], GREY)


def test_16_bit_colour_is_scaled() -> None:
    deep = (PHOTO.astype(">u2") << 8 | 200).astype(">u2")
    assert np.array_equal(full(png_16_bit_rgb(deep)), PHOTO)


def png_16_bit_rgb(samples: np.ndarray) -> bytes:
    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    rows = b"".join(b"\0" + row.tobytes() for row in samples)
    header = struct.pack(">IIBBBBB", samples.shape[1], samples.shape[0], 16, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def test_a_cmyk_jpeg_is_converted() -> None:
    decoded = decode(saved(rgb().convert("CMYK"), "JPEG", quality=95), short_side=None)
    assert decoded.mode == "CMYK"
    assert_near(decoded.pixels, PHOTO, 3)


@pytest.mark.parametrize("format", ["GIF", "WEBP", "TIFF", "PNG"])
def test_of_several_frames_the_first_is_taken(format: str) -> None:
    first, second = rgb(), rgb(255 - PHOTO)
    data = saved(
        first, format, save_all=True, append_images=[second], **({"lossless": True} if format == "WEBP" else {})
    )
    decoded = decode(data, short_side=None)
    assert decoded.conversions == ("first_frame",)
    assert_near(decoded.pixels, PHOTO, 12)


# ------------------------------------------------------------------------------------------------------ refused


@pytest.mark.parametrize("end", [5, 30, 300, len(JPEG) // 2, len(JPEG) - 100, len(JPEG) - 2])
def test_a_jpeg_that_ends_early_is_truncated(end: int) -> None:
    assert reason(JPEG[:end]) == "truncated"


def test_a_progressive_jpeg_without_its_last_scans_is_truncated() -> None:
    data = saved(rgb(), "JPEG", quality=95, progressive=True)
    assert {reason(data[: len(data) * share // 20]) for share in range(1, 20)} == {"truncated"}


@pytest.mark.parametrize("format", ["PNG", "GIF", "WEBP", "BMP", "TIFF", "AVIF"])
@pytest.mark.parametrize("share", [0.2, 0.5, 0.9])
def test_other_formats_that_end_early_are_truncated(format: str, share: float) -> None:
    data = saved(rgb(), format)
    assert reason(data[: int(len(data) * share)]) == "truncated"


@pytest.mark.parametrize("missing", [8, 12, 20])
def test_a_png_without_its_end_is_truncated_though_all_rows_are_there(missing: int) -> None:
    assert reason(PNG[:-missing]) == "truncated"


def test_flipped_bits_in_a_jpeg_are_noticed() -> None:
    """Pillow decodes most of these silently to rubbish; a few flips leave a valid JPEG that nothing can tell."""
    generator = np.random.default_rng(7)
    noisy = (PHOTO.astype(int) + generator.integers(-20, 20, PHOTO.shape)).clip(0, 255).astype(np.uint8)
    data = saved(rgb(noisy), "JPEG", quality=95)
    scan = data.index(b"\xff\xda") + 20
    noticed = 0
    for _ in range(40):
        damaged = bytearray(data)
        for position in generator.integers(scan, len(data) - 4, 10):
            damaged[position] ^= 1 << int(generator.integers(8))
        try:
            decode(bytes(damaged), short_side=64)
        except BadImage as error:
            noticed += error.reason in ("corrupt", "truncated")
    assert noticed >= 30


def test_flipped_bits_in_a_png_are_corrupt() -> None:
    data = bytearray(PNG)
    data[len(data) // 2] ^= 1
    assert reason(bytes(data)) == "corrupt"


def test_a_12_bit_jpeg_is_unsupported() -> None:
    data = bytearray(JPEG)
    data[data.index(b"\xff\xc0") + 4] = 12
    assert reason(bytes(data)) == "unsupported"


@pytest.mark.parametrize(
    "data",
    [
        b"\x00\x00\x00\x0cjP  \r\n\x87\n" + b"\0" * 100,
        b"\xff\x0a" + b"\0" * 100,
        b"8BPS\x00\x01" + b"\0" * 100,
    ],
    ids=["jpeg 2000", "jpeg xl", "photoshop"],
)
def test_known_formats_that_are_not_read_are_unsupported(data: bytes) -> None:
    assert reason(data) == "unsupported"


def test_samples_without_a_range_are_unsupported() -> None:
    assert reason(saved(Image.fromarray(GREY.astype(np.float32)), "TIFF")) == "unsupported"
    assert reason(saved(Image.fromarray(GREY.astype(np.int32)), "TIFF")) == "unsupported"


def test_what_is_no_image_says_so() -> None:
    assert reason(b"") == "empty"
    assert reason(b"hello world\n" * 50) == "not_an_image"
    assert reason(b"<!DOCTYPE html><html><body>404</body></html>") == "not_an_image"
    assert reason(b"\x00\x00\x00\x18ftypmp42\x00\x00\x00\x00isommp42") == "not_an_image"
    assert reason(b"\0") == "not_an_image"


def test_a_bomb_is_refused_by_its_header_before_any_pixel(monkeypatch: pytest.MonkeyPatch) -> None:
    def decode_pixels(*arguments: object, **options: object) -> None:
        raise AssertionError("pixels were touched")

    claims = bytearray(JPEG)
    frame = claims.index(b"\xff\xc0") + 5
    claims[frame : frame + 4] = struct.pack(">HH", 65500, 65500)
    monkeypatch.setattr(simplejpeg, "decode_jpeg", decode_pixels)
    monkeypatch.setattr(Image.Image, "load", decode_pixels)
    assert reason(bytes(claims)) == "too_large"
    header = struct.pack(">IIBBBBB", 20_000, 20_000, 8, 2, 0, 0, 0)
    chunk = struct.pack(">I", 13) + b"IHDR" + header + struct.pack(">I", zlib.crc32(b"IHDR" + header))
    assert reason(PNG[:8] + chunk + PNG[33:]) == "too_large"


def test_the_limit_of_pixels_is_the_callers() -> None:
    assert reason(JPEG, max_pixels=WIDTH * HEIGHT - 1) == "too_large"
    assert reason(PNG, max_pixels=WIDTH * HEIGHT - 1) == "too_large"
    assert decode(PNG, short_side=None, max_pixels=WIDTH * HEIGHT).width_px == WIDTH


@pytest.mark.parametrize("format", ["JPEG", "PNG"])
def test_tiny_and_very_long_images_are_refused(format: str) -> None:
    assert reason(saved(Image.new("RGB", (7, 100)), format)) == "too_small"
    assert reason(saved(Image.new("RGB", (201, 10)), format)) == "too_narrow"
    assert decode(saved(Image.new("RGB", (8, 160)), format), short_side=None).height_px == 160


def test_a_constant_image_is_accepted() -> None:
    assert (full(saved(Image.new("RGB", (40, 30), (7, 8, 9)), "PNG")) == (7, 8, 9)).all()


@pytest.mark.filterwarnings("ignore::UserWarning")  # Pillow also warns
def test_bytes_that_crash_parsers_end_as_a_bad_image() -> None:
    """Random damage anywhere, header included, in every format: pixels or BadImage, never another error."""
    generator = np.random.default_rng(3)
    for format in ("JPEG", "PNG", "GIF", "WEBP", "BMP", "TIFF", "AVIF"):
        data = saved(rgb(), format)
        for _ in range(25):
            damaged = bytearray(data)
            for position in generator.integers(0, min(len(data), 400), 6):
                damaged[position] = int(generator.integers(256))
            try:
                assert decode(bytes(damaged), short_side=32, max_pixels=200_000).pixels.ndim == 3
            except BadImage as error:
                assert error.reason


def test_a_bad_image_survives_pickling() -> None:
    error = pickle.loads(pickle.dumps(BadImage("truncated", "ends early")))  # noqa: S301
    assert (error.reason, error.detail, str(error)) == ("truncated", "ends early", "truncated: ends early")


# ------------------------------------------------------------------------------------------------------- resize


def test_the_short_side_is_exact_and_the_aspect_kept() -> None:
    decoded = decode(PNG, short_side=45)
    assert decoded.pixels.shape == (45, 60, 3)
    assert (decoded.width_px, decoded.height_px) == (WIDTH, HEIGHT)


def test_a_large_jpeg_scaled_by_libjpeg_first_is_what_a_full_decode_gives() -> None:
    big = np.asarray(rgb().resize((1999, 1501), Image.Resampling.BICUBIC))
    data = saved(rgb(big), "JPEG", quality=95)
    scaled = decode(data, short_side=150).pixels
    reference = Image.fromarray(full(data)).resize(scaled.shape[1::-1], Image.Resampling.BILINEAR)
    assert scaled.shape == (150, 200, 3)
    assert np.abs(scaled.astype(int) - np.asarray(reference).astype(int)).max() <= 6


def test_a_small_image_is_enlarged() -> None:
    assert decode(PNG, short_side=180).pixels.shape == (180, 240, 3)


# ------------------------------------------------------------------------------------------------------- stored


def test_a_stored_png_gives_the_very_pixels_back_and_a_jpeg_nearly() -> None:
    assert np.array_equal(decode_stored(encode_png(PHOTO)), PHOTO)
    assert_near(decode_stored(encode_jpeg(PHOTO)), PHOTO, 2)
    assert encode_png(PHOTO) == encode_png(PHOTO.copy())
    assert encode_jpeg(PHOTO) == encode_jpeg(PHOTO.copy())


def test_a_damaged_stored_image_is_refused() -> None:
    for data in (encode_png(PHOTO)[:200], encode_jpeg(PHOTO)[:-50], b"nothing"):
        with pytest.raises(BadImage):
            decode_stored(data)
