"""A loopback OpenAI-compatible provider for tests and benchmarks: real sockets, deterministic answers, scripted faults.

In this process (a thread; the `provider` fixture in `conftest.py` starts and closes it for a test):

    server = provider(latency=0.05, rpm=600)        # any field of `Behaviour`
    server.api_base                                 # "http://127.0.0.1:PORT/v1"
    server.set(rpm=60)                              # change the behaviour while it runs
    server.enqueue(Response(429, {"retry-after": "1"}), Response(reset=True))   # for the next requests, in order
    server.handler = lambda request: Response(400) if "bad" in request.text else None   # None: the usual answer;
                                                    # sees every path, so it can serve any route
    server.requests                                 # [Request(method, path, headers, body, json, text, at), …]
    server.stats                                    # Stats(ok, limited, errors, resets, peak_in_flight, …)

In a process of its own, so that the client has its core to itself: `with server_process(rpm=600) as server:` has
`.api_base`, `.stats()`, `.set(…)`; or `python -m tests.server --port 9200 rpm=600 latency=0.5`.

Answers: `answer_to(last user text)` for chats (`n` choices, SSE when `stream`), `vector_for(text)` for embeddings
(float or base64), so a test knows which request a row belongs to. Routes: any path ending in /chat/completions,
/embeddings or /models.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import random
import subprocess
import sys
import threading
import time
import urllib.request
from collections import deque
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, Self

from tests.replies import MODEL, answer_to, reply, token_count, vector_for
from tests.wire import Connection, Request, Response

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

__all__ = ["Behaviour", "Request", "Response", "Server", "answer_to", "server_process", "vector_for"]


@dataclass
class Behaviour:
    """What the server does unless a scripted response says otherwise."""

    latency: float = 0.0  # seconds, the mean
    sigma: float = 0.0  # spread of a log-normal latency; 0 is constant
    rpm: float | None = None  # requests per minute; refused with 429 beyond
    tpm: float | None = None  # tokens per minute, prompt and answer
    burst: float = 2.0  # seconds of quota that the buckets hold
    limit_headers: bool = True  # x-ratelimit-* on answers and 429s, when there is a limit
    retry_after: bool = True  # retry-after and retry-after-ms on 429s
    slots: int | None = None  # requests served at once; the others wait in line
    most_in_flight: int | None = None  # refused with 429 beyond
    refuse_rate: float = 0.0  # share refused with 429 whatever the rate
    error_rate: float = 0.0  # share answered with 500, 502 or 503
    reset_rate: float = 0.0  # share whose connection is reset without an answer
    seed: int = 7  # of latency, refusals, errors and resets
    log: bool = True  # keep every request in `requests`


@dataclass
class Stats:
    """Counts since the start or `reset()`. `first` and `last` are monotonic times of an arrival and of a success."""

    ok: int = 0
    limited: int = 0
    errors: int = 0
    resets: int = 0
    duplicates: int = 0  # requests answered 200 whose exact body had been answered 200 before
    tokens: int = 0
    in_flight: int = 0
    peak_in_flight: int = 0
    connections: int = 0  # open now
    connections_made: int = 0
    first: float | None = None
    last: float | None = None


class Bucket:
    """A token bucket refilled continuously; `rate` is per second."""

    def __init__(self, per_minute: float, burst: float) -> None:
        self.per_minute, self.rate = per_minute, per_minute / 60
        self.capacity = max(1.0, self.rate * burst)
        self.level, self.at = self.capacity, time.monotonic()

    def wait_for(self, amount: float) -> float:
        """Seconds until `amount` is there; 0 when it is now. Takes nothing."""
        now = time.monotonic()
        self.level, self.at = min(self.capacity, self.level + (now - self.at) * self.rate), now
        return max(0.0, min(amount, self.capacity) - self.level) / self.rate

    def headers(self, kind: str) -> dict[str, str]:
        """OpenAI's three headers for this limit."""
        full = self.wait_for(self.capacity)
        return {
            f"x-ratelimit-limit-{kind}": str(int(self.per_minute)),
            f"x-ratelimit-remaining-{kind}": str(int(self.level)),
            f"x-ratelimit-reset-{kind}": f"{full:.3f}s",
        }


class Server:
    """The provider, in a thread of this process. Close it, or use it in a `with` statement."""

    def __init__(self, port: int = 0, **behaviour: Any) -> None:
        self.behaviour = Behaviour(**behaviour)
        self.handler: Callable[[Request], Any] | None = None
        self.queue: deque[Response] = deque()
        self._let_in = 0
        self.reset()
        self._loop = asyncio.new_event_loop()
        self._listener = self._loop.run_until_complete(
            self._loop.create_server(lambda: Connection(self), "127.0.0.1", port, backlog=4096)
        )
        self.port: int = self._listener.sockets[0].getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self.api_base = f"{self.url}/v1"
        self.transports: set[asyncio.Transport] = set()
        self._thread = threading.Thread(target=self._loop.run_forever, name="test-provider", daemon=True)
        self._thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        """Stop listening and drop every connection."""
        if not self._loop.is_closed():
            asyncio.run_coroutine_threadsafe(self._shut_down(), self._loop).result(10)
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join(10)
            self._loop.close()

    async def _shut_down(self) -> None:
        self._listener.close()
        for _ in range(3):
            await asyncio.sleep(0)  # a connection just accepted has its transport then
        for transport in list(self.transports):
            transport.abort()
        tasks = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await asyncio.sleep(0)

    def enqueue(self, *responses: Response) -> None:
        """Script the answers to the next requests; they come before `handler` and the usual behaviour."""
        self.queue.extend(responses)

    def set(self, **behaviour: Any) -> None:
        """Change the behaviour now; new limits start with full buckets."""
        self.behaviour = replace(self.behaviour, **behaviour)
        if behaviour.keys() & {"rpm", "tpm", "burst", "slots", "seed"}:
            self._fill()

    def reset(self) -> None:
        """Forget requests and counts; buckets are full again."""
        old = getattr(self, "stats", Stats())
        self.stats = Stats(in_flight=old.in_flight, connections=old.connections)
        self.requests: list[Request] = []
        self._answered: set[bytes] = set()
        self._fill()

    def _fill(self) -> None:
        b = self.behaviour
        self._buckets = {"requests": b.rpm and Bucket(b.rpm, b.burst), "tokens": b.tpm and Bucket(b.tpm, b.burst)}
        self._slots = asyncio.Semaphore(b.slots) if b.slots else None
        self._random = random.Random(b.seed)  # noqa: S311 - reproducible, not secret

    def ideal_seconds(self) -> float:
        """The least time in which the limits and slots allow what `stats` counts as ok."""
        b, s = self.behaviour, self.stats
        amounts = {"requests": s.ok, "tokens": s.tokens}
        waits = [(amounts[kind] - bucket.capacity) / bucket.rate for kind, bucket in self._buckets.items() if bucket]
        at_once = [s.ok * b.latency / most for most in (b.slots, b.most_in_flight) if most]
        return max([0.0, *waits, *at_once]) + b.latency

    async def respond(self, request: Request) -> Response:
        """Decide the answer: admin routes, the queue, the handler, random faults, limits, then the echo."""
        if request.path.startswith("/__"):
            return self._admin(request)
        s, b = self.stats, self.behaviour
        s.first = s.first or request.at
        if b.log:
            self.requests.append(request)
        scripted = self.queue.popleft() if self.queue else self.handler and self.handler(request)
        if scripted:
            return scripted
        if b.reset_rate and self._random.random() < b.reset_rate:
            s.resets += 1
            return Response(reset=True)
        if b.error_rate and self._random.random() < b.error_rate:
            s.errors += 1
            return Response(self._random.choice((500, 502, 503)))
        return await self._limited_echo(request)

    async def _limited_echo(self, request: Request) -> Response:
        b, s = self.behaviour, self.stats
        crowded = b.most_in_flight is not None and self._let_in >= b.most_in_flight
        if crowded or (b.refuse_rate and self._random.random() < b.refuse_rate):
            s.limited += 1
            return Response(429, body={"error": {"message": "Too many requests", "code": "rate_limit_exceeded"}})
        self._let_in += 1
        try:
            return await self._rated_echo(request)
        finally:
            self._let_in -= 1

    async def _rated_echo(self, request: Request) -> Response:
        b, s = self.behaviour, self.stats
        made = reply(request)
        usage = made.body.get("usage", {}) if isinstance(made.body, dict) else {}
        amounts = {"requests": 1, "tokens": usage.get("total_tokens", token_count(request.text))}
        buckets = {kind: bucket for kind, bucket in self._buckets.items() if bucket}
        if wait := max([bucket.wait_for(amounts[kind]) for kind, bucket in buckets.items()], default=0.0):
            s.limited += 1
            return self._refusal(wait)
        for kind, bucket in buckets.items():
            bucket.level -= min(amounts[kind], bucket.capacity)
        async with self._slots or contextlib.nullcontext():
            if b.latency:
                await asyncio.sleep(b.latency * self._random.lognormvariate(-(b.sigma**2) / 2, b.sigma))
        if made.status == 200:
            s.ok, s.tokens, s.last = s.ok + 1, s.tokens + amounts["tokens"], time.monotonic()
            digest = hashlib.blake2b(request.path.encode() + request.body, digest_size=16).digest()
            s.duplicates += digest in self._answered
            self._answered.add(digest)
        made.headers.update(self._limit_headers())
        return made

    def _limit_headers(self) -> dict[str, str]:
        shown = self._buckets.items() if self.behaviour.limit_headers else ()
        return {k: v for kind, bucket in shown if bucket for k, v in bucket.headers(kind).items()}

    def _refusal(self, wait: float) -> Response:
        message = f"Rate limit reached for {MODEL}. Please try again in {wait:.3f}s."
        error = {"message": message, "type": "requests", "param": None, "code": "rate_limit_exceeded"}
        headers = self._limit_headers()
        if self.behaviour.retry_after:
            headers |= {"retry-after": str(int(wait) + 1), "retry-after-ms": str(int(wait * 1000) + 1)}
        return Response(429, headers, {"error": error})

    def _admin(self, request: Request) -> Response:
        if request.path == "/__set":
            self.set(**request.json)
        return Response(body=asdict(self.stats) | {"ideal_seconds": self.ideal_seconds()})


class RemoteServer:
    """A server in another process, driven over HTTP."""

    def __init__(self, url: str) -> None:
        self.url, self.api_base = url, f"{url}/v1"

    def _call(self, path: str, **values: Any) -> dict[str, Any]:
        request = urllib.request.Request(self.url + path, json.dumps(values).encode())  # noqa: S310 - loopback
        with urllib.request.urlopen(request, timeout=10) as answer:  # noqa: S310 - loopback
            return json.load(answer)  # type: ignore[no-any-return]

    def stats(self) -> dict[str, Any]:
        """The server's `Stats` as a dict, with `ideal_seconds`."""
        return self._call("/__stats")

    def set(self, **behaviour: Any) -> None:
        """As `Server.set`."""
        self._call("/__set", **behaviour)


@contextlib.contextmanager
def server_process(**behaviour: Any) -> Iterator[RemoteServer]:
    """A server in a process of its own, ended with the block."""
    options = [f"{name}={json.dumps(value)}" for name, value in behaviour.items()]
    command = [sys.executable, "-m", "tests.server", *options]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield RemoteServer(process.stdout.readline().strip())  # type: ignore[union-attr]
        finally:
            process.terminate()


def main() -> None:
    """Serve until interrupted; the first line printed is the server's URL."""
    arguments = sys.argv[1:]
    port = int(arguments.pop(arguments.index("--port") + 1)) if "--port" in arguments else 0
    given = dict(option.split("=", 1) for option in arguments if option != "--port")
    with Server(port, **{name: json.loads(value) for name, value in given.items()}) as server:
        print(server.url, flush=True)  # noqa: T201 - the command's output
        server._thread.join()


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        main()
