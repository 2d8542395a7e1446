"""One background event loop for every call, and the bridges to it: blocking, awaiting, iterating.

All of llmbatch runs on this one loop, also what is awaited from another one: HTTP clients are kept by loop, so that
a loop a call would leak sockets and meet clients of dead loops, and the rate limits of an account are one thing
whoever asks. A blocking call works inside a running loop (Jupyter, `async def`) since it waits for another thread.
"""

from __future__ import annotations

import asyncio
import atexit
import concurrent.futures
import contextlib
import contextvars
import multiprocessing
import os
import signal
import threading
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine, Iterator
from contextlib import AbstractAsyncContextManager
from typing import Any, Generic, ParamSpec, TypeVar

from llmbatch._util.base_errors import BlockingCallError

P = ParamSpec("P")
T = TypeVar("T")

_lock = threading.Lock()
_loop: asyncio.AbstractEventLoop | None = None
_thread: threading.Thread | None = None
_orphans: list[Any] = []
_endings: list[Callable[[], AbstractAsyncContextManager[None]]] = []
_front: contextvars.ContextVar[bool | None] = contextvars.ContextVar("_front", default=None)
_CLOSING_SECONDS = 5.0
_LOOK_SECONDS = 0.2


def _background() -> asyncio.AbstractEventLoop:
    global _loop, _thread  # noqa: PLW0603 - one loop a process is the point
    with _lock:
        if _loop is None:
            _loop = asyncio.new_event_loop()
            _thread = threading.Thread(target=_serve, args=(_loop,), name="llmbatch", daemon=True)
            _thread.start()
            atexit.register(_close)
        return _loop


def _serve(loop: asyncio.AbstractEventLoop) -> None:
    asyncio.set_event_loop(loop)
    ended = False
    while not ended:
        with contextlib.suppress(SystemExit, KeyboardInterrupt):  # of a task, whose caller gets it too
            loop.run_forever()
            ended = True


def _close() -> None:
    """Cancel what runs and close the loop: no warning at the interpreter's exit."""
    global _loop, _thread
    loop, thread, _loop, _thread = _loop, _thread, None, None
    if loop is None or thread is None or not thread.is_alive():
        return

    async def close() -> None:
        async with contextlib.AsyncExitStack() as stack:
            for ending in _endings:
                await stack.enter_async_context(ending())
            tasks = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        await asyncio.sleep(0)

    with contextlib.suppress(Exception):
        asyncio.run_coroutine_threadsafe(close(), loop).result(_CLOSING_SECONDS)
    loop.call_soon_threadsafe(loop.stop)
    thread.join(_CLOSING_SECONDS)
    if not thread.is_alive():
        loop.close()


def at_end(ending: Callable[[], AbstractAsyncContextManager[None]]) -> None:
    """Enter `ending()` before the loop's tasks are cancelled at the interpreter's exit, and leave it after.

    What has been imported by now may drop what it holds at exit; registered last, the loop's end comes first.
    """
    if ending not in _endings:
        _endings.append(ending)
    atexit.unregister(_close)
    atexit.register(_close)


def _forget() -> None:
    """In a forked child: the loop's thread is not there, and what waited on it waits for nobody."""
    global _loop, _thread, _lock
    # The old loop is kept: its clients are known by its id, and must be neither met again nor finalised.
    _orphans.append(_loop)
    _loop, _thread, _lock = None, None, threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)


def in_front() -> bool:
    """Whether the running call came from the main thread of a program, and from no event loop, server or worker."""
    return bool(_front.get())


def within_call() -> bool:
    """Whether this is llmbatch's work, in whatever thread."""
    return _front.get() is not None


def _on_main_thread() -> bool:
    if threading.current_thread() is not threading.main_thread() or multiprocessing.parent_process() is not None:
        return False
    # Servers and workers end in their own way when told to; a script or a console leaves that to the system.
    return asyncio._get_running_loop() is None and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL  # noqa: SLF001


class _Call(Generic[T]):
    """A coroutine that runs on the background loop, in a copy of the caller's context."""

    def __init__(self, coroutine: Coroutine[Any, Any, T]) -> None:
        self.done: concurrent.futures.Future[T] = concurrent.futures.Future()
        self._notes: list[str] = []
        self._loop = _background()
        context = contextvars.copy_context()
        context.run(_front.set, _on_main_thread())
        self._loop.call_soon_threadsafe(self._start, coroutine, context=context)

    def _start(self, coroutine: Coroutine[Any, Any, T]) -> None:
        self._task = asyncio.ensure_future(coroutine)
        self._task.add_done_callback(self._finish)

    def _finish(self, task: asyncio.Task[T]) -> None:
        try:
            self.done.set_result(task.result())
        except asyncio.CancelledError as exc:
            self._notes = getattr(exc, "__notes__", [])
            self.done.set_exception(concurrent.futures.CancelledError())
        except BaseException as exc:  # noqa: BLE001 - raised where the outcome is taken
            self.done.set_exception(exc)

    def cancel(self, reason: BaseException) -> None:
        """Cancel it and wait until it has ended, so that what it finished is kept; `reason` gets its notes."""
        self._loop.call_soon_threadsafe(lambda: self._task.cancel())  # noqa: PLW0108 - which is made by then
        with contextlib.suppress(BaseException):
            self.done.result(_CLOSING_SECONDS)
        for note in self._notes:
            reason.add_note(note)

    def awaited_by(self, loop: asyncio.AbstractEventLoop) -> None:
        """Cancel it when the loop that awaits it is stopped, as Ctrl-C does in `run_until_complete`."""
        self._loop.call_soon_threadsafe(self._look, loop)

    def _look(self, loop: asyncio.AbstractEventLoop, *, stopped: bool = False) -> None:
        if stopped and not loop.is_running():
            self._task.cancel()
        elif not self.done.done():  # a loop that is run in pieces stands still for a moment only
            self._loop.call_later(_LOOK_SECONDS, lambda: self._look(loop, stopped=not loop.is_running()))


def in_background(coroutine: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine on the background loop and wait for it; Ctrl-C cancels it and is raised."""
    if threading.current_thread() is _thread:
        coroutine.close()
        raise BlockingCallError(
            "a blocking llmbatch function was called from llmbatch's own loop (an on_result callback?); use a thread"
        )
    call = _Call(coroutine)
    try:
        return _result(call)
    except concurrent.futures.CancelledError:
        raise asyncio.CancelledError from None
    except BaseException as exc:
        if not call.done.done():
            call.cancel(exc)
        raise


def _result(call: _Call[T]) -> T:
    """The call's outcome. `asyncio.run` takes Ctrl-C for itself and only cancels its task, which waits right here."""
    try:
        task = asyncio.current_task()
    except RuntimeError:
        task = None
    before = task.cancelling() if task is not None else 0
    while task is not None and not call.done.done():
        if task.cancelling() > before:
            raise asyncio.CancelledError
        concurrent.futures.wait([call.done], timeout=_LOOK_SECONDS)
    return call.done.result()


def _seen(done: asyncio.Future[Any]) -> None:
    """Nobody may be left to take the outcome: asyncio is not to complain of that."""
    if not done.cancelled():
        done.exception()


async def awaited(coroutine: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine on the background loop and await it from any loop.

    That loop is kept waking: in a notebook, Stop only asks a loop to cancel the cell when it next wakes.
    """
    if threading.current_thread() is _thread:
        return await coroutine
    call = _Call(coroutine)
    done = asyncio.wrap_future(call.done)
    done.add_done_callback(_seen)
    call.awaited_by(asyncio.get_running_loop())
    try:
        while not done.done():
            await asyncio.wait([done], timeout=_LOOK_SECONDS)
        return done.result()
    except asyncio.CancelledError as exc:
        if not call.done.done():
            await asyncio.to_thread(call.cancel, exc)
        raise


class Stream(Generic[T]):
    """Rows or events as they come: `for … in stream` and `async for … in stream` both work, once.

    Leaving the loop early cancels what is in flight, as `close()` and `await aclose()` do.
    """

    def __init__(self, source: AsyncGenerator[T]) -> None:
        self._source = source

    def __iter__(self) -> Iterator[T]:
        try:
            while True:
                try:
                    item = in_background(_next(self._source))
                except StopAsyncIteration:
                    return
                yield item
        finally:
            self.close()

    async def __aiter__(self) -> AsyncIterator[T]:
        try:
            while True:
                try:
                    item = await awaited(_next(self._source))
                except StopAsyncIteration:
                    return
                yield item
        finally:
            await self.aclose()

    def close(self) -> None:
        """Cancel what is in flight; nothing is once the loop has ended, at the interpreter's exit."""
        if _loop is not None:
            in_background(self._source.aclose())

    async def aclose(self) -> None:
        """Cancel what is in flight; nothing is once the loop has ended, at the interpreter's exit."""
        if _loop is not None:
            await awaited(self._source.aclose())


async def _next(source: AsyncGenerator[T]) -> T:
    return await anext(source)  # on the loop, which is to know the generator
