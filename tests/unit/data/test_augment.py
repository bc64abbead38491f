"""The training crop: which window of which image, told by an image whose colours are coordinates; and its limits."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from tljobs.data.augment import (
    ASPECT_RATIOS,
    MIN_AREA,
    STREAMS,
    Window,
    centre_view,
    random_window,
    uniforms,
    view,
)
from tljobs.data.pixels import eval_view, resize

WIDTH, HEIGHT = 200, 160
SIDE = 128


def coordinates(width: int = WIDTH, height: int = HEIGHT) -> np.ndarray:
    """Red is the column, green the row."""
    rows, columns = np.indices((height, width))
    return np.stack([columns, rows, np.full_like(rows, 128), np.full_like(rows, 255)], axis=-1).astype(np.uint8)


def window_at(seed: int, epoch: int, sample: int, width: int = WIDTH, height: int = HEIGHT) -> Window:
    return random_window(uniforms(seed, epoch, np.array([sample]))[0].tolist(), width, height)


def crop(seed: int, epoch: int, sample: int, image: np.ndarray | None = None) -> np.ndarray:
    image = coordinates() if image is None else image
    return view(image, window_at(seed, epoch, sample, image.shape[1], image.shape[0]), SIDE)


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
    return [window_at(7, 3, sample) for sample in range(200)]


GOLDEN = {
    (0, 0, 0): Window(top=7, left=64, height=138, width=131, flipped=True),
    (0, 0, 1): Window(top=19, left=15, height=135, width=164, flipped=False),
    (0, 1, 0): Window(top=0, left=5, height=149, width=195, flipped=False),
    (7, 3, 123456789): Window(top=0, left=18, height=160, width=153, flipped=True),
}  # (seed, epoch, sample)


@pytest.mark.parametrize(("address", "window"), GOLDEN.items())
def test_known_addresses_give_known_windows(address: tuple[int, int, int], window: Window) -> None:
    assert window_at(*address) == window
    assert window_of(crop(*address)) == window


def test_numbers_are_those_of_splitmix64() -> None:
    """The first number of the reference generator with seed 0, four times: the address is all zeros."""
    state = 0
    for _ in range(4):  # seed, epoch, sample, stream
        state = splitmix64(state)
    assert uniforms(0, 0, np.array([0]))[0, 0] == (state >> 11) / 2**53


def splitmix64(state: int) -> int:
    """Java's SplittableRandom, as published, with integers of any size."""
    mask = 2**64 - 1
    z = (state + 0x9E3779B97F4A7C15) & mask
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & mask
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & mask
    return z ^ (z >> 31)


def test_numbers_are_spread_evenly_and_those_of_neighbours_are_unrelated() -> None:
    numbers = uniforms(3, 2, np.arange(20_000))
    assert numbers.shape == (20_000, STREAMS)
    for column in numbers.T:
        counts, _ = np.histogram(column, 20, (0, 1))
        assert 850 < counts.min() <= counts.max() < 1150  # 1000 expected, deviation 31
    for other in (uniforms(3, 2, np.arange(1, 20_001)), uniforms(3, 3, np.arange(20_000)), numbers[:, ::-1]):
        related = [np.corrcoef(mine, theirs)[0, 1] for mine, theirs in zip(numbers.T, other.T, strict=True)]
        assert np.abs([each for each in related if each < 0.999]).max() < 0.03  # deviation 0.007


def test_a_number_depends_on_its_own_address_alone() -> None:
    whole = uniforms(5, 1, np.arange(100))
    np.testing.assert_array_equal(uniforms(5, 1, np.array([77, 3])), whole[[77, 3]])


def test_pixels_are_the_window_resized_bilinearly_and_flipped() -> None:
    photo = np.random.default_rng(0).integers(0, 256, (10, 12, 4)).astype(np.uint8)
    image = np.asarray(Image.fromarray(photo, "RGBX").resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC))
    rgb = Image.fromarray(np.ascontiguousarray(image[..., :3]))
    for address, window in GOLDEN.items():
        box = (window.left, window.top, window.left + window.width, window.top + window.height)
        wanted = np.asarray(rgb.resize((SIDE, SIDE), Image.Resampling.BILINEAR, box=box), np.int64)
        wanted = wanted[:, ::-1] if window.flipped else wanted
        assert np.abs(crop(*address, image).astype(np.int64) - wanted).max() <= 1, address


@pytest.mark.parametrize("image_size", [224, 128, 40])
def test_the_filter_reaches_no_further_than_the_rows_that_it_is_given(image_size: int) -> None:
    """Pillow sees the whole image; noise shows every row that lacks."""
    image = np.random.default_rng(4).integers(0, 256, (HEIGHT, WIDTH, 4)).astype(np.uint8)
    rgb = Image.fromarray(np.ascontiguousarray(image[..., :3]))
    for top, height in ((0, 100), (31, 129), (17, 77)):
        box = (20, top, 170, top + height)
        wanted = np.asarray(rgb.resize((image_size, image_size), Image.Resampling.BILINEAR, box=box), np.int64)
        pixels = view(image, Window(top, 20, height, 150), image_size)
        assert np.abs(pixels.astype(np.int64) - wanted).max() <= 1


def test_pixels_are_those_of_the_resizer_of_validation_bit_for_bit() -> None:
    image = np.random.default_rng(1).integers(0, 256, (HEIGHT, WIDTH, 4)).astype(np.uint8)
    whole = Window(0, 0, HEIGHT, WIDTH)
    np.testing.assert_array_equal(view(image, whole, SIDE), resize(np.ascontiguousarray(image[..., :3]), SIDE, SIDE))
    mirrored = view(image, Window(0, 0, HEIGHT, WIDTH, flipped=True), SIDE)
    np.testing.assert_array_equal(mirrored, view(image, whole, SIDE)[:, ::-1])


@pytest.mark.parametrize(("crop_size", "image_size"), [(128, 128), (128, 96), (111, 111)])
def test_the_centre_view_is_that_of_validation(crop_size: int, image_size: int) -> None:
    image = np.random.default_rng(2).integers(0, 256, (HEIGHT, WIDTH, 4)).astype(np.uint8)
    wanted = eval_view(np.ascontiguousarray(image[..., :3]), crop_size=crop_size, image_size=image_size)
    np.testing.assert_array_equal(centre_view(image, crop_size, image_size), wanted)


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
    assert sum(window_at(7, 4, sample) == windows[sample] for sample in range(50)) <= 2


def test_a_very_wide_image_is_cropped_inside_its_borders() -> None:
    image = coordinates(width=250, height=40)
    for sample in range(20):
        pixels = crop(0, 0, sample, image)
        assert pixels[..., 0].max() <= 250
        assert pixels[..., 1].max() <= 40
        assert np.ptp(pixels[..., 1]) > 20
