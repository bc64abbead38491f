"""One life of the child process of tljobs.data.isolate: requests go in through a pipe, answers come out of another.

Both pipes are served by one loop that never blocks on one of them alone, so that any number of requests of any size
can be under way.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import mmap
import os
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections import deque
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, get_args

from tljobs.data.formats import BadImage, Reason
from tljobs.data.isolate_child import HEADER, MAX_DETAIL, MAX_LOG_BYTES, OUT_OF_MEMORY, PROGRESS
from tljobs.errors import TljobsError

START_TIMEOUT_S = 120.0  # a third of a second on an idle machine
MAX_ANSWER_BYTES = 512 * 2**20  # the largest stored image has 330 MB of pixels
PIPE_BYTES = 2**20  # the most that Linux gives an ordinary user; a photo or more fits, so that the child never waits
REASONS = frozenset(get_args(Reason))
# Printed by libraries in Rust and C++ that abort when an allocation fails.
ALLOCATION_FAILED = ("memory allocation of", "bad_alloc", "MemoryError", "ut of memory", "annot allocate memory")

# Passed on to the child; everything else of the environment, secrets among it, is not.
ENVIRONMENT = ("PATH", "LANG", "LC_ALL", "LC_CTYPE", "LD_LIBRARY_PATH")
FIXED_ENVIRONMENT = {
    "MALLOC_ARENA_MAX": "2",  # each arena would take 64 MB of the address space
    # Memory is kept for the next image: to give it back and take it again costs as much as decoding a small photo.
    "MALLOC_MMAP_THRESHOLD_": str(32 * 2**20),
    "MALLOC_TRIM_THRESHOLD_": str(64 * 2**20),
    "OPENBLAS_NUM_THREADS": "1",  # likewise each thread; decoding needs no algebra
    "OMP_NUM_THREADS": "1",
}


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What one image may take: address space of its process in bytes, CPU and wall time in seconds."""

    memory_bytes: int
    cpu_s: float
    wall_s: float


@dataclass(frozen=True)
class Answer:
    """What the function made of an image: small values, and bytes."""

    fields: dict[str, Any]
    body: bytes


class Child:
    """A running child. Not safe to share between threads."""

    def __init__(self, function: str, limits: Limits) -> None:
        self._function = function
        self._limits = limits
        self._outgoing: deque[bytes | memoryview] = deque()
        self._incoming = bytearray()
        self._buffer = bytearray(PIPE_BYTES)
        self._is_writing = False
        self._ended_for: BadImage | None = None
        self.answered = 0
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 (closed with the child)
        theirs, self._lifeline = os.pipe()
        progress = os.memfd_create("tljobs-progress")
        os.ftruncate(progress, PROGRESS.size)
        self._progress = mmap.mmap(progress, PROGRESS.size)
        try:
            self._process = subprocess.Popen(
                [
                    *(sys.executable, "-P", "-W", "ignore", "-m", "tljobs.data.isolate_child"),
                    *(function, str(theirs), str(progress), str(limits.memory_bytes), str(limits.cpu_s)),
                ],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._log,
                pass_fds=(theirs, progress),
                env=_environment(),
                cwd="/",
            )
        finally:
            os.close(theirs)
            os.close(progress)
        self._requests, self._answers = _pipe(self._process.stdin), _pipe(self._process.stdout)
        self._poller = select.poll()
        self._poller.register(self._answers, select.POLLIN)

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def finished(self) -> int:
        """How many requests the child has finished; the answers of the last ones may have been lost with it."""
        count: int = PROGRESS.unpack_from(self._progress)[0]
        return count

    def wait_until_ready(self) -> None:
        """Raises TljobsError when the child does not start or cannot import its function."""
        if self._receive(START_TIMEOUT_S) is None:
            self._process.kill()
            self._process.wait()
            raise TljobsError("the decoding process does not start", self._function, self._last_words())

    def send(self, options: bytes, data: bytes) -> None:
        """Puts a request in line; what the pipe does not take now goes on in `receive`."""
        self._outgoing += [HEADER.pack(len(options), len(data)) + options, memoryview(data)]
        self._write()

    def receive(self) -> Answer | BadImage | None:
        """What became of the oldest request; None when the child has died or had to be ended: see `verdict`."""
        content = self._receive(self._limits.wall_s)
        if content is None:
            return None
        try:
            answer = _parsed(*content)
        except (ValueError, KeyError, TypeError):
            self._end_for(BadImage("decoder_crash", "no answer of ours"))
            return None
        self.answered += 1
        return answer

    def verdict(self) -> BadImage:
        """Why there was no answer: `decoder_timeout`, `too_large` or `decoder_crash`."""
        self._process.wait()
        status, last_words = self._process.returncode, self._last_words()
        if self._ended_for:
            return self._ended_for
        if status == -signal.SIGPROF:
            return BadImage("decoder_timeout", f"more than {self._limits.cpu_s:g} s of CPU time")
        if status in (OUT_OF_MEMORY, -signal.SIGKILL) or any(text in last_words for text in ALLOCATION_FAILED):
            return BadImage("too_large", f"decoding takes more than {self._limits.memory_bytes} bytes of memory")
        how = signal.Signals(-status).name if status < 0 else f"exit status {status}"
        return BadImage("decoder_crash", f"{how} {last_words}".strip()[:MAX_DETAIL])

    def close(self) -> None:
        """Ends the child at once."""
        with contextlib.suppress(OSError):
            self._process.kill()
        self._process.wait()
        os.close(self._lifeline)
        self._progress.close()
        for file in (self._process.stdin, self._process.stdout, self._log):
            with contextlib.suppress(OSError):
                file.close()  # type: ignore[union-attr]

    def _end_for(self, verdict: BadImage) -> None:
        self._ended_for = verdict
        self._process.kill()

    def _receive(self, timeout_s: float) -> tuple[dict[str, Any], bytes] | None:
        deadline_s = time.monotonic() + timeout_s
        while (content := self._complete()) is None:
            left_s = deadline_s - time.monotonic()
            events = self._poller.poll(max(0.0, left_s) * 1000)
            if not events:
                self._end_for(BadImage("decoder_timeout", f"no answer within {timeout_s:g} s"))
                return None
            for descriptor, _ in events:
                if descriptor == self._requests:
                    self._write()
                elif not self._read():
                    return None
        return content

    def _complete(self) -> tuple[dict[str, Any], bytes] | None:
        if len(self._incoming) < HEADER.size:
            return None
        text_bytes, body_bytes = HEADER.unpack_from(self._incoming)
        end = HEADER.size + text_bytes + body_bytes
        if end > MAX_ANSWER_BYTES:
            return {}, b""
        if len(self._incoming) < end:
            return None
        with memoryview(self._incoming) as view:
            text = bytes(view[HEADER.size : HEADER.size + text_bytes])
            body = bytes(view[HEADER.size + text_bytes : end])
        del self._incoming[:end]
        try:
            return json.loads(text), body
        except ValueError:
            return {}, b""

    def _read(self) -> bool:
        """Takes what is there; False at the end."""
        with contextlib.suppress(BlockingIOError):
            size_bytes = os.readv(self._answers, [self._buffer])
            self._incoming += memoryview(self._buffer)[:size_bytes]
            return size_bytes > 0
        return True

    def _write(self) -> None:
        """Gives the pipe what it takes, and asks to be told when it takes more."""
        try:
            while self._outgoing:
                written = os.writev(self._requests, self._outgoing)
                while self._outgoing and written >= len(self._outgoing[0]):
                    written -= len(self._outgoing.popleft())
                if written:
                    self._outgoing[0] = self._outgoing[0][written:]
        except BlockingIOError:
            if not self._is_writing:
                self._poller.register(self._requests, select.POLLOUT)
                self._is_writing = True
            return
        except BrokenPipeError:  # the end of its answers will tell
            self._outgoing.clear()
        if self._is_writing:
            self._poller.unregister(self._requests)
            self._is_writing = False

    def _last_words(self) -> str:
        self._log.seek(0)
        lines = self._log.read(MAX_LOG_BYTES).decode(errors="replace").strip().splitlines()
        return lines[-1][:MAX_DETAIL] if lines else ""


def _parsed(content: dict[str, Any], body: bytes) -> Answer | BadImage:
    if "bad" in content:
        reason, detail = content["bad"]
        if reason not in REASONS:
            raise ValueError(reason)
        return BadImage(reason, str(detail))
    fields: dict[str, Any] = content["fields"]
    return Answer(fields, body)


def _pipe(file: BinaryIO | Any) -> int:
    """The descriptor of one of the child's pipes, as large as may be, and never waiting."""
    descriptor: int = file.fileno()
    os.set_blocking(descriptor, False)
    with contextlib.suppress(OSError):
        fcntl.fcntl(descriptor, fcntl.F_SETPIPE_SZ, PIPE_BYTES)
    return descriptor


def _environment() -> dict[str, str]:
    """The modules are found where this process finds them, whatever put them there."""
    passed = {name: os.environ[name] for name in ENVIRONMENT if name in os.environ}
    path = os.pathsep.join(folder or str(Path.cwd()) for folder in sys.path)
    return {**passed, **FIXED_ENVIRONMENT, "PYTHONPATH": path}
