"""Small real photos-like JPEGs made by code: the same bytes for the same arguments, a different image each time.

A class is a shape or texture (stripes, checks, discs, …) in a tone of its own; position, scale, contrast and noise
differ from image to image, so that a tiny network learns the classes and none of them is a constant.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

Array = npt.NDArray[np.float64]
Texture = Callable[[Array, Array, np.random.Generator], Array]


def make_class_folders(root: Path, classes: Sequence[str], per_class: int, size_px: int = 96, seed: int = 0) -> Path:
    """Writes `per_class` JPEGs of `size_px` × `size_px` into `root`/CLASS for each class, and returns `root`."""
    for index, name in enumerate(classes):
        folder = root / name
        folder.mkdir(parents=True, exist_ok=True)
        for number in range(per_class):
            (folder / f"{number:04}.jpg").write_bytes(jpeg_bytes(index, number, size_px, seed))
    return root


def jpeg_bytes(class_index: int, number: int, size_px: int = 96, seed: int = 0) -> bytes:
    """Image `number` of a class as a JPEG file."""
    buffer = io.BytesIO()
    Image.fromarray(pixels(class_index, number, size_px, seed)).save(buffer, "JPEG", quality=92)
    return buffer.getvalue()


def pixels(class_index: int, number: int, size_px: int = 96, seed: int = 0) -> npt.NDArray[np.uint8]:
    """Image `number` of a class: uint8, shape (size_px, size_px, 3)."""
    generator = np.random.default_rng([seed, class_index, number])
    rows, columns = np.meshgrid(np.linspace(0, 1, size_px), np.linspace(0, 1, size_px), indexing="ij")
    mask = TEXTURES[class_index % len(TEXTURES)](rows, columns, generator)[..., None]
    front, back = _tones(class_index, generator)
    image = back + mask * (front - back) + generator.normal(0, 12, (size_px, size_px, 3))
    return np.clip(image, 0, 255).astype(np.uint8)


def photo(number: int, size_px: int = 96, seed: int = 0) -> Image.Image:
    """Clouds of colour, no two alike: all low frequencies occur, as in a photo."""
    generator = np.random.default_rng([seed, number])
    clouds = Image.fromarray(generator.integers(0, 256, (12, 12, 3), dtype=np.uint8))
    return clouds.resize((size_px, size_px), Image.Resampling.BICUBIC)


def encoded(image: Image.Image, kind: str = "JPEG", **options: Any) -> bytes:
    """The image as a file; `options` are those of Pillow's `save`."""
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def bomb() -> bytes:
    """A small JPEG file whose header claims 65,500 x 65,500 pixels."""
    data = bytearray(jpeg_bytes(0, 0))
    place = data.index(b"\xff\xc0") + 5
    data[place : place + 4] = b"\xff\xdc\xff\xdc"
    return bytes(data)


def _tones(class_index: int, generator: np.random.Generator) -> tuple[Array, Array]:
    """A light tone whose strongest channels follow the class, on a dark ground; both RGB, 0 to 255."""
    angles = 2 * np.pi * (class_index * 0.382 + np.arange(3) / 3)
    front = 170 + 60 * np.cos(angles) + generator.uniform(-20, 20, 3)
    return front, generator.uniform(20, 70, 3)


def _waves(along: Array, generator: np.random.Generator) -> Array:
    return (np.sin(2 * np.pi * (generator.uniform(4, 6) * along + generator.uniform())) > 0).astype(float)


def _level_stripes(rows: Array, columns: Array, generator: np.random.Generator) -> Array:
    return _waves(rows, generator)


def _upright_stripes(rows: Array, columns: Array, generator: np.random.Generator) -> Array:
    return _waves(columns, generator)


def _checks(rows: Array, columns: Array, generator: np.random.Generator) -> Array:
    return np.abs(_waves(rows, generator) - _waves(columns, generator))


def _distance(rows: Array, columns: Array, generator: np.random.Generator) -> Array:
    """Distance of each pixel from a point near the middle; the side of the image is 1."""
    return np.hypot(rows - generator.uniform(0.4, 0.6), columns - generator.uniform(0.4, 0.6))


def _disc(rows: Array, columns: Array, generator: np.random.Generator) -> Array:
    return (_distance(rows, columns, generator) < generator.uniform(0.2, 0.3)).astype(float)


def _ring(rows: Array, columns: Array, generator: np.random.Generator) -> Array:
    return (np.abs(_distance(rows, columns, generator) - generator.uniform(0.28, 0.38)) < 0.05).astype(float)


def _cross(rows: Array, columns: Array, generator: np.random.Generator) -> Array:
    row, column = generator.uniform(0.35, 0.65, 2)
    return ((np.abs(rows - row) < 0.08) | (np.abs(columns - column) < 0.08)).astype(float)


TEXTURES: tuple[Texture, ...] = (_level_stripes, _disc, _checks, _cross, _upright_stripes, _ring)
