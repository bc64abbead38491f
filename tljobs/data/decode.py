"""The one decoder of foreign bytes, used by prepare and by predict; its id stands in every manifest and model.

Bytes flow in; RGB pixels, or a BadImage with a reason code, flow out. The format is told by the content, never by a
file name. What happens to pixels afterwards is in tljobs.data.pixels and offered here too.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from tljobs.data import jpeg
from tljobs.data.formats import BadImage, Reason, is_cut, sniff, webp_size
from tljobs.data.pixels import (
    Pixels,
    centre_crop,
    encode_jpeg,
    encode_png,
    eval_view,
    resize,
    resize_short_side,
    target_size,
    upright,
)
from tljobs.records import DecoderId

if TYPE_CHECKING:
    from PIL import Image as PillowImage

__all__ = [
    "DECODER",
    "BadImage",
    "Decoded",
    "Pixels",
    "Reason",
    "centre_crop",
    "decode",
    "decode_stored",
    "encode_jpeg",
    "encode_png",
    "eval_view",
    "resize_short_side",
    "sniff",
]

DECODER = DecoderId(id="tljobs-decode", version=1)
DEFAULT_MAX_PIXELS = 100_000_000
MIN_SIDE_PX = 8
MAX_ASPECT = 20
PLAIN_MODES = frozenset({"1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr"})
GREY_16_MODES = frozenset({"I;16", "I;16L", "I;16B", "I;16N"})
TIFF_BITS_PER_SAMPLE = 258


@dataclass(frozen=True, kw_only=True)
class Decoded:
    """An upright image. `pixels` is uint8 (height, width, 3), RGB.

    `width_px` and `height_px` are those of the original after rotation, before any resize. `mode` is how colours were
    stored, in Pillow's terms. `conversions` says what was done beyond decoding: `rotated` as EXIF asks, `first_frame`
    taken of several frames or pages, `cmyk` made RGB, `sixteen_bit` samples scaled to eight, `transparent` pixels laid
    on the background.
    """

    pixels: Pixels
    width_px: int
    height_px: int
    source_format: str
    mode: str
    conversions: tuple[str, ...]


def decode(
    data: bytes,
    *,
    short_side: int | None,
    max_pixels: int = DEFAULT_MAX_PIXELS,
    background: str = DECODER.background,
) -> Decoded:
    """Decodes an image file.

    Args:
        data: the bytes of a JPEG, PNG, GIF, WebP, BMP, TIFF or AVIF file, or HEIF where pillow-heif is installed.
        short_side: length in pixels that the shorter side is resized to; None keeps the size.
        max_pixels: images with more pixels are refused by their header.
        background: the colour under transparent pixels, #rrggbb.

    Raises:
        BadImage: the bytes are damaged, no image, or an image that is not accepted. Nothing is ever invented for
            missing bytes. Damage is noticed as far as the format allows: BMP, GIF, TIFF and lossy WebP carry no check
            sums, and some flipped bits of a JPEG file leave a valid one.
    """
    source_format = sniff(data)
    try:
        if source_format == "jpeg":
            return _decode_jpeg(data, short_side, max_pixels)
        return _decode_with_pillow(data, source_format, short_side, max_pixels, background)
    except MemoryError as error:
        raise BadImage("too_large", "does not fit into memory") from error


# -------------------------------------------------------------------------------------------------------- JPEG


def _decode_jpeg(data: bytes, short_side: int | None, max_pixels: int) -> Decoded:
    import simplejpeg

    header = _jpeg_header(data)
    _check_size(header.width_px, header.height_px, max_pixels)
    at_least = 2 * short_side if short_side else 0  # libjpeg scales cheaply, but its own filter is coarse: see above 2x
    try:
        pixels: Pixels = simplejpeg.decode_jpeg(data, min_height=at_least, min_width=at_least)
    except ValueError as error:
        raise BadImage(_jpeg_reason(str(error), data), str(error)) from error
    width_px, height_px = header.width_px, header.height_px
    if header.orientation >= 5:
        width_px, height_px = height_px, width_px
    return Decoded(
        pixels=_finish(pixels, header.orientation, width_px, height_px, short_side),
        width_px=width_px,
        height_px=height_px,
        source_format="jpeg",
        mode={1: "L", 4: "CMYK"}.get(header.components, "RGB"),
        conversions=_conversions(rotated=header.orientation > 1, cmyk=header.components == 4),
    )


def _jpeg_header(data: bytes) -> jpeg.JpegHeader:
    try:
        header = jpeg.read_header(data)
    except jpeg.Truncated as error:
        raise BadImage("truncated", str(error)) from error
    except ValueError as error:
        raise BadImage("corrupt", str(error)) from error
    if header.precision_bits != 8:
        raise BadImage("unsupported", f"JPEG of {header.precision_bits} bits per sample")
    return header


def _jpeg_reason(message: str, data: bytes) -> Reason:
    """libjpeg's messages (jerror.h) and TurboJPEG's own as reason codes."""
    if "Premature end of JPEG file" in message or is_cut(data, "jpeg"):
        return "truncated"
    if "Unsupported JPEG" in message or "subsampling" in message or "not implemented" in message:
        return "unsupported"
    return "corrupt"


# ---------------------------------------------------------------------------------------------- other formats


def _decode_with_pillow(
    data: bytes, source_format: str, short_side: int | None, max_pixels: int, background: str
) -> Decoded:
    from PIL import Image, UnidentifiedImageError

    Image.MAX_IMAGE_PIXELS = None  # `max_pixels` holds instead: Pillow's own limit is one for the whole process
    try:
        if source_format == "webp":
            _check_size(*webp_size(data), max_pixels)  # opening it takes the memory already
        image = _opened(data, source_format)
        _check_size(*image.size, max_pixels)
        mode, orientation = image.mode, _orientation(image)
        conversions = _conversions(
            rotated=orientation > 1,
            first_frame=bool(getattr(image, "is_animated", False)),
            cmyk=mode == "CMYK",
            sixteen_bit=mode in GREY_16_MODES or _has_16_bit_colours(image),
            transparent=image.has_transparency_data,
        )
        if source_format == "png":
            _check_png(data)
        if source_format in ("png", "gif") and is_cut(data, source_format):  # Pillow overlooks what it need not read
            raise BadImage("truncated", f"{source_format}: ends before its end marker")
        if source_format != "heif":  # which opens at its primary image, first or not
            image.seek(0)
        image.load()
        pixels = _rgb(image, background)
    except BadImage:
        raise
    except MemoryError:
        raise
    except Exception as error:  # Pillow's plug-ins raise many types on damaged bytes
        # Pillow names the object in memory here, which is another one each time.
        text = "no readable header" if isinstance(error, UnidentifiedImageError) else str(error)
        cut = "truncated" in text.lower() or is_cut(data, source_format)
        raise BadImage("truncated" if cut else "corrupt", f"{source_format}: {text}"[:200]) from error
    if source_format != "tiff":  # Pillow turns TIFF by itself while loading
        pixels = upright(pixels, orientation)
    height_px, width_px = pixels.shape[:2]
    return Decoded(
        pixels=_finish(pixels, 1, width_px, height_px, short_side),
        width_px=width_px,
        height_px=height_px,
        source_format=source_format,
        mode=mode,
        conversions=conversions,
    )


def _opened(data: bytes, source_format: str) -> PillowImage.Image:
    from PIL import Image

    if source_format == "heif":
        import pillow_heif

        pillow_heif.register_heif_opener()
    return Image.open(io.BytesIO(data), formats=(source_format.upper(),))


def _has_16_bit_colours(image: PillowImage.Image) -> bool:
    """Whether an image that is not loaded yet has samples of which Pillow takes the high byte."""
    return any(";16" in str(tile.args) for tile in getattr(image, "tile", ()))


def _orientation(image: PillowImage.Image) -> int:
    try:
        value = image.getexif().get(jpeg.EXIF_ORIENTATION_TAG, 1)
    except Exception:  # damaged metadata do not make a damaged picture
        return 1
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


def _check_png(data: bytes) -> None:
    """Reads every chunk to the end marker and compares check sums, which loading does not. Raises as Pillow does."""
    from PIL import Image

    Image.open(io.BytesIO(data), formats=("PNG",)).verify()


def _rgb(image: PillowImage.Image, background: str) -> Pixels:
    """A loaded image as uint8 (height, width, 3): grey repeated, 16 bits scaled to 8, transparency over a colour."""
    from PIL import Image

    if image.mode in GREY_16_MODES:
        _check_16_bits(image)
        grey = (np.asarray(image) >> 8).astype(np.uint8)  # the high byte, as Pillow takes it of 16-bit colours
        return np.repeat(grey[:, :, None], 3, axis=2)
    if image.mode not in PLAIN_MODES:
        raise BadImage("unsupported", f"colours stored as {image.mode}")
    if image.has_transparency_data:
        canvas = Image.new("RGBA", image.size, background)
        canvas.alpha_composite(image.convert("RGBA"))
        image = canvas
    return np.array(image.convert("RGB"))


def _check_16_bits(image: PillowImage.Image) -> None:
    """TIFF files of 12 bits also come as 16-bit grey, but sixteen times too dark."""
    bits = getattr(image, "tag_v2", {}).get(TIFF_BITS_PER_SAMPLE, (16,))
    if tuple(bits) != (16,):
        raise BadImage("unsupported", f"TIFF of {bits[0]} bits per sample")


# ------------------------------------------------------------------------------------------------- both paths


def _conversions(**done: bool) -> tuple[str, ...]:
    return tuple(name for name, is_done in done.items() if is_done)


def _check_size(width_px: int, height_px: int, max_pixels: int) -> None:
    size = f"{width_px}x{height_px} pixels"
    if width_px * height_px > max_pixels:
        raise BadImage("too_large", f"{size}, more than {max_pixels}")
    if min(width_px, height_px) < MIN_SIDE_PX:
        raise BadImage("too_small", f"{size}, a side under {MIN_SIDE_PX}")
    if max(width_px, height_px) > MAX_ASPECT * min(width_px, height_px):
        raise BadImage("too_narrow", f"{size}, more than {MAX_ASPECT} times as long as wide")


def _finish(pixels: Pixels, orientation: int, width_px: int, height_px: int, short_side: int | None) -> Pixels:
    """Turns upright, then resizes to what the original size of `width_px` x `height_px` asks for."""
    pixels = upright(pixels, orientation)
    return resize(pixels, *target_size(width_px, height_px, short_side)) if short_side else pixels


def decode_stored(data: bytes) -> Pixels:
    """Pixels, uint8 (H, W, 3), of an image in one of our own shards: a JPEG or PNG of `encode_jpeg` or `encode_png`.

    Raises BadImage when it is damaged.
    """
    import simplejpeg
    from PIL import Image

    try:
        if data.startswith(jpeg.SIGNATURE):
            pixels: Pixels = simplejpeg.decode_jpeg(data)
            return pixels
        return np.array(Image.open(io.BytesIO(data), formats=("PNG",)))
    except (ValueError, OSError, SyntaxError) as error:
        raise BadImage("corrupt", f"stored image: {error}") from error
