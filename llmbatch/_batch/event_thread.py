"""Calls `on_event` in a thread of its own, with one event after the other."""

from __future__ import annotations

import asyncio
import contextlib
import queue
import threading
from collections.abc import Callable

from llmbatch._util.background_call import NestedCalls
from llmbatch._util.batch_log import logger
from llmbatch.events import Event

# Events that may wait for a slow `on_event` before rows wait for it, too.
MAX_WAITING_EVENTS = 10_000
# Seconds that `on_event` has after an interruption.
INTERRUPTED_SECONDS = 1.0
_LOOK_SECONDS = 0.02


class EventThread:
    """The events of one batch on their way to the caller's function. An exception of it is logged, and changes nothing.

    The thread is a daemon, and nobody waits for it after an interruption or the deadline.
    """

    def __init__(self, on_event: Callable[[Event], object]) -> None:
        self._on_event, self._nested = on_event, NestedCalls()  # which outlast the rows
        self._events: queue.SimpleQueue[Event | None] = queue.SimpleQueue()
        self._loop = asyncio.get_running_loop()
        self._ended = asyncio.Event()
        self._errors = 0
        run = self._nested.context().run
        threading.Thread(target=run, args=(self._work,), name="llmbatch events", daemon=True).start()

    def emit(self, event: Event) -> None:
        """Pass an event on."""
        self._events.put(event)

    async def room(self) -> None:
        """Wait while too many events wait."""
        while self._events.qsize() > MAX_WAITING_EVENTS:  # noqa: ASYNC110 - a thread empties it
            await asyncio.sleep(_LOOK_SECONDS)

    async def close(self, until: float | None) -> None:
        """Wait until `on_event` has seen all events, or until this time of the loop."""
        self._events.put(None)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout_at(until):
                await self._ended.wait()
        self._nested.close()
        if not self._ended.is_set():
            logger.warning("on_event was too slow, and has not seen {} events", self._events.qsize())
        if self._errors > 1:
            logger.warning("on_event raised {} times", self._errors)

    def _work(self) -> None:
        while (event := self._events.get()) is not None:
            try:
                self._on_event(event)
            except BaseException as exc:  # noqa: BLE001 - one who watches must not end what he watches
                self._errors += 1
                if self._errors == 1:
                    logger.warning(
                        "on_event raised {} for {}; the batch goes on", type(exc).__name__, type(event).__name__
                    )
        with contextlib.suppress(RuntimeError):  # the loop has ended
            self._loop.call_soon_threadsafe(self._ended.set)
