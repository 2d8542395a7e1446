"""Re-asks in further input files of a job: once all rows are known, those with a wrong answer make a round."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from llmbatch._batch.row_builder import failure_row
from llmbatch._jobs.input_files import Line, payload_of, rewrite_input_file, write_input_files
from llmbatch._jobs.job_poller import JobPoller
from llmbatch._jobs.output_files import JOB
from llmbatch._jobs.provider_job import ProviderJob
from llmbatch._request.failures import Failure
from llmbatch._request.parsed_request import ParsedRequest
from llmbatch._request.plans import ChatPlan
from llmbatch._request.retry import NotSentError
from llmbatch._request.sender import Sender
from llmbatch._rows.failure_type import FailureType
from llmbatch._rows.row import Row
from llmbatch.providers.base import Payload
from llmbatch.providers.registry import provider_for

_NOT_ANSWERED = Failure(FailureType.DEADLINE_EXCEEDED, "the batch job had not answered this re-ask by the deadline")


@dataclass(slots=True)
class Reask:
    """One re-ask of a row: the `number`th ask under the row's id in the job, with the conversation so far."""

    number: int
    key: str
    parsed: ParsedRequest
    plan: ChatPlan
    sender: Sender
    request: dict[str, Any]
    reserved: float = 0.0  # USD of the budget
    row: asyncio.Future[Row] = field(default_factory=lambda: asyncio.get_running_loop().create_future())

    def payload(self) -> Payload:
        """Render it as a line of an input file. Raises ValueError if it cannot be rendered."""
        return payload_of(self.parsed, provider_for(self.plan.target.provider), self.request, self.key)

    def finish(self, row: Row) -> None:
        """Set its row, and settle its reservation by the row's cost."""
        self.sender.budget.settle(self.reserved, row["cost"])
        self.row.set_result(row)

    def fail(self, failure: Failure, **spent: Any) -> None:
        """Set an error row."""
        self.finish(failure_row(failure, self.plan.target, self.key, lane=JOB, **spent))


class ReaskRounds:
    """Collects the re-asks of a batch. A round begins when each of its rows is done or has a re-ask."""

    def __init__(self) -> None:
        self._unfinished = 0
        self._waiting: list[Reask] = []
        self._changed = asyncio.Event()

    def expect(self, rows: int) -> None:
        """Set the number of rows, before any of them is done."""
        self._unfinished = rows

    async def answer(self, reask: Reask) -> Row:
        """Return the row that a re-ask gets in its round."""
        self._waiting.append(reask)
        self._changed.set()
        return await reask.row

    def row_done(self) -> None:
        """Count one more row as done."""
        self._unfinished -= 1
        self._changed.set()

    async def run(self, job: ProviderJob, follow: Callable[[JobPoller], Awaitable[None]]) -> None:
        """Run rounds until all rows are done. `follow` polls the job for as long as there is time.

        Re-asks that the budget has no room for wait for a later round, when the cost of the others is known.
        """
        while self._unfinished:
            while len(self._waiting) < self._unfinished:
                self._changed.clear()
                await self._changed.wait()
            number = min((reask.number for reask in self._waiting), default=0)
            reasks = [reask for reask in self._waiting if reask.number == number]
            self._waiting = [reask for reask in self._waiting if reask.number != number]
            if affordable := await self._affordable(reasks):
                await _submit(job, number, affordable)
                await _collect(job, number, affordable, follow)

    async def _affordable(self, reasks: list[Reask]) -> dict[str, Reask]:
        """Reserve the maximum cost of re-asks and return those that fit. The others wait, or fail if none fits."""
        affordable, later = dict[str, Reask](), list[tuple[Reask, float]]()
        for reask in reasks:
            try:
                most = reask.sender.cost_bound(reask.request)
            except NotSentError as exc:
                reask.fail(exc.failure)
                continue
            if not reask.sender.budget.fits(most):
                later.append((reask, most))
            elif await reask.sender.budget.reserve(most):
                reask.reserved, affordable[reask.key] = most, reask
        if affordable:
            self._waiting += [reask for reask, _ in later]
        else:
            for reask, most in later:
                reask.fail(reask.sender.over_budget(most))
        return affordable


async def _submit(job: ProviderJob, number: int, reasks: dict[str, Reask]) -> None:
    """Submit a round as further input files, except for what an earlier call has submitted of it."""
    state, payloads = job.state, dict[str, Payload]()
    for key, reask in reasks.items():
        try:
            payloads[key] = reask.payload()
        except ValueError as exc:
            reask.fail(Failure(FailureType.INVALID_ROW, str(exc)))
    earlier = [file for file in state.input_files if file.reask_round == number]
    written = {state.custom_ids[position] for file in earlier for position in file.positions()}
    new = {key: payload for key, payload in payloads.items() if key not in written}
    lines = ((position, Line(key, new[key])) for position, key in enumerate(state.custom_ids) if key in new)
    files, before = [file for file in earlier if not file.status], len(state.input_files)
    with tempfile.TemporaryDirectory(prefix="llmbatch-") as directory:
        folder = Path(directory)
        paths = [await asyncio.to_thread(rewrite_input_file, state, file, payloads, folder) for file in files]
        paths += await asyncio.to_thread(write_input_files, state, lines, folder, number)
        job.save()
        await job.submit(paths, [*files, *state.input_files[before:]], tolerant=True)


async def _collect(
    job: ProviderJob, number: int, reasks: dict[str, Reask], follow: Callable[[JobPoller], Awaitable[None]]
) -> None:
    """Finish the re-asks of a round as its input files end, until there is no more time."""
    unfinished = {key: reask for key, reask in reasks.items() if not reask.row.done()}

    def on_row(key: str, row: Row) -> None:
        unfinished.pop(key).finish(row)

    await follow(JobPoller(job, unfinished, on_row, tolerant=False, reask_round=number))
    for reask in unfinished.values():
        reask.fail(_NOT_ANSWERED, cost=None)
