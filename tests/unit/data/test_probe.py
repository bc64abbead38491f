"""What one image tells in brief: hashes that survive copying, flags that are right, refusals with a reason."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from images import encoded, photo
from PIL import Image, ImageEnhance

from tljobs.data.decode import decode
from tljobs.data.pixels import Pixels
from tljobs.data.probe import Probe, border_share, perceptual_hash, probe

SIZE_PX = 160


def probed(data: bytes) -> Probe:
    return probe(decode(data, short_side=128))


def distance(one: int, other: int) -> int:
    return (one ^ other).bit_count()


@pytest.mark.parametrize(
    "copy",
    [
        lambda image: encoded(image, quality=50),
        lambda image: encoded(image, "PNG"),
        lambda image: encoded(image, "WEBP", quality=60),
        lambda image: encoded(image.resize((80, 80), Image.Resampling.LANCZOS), quality=80),
        lambda image: encoded(image.resize((301, 301), Image.Resampling.BICUBIC)),
        lambda image: encoded(ImageEnhance.Brightness(image).enhance(0.85)),
        lambda image: encoded(image.convert("L")),
        lambda image: encoded(image.crop((1, 1, SIZE_PX - 1, SIZE_PX - 1))),
    ],
    ids=["quality 50", "png", "webp", "half", "larger", "darker", "grey", "cropped"],
)
def test_the_hash_of_a_copy_is_within_four_bits(copy: Callable[[Image.Image], bytes]) -> None:
    distances = [
        distance(probed(encoded(photo(number, SIZE_PX))).phash, probed(copy(photo(number, SIZE_PX))).phash)
        for number in range(12)
    ]
    assert sorted(distances)[-2] <= 4, distances  # at most one copy in twelve is missed


def test_hashes_of_different_images_are_far_apart() -> None:
    hashes = [probed(encoded(photo(number, SIZE_PX))).phash for number in range(30)]
    assert min(distance(one, other) for one in hashes for other in hashes if one != other) > 4
    assert len(set(hashes)) == len(hashes)


def test_the_hash_of_known_pixels_never_changes() -> None:
    ramp = np.multiply.outer(np.arange(64), 3 + np.arange(64))[:, :, None] % 256
    image = np.repeat(ramp, 3, axis=2).astype(np.uint8)
    assert perceptual_hash(image) == 0x4020183D7CBFBFF
    assert perceptual_hash(np.ascontiguousarray(image[::-1])) != perceptual_hash(image)


def test_an_image_turned_by_exif_has_the_hash_and_size_of_the_upright_one() -> None:
    upright = photo(3, SIZE_PX).resize((160, 120))
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = probed(encoded(upright.rotate(90, expand=True), quality=95, exif=exif.tobytes()))
    assert (turned.width_px, turned.height_px, turned.rotated) == (160, 120, True)
    assert distance(turned.phash, probed(encoded(upright, quality=95)).phash) <= 4
    assert not probed(encoded(upright)).rotated


@pytest.mark.parametrize(("kind", "mode"), [("JPEG", "L"), ("JPEG", "CMYK"), ("PNG", "P"), ("PNG", "RGBA")])
def test_format_and_mode_are_those_of_the_file(kind: str, mode: str) -> None:
    result = probed(encoded(photo(0, SIZE_PX).convert(mode), kind))
    assert (result.source_format, result.mode) == (kind.lower(), mode)


def test_blank_images_are_flagged_and_dark_ones_are_not() -> None:
    generator = np.random.default_rng(0)
    plain = np.full((300, 400, 3), (10, 200, 90), np.uint8)
    noisy = (plain + generator.integers(-6, 7, plain.shape)).astype(np.uint8)
    assert [probed(encoded(Image.fromarray(each))).blank for each in (plain, noisy)] == [True, True]
    dark = ImageEnhance.Brightness(photo(0, SIZE_PX)).enhance(0.2)
    assert not probed(encoded(dark)).blank
    assert probed(encoded(Image.fromarray(plain))).border_share == 1


def test_brightness_is_the_mean_luma() -> None:
    for colour, luma in (((0, 0, 0), 0), ((255, 255, 255), 255), ((255, 0, 0), 76), ((0, 255, 0), 149)):
        assert probed(encoded(Image.new("RGB", (64, 64), colour), "PNG")).brightness == luma


@pytest.mark.parametrize(
    ("box", "share"),
    [((0, 0, 160, 160), 0.0), ((0, 20, 160, 140), 0.25), ((40, 0, 120, 160), 0.5), ((40, 40, 120, 120), 0.75)],
)
def test_plain_bars_are_measured(box: tuple[int, int, int, int], share: float) -> None:
    canvas = Image.new("RGB", (SIZE_PX, SIZE_PX), (0, 0, 0))
    canvas.paste(photo(1, SIZE_PX).crop(box), box[:2])
    assert probed(encoded(canvas)).border_share == pytest.approx(share, abs=0.08)


def test_a_bar_may_have_another_colour_on_each_side() -> None:
    image: Pixels = np.array(photo(2, SIZE_PX))[:64, :64]
    image[:16], image[-16:] = 255, 10
    assert border_share(image) == 0.5
