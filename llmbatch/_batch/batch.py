"""A prepared batch, to be collected into BatchResults or iterated row by row.

Both log, show the progress bar, call `on_result`, and keep the finished rows when they are interrupted.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import dataclass

from llmbatch._batch.base_run import Run
from llmbatch._batch.batch_story import Story
from llmbatch._batch.event_thread import INTERRUPTED_SECONDS, EventThread
from llmbatch._output.stats import UNSENT
from llmbatch._request.failures import Failure
from llmbatch._request.plans import ChatPlan, EmbeddingsPlan
from llmbatch._rows.failure_type import FailureType
from llmbatch._rows.row import Row, numbered
from llmbatch._util.batch_log import logger, of_row
from llmbatch.events import BatchEnded, RowDone
from llmbatch.progress import ProgressBar
from llmbatch.results import BatchResults

_interrupted: BatchResults | None = None


def interrupted_results() -> BatchResults | None:
    """Return the rows of the last interrupted batch of this process, None if there was none.

    Rows that were not finished are error rows of type `Cancelled`. A batch is interrupted by Ctrl-C, a notebook's Stop,
    a cancelled task, or an exception of its input or of `on_result`.

    Example:
        try:
            results = create_chat_completions_batch(chats, "gpt-4o-mini")
        except KeyboardInterrupt:
            results = interrupted_results()
    """
    return _interrupted


@dataclass(frozen=True)
class Batch:
    """A checked batch that has not been run yet: the run, its name for the log, and the plan of the call's defaults."""

    run: Run
    noun: str
    plan: ChatPlan | EmbeddingsPlan

    async def as_completed(self) -> AsyncGenerator[tuple[int, Row]]:
        """Yield the rows as they finish; log, count and show them."""
        options, count = self.run.options, self.run.count
        bar = ProgressBar(count, options.progress, note=self.run.note)
        self.run.noted, not_called = bar.redraw, 0
        story = Story(self.run, self.noun, self.plan, bar.row_stats)
        story.begin()
        events = None if options.on_event is None else EventThread(options.on_event)
        if events is not None:
            self.run.watch.emit = events.emit
            events.emit(story.started_event())
        finished = False
        try:
            async with contextlib.aclosing(self.run.rows()) as rows:
                async for index, row in rows:
                    self.run.under_way.pop(index, None)
                    bar.add(numbered(index, row))
                    if events is not None:
                        events.emit(RowDone(batch_id=self.run.batch_id, index=index, row=row))
                        await events.room()
                    if "error" in row and row["error_details"]["type"] not in UNSENT:
                        with bar.aside():
                            of_row(index, row["custom_id"]).debug("Row {} failed: {}", index, row["error"])
                    try:
                        if options.on_result is not None:
                            not_called += not await self._call_on_result(options.on_result, index, row)
                    finally:  # the row is done, whatever on_result does
                        yield index, row
                        story.enter()  # each step of a stream has a context of its own
            finished = True
        finally:
            story.enter()
            bar.close()
            if not_called:
                logger.warning(
                    "deadline={:g}: on_result was too slow, and has not seen {} rows; the results have them",
                    options.deadline,
                    not_called,
                )
            self.run.info = story.end()
            self.run.stats = self.run.info.stats(bar.row_stats, story.elapsed, self.run.limits_found())
            if events is not None:
                events.emit(BatchEnded(batch_id=self.run.batch_id, stats=self.run.stats))
                soon = asyncio.get_running_loop().time() + INTERRUPTED_SECONDS
                await events.close(self.run.callback_deadline if finished else soon)

    async def _call_on_result(self, on_result: Callable[[int, Row], object], index: int, row: Row) -> bool:
        """Call it with a finished row, and wait for it; return whether it was called and has returned in time."""
        run = self.run.on_result_thread.run
        if (until := self.run.callback_deadline) is None:
            await run(on_result, index, row)
            return True
        try:
            async with asyncio.timeout_at(until) as waiting:
                await run(on_result, index, row)
        except TimeoutError:
            if not waiting.expired():  # its own
                raise
        return not waiting.expired()

    async def collect(self) -> BatchResults:
        """Return all rows in the order of the input."""
        global _interrupted  # noqa: PLW0603 - read after the exception has left every frame that knew it
        started = time.perf_counter()
        rows: dict[int, Row] = {}
        self.run.formats = {}
        try:
            async with contextlib.aclosing(self.as_completed()) as finished:
                async for index, row in finished:
                    rows[index] = row  # noqa: PERF403 - what is there when it is cancelled counts
        except BaseException as exc:
            if rows or isinstance(exc, asyncio.CancelledError):
                _interrupted = self._results(rows, max([self.run.count or 0, *(index + 1 for index in rows)]), started)
                exc.add_note(self.run.left(len(rows)))
            raise
        return self._results(rows, len(rows), started)

    def _results(self, rows: dict[int, Row], count: int, started: float) -> BatchResults:
        return BatchResults(
            (rows.get(index) or self._not_done(index) for index in range(count)),
            elapsed=time.perf_counter() - started,
            response_format=self.plan.response_format if isinstance(self.plan, ChatPlan) else None,
            formats=self.run.formats,
            limits=self.run.limits_found(),
            sent_as_is=sorted(self.run.sent_as_is),
            asked=self.run.inputs if isinstance(self.run.inputs, Sequence) else None,
            run=self.run.info,
        )

    def _not_done(self, index: int) -> Row:
        failure = Failure(
            FailureType.CANCELLED, "the batch was interrupted before this row was finished", retryable=True
        )
        return numbered(index, self.run.cut(failure, index))
