"""Raw-socket servers that break HTTP in ways a well-behaved server cannot, and a gauge of this process's memory.

    with hostile(body({"choices": []})) as (base, seen): ...

A script is called with the connected socket once a request has been read, in a thread of its own; when it returns, the
connection is closed. Requests whose body holds the word GOOD get a usual answer instead, so that a test sees whether
the rows beside a bad one are good.
"""

from __future__ import annotations

import contextlib
import json
import socketserver
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from tests.replies import reply
from tests.wire import Request, parsed_head

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Iterator

__all__ = ["GOOD", "Gauge", "body", "dripped", "endless_headers", "hostile", "huge", "plain", "sse"]

GOOD = "GOOD"
_PIECE = b"x" * 65_536
_TLS_HELLO = b"\x16\x03"


class _Handler(socketserver.BaseRequestHandler):
    def handle(self) -> None:
        with contextlib.suppress(OSError):
            while request := _read(self.request):
                self.server.seen.append(request)  # type: ignore[attr-defined]
                if GOOD.encode() in request.body:
                    answer = reply(request)
                    self.request.sendall(answer.head() + answer.payload())
                else:
                    self.server.script(self.request)  # type: ignore[attr-defined]
                    return


class _Server(socketserver.ThreadingTCPServer):
    allow_reuse_address = daemon_threads = True
    request_queue_size = 128
    block_on_close = False


@contextlib.contextmanager
def hostile(script: Callable[[socket.socket], None]) -> Iterator[tuple[str, list[Request]]]:
    """Serve `script` on a free port; gives the `api_base` and the list of requests seen."""
    with _Server(("127.0.0.1", 0), _Handler) as server:
        server.script, server.seen = script, []  # type: ignore[attr-defined]
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}/v1", server.seen  # type: ignore[attr-defined]
        finally:
            server.shutdown()
            thread.join(5)


def _read(sock: socket.socket) -> Request | None:
    data = b""
    while b"\r\n\r\n" not in data:
        piece = sock.recv(65_536)
        if not piece:
            return None
        data += piece
        if data.startswith(_TLS_HELLO):
            sock.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")
            return None
    head, _, rest = data.partition(b"\r\n\r\n")
    method, path, headers = parsed_head(head)
    while len(rest) < int(headers.get("content-length", 0)):
        rest += sock.recv(65_536)
    return Request(method, path, headers, rest, time.monotonic())


def plain(data: bytes) -> Callable[[socket.socket], None]:
    """Send these bytes and close."""
    return lambda sock: sock.sendall(data)


def body(
    content: Any, status: str = "200 OK", kind: str = "application/json", length: int | None = None, **headers: str
) -> Callable[[socket.socket], None]:
    """A well-formed head and this body, bytes or JSON; `length` may lie."""
    data = content if isinstance(content, bytes) else json.dumps(content).encode()
    more = "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in headers.items())
    head = f"HTTP/1.1 {status}\r\ncontent-type: {kind}\r\ncontent-length: {length or len(data)}\r\n{more}"
    return plain(head.encode() + b"connection: close\r\n\r\n" + data)


def huge(megabytes: int, status: str, before: bytes, after: bytes) -> Callable[[socket.socket], None]:
    """An answer of so many megabytes, made as it is sent: `before`, a lot of x, `after`."""
    pieces = megabytes * 16

    def script(sock: socket.socket) -> None:
        size = len(before) + pieces * len(_PIECE) + len(after)
        sock.sendall(f"HTTP/1.1 {status}\r\ncontent-type: application/json\r\ncontent-length: {size}\r\n\r\n".encode())
        sock.sendall(before)
        for _ in range(pieces):
            sock.sendall(_PIECE)
        sock.sendall(after)

    return script


def dripped(data: bytes, seconds: float, before: bytes = b"") -> Callable[[socket.socket], None]:
    """`before` at once, then these bytes, one by one, `seconds` apart."""

    def script(sock: socket.socket) -> None:
        sock.sendall(before)
        for at in range(len(data)):
            sock.sendall(data[at : at + 1])
            time.sleep(seconds)

    return script


def endless_headers(sock: socket.socket) -> None:
    """Header lines without end."""
    sock.sendall(b"HTTP/1.1 200 OK\r\n")
    for at in range(1_000_000):
        sock.sendall(b"x-filler-%d: %s\r\n" % (at, b"y" * 1000))


def sse(*events: str) -> Callable[[socket.socket], None]:
    """An event stream of these data lines, closed cleanly after them."""
    head = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n"
    return plain(head + "".join(f"data: {event}\n\n" for event in events).encode())


class Gauge:
    """The peak of this process's resident memory above what it was at the start, in MB, sampled by a thread."""

    def __enter__(self) -> Self:
        self.start = self.peak = _resident()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._stop.set()
        self._thread.join()
        self.peak = max(self.peak, _resident())

    def _watch(self) -> None:
        while not self._stop.wait(0.01):
            self.peak = max(self.peak, _resident())

    @property
    def growth(self) -> float:
        """MB at the peak above the start."""
        return (self.peak - self.start) / 2**20


def _resident() -> int:
    pages = Path("/proc/self/statm").read_text().split()[1]
    return int(pages) * 4096
