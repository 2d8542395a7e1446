"""Bounded, ordered-by-index fan-out: many inputs, one async function, results as they finish. It knows no LLM."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Iterator, Sequence
from typing import TypeVar

__all__ = ["fan_out"]

T = TypeVar("T")
R = TypeVar("R")

_CHUNK_ITEMS, _CHUNK_SECONDS = 64, 0.02


async def fan_out(
    items: Iterable[T], work: Callable[[int, T], Awaitable[R]], *, slots: Callable[[], int]
) -> AsyncGenerator[tuple[int, R]]:
    """Yield `(index, await work(index, item))` for every item, as they finish.

    An item is taken, and its task made, only when one of `slots()` is free; a result that the consumer has not taken
    yet keeps its slot, so memory is bounded by the slots whatever the number of items. Leaving the iteration early
    cancels what runs. An exception from `work` or from `items` ends the iteration.
    """
    source = _taken(items)
    running: set[asyncio.Task[R]] = set()
    finished: deque[tuple[int, asyncio.Task[R]]] = deque()
    wakeup = asyncio.Event()

    def start(index: int, item: T) -> None:
        def on_done(task: asyncio.Task[R]) -> None:
            finished.append((index, task))
            wakeup.set()

        task = asyncio.ensure_future(work(index, item))
        running.add(task)
        task.add_done_callback(on_done)

    indices, exhausted = itertools.count(), False
    try:
        while running or not exhausted:
            if not exhausted and len(running) < max(1, slots()):
                try:
                    item = await anext(source)
                except StopAsyncIteration:
                    exhausted = True
                else:
                    start(next(indices), item)
                if not finished:
                    continue
            if not finished:
                wakeup.clear()
                await wakeup.wait()
            index, task = finished.popleft()
            running.discard(task)
            yield index, task.result()
    finally:
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
        await source.aclose()


async def _taken(items: Iterable[T]) -> AsyncGenerator[T]:
    """The items; those of a generator are taken in a thread, since it may block (a file, a database)."""
    if isinstance(items, Sequence):
        for item in items:
            yield item
        return
    iterator = iter(items)
    while chunk := await asyncio.to_thread(_chunk, iterator):
        for item in chunk:
            yield item


def _chunk(iterator: Iterator[T]) -> list[T]:
    """Some next items: as many as come within a moment, at least one unless there are none."""
    chunk: list[T] = []
    until = time.monotonic() + _CHUNK_SECONDS
    for item in iterator:
        chunk.append(item)
        if len(chunk) >= _CHUNK_ITEMS or time.monotonic() > until:
            break
    return chunk
