"""Threads for the caller's own functions, which may take seconds, query a database or call llmbatch."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import queue
import threading
from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

from llmbatch._util.background_call import NestedCalls

T = TypeVar("T")


class _Job(NamedTuple):
    done: asyncio.Future[Any]
    context: contextvars.Context
    function: Callable[..., Any]
    arguments: tuple[Any, ...]


class CallbackThreads:
    """Runs functions off the event loop: `limit` at a time, the others in the order in which they came.

    The threads are daemons, started when needed. A function whose caller has given up is not begun any more; one that
    has begun runs on, and nobody waits for it.
    """

    def __init__(self, limit: int, nested: NestedCalls) -> None:
        self._limit, self._nested = limit, nested
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._threads = self._waiting = 0

    async def run(self, function: Callable[..., T], *arguments: Any) -> T:
        """Return what the function returns, or raise its exception with its traceback."""
        loop = asyncio.get_running_loop()
        done: asyncio.Future[T] = loop.create_future()
        self._waiting += 1
        if self._threads < min(self._waiting, self._limit):
            self._threads += 1
            threading.Thread(target=self._work, args=(loop,), name="llmbatch callback", daemon=True).start()
        self._jobs.put(_Job(done, self._nested.context(), function, arguments))
        try:
            return await done
        finally:
            self._waiting -= 1

    def close(self) -> None:
        """End the threads when they have nothing to do."""
        for _ in range(self._threads):
            self._jobs.put(None)

    def _work(self, loop: asyncio.AbstractEventLoop) -> None:
        while (job := self._jobs.get()) is not None:
            if job.done.done():
                continue
            try:
                outcome = job.done.set_result, job.context.run(job.function, *job.arguments)
            except StopIteration as exc:  # which no future takes
                error = RuntimeError(f"{getattr(job.function, '__name__', job.function)} raised StopIteration")
                error.__cause__ = exc
                outcome = job.done.set_exception, error
            except BaseException as exc:  # noqa: BLE001 - raised where the outcome is awaited
                outcome = job.done.set_exception, exc
            with contextlib.suppress(RuntimeError):  # the loop has ended
                loop.call_soon_threadsafe(_settle, job.done, *outcome)
            del job, outcome  # nothing is kept while the thread waits


def _settle(done: asyncio.Future[Any], put: Callable[[Any], None], value: Any) -> None:
    if not done.done():
        put(value)
