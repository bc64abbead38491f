"""Pixels to pixels, and the two stored forms: what training and prediction must agree on to the last level.

Arrays of uint8 (height, width, 3), RGB, flow in and out. Sizes are (width, height) in pixels.
"""

from __future__ import annotations

import io
from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from tljobs.errors import UsageError

Pixels = npt.NDArray[np.uint8]

JPEG_QUALITY = 95
THUMBNAIL_PX, THUMBNAIL_QUALITY = 128, 80  # 3 kB
PNG_LEVEL = 1  # higher levels cost several times the time for a tenth of the bytes
PNG_STRATEGY = 3  # zlib's Z_RLE: photographs repeat nothing else; a quarter of the time and a tenth of the bytes less

# EXIF 2.32, table 6: what makes the stored rows and columns upright.
_UPRIGHT: dict[int, Callable[[Pixels], Pixels]] = {
    2: lambda pixels: pixels[:, ::-1],
    3: lambda pixels: pixels[::-1, ::-1],
    4: lambda pixels: pixels[::-1],
    5: lambda pixels: pixels.swapaxes(0, 1),
    6: lambda pixels: np.rot90(pixels, -1),
    7: lambda pixels: np.rot90(pixels, -1)[::-1],
    8: lambda pixels: np.rot90(pixels),
}


def upright(pixels: Pixels, orientation: int) -> Pixels:
    """Undoes EXIF orientation 2 to 8 by flips and quarter turns; anything else leaves the pixels as they are."""
    return np.ascontiguousarray(_UPRIGHT[orientation](pixels)) if orientation in _UPRIGHT else pixels


def target_size(width_px: int, height_px: int, short_side_px: int) -> tuple[int, int]:
    """Width and height with the shorter side `short_side_px`, the longer one rounded half up."""
    shorter = min(width_px, height_px)
    return (
        (2 * width_px * short_side_px + shorter) // (2 * shorter),
        (2 * height_px * short_side_px + shorter) // (2 * shorter),
    )


def resize_short_side(pixels: Pixels, short_side_px: int) -> Pixels:
    """Resizes uint8 (H, W, 3) so that its shorter side is `short_side_px`, keeping the aspect.

    Antialiased bilinear: a triangle filter whose support grows with the reduction. Pillow's `BILINEAR` is the
    definition; the pixels here differ from it by one level at most.
    """
    return resize(pixels, *target_size(pixels.shape[1], pixels.shape[0], short_side_px))


def resize(pixels: Pixels, width_px: int, height_px: int) -> Pixels:
    """Antialiased bilinear resize of uint8 (H, W, 3) to exactly this size: see `resize_short_side`."""
    from cykooz_resizer import FilterType, ImageData, PixelType, ResizeAlg, ResizeOptions, Resizer

    if pixels.shape[:2] == (height_px, width_px):
        return pixels
    source = ImageData(pixels.shape[1], pixels.shape[0], PixelType.U8x3, pixels.tobytes())
    target = ImageData(width_px, height_px, PixelType.U8x3)
    Resizer().resize(source, target, ResizeOptions(resize_alg=ResizeAlg.convolution(FilterType.bilinear)))
    return np.frombuffer(target.get_buffer(), np.uint8).reshape(height_px, width_px, 3)


def centre_crop(pixels: Pixels, size_px: int) -> Pixels:
    """The square of `size_px` in the middle of uint8 (H, W, 3); an odd margin leaves its extra pixel right and below.

    Raises UsageError when the image is smaller.
    """
    height_px, width_px = pixels.shape[:2]
    if size_px > min(height_px, width_px):
        raise UsageError(
            "images are stored too small for this crop",
            f"shorter side {min(height_px, width_px)} < {size_px} pixels",
            f"Prepare the dataset again with --image-size {size_px}",
        )
    top, left = (height_px - size_px) // 2, (width_px - size_px) // 2
    return pixels[top : top + size_px, left : left + size_px]


def eval_view(pixels: Pixels, *, crop_size: int, image_size: int) -> Pixels:
    """What a network sees of an image in validation, test and prediction.

    Args:
        pixels: uint8 (H, W, 3), as stored.
        crop_size: side in pixels of the centre crop.
        image_size: side in pixels of the network's input; the crop is resized (antialiased) to it if they differ.

    Returns:
        uint8 (image_size, image_size, 3), contiguous.
    """
    return np.ascontiguousarray(resize(centre_crop(pixels, crop_size), image_size, image_size))


# ------------------------------------------------------------------------------------------------- stored forms


def encode_jpeg(pixels: Pixels) -> bytes:
    """uint8 (H, W, 3) as a JPEG file of quality 95, 4:2:0: the stored form of training rows."""
    import simplejpeg

    data: bytes = simplejpeg.encode_jpeg(np.ascontiguousarray(pixels), JPEG_QUALITY, "RGB", "420")
    return data


def encode_thumbnail(pixels: Pixels) -> bytes:
    """uint8 (H, W, 3) as a small JPEG file, its longer side at most THUMBNAIL_PX."""
    import simplejpeg

    height_px, width_px = pixels.shape[:2]
    scale = min(1.0, THUMBNAIL_PX / max(height_px, width_px))
    small = resize(pixels, max(1, round(width_px * scale)), max(1, round(height_px * scale)))
    data: bytes = simplejpeg.encode_jpeg(np.ascontiguousarray(small), THUMBNAIL_QUALITY, "RGB", "420")
    return data


def encode_png(pixels: Pixels) -> bytes:
    """uint8 (H, W, 3) as a PNG file, without loss: the stored form of validation and test rows."""
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels)).save(
        buffer, "PNG", compress_level=PNG_LEVEL, compress_type=PNG_STRATEGY
    )
    return buffer.getvalue()
