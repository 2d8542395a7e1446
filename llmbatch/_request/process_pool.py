"""Past one core: LiteLLM's part of a call in child processes. All that knows the batch stays in the parent.

Requests and answers cross pipes as lines of JSON. Children are new interpreters (nothing is forked, the user's script
does not run again), hold many requests at a time, are kept for the next batch, and end when they are idle, when the
environment or LiteLLM's settings change, or when the parent's end of the pipe closes, however that ends.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import itertools
import json
import os
import sys
from collections.abc import AsyncIterator, Iterator, Mapping
from typing import Any, Literal

import aiohttp
from loguru import logger

from llmbatch._litellm import Answer, load, provider_of
from llmbatch._litellm.quiet_logging import anybody_listens
from llmbatch._request.failures import Failure
from llmbatch._request.retry import AttemptFailedError
from llmbatch._request.sender import Call
from llmbatch._request.worker_process import CALLS
from llmbatch._rows.failure_type import FailureType
from llmbatch._util.loop_thread import at_end
from llmbatch._util.send_times import note_sent

IDLE_SECONDS, INTERRUPTED_SECONDS = 60.0, 1.0
_MOST_STILLBORN = 8  # children that end before they are ready: something keeps them from starting at all
_LONGEST_LINE = 1 << 30
_MAIN = "import sys; sys.path[:] = {path!r}; from llmbatch._request.worker_process import main; main()"
_PLAIN = (bool, int, float, str, type(None))
_OBJECTS = ("cache", "client_session", "aclient_session", "secret_manager_client")


def calling(kind: str, processes: int | Literal["auto"]) -> Call:
    """The function that sends one request once: here, or in one of so many children while they are there."""
    if processes == 1:
        return CALLS[kind]
    if processes == "auto":
        cores = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else range(os.cpu_count() or 1)
        processes = len(cores)
    count, begun, said = processes, False, False

    async def call(request: dict[str, Any]) -> Answer:
        nonlocal begun, said
        reason = _bound_here(request)
        if reason is None:
            try:
                asked = json.dumps([kind, request], default=_plain)
            except TypeError:
                reason = "an argument is an object that only this process knows"
            else:
                pool, begun = _pool(count, anew=not begun), True
                child = pool.chosen(request)
                with pool.used():
                    return await (child.ask(asked) if child else CALLS[kind](request))
        if not said:
            said = True
            logger.warning("processes={}: the batch stays in one process, since {}", count, reason)
        return await CALLS[kind](request)

    return call


def _bound_here(request: Mapping[str, Any]) -> str | None:
    """Why a request can be sent in this process only, None where any would do."""
    if anybody_listens(request):
        return "LiteLLM's callbacks live in it"
    if any(getattr(load(), name, None) is not None for name in _OBJECTS):
        return "LiteLLM has been given a cache or a client in it"
    if hasattr(aiohttp.ClientSession._request, "__wrapped__"):  # noqa: SLF001 - vcrpy's way to replay and record
        return "a cassette is open in it"
    return None


@functools.lru_cache(maxsize=64)
def _plain(value: Any) -> Any:
    """A pydantic class as the response_format that LiteLLM makes of it."""
    if isinstance(value, type):
        return load().utils.type_to_response_format_param(value)
    raise TypeError(f"{type(value).__name__} is no plain data")


def _settings() -> dict[str, Any]:
    """LiteLLM's settings (`litellm.drop_params`, …) as plain data; keys set there are among them."""

    def plain(value: Any) -> bool:
        return isinstance(value, _PLAIN) or (isinstance(value, list) and all(isinstance(v, _PLAIN) for v in value))

    return {name: value for name, value in vars(load()).items() if plain(value) and not name.startswith("_")}


def _prices_of(request: Mapping[str, Any]) -> dict[str, Any]:
    """The entries of LiteLLM's map of prices, in which a user may have registered some, that a request may meet."""
    model, prices = str(request["model"]), load().model_cost
    name = model.removeprefix(f"{provider_of(request)}/")
    names = (model, name, f"{provider_of(request)}/{name}")
    return {name: prices[name] for name in names if name in prices}


class _WorkerProcess:
    """One child and what it has been asked; `life` comes to whether it has ever been ready."""

    def __init__(self, alike: tuple[dict[str, Any], dict[str, Any]]) -> None:
        self.process: asyncio.subprocess.Process | None = None
        self.waiting: dict[int, asyncio.Future[Any]] = {}
        self.ready = False
        self._numbers = itertools.count(1)
        self.life = asyncio.ensure_future(self._live(alike))

    async def _live(self, alike: tuple[dict[str, Any], dict[str, Any]]) -> bool:
        """Start it, take its answers, and fail what it has been asked when it ends."""
        command = [sys.executable, "-c", _MAIN.format(path=sys.path)]
        pipe = asyncio.subprocess.PIPE
        # A session of its own: a terminal's Ctrl-C is the parent's to hear.
        try:
            process = self.process = await asyncio.create_subprocess_exec(
                *command, stdin=pipe, stdout=pipe, start_new_session=True, limit=_LONGEST_LINE
            )
        except OSError:
            return False
        assert process.stdout is not None  # noqa: S101 - asked for above
        served = False
        try:
            self.tell(0, json.dumps(alike))
            async for line in process.stdout:
                number, said = json.loads(line)
                self.ready = served = True
                if (future := self.waiting.pop(number, None)) is not None and not future.done():
                    future.set_result(said)
        except (ValueError, OSError):  # it ended within a line
            pass
        finally:
            self.ready = False
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            died = f"the process that sent it ended ({await process.wait()})"
            for future in self.waiting.values():
                if not future.done():
                    future.set_exception(
                        AttemptFailedError(Failure(FailureType.PROCESS_DIED, died, retryable=True, billed=None))
                    )
            self.waiting.clear()
        return served

    def tell(self, number: int, arguments: str = "[]") -> None:
        """Write the number of a request, or 0, and a list in JSON; it is heard once the child runs."""
        if self.process is not None and self.process.stdin is not None:
            self.process.stdin.write(f"[{number}, {arguments}]\n".encode())

    async def ask(self, asked: str) -> Answer:
        """Its answer; raises AttemptFailedError."""
        number = next(self._numbers)
        self.waiting[number] = future = asyncio.get_running_loop().create_future()
        self.tell(number, asked)
        try:
            said = await future
        except asyncio.CancelledError:
            if self.waiting.pop(number, None) is not None and self.ready:
                self.tell(number)
            raise
        for at in said.pop("sent_times"):
            note_sent(at)
        if "failure" in said:
            raise AttemptFailedError(Failure(**said["failure"]))
        return Answer(**said)


class _Pool:
    """So many children, started together; a dead one is replaced when something is to be sent."""

    def __init__(self, count: int) -> None:
        self.circumstances = _circumstances()
        self._prices: dict[str, Any] = {}
        self.children = [self._child() for _ in range(count)]
        self._stillborn = 0
        self._in_flight = 0
        self._timer: asyncio.TimerHandle | None = None

    def _child(self) -> _WorkerProcess:
        return _WorkerProcess((self.circumstances[-1], self._prices))

    def chosen(self, request: Mapping[str, Any]) -> _WorkerProcess | None:
        """The child that has been asked the fewest, None while none is ready."""
        for at, child in enumerate(self.children):
            if child.life.done() and self._stillborn < _MOST_STILLBORN:
                self._stillborn += not child.life.result()
                self.children[at] = self._child()
        if not (prices := _prices_of(request)).items() <= self._prices.items():
            self._prices |= prices
            for child in self.children:
                child.tell(0, json.dumps(({}, prices)))
        ready = [child for child in self.children if child.ready]
        return min(ready, key=lambda child: len(child.waiting), default=None)

    @contextlib.contextmanager
    def used(self) -> Iterator[None]:
        """While a request is in flight; when none has been for a while, the children end."""
        if self._timer is not None:
            self._timer.cancel()
        self._in_flight += 1
        patience = IDLE_SECONDS
        try:
            yield
        except asyncio.CancelledError:
            patience = INTERRUPTED_SECONDS
            raise
        finally:
            self._in_flight -= 1
            if not self._in_flight:
                self._timer = asyncio.get_running_loop().call_later(patience, self.close)

    def close(self) -> None:
        """End the children; what they have been asked fails, and is sent again elsewhere."""
        if _pools.get(len(self.children)) is self:
            del _pools[len(self.children)]
        for child in self.children:
            child.life.cancel()


_pools: dict[int, _Pool] = {}


def _circumstances() -> tuple[Any, ...]:
    """What children know of the parent: while it is the same they may be kept."""
    return dict(os.environ), list(sys.path), _settings()


def _pool(count: int, *, anew: bool) -> _Pool:
    """The pool of so many; at the beginning of a batch a new one where the old one's circumstances have changed."""
    pool = _pools.get(count)
    if pool is not None and anew and pool.circumstances != _circumstances():
        pool.close()
        pool = None
    if pool is None:
        pool = _pools[count] = _Pool(count)
    return pool


@contextlib.asynccontextmanager
async def _ending() -> AsyncIterator[None]:
    lives = [child.life for pool in _pools.values() for child in pool.children]
    for pool in list(_pools.values()):
        pool.close()
    await asyncio.gather(*lives, return_exceptions=True)
    yield


at_end(_ending)

if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_pools.clear)
