"""What predict's decoding processes give is what the model's own decoding gives, and a bad image is a reason."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from images import jpeg_bytes

from tljobs.data.decode import decode, eval_view
from tljobs.data.formats import BadImage
from tljobs.serving.views import IsolatedViews

OPTIONS = {"short_side": 64, "crop_size": 56, "image_size": 48, "background": "#ffffff"}


def test_views_of_many_threads_are_those_of_one_process() -> None:
    images = [jpeg_bytes(0, number, 96) for number in range(24)]
    with IsolatedViews(OPTIONS, len(images)) as views, ThreadPoolExecutor(8) as pool:
        got = list(pool.map(views.view, images))
    for data, view in zip(images, got, strict=True):
        expected = eval_view(decode(data, short_side=64).pixels, crop_size=56, image_size=48)
        assert view.dtype == np.uint8
        assert np.array_equal(view, expected)


def test_a_bad_image_has_its_reason() -> None:
    with IsolatedViews(OPTIONS, 1) as views:
        with pytest.raises(BadImage, match="not_an_image"):
            views.view(b"hello" * 20)
        assert views.view(jpeg_bytes(0, 0, 96)).shape == (48, 48, 3)
