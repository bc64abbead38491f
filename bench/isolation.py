"""Decoding in the isolated process against decoding in the same process, both on one core: decode, resize to 256 and
encode as a training row. Goal: at least 0.95 of the images per second."""

from __future__ import annotations

import io
import os
import time

import numpy as np
from pairs import in_turn, report
from PIL import Image

from tljobs.data.foreign import stored_form
from tljobs.data.isolate import Isolated, decode_limits

OPTIONS = {"lossy": True, "short_side": 256, "max_pixels": 100_000_000, "background": "#ffffff"}
CASES = {"500 × 375": (500, 375, 200), "4000 × 3000": (4000, 3000, 12)}
DIFFERENT, ROUNDS = 12, 9


def main() -> None:
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})  # the child inherits it
    with Isolated("tljobs.data.foreign:stored_form", decode_limits(100_000_000, 60.0)) as isolated:
        started_s = time.perf_counter()
        isolated.start()
        print(f"start of the process {time.perf_counter() - started_s:.2f} s")
        for name, (width_px, height_px, images) in CASES.items():
            photos = [_photo(width_px, height_px, number) for number in range(min(images, DIFFERENT))]
            work = [photos[number % len(photos)] for number in range(images)]
            seconds = in_turn(
                {
                    "in this process": lambda work=work: [stored_form(data, **OPTIONS) for data in work],
                    "isolated": lambda work=work: list(isolated.map(work, OPTIONS)),
                },
                ROUNDS,
            )
            title = f"Isolated decoding of {name} photos of {len(photos[0]) / 1000:.0f} KB"
            report(title, seconds, "in this process", images, "images")


def _photo(width_px: int, height_px: int, number: int) -> bytes:
    """A JPEG with the bytes per pixel of a photo."""
    generator = np.random.default_rng(number)
    coarse = generator.integers(0, 256, (12, 16, 3)).astype(np.uint8)
    image = np.asarray(Image.fromarray(coarse).resize((width_px, height_px), Image.Resampling.BICUBIC), np.float32)
    noisy = np.clip(image + generator.normal(0, 6, image.shape), 0, 255).astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(noisy).save(buffer, "JPEG", quality=88)
    return buffer.getvalue()


if __name__ == "__main__":
    main()
