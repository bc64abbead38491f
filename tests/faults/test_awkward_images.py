"""A thousand awkward images: each is pixels of the right shape or a documented reason, and nothing else happens."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path
from typing import get_args

import psutil
import pytest
from awkward_images import corpus, valid_files

from tljobs.data.decode import MAX_ASPECT, decode_stored
from tljobs.data.formats import EXTENSIONS, BadImage, Reason
from tljobs.data.isolate import Answer, Isolated, decode_limits

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

COUNT = 1000
SHORT_SIDE = 48
MAX_PIXELS = 4_000_000
OPTIONS = {"form": "png", "short_side": SHORT_SIDE, "max_pixels": MAX_PIXELS, "background": "#ffffff"}
MAX_GROWTH_BYTES = 256 * 2**20
PAGE = Path(__file__).parents[2] / "docs/tasks/prepare.md"


def isolated() -> Isolated:
    return Isolated("tljobs.data.foreign:stored_form", decode_limits(MAX_PIXELS, 20.0))


def test_each_is_pixels_or_a_documented_reason() -> None:
    files = corpus(COUNT)
    before_bytes = psutil.Process().memory_info().rss
    with isolated() as process:
        answers = list(process.map([data for _, data in files], OPTIONS))
        again = list(process.map([data for _, data in files[::10]], OPTIONS))
    assert psutil.Process().memory_info().rss - before_bytes < MAX_GROWTH_BYTES
    reasons = Counter(_checked(name, answer) for (name, _), answer in zip(files, answers, strict=True))
    assert reasons["accepted"] > 50  # damage that leaves a valid file, such as bytes after its end
    assert {"truncated", "corrupt", "not_an_image", "too_large"} <= set(reasons)
    assert [_checked("", each) for each in again] == [_checked("", each) for each in answers[::10]]


def _checked(name: str, answer: Answer | BadImage) -> str:
    if isinstance(answer, BadImage):
        assert answer.reason in get_args(Reason), name
        return answer.reason
    pixels = decode_stored(answer.body)
    height_px, width_px, channels = pixels.shape
    assert (min(height_px, width_px), channels, pixels.dtype) == (SHORT_SIDE, 3, "uint8"), name
    assert max(height_px, width_px) <= SHORT_SIDE * MAX_ASPECT + 1, name
    assert answer.fields["width_px"] * answer.fields["height_px"] <= MAX_PIXELS, name
    assert answer.fields["source_format"] in EXTENSIONS, name
    return "accepted"


def test_the_files_are_accepted_before_they_are_damaged() -> None:
    with isolated() as process:
        answers = process.map(valid_files().values(), OPTIONS)
        assert {_checked("", answer) for answer in answers} == {"accepted"}


def test_every_reason_is_documented() -> None:
    documented = set(re.findall(r"`(\w+)`", PAGE.read_text()))
    assert set(get_args(Reason)) <= documented
