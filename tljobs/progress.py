"""What a user sees while a command works: on stderr, a bar on a terminal, one plain line every 30 s in a log."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING, Protocol, TextIO

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

LOG_EVERY_S = 30.0


class Reporter(Protocol):
    """How verbs speak to whoever started them."""

    def plan(self, title: str, rows: list[tuple[str, str]]) -> None:
        """The printed plan: (name, value) rows, before any work."""

    def note(self, text: str) -> None:
        """One line that stays."""

    def progress(self, what: str, done: int, total: int, detail: str = "") -> None:
        """`done` of `total` steps of `what`."""


class Silent:
    """Says nothing: the default of the Python API."""

    def plan(self, title: str, rows: list[tuple[str, str]]) -> None: ...

    def note(self, text: str) -> None: ...

    def progress(self, what: str, done: int, total: int, detail: str = "") -> None: ...


SILENT = Silent()


class Console:
    """Reports to stderr. `close` ends the bar; further calls open a new one."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream or sys.stderr
        self._bar: Progress | None = None
        self._tasks: dict[str, TaskID] = {}
        self._last_line_s = -LOG_EVERY_S
        self._last_what = ""

    def plan(self, title: str, rows: list[tuple[str, str]]) -> None:
        width = max((len(name) for name, _ in rows), default=0)
        self.note(title)
        for name, value in rows:
            self.note(f"  {name:<{width}}  {value}")

    def note(self, text: str) -> None:
        if self._bar is not None:
            self._bar.console.print(text, markup=False, highlight=False)
        else:
            print(text, file=self._stream, flush=True)

    def progress(self, what: str, done: int, total: int, detail: str = "") -> None:
        if self._stream.isatty():
            self._show_bar(what, done, total, detail)
            return
        now = time.monotonic()
        if done < total and what == self._last_what and now - self._last_line_s < LOG_EVERY_S:
            return
        self._last_line_s, self._last_what = now, what
        print(f"{what}: {done}/{total} {detail}".rstrip(), file=self._stream, flush=True)

    def close(self) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None
            self._tasks.clear()

    def _show_bar(self, what: str, done: int, total: int, detail: str) -> None:
        if self._bar is None:
            from rich.console import Console as RichConsole
            from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

            self._bar = Progress(
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TimeRemainingColumn(),
                TextColumn("{task.fields[detail]}"),
                console=RichConsole(file=self._stream),
            )
            self._bar.start()
        if what not in self._tasks:
            self._tasks[what] = self._bar.add_task(what, total=total, detail=detail)
        self._bar.update(self._tasks[what], completed=done, total=total, detail=detail)
