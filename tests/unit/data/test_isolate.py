"""The process for foreign bytes: whatever happens to it, one image is lost, and the others get their answers."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator

import psutil
import pytest

from tljobs.data.formats import BadImage
from tljobs.data.isolate import Answer, Isolated, Limits, decode_limits
from tljobs.errors import TljobsError

WORK = "isolated_work:misbehave"
LIMITS = Limits(memory_bytes=2**30, cpu_s=1.0, wall_s=60.0)


@pytest.fixture(scope="module")
def isolated() -> Iterator[Isolated]:
    with Isolated(WORK, LIMITS) as isolated:
        yield isolated


def outcomes(isolated: Isolated, items: list[bytes | BadImage]) -> list[str]:
    """A letter's body or a reason per item."""
    return [
        answer.reason if isinstance(answer, BadImage) else answer.body[:3].decode()
        for answer in isolated.map(items, {})
    ]


def test_answers_come_in_order_with_the_options_that_were_sent(isolated: Isolated) -> None:
    items = [b"%03d" % number + bytes(number * 997) for number in range(200)]
    answers = list(isolated.map(items, {"size": 3}))
    assert [answer.body for answer in answers if isinstance(answer, Answer)] == items
    assert all(answer.fields["options"] == {"size": 3} for answer in answers if isinstance(answer, Answer))


def test_items_larger_than_every_pipe_go_both_ways(isolated: Isolated) -> None:
    items = [b"1" + os.urandom(5_000_000) for _ in range(5)]
    assert [answer.body for answer in isolated.map(items, {}) if isinstance(answer, Answer)] == items


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "reason", "detail"),
    [
        (b"a", "decoder_crash", "SIGABRT"),
        (b"s", "decoder_crash", "SIGSEGV"),
        (b"e", "decoder_crash", "RuntimeError: no such plug-in"),
        (b"l", "decoder_timeout", "1 s of CPU"),
        (b"m", "too_large", "memory"),
        (b"k", "decoder_crash", "no answer of ours"),
        (b"b", "corrupt", "as asked"),
    ],
    ids=["abort", "segmentation fault", "exception", "endless loop", "memory bomb", "rubbish", "bad image"],
)
def test_only_the_image_that_it_had_is_lost(isolated: Isolated, kind: bytes, reason: str, detail: str) -> None:
    items: list[bytes | BadImage] = [b"%03d" % number for number in range(40)]
    items[17] = kind
    answers = list(isolated.map(items, {}))
    lost = answers[17]
    assert isinstance(lost, BadImage)
    assert lost.reason == reason
    assert detail in lost.detail
    assert [answer.body for answer in answers if isinstance(answer, Answer)] == items[:17] + items[18:]


@pytest.mark.slow
def test_a_child_that_sleeps_is_ended_by_the_clock() -> None:
    with Isolated(WORK, Limits(memory_bytes=2**30, cpu_s=30.0, wall_s=0.5)) as isolated:
        with pytest.raises(BadImage, match=r"decoder_timeout: no answer within 0\.5 s"):
            isolated.call(b"w", {})


def test_several_deaths_in_a_row_are_several_lost_images(isolated: Isolated) -> None:
    assert outcomes(isolated, [b"1", b"a", b"a", b"2", b"e", b"a", b"3"]) == [
        *("1", "decoder_crash", "decoder_crash", "2", "decoder_crash", "decoder_crash", "3")
    ]


def test_what_is_bad_already_passes_by_in_its_place(isolated: Isolated) -> None:
    assert outcomes(isolated, [BadImage("unreadable"), b"1", b"a", BadImage("empty"), b"2"]) == [
        *("unreadable", "1", "decoder_crash", "empty", "2")
    ]


def test_prints_of_libraries_do_not_disturb_the_answers(isolated: Isolated) -> None:
    assert outcomes(isolated, [b"p", b"1", b"p"]) == ["p", "1", "p"]


@pytest.mark.slow
def test_a_child_that_is_ended_from_outside_costs_no_image(isolated: Isolated) -> None:
    def ending() -> Iterator[bytes]:
        for number in range(60):
            if number == 30:
                assert isolated.pid
                os.kill(isolated.pid, signal.SIGKILL)
            yield b"%03d" % number

    answers = list(isolated.map(ending(), {}))
    assert [answer.body for answer in answers if isinstance(answer, Answer)] == [b"%03d" % n for n in range(60)]


@pytest.mark.slow
def test_one_child_serves_all_calls_and_ends_at_the_end() -> None:
    with Isolated(WORK, LIMITS) as isolated:
        assert isolated.pid is None
        pids = {isolated.call(b"1", {}).fields["pid"] for _ in range(5)}
        assert pids == {isolated.pid}
    assert not psutil.pid_exists(pids.pop())


@pytest.mark.slow
def test_half_taken_answers_are_not_given_to_the_next_caller() -> None:
    with Isolated(WORK, LIMITS) as isolated:
        first = isolated.map([b"%03d" % number for number in range(20)], {})
        next(first)
        first.close()
        assert isolated.call(b"999", {}).body == b"999"


@pytest.mark.slow
def test_it_sees_no_secrets_and_no_heavy_library(isolated: Isolated, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    with Isolated("isolated_work:misbehave", LIMITS) as fresh:
        seen = fresh.call(b"v", {}).fields
    assert "secret" not in seen["environment"].values()
    assert set(seen["modules"]) & {"ray", "tensorflow", "keras", "pyarrow", "boto3", "streamlit"} == set()


@pytest.mark.slow
def test_it_ends_with_its_parent_even_while_it_hangs() -> None:
    script = """
import os, sys, threading, time
from tljobs.data.isolate import Isolated, Limits
isolated = Isolated("isolated_work:misbehave", Limits(memory_bytes=2**30, cpu_s=60, wall_s=60))
isolated.start()
threading.Thread(target=isolated.call, args=(b"w", {}), daemon=True).start()
time.sleep(0.1)
print(isolated.pid, flush=True)
os._exit(1)
"""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    shown = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, env=environment)
    child = int(shown.stdout)
    deadline_s = time.monotonic() + 10
    while psutil.pid_exists(child) and psutil.Process(child).status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() < deadline_s
        time.sleep(0.01)


@pytest.mark.slow
def test_a_function_that_is_not_there_is_an_error_of_its_own() -> None:
    with Isolated("isolated_work:nothing", LIMITS) as isolated:
        with pytest.raises(TljobsError, match=r"does not start.*isolated_work:nothing.*no attribute 'nothing'"):
            isolated.start()


def test_limits_grow_with_the_images_that_are_allowed() -> None:
    small, large = decode_limits(10_000_000, 5.0), decode_limits(1_000_000_000, 60.0)
    assert small.memory_bytes < large.memory_bytes
    assert (large.cpu_s, small.cpu_s) == (60.0, 5.0)
    assert small.wall_s > small.cpu_s
