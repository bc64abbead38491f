"""Resize, crop and the view that evaluation and prediction share."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from tljobs.data.decode import centre_crop, eval_view, resize_short_side
from tljobs.errors import UsageError


def noise(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


@pytest.mark.parametrize(("height", "width"), [(300, 400), (400, 300), (257, 256), (1000, 77), (50, 40), (256, 300)])
def test_resize_is_pillows_bilinear_within_one_level(height: int, width: int) -> None:
    pixels = noise(height, width)
    resized = resize_short_side(pixels, 64)
    reference = np.asarray(Image.fromarray(pixels).resize(resized.shape[1::-1], Image.Resampling.BILINEAR))
    assert min(resized.shape[:2]) == 64
    assert np.abs(resized.astype(int) - reference.astype(int)).max() <= 1


def test_resize_is_antialiased() -> None:
    checkerboard = np.repeat(((np.indices((512, 512)).sum(axis=0) % 2) * 255).astype(np.uint8)[:, :, None], 3, axis=2)
    assert np.abs(resize_short_side(checkerboard, 100).astype(int) - 127).max() <= 12


def test_the_longer_side_is_rounded_half_up() -> None:
    assert resize_short_side(noise(10, 25), 5).shape == (5, 13, 3)
    assert resize_short_side(noise(35, 10), 5).shape == (18, 5, 3)


def test_an_image_of_the_right_size_is_not_touched() -> None:
    pixels = noise(64, 80)
    assert np.array_equal(resize_short_side(pixels, 64), pixels)


def test_the_crop_is_in_the_middle() -> None:
    pixels = np.arange(6 * 9 * 3, dtype=np.uint8).reshape(6, 9, 3)
    crop = centre_crop(pixels, 4)
    assert crop.shape == (4, 4, 3)
    assert crop[0, 0].tolist() == pixels[1, 2].tolist() == [33, 34, 35]
    assert crop[3, 3].tolist() == pixels[4, 5].tolist()


def test_a_crop_larger_than_the_image_says_what_to_do() -> None:
    with pytest.raises(UsageError, match="--image-size 65"):
        centre_crop(noise(64, 90), 65)


def test_the_eval_view_without_resize_is_the_crop() -> None:
    pixels = noise(256, 300)
    assert np.array_equal(eval_view(pixels, crop_size=224, image_size=224), pixels[16:240, 38:262])


def test_the_eval_view_with_resize_is_pillows_bilinear_of_the_crop() -> None:
    pixels = noise(256, 300)
    view = eval_view(pixels, crop_size=224, image_size=96)
    reference = Image.fromarray(pixels[16:240, 38:262]).resize((96, 96), Image.Resampling.BILINEAR)
    assert view.shape == (96, 96, 3)
    assert view.flags.c_contiguous
    assert np.abs(view.astype(int) - np.asarray(reference).astype(int)).max() <= 1
