"""P10: peak memory of prepare with ten times the images: of the process that drives it, and of its largest worker.

Tiny images, so that their number and not their size counts. Each size runs in a process of its own. Goal: at most 1.1
times.
"""

from __future__ import annotations

import io
import json
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
import psutil
from PIL import Image

SIZES = (2_000, 20_000)
SAMPLE_EVERY_S = 0.2


def main() -> None:
    peaks = []
    for images in SIZES:
        done = subprocess.run([sys.executable, __file__, str(images)], stdout=subprocess.PIPE, text=True, check=True)
        peaks.append(json.loads(done.stdout.splitlines()[-1]))
    print(f"P10 prepare, {SIZES[0]:,} and {SIZES[1]:,} images of 16 × 16 pixels")
    for who in ("driver", "worker"):
        few, many = (peak[who] / 2**20 for peak in peaks)
        each = (peaks[1][who] - peaks[0][who]) / (SIZES[1] - SIZES[0]) / 1000
        print(f"  {who:<8} {few:6.0f} MiB  {many:6.0f} MiB  × {many / few:.2f}  ({each:.1f} kB per image)")


def measure(images: int) -> None:
    import ray

    from tljobs.data.prepare import prepare
    from tljobs.specs import PrepareSpec
    from tljobs.store import LocalStore

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        _photos(folder / "photos", images)
        ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
        peak = {"driver": 0, "worker": 0}
        threading.Thread(target=_watch, args=(peak,), daemon=True).start()
        prepare(PrepareSpec(source=str(folder / "photos"), name="d", image_size=32), LocalStore(folder / "store"))
        print(json.dumps(peak))


def _watch(peak: dict[str, int]) -> None:
    driver = psutil.Process()
    while True:
        peak["driver"] = max(peak["driver"], driver.memory_info().rss)
        for child in driver.children(recursive=True):
            try:
                if child.cmdline()[:1] and child.cmdline()[0].startswith("ray::"):
                    peak["worker"] = max(peak["worker"], child.memory_info().rss)
            except psutil.Error:  # it has just ended
                continue
        time.sleep(SAMPLE_EVERY_S)


def _photos(folder: Path, images: int) -> None:
    generator = np.random.default_rng(0)
    for number in range(images):
        path = folder / "ab"[number % 2] / f"{number % 1000}" / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        buffer = io.BytesIO()
        Image.fromarray(generator.integers(0, 256, (16, 16, 3), dtype=np.uint8)).save(buffer, "PNG", compress_level=0)
        path.write_bytes(buffer.getvalue())


if __name__ == "__main__":
    measure(int(sys.argv[1])) if sys.argv[1:] else main()
