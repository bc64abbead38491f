"""The training crop: which window of which image, told by an image whose colours are coordinates; and its limits."""

from __future__ import annotations

import io
from dataclasses import dataclass

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from tljobs.data.augment import ASPECT_RATIOS, MIN_AREA, crop_and_flip, sample_seeds

WIDTH, HEIGHT = 200, 160
SIDE = 128


@dataclass(frozen=True)
class Window:
    top: int
    left: int
    height: int
    width: int
    flipped: bool


def coordinates_jpeg(width: int = WIDTH, height: int = HEIGHT) -> bytes:
    """Red is the column, green the row; at this quality a JPEG keeps them within a level."""
    rows, columns = np.indices((height, width))
    pixels = np.stack([columns, rows, np.full_like(rows, 128)], axis=-1).astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=100, subsampling=0)
    return buffer.getvalue()


@tf.function(input_signature=[tf.TensorSpec((), tf.string), tf.TensorSpec((2,), tf.int64)])
def cropped(image: tf.Tensor, seeds: tf.Tensor) -> tf.Tensor:
    return crop_and_flip(image, seeds, SIDE)


def crop(seed: int, epoch: int, sample: int, image: bytes = coordinates_jpeg()) -> np.ndarray:
    return np.asarray(cropped(image, sample_seeds(seed, epoch, sample)))


def window_of(pixels: np.ndarray) -> Window:
    """By lines through the levels of columns and rows: their slope gives the size, their start the place."""
    columns, rows = pixels[..., 0].mean(axis=0), pixels[..., 1].mean(axis=1)
    flipped = bool(columns[0] > columns[-1])
    sizes, starts = [], []
    for levels in (columns[::-1] if flipped else columns, rows):
        slope, start = np.polyfit(np.arange(SIDE) + 0.5, levels, 1)
        sizes.append(slope * SIDE)
        starts.append(start + 0.5)
    assert np.abs(np.array(sizes + starts) - np.round(sizes + starts)).max() < 0.4, (sizes, starts)
    width, height, left, top = (round(value) for value in (*sizes, *starts))
    return Window(top, left, height, width, flipped)


@pytest.fixture(scope="module")
def windows() -> list[Window]:
    return [window_of(crop(7, 3, sample)) for sample in range(200)]


GOLDEN = {
    (0, 0, 0): Window(top=1, left=53, height=157, width=123, flipped=False),
    (0, 0, 1): Window(top=3, left=32, height=142, width=145, flipped=False),
    (0, 1, 0): Window(top=0, left=9, height=160, width=154, flipped=False),
    (7, 3, 123456789): Window(top=0, left=40, height=160, width=142, flipped=True),
}  # (seed, epoch, sample)


@pytest.mark.parametrize(("address", "window"), GOLDEN.items())
def test_known_addresses_give_known_windows(address: tuple[int, int, int], window: Window) -> None:
    assert window_of(crop(*address)) == window


def test_pixels_are_the_window_resized_bilinearly_and_flipped() -> None:
    photo = np.random.default_rng(0).integers(0, 256, (10, 12, 3)).astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(photo).resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC).save(buffer, "JPEG", quality=95)
    decoded = np.asarray(Image.open(io.BytesIO(buffer.getvalue())), np.float64)
    for address, window in GOLDEN.items():
        inside = decoded[window.top : window.top + window.height, window.left : window.left + window.width]
        wanted = bilinear(bilinear(inside, SIDE).swapaxes(0, 1), SIDE).swapaxes(0, 1)
        wanted = wanted[:, ::-1] if window.flipped else wanted
        difference = np.abs(crop(*address, buffer.getvalue()).astype(float) - wanted)
        assert difference[2:-2, 2:-2].max() <= 4, address  # chroma next to the border knows nothing of beyond
        assert difference.mean() < 0.5


def bilinear(pixels: np.ndarray, size: int) -> np.ndarray:
    """Rows interpolated to `size`, samples at pixel centres."""
    places = np.clip((np.arange(size) + 0.5) * len(pixels) / size - 0.5, 0, len(pixels) - 1)
    low = np.floor(places).astype(int)
    high = np.minimum(low + 1, len(pixels) - 1)
    share = (places - low)[:, None, None]
    return pixels[low] * (1 - share) + pixels[high] * share


def test_windows_lie_inside_the_image_and_within_the_limits_of_area_and_aspect(windows: list[Window]) -> None:
    for window in windows:
        assert window.top >= 0
        assert window.left >= 0
        assert window.top + window.height <= HEIGHT
        assert window.left + window.width <= WIDTH
        assert MIN_AREA - 0.01 <= window.height * window.width / (HEIGHT * WIDTH) <= 1
        assert ASPECT_RATIOS[0] - 0.02 <= window.width / window.height <= ASPECT_RATIOS[1] + 0.02


def test_windows_fill_the_limits_and_half_of_them_are_flipped(windows: list[Window]) -> None:
    areas = [window.height * window.width / (HEIGHT * WIDTH) for window in windows]
    aspects = [window.width / window.height for window in windows]
    assert min(areas) < MIN_AREA + 0.05
    assert max(areas) > 0.9
    assert min(aspects) < ASPECT_RATIOS[0] + 0.1
    assert max(aspects) > ASPECT_RATIOS[1] - 0.1
    assert {window.top == 0 for window in windows} == {window.left == 0 for window in windows} == {True, False}
    assert 70 <= sum(window.flipped for window in windows) <= 130


def test_the_crop_repeats_with_its_address_and_differs_with_any_part_of_it(windows: list[Window]) -> None:
    first = crop(7, 3, 11)
    np.testing.assert_array_equal(crop(7, 3, 11), first)
    for other in ((8, 3, 11), (7, 4, 11), (7, 3, 12)):
        assert not np.array_equal(crop(*other), first)
    assert len(set(windows)) > 190
    assert sum(window_of(crop(7, 4, sample)) == windows[sample] for sample in range(50)) <= 2


def test_a_very_wide_image_is_cropped_inside_its_borders() -> None:
    image = coordinates_jpeg(width=250, height=40)
    for sample in range(20):
        pixels = crop(0, 0, sample, image)
        assert pixels[..., 0].max() <= 251
        assert pixels[..., 1].max() <= 41
        assert np.ptp(pixels[..., 1]) > 20
