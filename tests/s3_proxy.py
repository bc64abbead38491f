"""An HTTP proxy in front of a real S3 server that misbehaves when told to: lost replies, cut bodies, error answers.

Requests flow in and pass on to the server, except those that a test asked to go wrong: the k-th, some share of all, or
those of one operation.
"""

from __future__ import annotations

import enum
import http.client
import os
import random
import signal
import socket
import struct
import sys
import threading
import time
import urllib.parse
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from s3_server import S3Server

UPSTREAM_TIMEOUT_S = 30
HOP_BY_HOP = {"connection", "keep-alive", "transfer-encoding", "content-length", "date", "server"}


class Fault(enum.Enum):
    """What the proxy does with a request instead of passing it on and the answer back."""

    LOSE_REPLY = "passes the request on, then closes the connection without an answer"
    CUT_BODY = "announces the whole body, sends half of it and closes the connection"
    SHORT_BODY = "announces and sends half of the body, as if that were all"
    WRONG_BYTES = "changes one byte in the middle of the body"
    RESET = "resets the connection before anything is done"
    HANG = "takes the request and never answers"
    IGNORE_CONDITIONS = "does the put without its If-None-Match, as servers do that never heard of it"
    CONFLICT = "answers 409 ConditionalRequestConflict"
    SERVER_ERROR = "answers 500 InternalError"
    SLOW_DOWN = "answers 503 SlowDown"
    DENIED = "answers 403 AccessDenied"
    EXPIRED = "answers 400 ExpiredToken"
    SKEWED = "answers 403 RequestTimeTooSkewed, with the time of an hour ago"
    KILL_BEFORE = "kills the victim, then closes the connection"
    KILL_AFTER = "passes the request on, then kills the victim, which never hears the answer"
    READ_ONLY = "answers 405 MethodNotAllowed"


ANSWERS = {
    Fault.CONFLICT: (409, "ConditionalRequestConflict"),
    Fault.SERVER_ERROR: (500, "InternalError"),
    Fault.SLOW_DOWN: (503, "SlowDown"),
    Fault.DENIED: (403, "AccessDenied"),
    Fault.EXPIRED: (400, "ExpiredToken"),
    Fault.SKEWED: (403, "RequestTimeTooSkewed"),
    Fault.READ_ONLY: (405, "MethodNotAllowed"),
}
# Those that pass if a request is made again; the others need somebody who sets them right.
PASSING = (
    *(Fault.LOSE_REPLY, Fault.CUT_BODY, Fault.RESET, Fault.HANG, Fault.CONFLICT),
    *(Fault.SERVER_ERROR, Fault.SLOW_DOWN),
)
EVERY = "*"
SKEW_S = 3600


@dataclass
class Proxy:
    """Faults are told per method (`PUT`), per operation (`GetObject`), or for every call. Those of `inject` are used
    up in order, those of `inject_at` wait for their call, those of `inject_rate` come by chance; without one, requests
    and answers pass unchanged."""

    server: S3Server
    endpoint_url: str = ""
    requests: Counter[str] = field(default_factory=Counter)
    injected: Counter[Fault] = field(default_factory=Counter)
    victim: int = 0  # the process that KILL_BEFORE and KILL_AFTER kill
    closing: threading.Event = field(default_factory=threading.Event)
    _waiting: dict[str, deque[Fault]] = field(default_factory=dict)
    _at: dict[tuple[str, int], Fault] = field(default_factory=dict)
    _rates: dict[str, tuple[float, Sequence[Fault], random.Random]] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def inject(self, what: str, fault: Fault, times: int = 1) -> None:
        """At each of the next `times` calls."""
        with self._lock:
            self._waiting.setdefault(what, deque()).extend([fault] * times)

    def inject_at(self, what: str, call: int, fault: Fault) -> None:
        """At the call of that number, counted from the next one, which is 1."""
        with self._lock:
            self._at[what, self.requests[what] + call] = fault

    def inject_rate(self, what: str, rate: float, faults: Sequence[Fault], seed: int = 0) -> None:
        """At this share of the calls, a fault by chance. A rate of 0 ends it."""
        with self._lock:
            self._rates[what] = (rate, faults, random.Random(seed))

    def next_fault(self, method: str, path: str) -> Fault | None:
        with self._lock:
            names = (method, operation(method, path), EVERY)
            self.requests.update(names)
            fault = next(filter(None, (self._fault_of(name) for name in names)), None)
            if fault:
                self.injected[fault] += 1
            return fault

    def _fault_of(self, name: str) -> Fault | None:
        if self._waiting.get(name):
            return self._waiting[name].popleft()
        if found := self._at.pop((name, self.requests[name]), None):
            return found
        rate, faults, chance = self._rates.get(name, (0.0, (), random.Random(0)))
        return chance.choice(faults) if chance.random() < rate else None


def operation(method: str, path: str) -> str:
    """The S3 operation of a request with the bucket in the path."""
    address = urllib.parse.urlsplit(path)
    _, separator, key = address.path.strip("/").partition("/")
    if separator and key:
        return {"GET": "GetObject", "PUT": "PutObject", "HEAD": "HeadObject", "DELETE": "DeleteObject"}.get(method, "")
    return "ListObjectsV2" if method == "GET" and "list-type=2" in address.query else f"{method.title()}Bucket"


@contextmanager
def running_proxy(server: S3Server, port: int = 0) -> Iterator[Proxy]:
    """A proxy on `port` (0: a free one), for the time of the block."""
    proxy = Proxy(server)
    handler = type("Handler", (_Handler,), {"proxy": proxy})
    with _Listener(("127.0.0.1", port), handler) as listener:
        proxy.endpoint_url = f"http://127.0.0.1:{listener.server_port}"
        thread = threading.Thread(target=listener.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        thread.start()
        try:
            yield proxy
        finally:
            proxy.closing.set()
            listener.shutdown()
            thread.join()


def free_port() -> int:
    """A port on which nothing listens yet."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class _Listener(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128  # a hundred clients may come at once

    def handle_error(self, request: object, client_address: object) -> None:
        """Says nothing of clients that went away."""
        if not isinstance(sys.exc_info()[1], OSError):
            super().handle_error(request, client_address)  # type: ignore[arg-type]


class _Handler(BaseHTTPRequestHandler):
    proxy: Proxy
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        fault = self.proxy.next_fault(self.command, self.path)
        if fault in ANSWERS:
            self._answer(*ANSWERS[fault], late_s=SKEW_S if fault is Fault.SKEWED else 0)
        elif fault is Fault.KILL_BEFORE:
            os.kill(self.proxy.victim, signal.SIGKILL)
            self._hang_up()
        elif fault is Fault.RESET:
            self._reset()
        elif fault is Fault.HANG:
            self.proxy.closing.wait(UPSTREAM_TIMEOUT_S)
            self._hang_up()
        elif fault is Fault.IGNORE_CONDITIONS:
            self._put_without_condition(body)
        else:
            self._forward(body, fault)

    do_PUT = do_HEAD = do_DELETE = do_POST = do_GET

    def _forward(self, body: bytes, fault: Fault | None) -> None:
        # Host is passed on as it came: it is part of the signature.
        upstream = http.client.HTTPConnection(
            urllib.parse.urlsplit(self.proxy.server.endpoint_url).netloc, timeout=UPSTREAM_TIMEOUT_S
        )
        upstream.request(self.command, self.path, body, dict(self.headers))
        answer = upstream.getresponse()
        content = answer.read()
        upstream.close()
        if fault is Fault.KILL_AFTER:
            os.kill(self.proxy.victim, signal.SIGKILL)
        if fault in (Fault.LOSE_REPLY, Fault.KILL_AFTER):
            self._hang_up()
            return
        if fault is Fault.SHORT_BODY:
            content = content[: len(content) // 2]
        if fault is Fault.WRONG_BYTES and content:
            middle = len(content) // 2
            content = content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]
        self.send_response(answer.status)
        for name, value in answer.getheaders():
            if name.lower() not in HOP_BY_HOP:
                self.send_header(name, value)
        size = answer.getheader("Content-Length") if self.command == "HEAD" else str(len(content))
        self.send_header("Content-Length", size or "0")
        self.end_headers()
        if fault is Fault.CUT_BODY:
            self.wfile.write(content[: len(content) // 2])
            self._hang_up()
        else:
            self.wfile.write(content)

    def _put_without_condition(self, body: bytes) -> None:
        bucket, _, key = urllib.parse.unquote(urllib.parse.urlsplit(self.path).path).strip("/").partition("/")
        etag = self.proxy.server.client().put_object(Bucket=bucket, Key=key, Body=body)["ETag"]
        self.send_response(200)
        self.send_header("ETag", etag)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def _answer(self, status: int, code: str, late_s: int) -> None:
        content = f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>injected</Message></Error>".encode()
        self.send_response_only(status)
        self.send_header("Date", self.date_time_string(int(time.time()) - late_s))
        self.send_header("Content-Type", "application/xml")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def _reset(self) -> None:
        # Closing with an unread time to linger of 0 sends RST instead of FIN.
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close_connection = True
        self.rfile.close()
        self.connection.close()

    def _hang_up(self) -> None:
        self.close_connection = True
        with suppress(OSError):  # the client may have gone first
            self.wfile.flush()
            self.connection.shutdown(socket.SHUT_RDWR)

    def log_message(self, format: str, *args: object) -> None:
        """Says nothing: faults are the tests' business."""
