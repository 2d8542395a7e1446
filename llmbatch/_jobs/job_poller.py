"""Poll a job until it ends, pass its rows on as their input files end, and cancel it."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Iterable

from llmbatch._jobs.job_state import InputFile
from llmbatch._jobs.polling import poll_until
from llmbatch._jobs.provider_job import ProviderJob
from llmbatch._jobs.remote import ProviderFailedError
from llmbatch._rows.row import Row
from llmbatch._util.batch_log import logger


class JobPoller:
    """Polls the input files of one ask of a job's rows.

    `on_row` is called with the id and the row of each of `wanted` once it is known. An error of the provider that is
    not transient is raised; if `tolerant`, it ends the polling.

    Attributes:
        pending: the ids whose rows are not known yet.
    """

    def __init__(
        self,
        job: ProviderJob,
        wanted: Iterable[str],
        on_row: Callable[[str, Row], None],
        *,
        tolerant: bool,
        reask_round: int = 1,
    ) -> None:
        self.pending, self.on_row = set(wanted), on_row
        self._job, self._tolerant, self._reask_round = job, tolerant, reask_round
        self._rows, self._read = job.rows(), set[str]()

    def unanswered(self) -> list[str]:
        """Return the pending ids that the provider may still answer."""
        open_positions = self._open_positions()
        ids = self._job.state.custom_ids
        return [key for position, key in enumerate(ids) if position in open_positions and key in self.pending]

    async def look(self) -> bool:
        """Look at the job once. Returns whether there is nothing more to wait for."""
        job = self._job
        try:
            await job.refresh(resubmit_waiting=True)
            ended = [file for file in self._files() if file.ended and file.name not in self._read]
            await job.read_into(self._rows, ended)
        except ProviderFailedError as exc:
            if not (exc.failure.retryable or self._tolerant):
                raise
            logger.warning("Batch job {}: {}", job.id, exc)
            return not exc.failure.retryable
        self._read.update(file.name for file in ended)
        open_positions = self._open_positions()
        positions = (position for file in ended for position in file.positions() if position not in open_positions)
        for key in (*job.state.invalid, *(job.state.custom_ids[position] for position in positions)):
            if key in self.pending:
                self.pending.remove(key)
                self.on_row(key, self._rows.row(key))
        return all(file.ended for file in self._files())

    async def cancel(self, until: float, pause: float) -> None:
        """Cancel the job, and wait for its answers until the loop's time `until`; it may end later than that."""
        logger.info("Batch job {}: cancelling it with {} rows not done", self._job.id, len(self.pending))
        try:
            async with asyncio.timeout_at(until):
                await self._job.cancel()
                await poll_until(self.look, pause, lambda: math.inf)
        except (TimeoutError, ProviderFailedError) as exc:
            logger.warning("Batch job {} has not ended in time after its cancellation: {}", self._job.id, exc)

    def _files(self) -> list[InputFile]:
        return [file for file in self._job.state.input_files if file.reask_round == self._reask_round]

    def _open_positions(self) -> set[int]:
        """Return the positions of rows in input files that have not ended."""
        return {position for file in self._files() if not file.ended for position in file.positions()}
