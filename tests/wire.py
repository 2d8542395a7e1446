"""HTTP for the test provider: a request as it arrived, a response to script, and the connection that carries them."""

from __future__ import annotations

import asyncio
import json
import time
from collections import deque
from dataclasses import dataclass, field
from functools import cached_property
from http.client import responses
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.server import Server


@dataclass
class Response:
    """A scripted answer. `body`: bytes or str as they are, anything else as JSON; None: OpenAI's error shape."""

    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    body: Any = None
    delay: float = 0.0  # seconds before the first byte
    until: Callable[[], object] | None = None  # what the first byte waits for, after the delay
    cut: int | None = None  # close the connection after this many body bytes
    reset: bool = False  # reset the connection instead of answering

    def payload(self) -> bytes:
        if isinstance(self.body, bytes):
            return self.body
        if isinstance(self.body, str):
            return self.body.encode()
        message = {"message": f"scripted {self.status}", "type": "scripted", "param": None, "code": None}
        return json.dumps({"error": message} if self.body is None else self.body).encode()

    def head(self) -> bytes:
        """Status line and headers; content-length unless it is an event stream."""
        given = {"content-type": "application/json"} | {k.lower(): str(v) for k, v in self.headers.items()}
        given.setdefault("content-length", str(len(self.payload())))
        lines = "".join(f"{name}: {value}\r\n" for name, value in given.items())
        return f"HTTP/1.1 {self.status} {responses.get(self.status, 'Unknown')}\r\n{lines}\r\n".encode()


@dataclass
class Request:
    """One request as it arrived; `at` is `time.monotonic()`, header names are lower case."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes
    at: float

    @cached_property
    def json(self) -> Any:
        try:
            return json.loads(self.body)
        except ValueError:
            return None

    @cached_property
    def text(self) -> str:
        """The last user message, or the embedding inputs joined by newlines."""
        body = self.json if isinstance(self.json, dict) else {}
        for message in reversed(body.get("messages") or []):
            content = message.get("content")
            if message.get("role") == "user":
                return content if isinstance(content, str) else "".join(str(p.get("text", "")) for p in content or [])
        given = body.get("input") or ""
        return given if isinstance(given, str) else "\n".join(map(str, given))


class Connection(asyncio.Protocol):
    """HTTP/1.1 with keep-alive over one socket; requests of a connection are answered in order."""

    def __init__(self, server: Server) -> None:
        self.server, self.buffer, self.task = server, b"", None
        self.waiting: deque[Request] = deque()

    def connection_made(self, transport: Any) -> None:
        self.transport: asyncio.Transport = transport
        self.server.transports.add(transport)
        self.server.stats.connections += 1
        self.server.stats.connections_made += 1

    def connection_lost(self, exc: Exception | None) -> None:
        self.server.transports.discard(self.transport)
        self.server.stats.connections -= 1
        if self.task and not self.task.done():
            self.task.cancel()

    def data_received(self, data: bytes) -> None:
        self.buffer += data
        while request := self._next_request():
            self.waiting.append(request)
        if self.waiting and not self.task:
            self.task: asyncio.Task[None] | None = asyncio.get_running_loop().create_task(self._answer())

    def _next_request(self) -> Request | None:
        head, separator, rest = self.buffer.partition(b"\r\n\r\n")
        if not separator:
            return None
        method, path, headers = parsed_head(head)
        if headers.get("transfer-encoding") == "chunked":
            body, size = _dechunk(rest)
        else:
            size = int(headers.get("content-length", 0))
            body = rest[:size]
        if size is None or len(rest) < size:
            return None
        self.buffer = rest[size:]
        return Request(method, path, headers, body, time.monotonic())

    async def _answer(self) -> None:
        try:
            while self.waiting:
                stats = self.server.stats
                stats.in_flight += 1
                stats.peak_in_flight = max(stats.peak_in_flight, stats.in_flight)
                try:
                    response = await self.server.respond(self.waiting.popleft())
                    if response.delay:
                        await asyncio.sleep(response.delay)
                    while response.until and not response.until():  # noqa: ASYNC110 - anything may make it true
                        await asyncio.sleep(0.01)
                    self._send(response)
                finally:
                    self.server.stats.in_flight -= 1  # those of after a reset, which took the count over
        finally:
            self.task = None

    def _send(self, response: Response) -> None:
        if response.reset:
            self.transport.abort()
            return
        payload = response.payload()[: response.cut]
        self.transport.write(response.head() + payload)
        if response.cut is not None:
            self.transport.close()


def parsed_head(head: bytes) -> tuple[str, str, dict[str, str]]:
    """Method, path and headers, whose names are lower case."""
    first, *lines = head.decode("latin-1").split("\r\n")
    method, path, _ = first.split(" ", 2)
    return method, path, {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}


def _dechunk(data: bytes) -> tuple[bytes, int | None]:
    """The body of a chunked request and the bytes it took; None while it is incomplete."""
    body, at = b"", 0
    while (end := data.find(b"\r\n", at)) >= 0:
        size = int(data[at:end].partition(b";")[0], 16)
        at = end + 2 + size + 2
        if len(data) < at:
            break
        body += data[end + 2 : at - 2]
        if size == 0:
            return body, at
    return b"", None
