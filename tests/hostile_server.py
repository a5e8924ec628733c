"""An HTTP server on this machine that does what real ones do on a bad day."""

from __future__ import annotations

import hashlib
import http.server
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

BLOCK = 1 << 14


@dataclass
class Served:
    """What the server has and how it behaves.

    Attributes:
        files: path -> bytes.
        behaviour: path -> what to do instead of answering well; see the methods of :class:`Handler`.
        requests: path -> how often it was asked for.
        ranges: every Range header that came.
        pause: seconds between blocks for "slow".
    """

    address: str
    files: dict[str, bytes] = field(default_factory=dict)
    behaviour: dict[str, Callable[[Handler, bytes, int], None]] = field(default_factory=dict)
    requests: Counter[str] = field(default_factory=Counter)
    ranges: list[str] = field(default_factory=list)
    pause: float = 0.05

    def url(self, path: str) -> str:
        return f"{self.address}/{path}"


class Handler(http.server.BaseHTTPRequestHandler):
    served: Served
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        path = self.path.partition("?")[0].lstrip("/")
        self.served.requests[path] += 1
        self.close_connection = True
        content = self.served.files.get(path)
        if content is None:
            self.answer(404, b"<html>no such file</html>", kind="text/html")
            return
        start = 0
        asked = self.headers.get("Range")
        if asked:
            self.served.ranges.append(asked)
            if self.headers.get("If-Range") in (None, etag(content)):
                start = int(asked.removeprefix("bytes=").removesuffix("-"))
        with suppress(BrokenPipeError, ConnectionResetError):  # the client was killed, which is what some tests do
            self.served.behaviour.get(path, well)(self, content, start)

    def begin(
        self, content: bytes, start: int, length: int | None = None, kind: str = "application/octet-stream"
    ) -> None:
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        self.send_header("Content-Length", str(len(content) - start if length is None else length))
        self.send_header("Content-Type", kind)
        self.send_header("ETag", etag(content))
        self.end_headers()

    def answer(self, status: int, content: bytes = b"", kind: str = "text/plain", **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def end_headers(self) -> None:
        self.send_header("Connection", "close")
        super().end_headers()

    def log_message(self, *arguments: object) -> None:
        pass


def etag(content: bytes) -> str:
    return f'"{hashlib.sha256(content).hexdigest()[:16]}"'


def well(handler: Handler, content: bytes, start: int) -> None:
    """As a good server."""
    handler.begin(content, start)
    handler.wfile.write(content[start:])


def in_pieces(handler: Handler, content: bytes, start: int) -> None:
    """A third of the file at most, then the connection breaks; Range is honoured."""
    handler.begin(content, start)
    handler.wfile.write(content[start : start + len(content) // 3])


def truncates(handler: Handler, content: bytes, start: int) -> None:
    """Always the first half, whatever is asked for."""
    handler.begin(content, 0)
    handler.wfile.write(content[: len(content) // 2])


def stalls(handler: Handler, content: bytes, start: int) -> None:
    """A few bytes, then silence."""
    handler.begin(content, start)
    handler.wfile.write(content[start : start + 100])
    handler.wfile.flush()
    time.sleep(3)


def slow(handler: Handler, content: bytes, start: int) -> None:
    """Block by block with pauses."""
    handler.begin(content, start)
    for place in range(start, len(content), BLOCK):
        handler.wfile.write(content[place : place + BLOCK])
        handler.wfile.flush()
        time.sleep(handler.served.pause)


def claims(length: int) -> Callable[[Handler, bytes, int], None]:
    """Sends everything under a false Content-Length."""

    def lie(handler: Handler, content: bytes, start: int) -> None:
        handler.begin(content, 0, length)
        handler.wfile.write(content)

    return lie


def endless(handler: Handler, content: bytes, start: int) -> None:
    """No length, and no end."""
    handler.send_response(200)
    handler.end_headers()
    while True:
        handler.wfile.write(content)


def page(handler: Handler, content: bytes, start: int) -> None:
    """A web page that says so."""
    handler.begin(content, 0, kind="text/html; charset=utf-8")
    handler.wfile.write(content)


def redirects_to(path: str) -> Callable[[Handler, bytes, int], None]:
    """302."""
    return lambda handler, content, start: handler.answer(302, Location=path)


def fails_first(times: int, status: int, **headers: str) -> Callable[[Handler, bytes, int], None]:
    """An error so many times, then well."""

    def fail(handler: Handler, content: bytes, start: int) -> None:
        path = handler.path.lstrip("/")
        if handler.served.requests[path] <= times:
            handler.answer(status, **headers)
        else:
            well(handler, content, start)

    return fail


def no_ranges(handler: Handler, content: bytes, start: int) -> None:
    """Breaks off the first time; then sends all of it, although a range was asked for."""
    if handler.served.requests[handler.path.lstrip("/")] == 1:
        in_pieces(handler, content, 0)
    else:
        well(handler, content, 0)


def breaks_then_refuses(handler: Handler, content: bytes, start: int) -> None:
    """A third of the file, and then nothing more."""
    if handler.served.requests[handler.path.lstrip("/")] == 1:
        in_pieces(handler, content, 0)
    else:
        handler.answer(403)


@contextmanager
def serving() -> Iterator[Served]:
    """A server for the duration of a test."""
    handler = type("ServingHandler", (Handler,), {})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as running:
        running.daemon_threads = True
        handler.served = Served(f"http://127.0.0.1:{running.server_port}")
        threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        yield handler.served
        running.shutdown()
