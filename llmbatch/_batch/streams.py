"""Streamed answers: deltas as they come, and rows."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncGenerator
from functools import partial
from typing import Any, Required, TypedDict

from llmbatch._batch.batch import Batch
from llmbatch._batch.transport import Sending
from llmbatch._litellm import Answer
from llmbatch._rows.row import Row
from llmbatch.options import JOB_LANES, Transport

MOST_WAITING = 256  # events; with more, no further row is started until the consumer has caught up


class StreamEvent(TypedDict, total=False):
    """An event: `{"index", "attempt", "delta"}` for a delta, `{"index", "row"}` for a finished row."""

    index: Required[int]
    attempt: int
    choice: int
    delta: str
    row: Row


class Events:
    """The events of one batch, as they come."""

    def __init__(self, batch: Batch) -> None:
        if batch.run.options.lane in JOB_LANES:
            raise ValueError("a batch job does not stream: leave out lane= and batch_job=, or use as_completed")
        self._batch = batch
        self._sending = Sending("chat", batch.run.options)
        batch.run.call_for = lambda index: partial(self._call, index)
        self._queue: asyncio.Queue[StreamEvent | None] = asyncio.Queue()
        self._attempts: Counter[int] = Counter()

    async def _call(self, index: int, request: dict[str, Any], transport: Transport | None = None) -> Answer:
        """Send row `index` once, and queue its deltas."""
        self._attempts[index] += 1
        attempt = self._attempts[index]
        async for piece in self._sending.stream(request, transport):
            if isinstance(piece, Answer):
                return piece
            if piece.get("content"):
                event: StreamEvent = {"index": index, "attempt": attempt, "delta": piece["content"]}
                if piece["choice"]:
                    event["choice"] = piece["choice"]
                self._queue.put_nowait(event)
        raise AssertionError  # unreachable: a stream ends with its answer or raises

    async def __aiter__(self) -> AsyncGenerator[StreamEvent]:
        """Run the batch, and yield its events."""
        pump = asyncio.ensure_future(self._pump())
        try:
            while (event := await self._queue.get()) is not None:
                self._queue.task_done()
                yield event
            await pump  # raises what ended it
        finally:
            pump.cancel()
            await asyncio.gather(pump, return_exceptions=True)

    async def _pump(self) -> None:
        try:
            async with contextlib.aclosing(self._batch.as_completed()) as rows:
                async for index, row in rows:
                    del self._attempts[index]
                    self._queue.put_nowait({"index": index, "row": row})
                    if self._queue.qsize() > MOST_WAITING:
                        await self._queue.join()
        finally:
            self._queue.put_nowait(None)
