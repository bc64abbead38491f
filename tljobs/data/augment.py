"""Augmentation of training images: pure functions of (pixels, seed, epoch, sample).

Decoded images flow in as uint8 (height, width, 4), RGBX: the resizer is a quarter faster on them than on RGB, and
numpy mirrors whole pixels four times faster; the fourth channel is padding. Square RGB images flow out. Randomness is
by address: the numbers for a sample depend on (seed, epoch, sample) alone, never on a running stream, so that any
number of workers, and any resume, sees the same pixels.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tljobs.data.pixels import Pixels, centre_crop

MIN_AREA = 0.5  # of the image; ImageNet's 0.08 hides small objects, and few labels need easy crops
ASPECT_RATIOS = (3 / 4, 4 / 3)
STREAMS = 5  # random numbers per sample: area, aspect, top, left, flip
GOLDEN_GAMMA = 0x9E3779B97F4A7C15


@dataclass(frozen=True)
class Window:
    """A rectangle of an image, in pixels, and whether it is mirrored left to right."""

    top: int
    left: int
    height: int
    width: int
    flipped: bool = False


def uniforms(seed: int, epoch: int, samples: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    """STREAMS numbers in [0, 1) for each of n samples, float64 (n, STREAMS): SplitMix64 (Steele, Lea and Flood 2014),
    of which each part of the address (seed, epoch, sample, stream) makes one step."""
    state = np.array([[seed % 2**64]], np.uint64)
    for part in (np.uint64(epoch), samples.astype(np.uint64)[:, None], np.arange(STREAMS, dtype=np.uint64)):
        state = np.add(_mixed(state), part, dtype=np.uint64)
    bits = _mixed(state)
    return np.asarray((bits >> np.uint64(11)) * 2.0**-53, np.float64)


def random_window(numbers: Sequence[float], width_px: int, height_px: int) -> Window:
    """Window of a random resized crop (Szegedy et al. 2015), mirrored in half of the cases.

    Args:
        numbers: STREAMS numbers in [0, 1), from `uniforms`.
        width_px: of the image.
        height_px: of the image.
    """
    area, ratio, top, left, flip = numbers
    target = width_px * height_px * (MIN_AREA + (1 - MIN_AREA) * area)
    low, high = (math.log(limit) for limit in ASPECT_RATIOS)
    aspect = math.exp(low + (high - low) * ratio)
    width = min(max(round(math.sqrt(target * aspect)), 1), width_px)
    height = min(max(round(math.sqrt(target / aspect)), 1), height_px)
    return Window(
        top=int(top * (height_px - height + 1)),
        left=int(left * (width_px - width + 1)),
        height=height,
        width=width,
        flipped=flip < 0.5,
    )


def view(pixels: Pixels, window: Window, image_size: int) -> Pixels:
    """The window of an image, resized and then mirrored if asked.

    Antialiased bilinear, by the resizer of `pixels.resize`. At the window's edges the filter sees the pixels beside it,
    as Pillow's `resize(box=…)` does.

    Args:
        pixels: uint8 (H, W, 4).
        window: lies inside of the image.
        image_size: side of the result in pixels.

    Returns:
        uint8 (image_size, image_size, 3).
    """
    from PIL import Image

    if (window.height, window.width) == (image_size, image_size):
        part = pixels[window.top : window.top + image_size, window.left : window.left + image_size]
        data = part.tobytes()
    else:
        data = _resized(pixels, window, image_size)
    if window.flipped:  # whole pixels, as one number each
        data = np.frombuffer(data, np.uint32).reshape(image_size, image_size)[:, ::-1].tobytes()
    # Pillow drops the fourth channel ten times faster than numpy does.
    packed = Image.frombuffer("RGBX", (image_size, image_size), data, "raw", "RGBX", 0, 1).tobytes("raw", "RGB")
    return np.frombuffer(packed, np.uint8).reshape(image_size, image_size, 3)


def centre_view(pixels: Pixels, crop_size: int, image_size: int) -> Pixels:
    """What `pixels.eval_view` makes of the same image: uint8 (H, W, 4) to uint8 (image_size, image_size, 3)."""
    return view(np.ascontiguousarray(centre_crop(pixels, crop_size)), Window(0, 0, crop_size, crop_size), image_size)


_own = threading.local()  # a thread's resizer with its buffers, and the last target


def _resized(pixels: Pixels, window: Window, image_size: int) -> bytes:
    """RGBX of the window in image_size x image_size pixels."""
    from cykooz_resizer import CropBox, FilterType, ImageData, PixelType, ResizeAlg, ResizeOptions, Resizer

    if getattr(_own, "image_size", None) != image_size:
        _own.image_size, _own.resizer = image_size, Resizer()
        _own.target = ImageData(image_size, image_size, PixelType.U8x4)
    # Only the rows that the filter can reach: the resizer takes a copy.
    reach = math.ceil(max(1.0, window.height / image_size)) + 1
    first, end = max(0, window.top - reach), window.top + window.height + reach
    rows = pixels[first:end]
    source = ImageData(rows.shape[1], rows.shape[0], PixelType.U8x4, rows.tobytes())
    options = ResizeOptions(
        resize_alg=ResizeAlg.convolution(FilterType.bilinear),
        use_alpha=False,
        crop_box=CropBox(window.left, window.top - first, window.width, window.height),
    )
    _own.resizer.resize(source, _own.target, options)
    data: bytes = _own.target.get_buffer()
    return data


def _mixed(numbers: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """One step of SplitMix64; arithmetic modulo 2**64."""
    state = numbers + np.uint64(GOLDEN_GAMMA)
    state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return state ^ (state >> np.uint64(31))
