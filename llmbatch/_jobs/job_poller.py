"""Look at a job until it ends, pass its rows on as their files are done, and cancel it."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Iterable

from loguru import logger

from llmbatch._jobs.batch_job import BatchJob
from llmbatch._jobs.job_state import Part
from llmbatch._jobs.polling import polled
from llmbatch._jobs.remote import ProviderFailedError
from llmbatch._rows.row import Row


class JobPoller:
    """Looks at a job; `arrived` is called with the id and the row of each of `wanted` once it is known.

    Of the job's parts it looks at those of one ask. A provider's refusal to tell is raised, unless `forgiving`: then
    there is no more to be had.
    """

    def __init__(
        self,
        job: BatchJob,
        wanted: Iterable[str],
        arrived: Callable[[str, Row], None],
        *,
        forgiving: bool,
        asks: int = 1,
    ) -> None:
        self.pending, self._asks = set(wanted), asks
        self._job, self._arrived, self._forgiving = job, arrived, forgiving
        self._join, self._taken = job.join(), set[str]()

    @property
    def open(self) -> list[str]:
        """The ids that the provider may still answer."""
        running = self._running()
        return [key for at, key in enumerate(self._job.state.custom_ids) if at in running and key in self.pending]

    async def look(self) -> bool:
        """Whether there is no more to be had of the job."""
        job = self._job
        try:
            await job.arefresh()
            ended = [part for part in self._parts() if part.ended and part.name not in self._taken]
            await job.take(self._join, ended)
        except ProviderFailedError as exc:
            if not (exc.failure.retryable or self._forgiving):
                raise
            logger.warning("Batch job {}: {}", job.id, exc)
            return not exc.failure.retryable
        self._taken.update(part.name for part in ended)
        running = self._running()
        for at in (at for part in ended for at in part.positions() if at not in running):
            key = job.state.custom_ids[at]
            if key in self.pending:
                self.pending.remove(key)
                self._arrived(key, self._join.row(key))
        return all(part.ended for part in self._parts())

    async def end(self, until: float, pause: float) -> None:
        """Cancel the job and take what it has answered, up to the loop's time `until`; it may go on after that."""
        logger.info("Batch job {} is cancelled: {} rows are not done", self._job.id, len(self.pending))
        try:
            async with asyncio.timeout_at(until):
                await self._job.acancel()
                await polled(self.look, pause, lambda: math.inf)
        except (TimeoutError, ProviderFailedError) as exc:
            logger.warning("Batch job {} has not ended in time after its cancellation: {}", self._job.id, exc)

    def _parts(self) -> list[Part]:
        return [part for part in self._job.state.parts if part.asks == self._asks]

    def _running(self) -> set[int]:
        """The positions of rows whose parts have not ended."""
        return {at for part in self._parts() if not part.ended for at in part.positions()}
