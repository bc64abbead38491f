"""What the first pass of prepare learns of an image beside its hash: size, mode, a perceptual hash, and what is odd.

A decoded image flows in; a Probe, taken of the image at PROBE_SIDE_PX, flows out.
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import numpy.typing as npt

from tljobs.data.decode import Decoded
from tljobs.data.pixels import Pixels, resize, resize_short_side
from tljobs.records import Part

PROBE_SIDE_PX = 44  # pixels of the shorter side
HASH_SIDE_PX = 32
HASH_BITS = 64
LUMA = np.array([299, 587, 114])  # ITU-R BT.601, in thousandths
DCT_SCALE = 4096
BLANK_DEVIATION = 2.0  # levels of 255; sensor noise, averaged down to the probe's size, stays below
BORDER_TOLERANCE = 6  # levels of 255; what JPEG leaves of a plain bar

Grey = npt.NDArray[np.int64]


class Probe(Part):
    """An image in brief.

    `width_px`, `height_px` and `mode` are as in Decoded, `rotated` and `animated` its conversions. `phash` is the
    perceptual hash, an unsigned 64-bit number; `brightness` the mean luma, 0 to 255; `blank` tells that all
    pixels are about the same; `border_share` is the share of the area, 0 to 1, in plain bars along the edges.
    """

    source_format: str
    width_px: int
    height_px: int
    mode: str
    rotated: bool
    animated: bool
    phash: int
    brightness: float
    blank: bool
    border_share: float


class Draft(Part):
    """The image as it is stored for training: `size_bytes` from `offset` on in the task's pack of drafts, of which the
    first `image_bytes` are the image and the others its thumbnail; `check` the first hex digits of their SHA-256, and
    what was converted (see Decoded)."""

    offset: int
    size_bytes: int
    image_bytes: int
    check: str
    converted: tuple[str, ...]


class Inspected(Part):
    """A file as the first pass leaves it: SHA-256 of its bytes, its probe and draft, or a reason code and details."""

    sha256: str = ""
    probe: Probe | None = None
    draft: Draft | None = None
    reason: str = ""
    detail: str = ""


def probe(decoded: Decoded) -> Probe:
    """The probe of a decoded image of any size."""
    pixels = resize_short_side(decoded.pixels, PROBE_SIDE_PX)
    grey = luma(pixels)
    return Probe(
        source_format=decoded.source_format,
        width_px=decoded.width_px,
        height_px=decoded.height_px,
        mode=decoded.mode,
        rotated="rotated" in decoded.conversions,
        animated="first_frame" in decoded.conversions,
        phash=perceptual_hash(pixels),
        brightness=round(float(grey.mean()), 2),
        blank=_is_blank(pixels, grey),
        border_share=round(border_share(pixels), 4),
    )


def luma(pixels: Pixels) -> Grey:
    """Luma of uint8 (H, W, 3): int64 (H, W), 0 to 255, rounded down."""
    red, green, blue = (pixels[:, :, channel] * weight for channel, weight in enumerate(LUMA))
    grey: Grey = (red + green + blue) // 1000
    return grey


def perceptual_hash(pixels: Pixels) -> int:
    """64-bit DCT hash of uint8 (H, W, 3): which of the 64 lowest frequencies lie above their median.

    Zauner, "Implementation and benchmarking of perceptual image hash functions" (2010), with the frequencies taken in
    zigzag order instead of a square block: of copies with 5 % cut off, 45 % instead of 33 % are then found at a
    distance of 4 bits. In whole numbers, so that the hash is the same on every machine.
    """
    matrix, rows, columns = _transform()
    frequencies = (matrix @ luma(resize(pixels, HASH_SIDE_PX, HASH_SIDE_PX)) @ matrix.T)[rows, columns]
    bits = np.packbits(frequencies > np.median(frequencies))
    return int.from_bytes(bits.tobytes(), "big")


def _is_blank(pixels: Pixels, grey: Grey) -> bool:
    planes: list[npt.NDArray[Any]] = [
        grey,
        *(pixels[:, :, channel] for channel in range(3)),
    ]  # grey first: it settles nearly all
    return all(float(plane.std()) < BLANK_DEVIATION for plane in planes)


def border_share(pixels: Pixels) -> float:
    """Share of the area of uint8 (H, W, 3) in plain bars along the edges; 1.0 when nothing is in between."""
    height_px, width_px = pixels.shape[:2]
    top, bottom = _plain_rows(pixels), _plain_rows(pixels[::-1])
    left, right = _plain_rows(pixels.swapaxes(0, 1)), _plain_rows(pixels[:, ::-1].swapaxes(0, 1))
    inner = max(0, height_px - top - bottom) * max(0, width_px - left - right)
    return 1.0 - float(inner / (height_px * width_px))


def _plain_rows(pixels: Pixels) -> int:
    """How many rows from the first on have the colour of its middle pixel throughout."""
    colour = pixels[0, pixels.shape[1] // 2].astype(np.int16)
    for number, row in enumerate(pixels):
        if np.abs(row - colour).max() > BORDER_TOLERANCE:
            return number
    return len(pixels)


@functools.cache
def _transform() -> tuple[Grey, list[int], list[int]]:
    """Rows of the DCT-II in whole numbers, and (row, column) of the lowest frequencies without the mean."""
    order = sorted(((row, column) for row in range(11) for column in range(11)), key=lambda place: (sum(place), place))
    rows, columns = zip(*order[1 : HASH_BITS + 1], strict=True)
    points = np.pi * (2 * np.arange(HASH_SIDE_PX) + 1) / (2 * HASH_SIDE_PX)
    return np.rint(DCT_SCALE * np.cos(np.outer(np.arange(11), points))).astype(np.int64), list(rows), list(columns)
