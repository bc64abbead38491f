import io
import os
import re
import select
from types import SimpleNamespace
from typing import TextIO

import pytest

from tljobs import progress
from tljobs.progress import Console, Reporter, Silent


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """A clock that stands at its first item."""
    now = [1000.0]
    monkeypatch.setattr(progress, "time", SimpleNamespace(monotonic=lambda: now[0]))
    return now


def test_a_plan_is_a_title_and_aligned_rows() -> None:
    stream = io.StringIO()
    Console(stream).plan("Training r", [("images", "120"), ("learning rate", "0.001")])
    assert stream.getvalue() == "Training r\n  images         120\n  learning rate  0.001\n"


def test_a_log_gets_the_first_and_the_last_line_and_one_every_30_s(clock: list[float]) -> None:
    stream = io.StringIO()
    console = Console(stream)
    for second in range(101):
        clock[0] = 1000.0 + second
        console.progress("epoch 1", second, 100, "loss 0.5")
    lines = stream.getvalue().splitlines()
    assert lines == [f"epoch 1: {done}/100 loss 0.5" for done in (0, 30, 60, 90, 100)]


def test_a_new_task_gets_its_first_line_at_once(clock: list[float]) -> None:
    stream = io.StringIO()
    console = Console(stream)
    console.progress("reading", 1, 10)
    console.progress("writing", 1, 10)
    console.progress("writing", 2, 10)
    assert stream.getvalue() == "reading: 1/10\nwriting: 1/10\n"


def test_silence_says_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    silent: Reporter = Silent()
    silent.plan("title", [("a", "b")])
    silent.note("note")
    silent.progress("what", 1, 2)
    assert capfd.readouterr() == ("", "")


def test_a_terminal_gets_a_bar_and_notes_stay_above_it() -> None:
    controller, terminal = os.openpty()
    with os.fdopen(terminal, "w") as stream:
        shown = _work_on(stream, controller)
    os.close(controller)
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", shown)
    assert "a note" in text
    assert "loss 0.5" in text
    assert "3/3" in text


def _work_on(stream: TextIO, controller: int) -> str:
    console = Console(stream)
    for done in range(1, 4):
        console.progress("epoch 1", done, 3, "loss 0.5")
    console.note("a note")
    console.close()
    stream.flush()
    shown = b""
    while select.select([controller], [], [], 0.3)[0]:  # a terminal hands over in pieces, a moment later
        shown += os.read(controller, 1 << 16)
    return shown.decode()
