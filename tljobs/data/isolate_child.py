"""The process in which foreign bytes are decoded: requests on stdin, answers on stdout, nothing else.

`python -m tljobs.data.isolate_child MODULE:FUNCTION LIFELINE MEMORY_BYTES CPU_S` imports the function, answers `{}`
and then every request in turn. A request is HEADER, options as JSON, and the bytes; an answer is HEADER, JSON, and a
body: `{"fields": ...}` with the body that the function made, or `{"bad": [reason, detail]}`. `tljobs.data.isolate` is
the other side, and imports no more of this than the protocol.

The process ends with its parent, however that ends: LIFELINE is a pipe that the parent holds open.
"""

from __future__ import annotations

import fcntl
import importlib
import json
import os
import resource
import select
import signal
import struct
import sys
from collections.abc import Callable
from typing import Any, BinaryIO

HEADER = struct.Struct(">II")  # lengths of the JSON and of the bytes after it
OUT_OF_MEMORY = 77  # exit status
MAX_LOG_BYTES = 2**20  # of what libraries print; also keeps a decoder from writing files
MAX_DETAIL = 200

# Takes the bytes and the options; returns JSON fields and a body. Raises BadImage.
Work = Callable[..., tuple[dict[str, Any], bytes]]


def main(function: str, lifeline: int, memory_bytes: int, cpu_s: float) -> int:
    """Serves until stdin ends; returns the exit status."""
    requests, answers = _take_pipes()
    _end_with(lifeline)
    _limit_process(memory_bytes)
    module, _, name = function.partition(":")
    work: Work = getattr(importlib.import_module(module), name)
    _send(answers, {}, b"")
    while header := requests.read(HEADER.size):
        options_bytes, data_bytes = HEADER.unpack(header)
        options = json.loads(requests.read(options_bytes))
        data = requests.read(data_bytes)
        # Without a handler SIGPROF ends the process, also while a decoder runs that never returns to Python.
        signal.setitimer(signal.ITIMER_PROF, cpu_s)
        fields, body = _answer(work, data, options)
        signal.setitimer(signal.ITIMER_PROF, 0)
        _send(answers, fields, body)
    return 0


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


def _send(answers: BinaryIO, content: dict[str, Any], body: bytes) -> None:
    text = json.dumps(content).encode()
    answers.write(HEADER.pack(len(text), len(body)) + text + body)
    answers.flush()


def _take_pipes() -> tuple[BinaryIO, BinaryIO]:
    """Requests and answers on pipes of their own: whatever a library prints goes to stderr."""
    requests, answers = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    return requests, answers


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
        status = main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), float(sys.argv[4]))
    except MemoryError:
        status = OUT_OF_MEMORY
    except BrokenPipeError:
        status = 0
    os._exit(status)  # without tidying up: there is nothing to tidy, and no memory to do it with
