"""Decoding in the isolated process against decoding in the same process: decode, resize to 256 and encode as a training
row. Seconds are CPU seconds of both processes together, which on one core is what the throughput comes from. Goal: at
least 0.95 of the images per second."""

from __future__ import annotations

import io
import time
from collections.abc import Callable

import numpy as np
import psutil
from pairs import report
from PIL import Image

from tljobs.data.foreign import stored_form
from tljobs.data.isolate import Isolated, decode_limits

OPTIONS = {"form": "jpeg", "short_side": 256, "max_pixels": 100_000_000, "background": "#ffffff"}
CASES = {"500 × 375": (500, 375, 600), "4000 × 3000": (4000, 3000, 24)}
DIFFERENT, ROUNDS = 12, 9


def main() -> None:
    with Isolated("tljobs.data.foreign:stored_form", decode_limits(100_000_000, 60.0)) as isolated:
        started_s = time.perf_counter()
        isolated.start()
        print(f"start of the process {time.perf_counter() - started_s:.2f} s")
        for name, (width_px, height_px, images) in CASES.items():
            photos = [_photo(width_px, height_px, number) for number in range(min(images, DIFFERENT))]
            work = [photos[number % len(photos)] for number in range(images)]
            contenders: dict[str, Callable[[], object]] = {
                "in this process": lambda work=work: [stored_form(data, **OPTIONS) for data in work],
                "isolated": lambda work=work: list(isolated.map(work, OPTIONS)),
            }
            title = f"Isolated decoding of {name} photos of {len(photos[0]) / 1000:.0f} KB"
            report(title, _cpu_seconds(contenders, isolated), "in this process", images, "images")


def _cpu_seconds(contenders: dict[str, Callable[[], object]], isolated: Isolated) -> dict[str, list[float]]:
    """As `pairs.in_turn`, but CPU seconds of this process and of the isolated one."""
    processes = [psutil.Process(), psutil.Process(isolated.pid)]
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    for number in range(ROUNDS + 1):
        for name in seconds if number % 2 == 0 else reversed(list(seconds)):
            before_s = _used_s(processes)
            contenders[name]()
            if number:
                seconds[name].append(_used_s(processes) - before_s)
    return seconds


def _used_s(processes: list[psutil.Process]) -> float:
    return sum(times.user + times.system for times in (process.cpu_times() for process in processes))


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
