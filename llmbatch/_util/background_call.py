"""A coroutine on the background loop, as its caller in another thread sees it: to wait for, and to cancel."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import multiprocessing
import signal
import threading
from collections.abc import Callable, Coroutine
from typing import Any, Generic, TypeVar

from llmbatch._util.foreground import remember_caller
from llmbatch._util.loop_thread import CLOSING_SECONDS, background

T = TypeVar("T")

LOOK_SECONDS = 0.2  # between two looks for a cancellation that wakes nobody

_front: contextvars.ContextVar[bool | None] = contextvars.ContextVar("_front", default=None)
_nested: contextvars.ContextVar[NestedCalls | None] = contextvars.ContextVar("_nested", default=None)


def in_front() -> bool:
    """Return whether the call was made by a script's or console's main thread: no event loop, server or worker."""
    return bool(_front.get())


def within_call() -> bool:
    """Return whether this code runs as part of an llmbatch call, in whatever thread."""
    return _front.get() is not None


def _on_main_thread() -> bool:
    if threading.current_thread() is not threading.main_thread() or multiprocessing.parent_process() is not None:
        return False
    # Servers and workers handle SIGTERM themselves; a script or a console leaves it to the system.
    return asyncio._get_running_loop() is None and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL  # noqa: SLF001


class NestedCalls:
    """The llmbatch calls that the caller's own functions (`validate`, `on_result`, the input) make during a batch.

    They end with the batch: after an interruption nothing may be sent on its behalf.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._calls = set[Call[Any]]()
        self._closed = False

    def context(self) -> contextvars.Context:
        """Return a copy of the current context in which llmbatch calls belong to this batch."""
        context = contextvars.copy_context()
        context.run(_nested.set, self)
        return context

    def add(self, call: Call[Any]) -> None:
        """Add a call that is about to start. Raises CancelledError when the batch has ended."""
        with self._lock:
            if self._closed:
                raise asyncio.CancelledError("the batch that called this function has ended")
            self._calls.add(call)

    def remove(self, call: Call[Any]) -> None:
        """Remove a call that has ended."""
        with self._lock:
            self._calls.discard(call)

    def close(self) -> None:
        """Cancel the calls that still run, and reject new ones."""
        with self._lock:
            self._closed, calls = True, list(self._calls)
        for call in calls:
            call.stop()


class Call(Generic[T]):
    """A coroutine to run on the background loop, in a copy of the caller's context.

    It is waited for with a bare lock. Ctrl-C could leave the locks inside a `concurrent.futures.Future` locked, and the
    loop would wait for them forever.

    Attributes:
        done: whether it has ended; then `outcome()` returns or raises.
    """

    def __init__(self, coroutine: Coroutine[Any, Any, T], *, nested: bool = True) -> None:
        self.done = False
        self._coroutine = coroutine
        self._loop: asyncio.AbstractEventLoop | None = None
        self._task: asyncio.Task[T] | None = None
        self._awaiting: Callable[[], None] = lambda: None
        self._error: BaseException | None = None
        self._nested = _nested.get() if nested else None
        self._ended = threading.Lock()
        self._ended.acquire()  # released when it has ended

    def start(self) -> None:
        """Hand the coroutine to the loop; a second time does nothing."""
        self._loop = background()
        if self._nested is not None:
            self._nested.add(self)
        context = contextvars.copy_context()
        context.run(_front.set, _on_main_thread())
        context.run(remember_caller)
        self._loop.call_soon_threadsafe(self._start, context=context)

    def _start(self) -> None:
        if self._task is None and not self.done:
            self._task = asyncio.ensure_future(self._coroutine)
            self._task.add_done_callback(self._finish)

    def _finish(self, task: asyncio.Task[T]) -> None:
        try:
            self._value = task.result()
        except BaseException as exc:  # noqa: BLE001 - raised where the outcome is taken
            self._error = exc
        self._end()

    def _end(self) -> None:
        self.done = True
        self._ended.release()
        if self._nested is not None:
            self._nested.remove(self)
        self._awaiting()

    def wait(self, seconds: float = -1) -> bool:
        """Wait until it has ended, for that many seconds at most (-1: without a limit); return whether it has."""
        return self.done or self._ended.acquire(timeout=seconds)

    def outcome(self) -> T:
        """Return the coroutine's result, or raise its exception."""
        try:
            if self._error is not None:
                raise self._error
            return self._value
        finally:
            del self  # the exception's traceback would refer to the exception

    def stop(self) -> None:
        """Cancel it, without waiting for its end."""
        if self._loop is None:
            self._coroutine.close()
            self.done = True
        elif not self.done:
            self._loop.call_soon_threadsafe(self._stop)

    def _stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
        elif not self.done:  # interrupted before it was handed over
            self._coroutine.close()
            self._error = asyncio.CancelledError()
            self._end()

    def cancel(self, reason: BaseException) -> None:
        """Cancel it and wait until it has ended, so that finished rows are kept; `reason` gets its notes."""
        if self.done:
            return
        try:
            self.stop()
        finally:  # whatever arrives now
            self.stop()
            self.wait(CLOSING_SECONDS)
        if isinstance(self._error, asyncio.CancelledError):
            for note in getattr(self._error, "__notes__", ()):
                reason.add_note(note)

    def awaited_by(self, loop: asyncio.AbstractEventLoop) -> asyncio.Future[None]:
        """Return a future of `loop` that is done when this has ended.

        The call is cancelled when that loop is stopped, as Ctrl-C does in `run_until_complete`.
        """
        ended = loop.create_future()

        def end() -> None:
            if not ended.done():
                ended.set_result(None)

        def wake() -> None:
            with contextlib.suppress(RuntimeError):  # the loop is closed
                loop.call_soon_threadsafe(end)

        self._awaiting = wake
        background().call_soon_threadsafe(self._look, loop)
        return ended

    def _look(self, loop: asyncio.AbstractEventLoop, *, stopped: bool = False) -> None:
        if stopped and not loop.is_running():
            self._stop()
        elif not self.done:  # a loop that is run in pieces stands still for a moment only
            background = asyncio.get_running_loop()
            background.call_later(LOOK_SECONDS, lambda: self._look(loop, stopped=not loop.is_running()))
