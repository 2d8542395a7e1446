"""Bounded fan-out: many inputs, one async function, results as they finish, with their indices. It knows no LLM."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import threading
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Iterator
from typing import Any, Generic, NamedTuple, TypeVar

from llmbatch._util.background_call import NestedCalls

T = TypeVar("T")
R = TypeVar("R")

GROUP_SECONDS = 0.1  # that an item waits for others to fill its group


class Reading(NamedTuple):
    """How an input is read.

    Attributes:
        until: the loop's time at which it is left, None for never.
        grace: it may go on after that, while it gives an item every `grace` seconds.
        nested: the llmbatch calls that it makes.
    """

    until: float | None = None
    grace: float = 0.0
    nested: NestedCalls | None = None


READ_TO_THE_END = Reading()


async def fan_out(
    items: Iterable[T] | AsyncGenerator[T],
    work: Callable[[int, T], Awaitable[R]],
    *,
    slots: Callable[[], int],
    reading: Reading = READ_TO_THE_END,
) -> AsyncGenerator[tuple[int, R]]:
    """Yield `(index, await work(index, item))` for every item, as they finish.

    An item is taken, and its task made, only when one of `slots()` is free. A result that the consumer has not taken
    yet keeps its slot, so memory is bounded by the slots, whatever the number of items. Results never wait for the next
    item.

    Leaving the iteration early cancels what runs. An exception from `work` ends the iteration at once; one from `items`
    ends it when the items taken before have finished.
    """
    running: set[asyncio.Task[R]] = set()
    finished: asyncio.Queue[tuple[int, asyncio.Task[R]] | None] = asyncio.Queue()
    indices = itertools.count()

    def start(item: T) -> None:
        index = next(indices)
        task = asyncio.ensure_future(work(index, item))
        running.add(task)
        task.add_done_callback(lambda task: finished.put_nowait((index, task)))

    source = _Source(items, start, lambda: finished.put_nowait(None), reading)
    try:
        while source.open or running:
            while source.open and len(running) + source.requested < max(1, slots()):
                source.request()
            if (done := await finished.get()) is not None:
                index, task = done
                running.discard(task)
                yield index, task.result()
        if source.error is not None:
            raise source.error
    finally:
        source.close()
        for task in running:  # before anything is awaited: a second cancellation may end that
            task.cancel()
        await asyncio.gather(source.ended(), *running, return_exceptions=True)


async def grouped(items: Iterable[T], size: int, *, reading: Reading = READ_TO_THE_END) -> AsyncGenerator[list[T]]:
    """Yield the items in lists of `size`, and of fewer when one has waited for a moment; an empty list is the end.

    An empty list also comes before an error of `items` is raised.
    """
    loop, group, changed, overdue = asyncio.get_running_loop(), list[T](), asyncio.Event(), False

    def add(item: T) -> None:
        group.append(item)
        if len(group) == 1:
            timers.append(loop.call_later(GROUP_SECONDS, end_group))
        changed.set()

    def end_group() -> None:
        nonlocal overdue
        overdue = True
        changed.set()

    source, timers = _Source(items, add, changed.set, reading), list[asyncio.Handle]()
    try:
        while source.open or group:
            while source.open and len(group) + source.requested < size:
                source.request()
            if source.open and len(group) < size and not overdue:
                changed.clear()
                await changed.wait()
            elif group:
                full, overdue = group.copy(), False
                group.clear()
                timers.pop().cancel()
                yield full
        yield []
        if source.error is not None:
            raise source.error
    finally:
        for timer in timers:
            timer.cancel()
        source.close()
        await source.ended()


class _Source(Generic[T]):
    """Gives `start` one item for each `request()`, and calls `on_end` when there are no more.

    A list is read on the loop. Any other input is read in a thread of its own, since it may block for as long as it
    likes: a file, a database, a queue that is fed by results. Nobody waits for that thread.
    An asynchronous generator is llmbatch's own, and runs on the loop.
    """

    def __init__(
        self,
        items: Iterable[T] | AsyncGenerator[T],
        start: Callable[[T], None],
        on_end: Callable[[], None],
        reading: Reading,
    ) -> None:
        self._loop, self._reading = asyncio.get_running_loop(), reading
        self._quiet_since = self._loop.time()
        self._timer = None if reading.until is None else self._loop.call_at(reading.until, self._look)
        self.open = True
        self.requested = 0
        self.error: BaseException | None = None
        self._start, self._on_end = start, on_end
        self._list: Iterator[T] | None = None
        self._task: asyncio.Task[None] | None = None
        self._wanted: threading.Semaphore | asyncio.Semaphore
        if isinstance(items, AsyncGenerator):
            self._wanted = asyncio.Semaphore(0)
            self._task = asyncio.ensure_future(self._take_own(items, self._wanted))
        elif type(items) in {list, tuple, range}:  # other sequences may load each item from a disk or a database
            self._list = iter(items)
        else:
            self._wanted = threading.Semaphore(0)
            run = (reading.nested or NestedCalls()).context().run
            arguments = (self._take, items, self._wanted)
            threading.Thread(target=run, args=arguments, name="llmbatch input", daemon=True).start()

    def request(self) -> None:
        """Have one more item started, at once or when it comes; none if it is late."""
        if self._close_if_late():
            return
        self.requested += 1
        self._quiet_since = self._loop.time()
        if self._list is None:
            self._wanted.release()
            return
        for item in self._list:
            self._arrived(item)
            return
        self._end(None)

    def _look(self) -> None:
        if not self._close_if_late():
            self._timer = self._loop.call_later(self._reading.grace, self._look)

    def _close_if_late(self) -> bool:
        until, grace, _ = self._reading
        now = self._loop.time()
        late = (
            until is not None and now >= until and (not grace or (self.requested and now - self._quiet_since >= grace))
        )
        if late:
            self.close()
        return bool(late)

    def close(self) -> None:
        """Take no more; an item that still comes is dropped."""
        self._end(None)
        if self._task is not None:
            self._task.cancel()
        elif self._list is None:
            self._wanted.release()

    async def ended(self) -> None:
        """Wait until llmbatch's own generator has closed."""
        if self._task is not None:
            await asyncio.gather(self._task, return_exceptions=True)

    async def _take_own(self, items: AsyncGenerator[T], wanted: asyncio.Semaphore) -> None:
        try:
            async with contextlib.aclosing(items):
                async for item in items:
                    await wanted.acquire()
                    self._arrived(item)
        except Exception as exc:  # noqa: BLE001 - raised where the results are taken
            self._end(exc)
        else:
            self._end(None)

    def _take(self, items: Iterable[T], wanted: threading.Semaphore) -> None:
        try:
            iterator = iter(items)
            while wanted.acquire() and self.open:
                self._notify(self._arrived, next(iterator))
        except StopIteration:
            self._notify(self._end, None)
        except BaseException as exc:  # noqa: BLE001 - raised where the results are taken
            self._notify(self._end, exc)

    def _notify(self, method: Callable[[Any], None], value: Any) -> None:
        with contextlib.suppress(RuntimeError):  # the loop has ended
            self._loop.call_soon_threadsafe(method, value)

    def _arrived(self, item: T) -> None:
        if self.open:
            self.requested -= 1
            self._quiet_since = self._loop.time()
            self._start(item)

    def _end(self, error: BaseException | None) -> None:
        if self.open:
            self.open, self.requested, self.error = False, 0, error
            if self._timer is not None:
                self._timer.cancel()
            self._on_end()
