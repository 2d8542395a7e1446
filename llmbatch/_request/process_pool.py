"""Worker processes, to use more than one core: they make LiteLLM's calls, and the parent keeps everything else.

Requests and answers cross pipes as lines of JSON. Workers are new interpreters: nothing is forked, and the user's
script does not run again. Each holds many requests at a time and is kept for the next batch. It ends when it is idle,
when the environment or LiteLLM's settings change, or when the parent's end of the pipe closes.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import itertools
import json
import os
import sys
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from typing import Any, Literal

import aiohttp

from llmbatch._litellm import Answer, load, provider_of
from llmbatch._litellm.instrumentation import traced_library
from llmbatch._litellm.quiet_logging import anybody_listens
from llmbatch._litellm.settings import plain_settings
from llmbatch._request.failures import Failure, Scope
from llmbatch._request.retry import AttemptFailedError
from llmbatch._request.sender import Call
from llmbatch._request.worker_process import CALLS
from llmbatch._rows.failure_type import FailureType
from llmbatch._util.batch_log import logger
from llmbatch._util.loop_thread import at_end
from llmbatch._util.send_times import note_sent

# Idle workers end after this time; sooner after an interrupted batch.
IDLE_SECONDS = 60.0
IDLE_SECONDS_AFTER_INTERRUPT = 1.0
# With "auto" workers are started when the event loop's thread has been busy for so long.
BUSY_SECONDS, BUSY_SHARE = 3.0, 0.9
# Workers that end before they are ready are replaced so often; then something keeps them from starting at all.
_MAX_FAILED_STARTS = 8
_MAX_LINE_BYTES = 1 << 30
_MAIN = "import sys; sys.path[:] = {path!r}; from llmbatch._request.worker_process import main; main()"
_OBJECTS = ("cache", "client_session", "aclient_session", "secret_manager_client")


def calling(kind: str, processes: int | Literal["auto"]) -> Call:
    """Return the function that sends one request once, in this process or in a worker.

    With "auto" there are workers, one for each core, from when this process's CPU limits the batch.
    """
    count = _cores() if processes == "auto" else processes
    if count == 1:
        return CALLS[kind]
    meter = _CpuMeter() if processes == "auto" else None
    in_a_worker = _worker_calling(kind, count)

    async def call(request: dict[str, Any]) -> Answer:
        return await (CALLS[kind] if meter is not None and not meter.is_busy() else in_a_worker)(request)

    return call


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _worker_calling(kind: str, count: int) -> Call:
    """Return the function that sends one request once, in a worker where that is possible."""
    begun, reported = False, False
    traced: str | None = None

    async def call(request: dict[str, Any]) -> Answer:
        nonlocal begun, reported, traced
        if not begun and not reported:
            traced = _traced()
        reason = traced or _reason_to_stay(request)
        if reason is None:
            try:
                line = json.dumps([kind, request], default=_as_json)
            except TypeError:
                reason = "an argument is an object that only this process knows"
            else:
                pool, begun = _pool(count, new_batch=not begun), True
                worker = pool.choose(request)
                with pool.in_use():
                    return await (worker.send(line) if worker else CALLS[kind](request))
        if not reported:
            reported = True
            logger.warning("processes={}: the batch stays in one process, since {}", count, reason)
        return await CALLS[kind](request)

    return call


def _traced() -> str | None:
    """Return the reason to stay that a tracing tool is, None without one."""
    if _replays() or (library := traced_library()) is None:
        return None
    return f"a tracing tool has patched {library} in it, and would not see requests of worker processes"


def _replays() -> bool:
    return hasattr(aiohttp.ClientSession._request, "__wrapped__")  # noqa: SLF001 - vcrpy's way to replay and record


class _CpuMeter:
    """Finds out whether the event loop's thread has been busy for some seconds; it stays so for the batch."""

    def __init__(self) -> None:
        self._was_busy = False
        self._began: tuple[float, float] | None = None

    def is_busy(self) -> bool:
        """Return whether it is; called on the event loop."""
        now = time.monotonic(), time.thread_time()
        began = self._began = self._began or now
        if not self._was_busy and now[0] - began[0] >= BUSY_SECONDS:
            self._was_busy = now[1] - began[1] > BUSY_SHARE * (now[0] - began[0])
            if self._was_busy:
                logger.info("This process's CPU limits the batch: worker processes send from now on")
            self._began = now
        return self._was_busy


def _reason_to_stay(request: Mapping[str, Any]) -> str | None:
    """Return why a request must be sent in this process, None if a worker may send it."""
    if anybody_listens(request):
        return "LiteLLM's callbacks live in it"
    if any(getattr(load(), name, None) is not None for name in _OBJECTS):
        return "LiteLLM has been given a cache or a client in it"
    if _replays():
        return "a cassette is open in it"
    return None


@functools.lru_cache(maxsize=64)
def _as_json(value: Any) -> Any:
    """Return the JSON schema that LiteLLM makes of a pydantic class. Raises TypeError for other objects."""
    if isinstance(value, type):
        return load().utils.type_to_response_format_param(value)
    raise TypeError(f"{type(value).__name__} is not plain data")


def _prices_of(request: Mapping[str, Any]) -> dict[str, Any]:
    """Return the entries of LiteLLM's price map that a request may need; a user may have registered some."""
    model, prices = str(request["model"]), load().model_cost
    name = model.removeprefix(f"{provider_of(request)}/")
    names = (model, name, f"{provider_of(request)}/{name}")
    return {name: prices[name] for name in names if name in prices}


class _WorkerProcess:
    """One worker process and its requests in flight; the task `life` returns whether it was ever ready."""

    def __init__(self, settings: tuple[dict[str, Any], dict[str, Any]]) -> None:
        self.process: asyncio.subprocess.Process | None = None
        self.waiting: dict[int, asyncio.Future[Any]] = {}
        self.ready = False
        self._numbers = itertools.count(1)
        self.life = asyncio.ensure_future(self._live(settings))

    async def _live(self, settings: tuple[dict[str, Any], dict[str, Any]]) -> bool:
        """Start the process and read its answers; when it ends, fail its requests in flight."""
        command = [sys.executable, "-c", _MAIN.format(path=sys.path)]
        pipe = asyncio.subprocess.PIPE
        # In a session of its own, a terminal's Ctrl-C reaches only the parent.
        try:
            process = self.process = await asyncio.create_subprocess_exec(
                *command, stdin=pipe, stdout=pipe, start_new_session=True, limit=_MAX_LINE_BYTES
            )
        except OSError:
            return False
        assert process.stdout is not None  # noqa: S101 - asked for above
        was_ready = False
        try:
            self.write(0, json.dumps(settings))
            async for line in process.stdout:
                number, reply = json.loads(line)
                self.ready = was_ready = True
                if (future := self.waiting.pop(number, None)) is not None and not future.done():
                    future.set_result(reply)
        except (ValueError, OSError):  # it ended in the middle of a line
            pass
        finally:
            self.ready = False
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            message = f"the worker process that sent it ended ({await process.wait()})"
            for future in self.waiting.values():
                if not future.done():
                    future.set_exception(
                        AttemptFailedError(Failure(FailureType.PROCESS_DIED, message, retryable=True, billed=None))
                    )
            self.waiting.clear()
        return was_ready

    def write(self, number: int, arguments: str = "[]") -> None:
        """Write a request's number and arguments in JSON; 0 for settings, no arguments to cancel."""
        if self.process is not None and self.process.stdin is not None:
            self.process.stdin.write(f"[{number}, {arguments}]\n".encode())

    async def send(self, line: str) -> Answer:
        """Send a request and return its answer. Raises AttemptFailedError."""
        number = next(self._numbers)
        self.waiting[number] = future = asyncio.get_running_loop().create_future()
        self.write(number, line)
        try:
            reply = await future
        except asyncio.CancelledError:
            if self.waiting.pop(number, None) is not None and self.ready:
                self.write(number)
            raise
        for at in reply.pop("sent_times"):
            note_sent(at)
        if "failure" in reply:
            given = reply["failure"]
            raise AttemptFailedError(Failure(**{**given, "scope": Scope(given["scope"])}))
        return Answer(**reply)


class _Pool:
    """Some worker processes, started together; one that has ended is replaced when a request is sent."""

    def __init__(self, count: int) -> None:
        self.circumstances = _circumstances()
        self._prices: dict[str, Any] = {}
        self.workers = [self._new_worker() for _ in range(count)]
        self._failed_starts = 0
        self._in_flight = 0
        self._timer: asyncio.TimerHandle | None = None

    def _new_worker(self) -> _WorkerProcess:
        return _WorkerProcess((self.circumstances[-1], self._prices))

    def choose(self, request: Mapping[str, Any]) -> _WorkerProcess | None:
        """Return the worker with the fewest requests in flight, None while none is ready."""
        for at, worker in enumerate(self.workers):
            if worker.life.done() and self._failed_starts < _MAX_FAILED_STARTS:
                self._failed_starts += not worker.life.result()
                self.workers[at] = self._new_worker()
        if not (prices := _prices_of(request)).items() <= self._prices.items():
            self._prices |= prices
            for worker in self.workers:
                worker.write(0, json.dumps(({}, prices)))
        ready = [worker for worker in self.workers if worker.ready]
        return min(ready, key=lambda worker: len(worker.waiting), default=None)

    @contextlib.contextmanager
    def in_use(self) -> Iterator[None]:
        """Count a request in flight; when there has been none for a while, end the workers."""
        if self._timer is not None:
            self._timer.cancel()
        self._in_flight += 1
        idle_seconds = IDLE_SECONDS
        try:
            yield
        except asyncio.CancelledError:
            idle_seconds = IDLE_SECONDS_AFTER_INTERRUPT
            raise
        finally:
            self._in_flight -= 1
            if not self._in_flight:
                self._timer = asyncio.get_running_loop().call_later(idle_seconds, self.close)

    def close(self) -> None:
        """End the workers; their requests in flight fail and are retried elsewhere."""
        if _pools.get(len(self.workers)) is self:
            del _pools[len(self.workers)]
        for worker in self.workers:
            worker.life.cancel()


_pools: dict[int, _Pool] = {}


def _circumstances() -> tuple[Any, ...]:
    """Return what workers copy from the parent; while it is the same they may be kept."""
    return dict(os.environ), list(sys.path), plain_settings()


def _pool(count: int, *, new_batch: bool) -> _Pool:
    """Return the pool of `count` workers; for a new batch a new one if settings or environment have changed."""
    pool = _pools.get(count)
    if pool is not None and new_batch and pool.circumstances != _circumstances():
        pool.close()
        pool = None
    if pool is None:
        pool = _pools[count] = _Pool(count)
    return pool


@contextlib.asynccontextmanager
async def _ending() -> AsyncIterator[None]:
    lives = [worker.life for pool in _pools.values() for worker in pool.workers]
    for pool in list(_pools.values()):
        pool.close()
    await asyncio.gather(*lives, return_exceptions=True)
    yield


at_end(_ending)

if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_pools.clear)
