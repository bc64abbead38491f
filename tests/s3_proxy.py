"""An HTTP proxy in front of a real S3 server that misbehaves when told to: lost replies, cut bodies, error answers."""

from __future__ import annotations

import enum
import http.client
import socket
import threading
import urllib.parse
from collections import Counter, deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from s3_server import S3Server

UPSTREAM_TIMEOUT_S = 30
HOP_BY_HOP = {"connection", "keep-alive", "transfer-encoding", "content-length", "date", "server"}


class Fault(enum.Enum):
    """What the proxy does with a request instead of passing it on and the answer back."""

    LOSE_REPLY = "passes the request on, then closes the connection without an answer"
    CUT_BODY = "announces the whole body, sends half of it and closes the connection"
    IGNORE_CONDITIONS = "does the put without its If-None-Match, as servers do that never heard of it"
    CONFLICT = "answers 409 ConditionalRequestConflict"
    SLOW_DOWN = "answers 503 SlowDown"


ANSWERS = {Fault.CONFLICT: (409, "ConditionalRequestConflict"), Fault.SLOW_DOWN: (503, "SlowDown")}


@dataclass
class Proxy:
    """Faults wait per method and are used up in order; without one, requests and answers pass unchanged."""

    server: S3Server
    endpoint_url: str = ""
    requests: Counter[str] = field(default_factory=Counter)
    _faults: dict[str, deque[Fault]] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def inject(self, method: str, fault: Fault, times: int = 1) -> None:
        with self._lock:
            self._faults.setdefault(method, deque()).extend([fault] * times)

    def next_fault(self, method: str) -> Fault | None:
        with self._lock:
            self.requests[method] += 1
            waiting = self._faults.get(method)
            return waiting.popleft() if waiting else None


@contextmanager
def running_proxy(server: S3Server, port: int = 0) -> Iterator[Proxy]:
    """A proxy on `port` (0: a free one), for the time of the block."""
    proxy = Proxy(server)
    handler = type("Handler", (_Handler,), {"proxy": proxy})
    with ThreadingHTTPServer(("127.0.0.1", port), handler) as listener:
        listener.daemon_threads = True
        proxy.endpoint_url = f"http://127.0.0.1:{listener.server_port}"
        thread = threading.Thread(target=listener.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        thread.start()
        yield proxy
        listener.shutdown()
        thread.join()


def free_port() -> int:
    """A port on which nothing listens yet."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class _Handler(BaseHTTPRequestHandler):
    proxy: Proxy
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        fault = self.proxy.next_fault(self.command)
        if fault in ANSWERS:
            self._answer(*ANSWERS[fault])
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
        if fault is Fault.LOSE_REPLY:
            self._hang_up()
            return
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

    def _answer(self, status: int, code: str) -> None:
        content = f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>injected</Message></Error>".encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/xml")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def _hang_up(self) -> None:
        self.wfile.flush()
        self.close_connection = True
        self.connection.shutdown(socket.SHUT_RDWR)

    def log_message(self, format: str, *args: object) -> None:
        """Says nothing: faults are the tests' business."""
