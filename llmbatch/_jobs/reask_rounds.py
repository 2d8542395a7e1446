"""Asking again in further parts of a job: when all rows are known, what came back wrong makes a round of its own."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from llmbatch._batch.row_builder import failure_row
from llmbatch._jobs.batch_job import BatchJob
from llmbatch._jobs.input_files import Line, payload_of, rewrite_input_file, write_input_files
from llmbatch._jobs.job_poller import JobPoller
from llmbatch._jobs.output_files import JOB
from llmbatch._request.failures import Failure
from llmbatch._request.parsed_request import ParsedRequest
from llmbatch._request.plans import ChatPlan
from llmbatch._request.retry import NotSentError
from llmbatch._request.sender import Sender
from llmbatch._rows.failure_type import FailureType
from llmbatch._rows.row import Row
from llmbatch.providers.base import Payload
from llmbatch.providers.registry import provider_for

_NOT_ANSWERED = Failure(
    FailureType.DEADLINE_EXCEEDED, "the batch job had not answered this further ask by the deadline"
)


@dataclass(slots=True)
class Ask:
    """One further ask of a row, the `number`th: by the row's id in the job, with the conversation as it has grown."""

    number: int
    key: str
    asked: ParsedRequest
    plan: ChatPlan
    sender: Sender
    request: dict[str, Any]
    held: float = 0.0  # USD of the budget
    row: asyncio.Future[Row] = field(default_factory=lambda: asyncio.get_running_loop().create_future())

    def payload(self) -> Payload:
        """It as a line of an input file. Raises ValueError where it cannot be one."""
        return payload_of(self.asked, provider_for(self.plan.target.provider), self.request, self.key)

    def answered(self, row: Row) -> None:
        """It is over; the row says what it has cost."""
        self.sender.budget.settle(self.held, row["cost"])
        self.row.set_result(row)

    def failed(self, failure: Failure, **spent: Any) -> None:
        """It gets no answer."""
        self.answered(failure_row(failure, self.plan.target, self.key, lane=JOB, **spent))


class Rounds:
    """What rows ask again: a round begins when each of `rows` rows is done or waits for it."""

    def __init__(self, rows: int) -> None:
        self._left = rows
        self._waiting: list[Ask] = []
        self._moved = asyncio.Event()

    async def answer(self, ask: Ask) -> Row:
        """What becomes of a further ask."""
        self._waiting.append(ask)
        self._moved.set()
        return await ask.row

    def done(self) -> None:
        """One more row is done."""
        self._left -= 1
        self._moved.set()

    async def run(self, job: BatchJob, follow: Callable[[JobPoller], Awaitable[None]]) -> None:
        """Ask until all rows are done. `follow` looks at the job for as long as there is time.

        What the budget cannot hold now goes into a round of its own, when it is known what the others have cost.
        """
        while self._left:
            while len(self._waiting) < self._left:
                self._moved.clear()
                await self._moved.wait()
            number = min((ask.number for ask in self._waiting), default=0)
            asks = [ask for ask in self._waiting if ask.number == number]
            self._waiting = [ask for ask in self._waiting if ask.number != number]
            if affordable := await self._affordable(asks):
                await _submitted(job, number, affordable)
                await _followed(job, number, affordable, follow)

    async def _affordable(self, asks: list[Ask]) -> dict[str, Ask]:
        """Those whose worst case the budget holds from now on; those that it may hold later wait on."""
        affordable, later = dict[str, Ask](), list[tuple[Ask, float]]()
        for ask in asks:
            try:
                worst = ask.sender.cost_bound(ask.request)
            except NotSentError as exc:
                ask.failed(exc.failure)
                continue
            if not ask.sender.budget.fits(worst):
                later.append((ask, worst))
            elif await ask.sender.budget.reserve(worst):
                ask.held, affordable[ask.key] = worst, ask
        if affordable:
            self._waiting += [ask for ask, _ in later]
        else:
            for ask, worst in later:
                ask.failed(ask.sender.over_budget(worst))
        return affordable


async def _submitted(job: BatchJob, number: int, asks: dict[str, Ask]) -> None:
    """Submit a round as further parts, but for what an earlier call has submitted of it."""
    state, payloads = job.state, dict[str, Payload]()
    for key, ask in asks.items():
        try:
            payloads[key] = ask.payload()
        except ValueError as exc:
            ask.failed(Failure(FailureType.INVALID_ROW, str(exc)))
    earlier = [part for part in state.parts if part.asks == number]
    there = {state.custom_ids[at] for part in earlier for at in part.positions()}
    new = {key: payload for key, payload in payloads.items() if key not in there}
    anew = ((at, Line(key, new[key])) for at, key in enumerate(state.custom_ids) if key in new)
    parts, before = [part for part in earlier if not part.status], len(state.parts)
    with tempfile.TemporaryDirectory(prefix="llmbatch-") as directory:
        place = Path(directory)
        paths = [await asyncio.to_thread(rewrite_input_file, state, part, payloads, place) for part in parts]
        paths += await asyncio.to_thread(write_input_files, state, anew, place, number)
        job.save()
        await job.submit(paths, [*parts, *state.parts[before:]], refusable=True)


async def _followed(
    job: BatchJob, number: int, asks: dict[str, Ask], follow: Callable[[JobPoller], Awaitable[None]]
) -> None:
    """Take the answers to a round as its parts end, until there is no more time."""
    left = {key: ask for key, ask in asks.items() if not ask.row.done()}
    await follow(JobPoller(job, left, lambda key, row: left.pop(key).answered(row), forgiving=False, asks=number))
    for ask in left.values():
        ask.failed(_NOT_ANSWERED, cost=None)
