"""Three ways to use the background loop: block, await or iterate.

A blocking call works inside a running loop (Jupyter, `async def`), because it waits for another thread.

Ctrl-C can arrive between any two lines of the calling thread. So a call is started inside the `try` that cancels it,
and a stream is closed in two nested `finally` blocks.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine, Iterator
from typing import Any, Generic, TypeVar, cast

from llmbatch._util.background_call import LOOK_SECONDS, Call
from llmbatch._util.base_errors import BlockingCallError
from llmbatch._util.loop_thread import CLOSING_SECONDS, has_ended, on_background_thread

T = TypeVar("T")

_END = object()  # instead of an item


def in_background(coroutine: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine on the background loop and wait for it; Ctrl-C cancels it and is raised."""
    call = Call(coroutine)
    try:
        _check_thread()
        call.start()
        _wait(call)
        return call.outcome()
    except BaseException as exc:
        call.cancel(exc)
        raise


def _check_thread() -> None:
    if on_background_thread():
        raise BlockingCallError(
            "a blocking llmbatch function was called on llmbatch's own event loop, which would wait for itself. Call "
            "it from validate or on_result, which have threads of their own, or from another thread."
        )


def _wait(call: Call[T]) -> None:
    """Wait for a call. `asyncio.run` takes Ctrl-C for itself and only cancels its task, which waits right here."""
    try:
        task = asyncio.current_task()
    except RuntimeError:
        task = None
    if task is None:
        call.wait()
        return
    before = task.cancelling()
    while not call.wait(LOOK_SECONDS):
        if task.cancelling() > before:
            raise asyncio.CancelledError


def _run_to_end(coroutine: Coroutine[Any, Any, None]) -> None:
    """Run a coroutine that must not be cancelled, and wait for it; Ctrl-C is raised when it has ended."""
    call = Call(coroutine, nested=False)
    if on_background_thread():  # the garbage collector runs in any thread
        call.start()
        return
    try:
        call.start()
        call.wait()
        call.outcome()
    except BaseException:
        if not call.done:
            call.start()
            call.wait(CLOSING_SECONDS)
        raise


async def awaited(coroutine: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine on the background loop and await it from any loop.

    That loop is woken regularly: in a notebook, Stop only asks a loop to cancel the cell when it next wakes.
    """
    if on_background_thread():
        return await coroutine
    call = Call(coroutine)
    try:
        ended = call.awaited_by(asyncio.get_running_loop())
        call.start()
        while not ended.done():
            await asyncio.wait([ended], timeout=LOOK_SECONDS)
        return call.outcome()
    except asyncio.CancelledError as exc:
        if not call.done:
            call.stop()
            await asyncio.to_thread(call.cancel, exc)
        raise
    except GeneratorExit:  # its loop has ended: nothing can be awaited any more
        call.stop()
        raise
    except BaseException as exc:
        call.cancel(exc)
        raise


class Stream(Generic[T]):
    """Rows or events as they come, to iterate once: `for … in stream` and `async for … in stream` both work.

    Leaving the loop early cancels what is in flight, as `close()` and `await aclose()` do.
    """

    def __init__(self, source: AsyncGenerator[T], *, stats: Callable[[], dict[str, Any]] = dict) -> None:
        self._source, self._stats = source, stats
        self._taking: asyncio.Task[Any] | None = None
        self._closed = False

    @property
    def stats(self) -> dict[str, Any]:
        """The run in numbers once it has ended, as `BatchResults.stats`; empty before, and for chunks of answers."""
        return self._stats()

    def __iter__(self) -> Iterator[T]:
        try:
            try:
                while (item := self._take()) is not _END:
                    yield cast("T", item)
            finally:
                self.close()
        finally:  # Ctrl-C may have arrived during the first one
            self.close()

    def __aiter__(self) -> AsyncIterator[T]:
        return _AsyncRows(self, self._next)

    def _take(self) -> T | object:
        try:
            return in_background(self._next())
        except StopAsyncIteration:
            return _END

    def close(self) -> None:
        """Cancel what is in flight, and wait until it has ended."""
        if self._unfinished():
            _run_to_end(self._close())

    async def aclose(self) -> None:
        """Cancel what is in flight, and wait until it has ended."""
        if self._unfinished():
            await awaited(self._close())

    def _unfinished(self) -> bool:
        """Return whether there is something to close: nothing is left once the loop has ended, at exit."""
        return not self._closed and not has_ended()

    async def _next(self) -> T:
        self._taking = asyncio.current_task()
        return await anext(self._source)  # on the loop, which is to know the generator

    async def _close(self) -> None:
        if self._taking is not None and not self._taking.done():
            self._taking.cancel()
            await asyncio.wait([self._taking])
        await self._source.aclose()
        self._closed = True


class _AsyncRows(AsyncIterator[T]):
    """Iterate a stream with `async for`, and close it as soon as the loop is left.

    An asynchronous generator would be closed later, by its event loop: the statement after a `break` would find the
    checkpoint in use.
    """

    _stream: Stream[T] | None = None

    def __init__(self, stream: Stream[T], take: Callable[[], Coroutine[Any, Any, T]]) -> None:
        self._stream, self._take = stream, take

    async def __anext__(self) -> T:
        try:
            return await awaited(self._take())
        except StopAsyncIteration:
            raise
        except BaseException:  # whose traceback would keep the iterator alive
            if self._stream is not None:
                self._stream.close()
            raise

    async def aclose(self) -> None:
        """Close the stream."""
        if self._stream is not None:
            await self._stream.aclose()

    def __del__(self) -> None:
        if self._stream is not None:
            try:
                self._stream.close()
            finally:  # Ctrl-C may have arrived during the first one
                self._stream.close()
