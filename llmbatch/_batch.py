"""A prepared batch, and the forms in which it can be run: collected into BatchResults, or row by row.

Here is what every form does besides yielding rows: the log, the progress bar, `on_result`, and keeping what is done
when it is interrupted.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from loguru import logger

from llmbatch.progress import ProgressBar
from llmbatch.results import BatchResults, Row, add_usage, error_row

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Mapping

    from llmbatch._options import Options
    from llmbatch._sender import CallFor

__all__ = ["Batch", "interrupted_results"]

_interrupted: BatchResults | None = None


def interrupted_results() -> BatchResults | None:
    """What the last interrupted batch of this process had finished, None if there was none.

    A list of as many rows as that batch had got to; those not done are error rows of type `Cancelled`.

    Example:
        try:
            results = create_chat_completions_batch(chats, "gpt-4o-mini")
        except KeyboardInterrupt:
            results = interrupted_results()
    """
    return _interrupted


@dataclass(frozen=True, kw_only=True)
class Batch:
    """A checked batch that has not been run. `rows()` starts it: exactly one `(index, row)` for each input.

    `rows(call_for)` sends the requests with the functions of the caller's own.
    """

    rows: Callable[..., AsyncGenerator[tuple[int, Row]]]
    count: int | None
    options: Options
    noun: str
    facts: Mapping[str, Any]
    response_format: type[Any] | None = None

    async def as_completed(self, *call_for: CallFor) -> AsyncGenerator[tuple[int, Row]]:
        """The rows as they finish, logged, counted and shown."""
        started = time.perf_counter()
        facts = ", ".join(f"{name}: {value}" for name, value in self.facts.items() if value is not None)
        logger.info(
            "{} batch: batch size: {}, max workers: {}, {}",
            self.noun, "unknown" if self.count is None else self.count, self.options.max_workers, facts,
        )  # fmt: skip
        bar = ProgressBar(self.count, self.options.progress)
        done, usage = 0, dict.fromkeys(("prompt_tokens", "completion_tokens", "total_tokens"), 0)
        try:
            async with contextlib.aclosing(self.rows(*call_for)) as rows:
                async for index, row in rows:
                    done += 1
                    bar.add(row)
                    add_usage(usage, row.get("usage"))
                    if "error" in row:
                        with bar.aside():
                            logger.debug("Row {} failed: {}", index, row["error"])
                    if self.options.on_result is not None:
                        self.options.on_result(index, row)
                    yield index, row
        finally:
            bar.close()
            elapsed = time.perf_counter() - started
            logger.info(
                "{} batch finished: total time: {:.2f}s, success rate: {}/{}, speed: {:.1f} rows/second, "
                "tokens: prompt {}, completion {}, total {}, cost: {}",
                self.noun, elapsed, done - bar.failed, done, done / elapsed if elapsed else 0.0,
                usage["prompt_tokens"], usage["completion_tokens"], usage["total_tokens"],
                "unknown" if bar.cost is None else f"${bar.cost:.6f}",
            )  # fmt: skip

    async def collect(self) -> BatchResults:
        """All rows in the order of the input."""
        global _interrupted  # noqa: PLW0603 - read after the exception has left every frame that knew it
        started = time.perf_counter()
        rows: dict[int, Row] = {}
        try:
            async with contextlib.aclosing(self.as_completed()) as finished:
                async for index, row in finished:
                    rows[index] = row  # noqa: PERF403 - what is there when it is cancelled counts
        except asyncio.CancelledError:
            _interrupted = self._results(rows, max([self.count or 0, *(index + 1 for index in rows)]), started)
            raise
        return self._results(rows, len(rows), started)

    def _results(self, rows: dict[int, Row], count: int, started: float) -> BatchResults:
        return BatchResults(
            (rows.get(index) or self._not_done(index) for index in range(count)),
            elapsed=time.perf_counter() - started,
            response_format=self.response_format,
        )

    def _not_done(self, index: int) -> Row:
        return error_row(
            type="Cancelled", message="the batch was interrupted before this row was done",
            model=self.facts.get("model"), custom_id=f"row-{index}", retryable=True, cost=None,
        )  # fmt: skip
