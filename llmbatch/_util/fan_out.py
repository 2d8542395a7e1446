"""Bounded, ordered-by-index fan-out: many inputs, one async function, results as they finish. It knows no LLM."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import itertools
import threading
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Sequence
from typing import Any, Generic, TypeVar

T = TypeVar("T")
R = TypeVar("R")

_MOMENT = 0.1  # seconds


async def fan_out(
    items: Iterable[T] | AsyncGenerator[T],
    work: Callable[[int, T], Awaitable[R]],
    *,
    slots: Callable[[], int],
    until: float | None = None,
) -> AsyncGenerator[tuple[int, R]]:
    """Yield `(index, await work(index, item))` for every item, as they finish.

    An item is taken, and its task made, only when one of `slots()` is free; a result that the consumer has not taken
    yet keeps its slot, so memory is bounded by the slots whatever the number of items. Results never wait for the next
    item, and from the loop's time `until` on no more is taken. Leaving the iteration early cancels what runs. An
    exception from `work` ends the iteration; one from `items` does when what was taken before it has finished.
    """
    loop = asyncio.get_running_loop()
    running: set[asyncio.Task[R]] = set()
    finished: asyncio.Queue[tuple[int, asyncio.Task[R]] | None] = asyncio.Queue()
    indices = itertools.count()

    def start(item: T) -> None:
        index = next(indices)
        task = asyncio.ensure_future(work(index, item))
        running.add(task)
        task.add_done_callback(lambda task: finished.put_nowait((index, task)))

    source = _Source(items, start, lambda: finished.put_nowait(None))
    try:
        while source.open or running:
            if until is not None and loop.time() >= until:
                source.close()
            while source.open and len(running) + source.asked < max(1, slots()):
                source.ask()
            try:
                async with asyncio.timeout_at(until if source.open else None):
                    one = await finished.get()
            except TimeoutError:
                continue
            if one is not None:
                index, task = one
                running.discard(task)
                yield index, task.result()
        if source.error is not None:
            raise source.error
    finally:
        source.close()
        await source.ended()
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)


async def grouped(items: Iterable[T], most: int, *, until: float | None = None) -> AsyncGenerator[list[T]]:
    """Yield the items in lists of `most`, and of fewer when one has waited for a moment; an empty one is the end.

    So it is before an error of `items` is raised. From the loop's time `until` on no more is taken.
    """
    loop, there, moved, waited = asyncio.get_running_loop(), list[T](), asyncio.Event(), False

    def start(item: T) -> None:
        there.append(item)
        if len(there) == 1:
            alarms.append(loop.call_later(_MOMENT, go))
        moved.set()

    def go() -> None:
        nonlocal waited
        waited = True
        moved.set()

    source = _Source(items, start, moved.set)
    alarms: list[asyncio.Handle] = [] if until is None else [loop.call_at(until, source.close)]
    try:
        while source.open or there:
            while source.open and len(there) + source.asked < most:
                source.ask()
            if source.open and len(there) < most and not waited:
                moved.clear()
                await moved.wait()
            elif there:
                group, waited = there.copy(), False
                there.clear()
                alarms.pop().cancel()
                yield group
        yield []
        if source.error is not None:
            raise source.error
    finally:
        for alarm in alarms:
            alarm.cancel()
        source.close()
        await source.ended()


class _Source(Generic[T]):
    """Gives `start` one item for each `ask()`, and calls `on_end` when there are no more.

    What is no sequence is taken in a thread of its own, since that may block for as long as it likes: a file, a
    database, a queue that is fed by results. Nobody waits for that thread.
    An asynchronous generator is ours, and runs on this loop.
    """

    def __init__(
        self, items: Iterable[T] | AsyncGenerator[T], start: Callable[[T], None], on_end: Callable[[], None]
    ) -> None:
        self.open = True
        self.asked = 0
        self.error: BaseException | None = None
        self._start, self._on_end = start, on_end
        self._held = iter(items) if isinstance(items, Sequence) else None
        self._task: asyncio.Task[None] | None = None
        self._wanted: threading.Semaphore | asyncio.Semaphore
        if isinstance(items, AsyncGenerator):
            self._wanted = asyncio.Semaphore(0)
            self._task = asyncio.ensure_future(self._take_ours(items, self._wanted))
        elif self._held is None:
            self._loop = asyncio.get_running_loop()
            self._wanted = threading.Semaphore(0)
            take = contextvars.copy_context().run
            given = (self._take, items, self._wanted)
            threading.Thread(target=take, args=given, name="llmbatch input", daemon=True).start()

    def ask(self) -> None:
        """Have one more item started, at once or when it comes."""
        self.asked += 1
        if self._held is None:
            self._wanted.release()
            return
        for item in self._held:
            self._arrived(item)
            return
        self._ended(None)

    def close(self) -> None:
        """Take no more; what comes all the same is dropped."""
        self._ended(None)
        if self._task is not None:
            self._task.cancel()
        elif self._held is None:
            self._wanted.release()

    async def ended(self) -> None:
        """Wait for what is ours to have closed."""
        if self._task is not None:
            await asyncio.gather(self._task, return_exceptions=True)

    async def _take_ours(self, items: AsyncGenerator[T], wanted: asyncio.Semaphore) -> None:
        try:
            async with contextlib.aclosing(items):
                async for item in items:
                    await wanted.acquire()
                    self._arrived(item)
        except Exception as exc:  # noqa: BLE001 - raised where the results are taken
            self._ended(exc)
        else:
            self._ended(None)

    def _take(self, items: Iterable[T], wanted: threading.Semaphore) -> None:
        try:
            iterator = iter(items)
            while wanted.acquire() and self.open:
                self._tell(self._arrived, next(iterator))
        except StopIteration:
            self._tell(self._ended, None)
        except BaseException as exc:  # noqa: BLE001 - raised where the results are taken
            self._tell(self._ended, exc)

    def _tell(self, what: Callable[[Any], None], value: Any) -> None:
        with contextlib.suppress(RuntimeError):  # the loop has ended
            self._loop.call_soon_threadsafe(what, value)

    def _arrived(self, item: T) -> None:
        if self.open:
            self.asked -= 1
            self._start(item)

    def _ended(self, error: BaseException | None) -> None:
        if self.open:
            self.open, self.asked, self.error = False, 0, error
            self._on_end()
