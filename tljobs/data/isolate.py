"""Foreign bytes are decoded in a process of their own, so that a crash, a hang or a memory bomb costs one image.

Bytes flow in, in order; what a function made of them, or a BadImage, flows out in the same order. The child is a fresh
interpreter without Ray, TensorFlow and pyarrow, which gets no secrets of the environment. It is started at the first
image, kept for the next ones, and replaced when it dies: only the image that it had is bad. What comes back is JSON
and bytes, never pickle, so that a child taken over by a hostile file has no way into this process.
"""

from __future__ import annotations

import functools
import json
import threading
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from tljobs.data.formats import BadImage
from tljobs.data.isolate_process import Answer, Child, Limits

__all__ = ["Answer", "Isolated", "Limits", "decode_limits", "shared"]

# Enough that neither side waits for the other, few enough that not much is sent again when the child dies.
MAX_IN_FLIGHT = 16
MAX_IN_FLIGHT_BYTES = 32 * 2**20

BASE_MEMORY_BYTES = 2 * 2**30  # address space: 0.2 GB for the interpreter and its libraries, the rest for large files
MEMORY_BYTES_PER_PIXEL = 24  # measured: a WebP file with transparency takes 23, other formats less
DEFAULT_TIMEOUT_S = 60.0  # of CPU time; 100 megapixels take 2 to 5
WALL_PER_CPU = 4.0  # on a machine that is busy with other things an image takes longer than its CPU time


def decode_limits(max_pixels: int, timeout_s: float = DEFAULT_TIMEOUT_S) -> Limits:
    """Limits for a child that decodes images of up to `max_pixels` in `timeout_s` of CPU time each.

    CPU time decides because it does not depend on what else the machine does; the wall clock, WALL_PER_CPU times as
    long, is there for a child that sleeps.
    """
    memory_bytes = BASE_MEMORY_BYTES + MEMORY_BYTES_PER_PIXEL * max_pixels
    return Limits(memory_bytes=memory_bytes, cpu_s=timeout_s, wall_s=timeout_s * WALL_PER_CPU)


@functools.cache
def shared(function: str, limits: Limits) -> Isolated:
    """The one child of this process for these arguments; it lives as long as the process."""
    return Isolated(function, limits)


@dataclass
class _Request:
    """Bytes on their way; `verdict` is there when they are known to be bad. `was_tried`: a child died of them."""

    data: bytes
    verdict: BadImage | None = None
    was_tried: bool = False


class Isolated:
    """A function that runs in a child process. Safe to share between threads: calls wait for each other.

    Args:
        function: `module:name` of a function that takes bytes and keyword options, and returns JSON fields and bytes.
            It raises BadImage for what it does not take; any other exception is BadImage("decoder_crash") here.
        limits: what an image may take before its process is ended.
    """

    def __init__(self, function: str, limits: Limits) -> None:
        self._function = function
        self._limits = limits
        self._lock = threading.Lock()
        self._child: Child | None = None

    @property
    def pid(self) -> int | None:
        """Process id of the child, None while there is none."""
        return self._child.pid if self._child else None

    def start(self) -> None:
        """Starts the child unless it runs. Raises TljobsError when it does not start, as `map` and `call` do."""
        with self._lock:
            self._started()

    def call(self, data: bytes, options: Mapping[str, Any]) -> Answer:
        """The answer for one image. Raises BadImage."""
        (answer,) = self.map([data], options)
        if isinstance(answer, BadImage):
            raise answer
        return answer

    def map(self, items: Iterable[bytes | BadImage], options: Mapping[str, Any]) -> Iterator[Answer | BadImage]:
        """An answer per item, in order; several are in flight at a time. An item that is a BadImage stays one.

        Other calls wait until all answers are taken, or the iterator is closed.
        """
        encoded = json.dumps(dict(options)).encode()
        pending: deque[_Request] = deque()
        in_flight_bytes = 0
        with self._lock:
            try:
                for item in items:
                    pending.append(_Request(item) if isinstance(item, bytes) else _Request(b"", item))
                    self._send(pending[-1], encoded)
                    in_flight_bytes += len(pending[-1].data)
                    while len(pending) >= MAX_IN_FLIGHT or in_flight_bytes >= MAX_IN_FLIGHT_BYTES:
                        in_flight_bytes -= len(pending[0].data)
                        yield self._first(pending, encoded)
                while pending:
                    yield self._first(pending, encoded)
            finally:
                if pending:  # answers that nobody waits for any more
                    self._end()

    def close(self) -> None:
        """Ends the child, if there is one."""
        with self._lock:
            self._end()

    def __enter__(self) -> Isolated:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _send(self, request: _Request, options: bytes) -> None:
        if request.verdict is None:
            self._started().send(options, request.data)

    def _first(self, pending: deque[_Request], options: bytes) -> Answer | BadImage:
        """The answer for the first of `pending`, which is taken out."""
        answer: Answer | BadImage | None = None
        while answer is None:
            answer = pending[0].verdict or self._started().receive()
            if answer is None:
                self._bury(self._started(), pending, options)
        pending.popleft()
        return answer

    def _bury(self, child: Child, pending: deque[_Request], options: bytes) -> None:
        """Blames a child's death on the image it had, and gives the others to another child."""
        verdict = child.verdict()
        unanswered = [request for request in pending if request.verdict is None]
        lost_answers = child.finished - child.answered
        guilty = unanswered[lost_answers if 0 <= lost_answers < len(unanswered) else 0]
        # A child that is short of memory after many images, or was ended from outside, may not owe it to this image.
        if guilty.was_tried or verdict.reason != "too_large":
            guilty.verdict = verdict
        guilty.was_tried = True
        self._end()
        for request in pending:
            self._send(request, options)

    def _started(self) -> Child:
        if self._child is None:
            child = Child(self._function, self._limits)
            try:
                child.wait_until_ready()
            except BaseException:
                child.close()
                raise
            self._child = child
        return self._child

    def _end(self) -> None:
        child, self._child = self._child, None
        if child:
            child.close()
