"""The process in which foreign bytes are decoded: requests on stdin, answers on stdout, nothing else.

`python -m tljobs.data.isolate_child MODULE:FUNCTION LIFELINE PROGRESS MEMORY_BYTES CPU_S` imports the function,
answers `{}` and then every request in turn. A request is HEADER, options as JSON, and the bytes; an answer is HEADER,
JSON, and a body: `{"fields": ...}` with the body that the function made, or `{"bad": [reason, detail]}`. Answers are
sent several at a time while there are more requests, since each time the parent wakes costs as much as a tenth of a
small photo. PROGRESS is a file of 8 bytes that both sides map: how many requests are finished, sent or not.
`tljobs.data.isolate_process` is the other side.

The process ends with its parent, however that ends: LIFELINE is a pipe that the parent holds open.
"""

from __future__ import annotations

import fcntl
import functools
import importlib
import json
import mmap
import os
import resource
import select
import signal
import struct
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, BinaryIO

HEADER = struct.Struct(">II")  # lengths of the JSON and of the bytes after it
PROGRESS = struct.Struct("=Q")
MAX_UNSENT = 8
MAX_UNSENT_BYTES = 512 * 2**10
MAX_UNSENT_S = 0.05
OUT_OF_MEMORY = 77  # exit status
MAX_LOG_BYTES = 2**20  # of what libraries print; also keeps a decoder from writing files
MAX_DETAIL = 200

# Takes the bytes and the options; returns JSON fields and a body. Raises BadImage.
Work = Callable[..., tuple[dict[str, Any], bytes]]


@dataclass(frozen=True)
class _Pipes:
    """Requests and answers. `requests` is read without a buffer, so that one can tell whether there are more."""

    requests: int
    answers: BinaryIO
    waiting: select.poll

    def read(self, size_bytes: int) -> bytes:
        """So many bytes, or fewer at the end."""
        parts = [os.read(self.requests, size_bytes)]
        left = size_bytes - len(parts[0])
        while left and parts[-1]:
            parts.append(os.read(self.requests, left))
            left -= len(parts[-1])
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def has_request(self) -> bool:
        return bool(self.waiting.poll(0))

    def write(self, content: dict[str, Any], body: bytes) -> None:
        text = json.dumps(content).encode()
        self.answers.write(HEADER.pack(len(text), len(body)) + text)
        self.answers.write(body)


def main(function: str, lifeline: int, progress: int, memory_bytes: int, cpu_s: float) -> int:
    """Serves until stdin ends; returns the exit status."""
    pipes = _take_pipes()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches this process too, but its parent decides
    _end_with(lifeline)
    _limit_process(memory_bytes)
    finished = mmap.mmap(progress, PROGRESS.size)
    module, _, name = function.partition(":")
    work: Work = getattr(importlib.import_module(module), name)
    pipes.write({}, b"")
    pipes.answers.flush()
    _serve(pipes, work, finished, cpu_s)
    return 0


def _serve(pipes: _Pipes, work: Work, finished: mmap.mmap, cpu_s: float) -> None:
    count, sent, sent_s = 0, 0, time.monotonic()
    while len(header := pipes.read(HEADER.size)) == HEADER.size:
        options_bytes, data_bytes = HEADER.unpack(header)
        options = _options(pipes.read(options_bytes))
        data = pipes.read(data_bytes)
        # Without a handler SIGPROF ends the process, also while a decoder runs that never returns to Python. The timer
        # is not stopped after the image: waiting takes no CPU time.
        signal.setitimer(signal.ITIMER_PROF, cpu_s)
        pipes.write(*_answer(work, data, options))
        count += 1
        PROGRESS.pack_into(finished, 0, count)
        now_s = time.monotonic()
        if count - sent >= MAX_UNSENT or now_s - sent_s > MAX_UNSENT_S or not pipes.has_request():
            pipes.answers.flush()
            sent, sent_s = count, now_s


@functools.lru_cache(maxsize=1)  # mostly the same as before
def _options(text: bytes) -> dict[str, Any]:
    options: dict[str, Any] = json.loads(text)
    return options


def _answer(work: Work, data: bytes, options: dict[str, Any]) -> tuple[dict[str, Any], bytes]:
    from tljobs.data.formats import BadImage

    try:
        fields, body = work(data, **options)
    except BadImage as error:
        if isinstance(error.__cause__, MemoryError):
            raise MemoryError from error
        return {"bad": [error.reason, error.detail]}, b""
    except MemoryError:
        raise
    except Exception as error:
        return {"bad": ["decoder_crash", f"{type(error).__name__}: {error}"[:MAX_DETAIL]]}, b""
    return {"fields": fields}, body


def _take_pipes() -> _Pipes:
    """Requests and answers on pipes of their own: whatever a library prints goes to stderr."""
    requests, answers = os.dup(0), os.fdopen(os.dup(1), "wb", MAX_UNSENT_BYTES)
    os.dup2(2, 1)
    waiting = select.poll()
    waiting.register(requests, select.POLLIN)
    return _Pipes(requests, answers, waiting)


def _end_with(lifeline: int) -> None:
    """Has SIGIO end this process when the other end of the pipe is closed. PR_SET_PDEATHSIG would do it as soon as the
    thread ends that started this process, and a watching thread could not while a decoder holds the interpreter."""
    fcntl.fcntl(lifeline, fcntl.F_SETOWN, os.getpid())
    fcntl.fcntl(lifeline, fcntl.F_SETFL, os.O_ASYNC)
    poller = select.poll()
    poller.register(lifeline, 0)
    if poller.poll(0):  # closed before the signal was asked for
        sys.exit(0)


def _limit_process(memory_bytes: int) -> None:
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (MAX_LOG_BYTES, MAX_LOG_BYTES))
    resource.setrlimit(resource.RLIMIT_AS, (memory_bytes, memory_bytes))
    try:  # the kernel then ends this process before any other when the machine's memory is used up
        with open("/proc/self/oom_score_adj", "w") as file:  # noqa: PTH123
            file.write("1000")
    except OSError:
        pass


if __name__ == "__main__":
    try:
        status = main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]), float(sys.argv[5]))
    except MemoryError:
        status = OUT_OF_MEMORY
    except BrokenPipeError:
        status = 0
    os._exit(status)  # without tidying up: there is nothing to tidy, and no memory to do it with
