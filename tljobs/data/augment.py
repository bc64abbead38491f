"""Augmentation of training images: pure functions of (pixels, seed, epoch, sample).

Decoded images flow in as uint8 (height, width, 4), RGBX: the resizer is a quarter faster on them than on RGB, and
numpy mirrors whole pixels four times faster; the fourth channel is padding. Square RGB images flow out. Randomness is
by address: the numbers for a sample depend on (seed, epoch, sample) alone, never on a running stream, so that any
number of workers, and any resume, sees the same pixels.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tljobs.data.pixels import Pixels

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


def centre_window(size_px: int, width_px: int, height_px: int) -> Window:
    """The square that `pixels.centre_crop` takes."""
    return Window((height_px - size_px) // 2, (width_px - size_px) // 2, size_px, size_px)


def view(pixels: Pixels, window: Window, image_size: int) -> Pixels:
    """The window of uint8 (H, W, 4), mirrored if asked, then resized (antialiased bilinear, as `pixels.resize` does)
    to uint8 (image_size, image_size, 3)."""
    from cykooz_resizer import FilterType, ImageData, PixelType, ResizeAlg, ResizeOptions, Resizer
    from PIL import Image

    whole = pixels.view(np.uint32)[..., 0]  # one number per pixel
    part = whole[window.top : window.top + window.height, window.left : window.left + window.width]
    data = (part[:, ::-1] if window.flipped else part).tobytes()
    if (window.height, window.width) != (image_size, image_size):
        source = ImageData(window.width, window.height, PixelType.U8x4, data)
        target = ImageData(image_size, image_size, PixelType.U8x4)
        bilinear = ResizeAlg.convolution(FilterType.bilinear)
        Resizer().resize(source, target, ResizeOptions(resize_alg=bilinear, use_alpha=False))
        data = target.get_buffer()
    # Pillow drops the fourth channel ten times faster than numpy does.
    packed = Image.frombuffer("RGBX", (image_size, image_size), data, "raw", "RGBX", 0, 1).tobytes("raw", "RGB")
    return np.frombuffer(packed, np.uint8).reshape(image_size, image_size, 3)


def _mixed(numbers: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """One step of SplitMix64; arithmetic modulo 2**64."""
    state = numbers + np.uint64(GOLDEN_GAMMA)
    state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return state ^ (state >> np.uint64(31))
