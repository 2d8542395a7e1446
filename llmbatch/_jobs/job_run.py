"""A chat batch with lane="job": all rows are answered by the provider's Batch API."""

from __future__ import annotations

import asyncio
import contextlib
import math
import tempfile
from collections import Counter
from collections.abc import AsyncGenerator, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from llmbatch._batch.chat_run import ChatRun, Input
from llmbatch._batch.dedupe import dedupe_key
from llmbatch._batch.row_builder import failure_row
from llmbatch._jobs import submit
from llmbatch._jobs.input_files import submitted_ids
from llmbatch._jobs.job_context import JobContext
from llmbatch._jobs.job_inputs import JobInputs, Reservations
from llmbatch._jobs.job_poller import JobPoller
from llmbatch._jobs.output_files import JOB
from llmbatch._jobs.polling import FIRST_POLL, poll_until
from llmbatch._jobs.provider_job import ProviderJob
from llmbatch._jobs.reask_rounds import Reask, ReaskRounds
from llmbatch._request.budget import Budget
from llmbatch._request.failures import Failure
from llmbatch._request.parsed_request import parse_request
from llmbatch._request.plans import ChatPlan
from llmbatch._request.sender import Sender, prompt_tokens
from llmbatch._rows.failure_type import FailureType
from llmbatch._rows.row import Row
from llmbatch._util.batch_log import logger
from llmbatch._util.fan_out import Reading, grouped
from llmbatch._util.identity import CustomIds, upgrade_id
from llmbatch.options import Options

# A job with a short deadline is polled more often: at least this many times before the deadline.
_LEAST_POLLS = 50
CANCEL_SECONDS = 600.0  # that providers take at most to end a cancelled job
_GROUP, _CANCEL_POLLS = 100, 50


class JobRun(ChatRun):
    """One batch of chats that a job answers. In the job, each request has its id from the checkpoint as `custom_id`.

    The phases, in `_indices`:

        read and parse all inputs
          |
        submit      an earlier call's job is continued (with what it lacks), or a new one is submitted
          |
        poll        rows are released as their input files end
          |           at the deadline: cancel the job, take the answers that it has
        re-ask      rows with wrong answers: rounds of further input files
          |
        done        the state file is deleted once the job has ended
    """

    tolerant = False  # whether rows can be sent live, so that the provider's rejection of the job is no error

    def __init__(  # noqa: PLR0917 - as ChatRun's
        self, requests: Iterable[Any], count: int | None, call: dict[str, Any], options: Options,
        budget: Budget | None, completion_window: str = "24h",
    ) -> None:  # fmt: skip
        super().__init__(requests, count, call, options, budget)
        self._context = JobContext.of(self.routes.call, options, completion_window)
        self._configure()
        self._end = math.inf
        self._inputs = JobInputs()
        self._job: ProviderJob | None = None
        self._job_rows: dict[int, Row] = {}
        self._reservations = Reservations(self._budget)
        self._asks = Counter[int]()
        self._reasks = ReaskRounds()

    def _configure(self) -> None:
        """Check the options that this lane does not take. The deadline is the job's, not that of a row."""
        if self.options.fallbacks:
            raise ValueError(
                "fallbacks= is not for lane='job', a job stays with its provider. Leave it out, use lane='cheapest', "
                "or call job.run_failed_live(model=...) after the job"
            )
        self.options = replace(self.options, deadline=None)

    def note(self) -> str:
        """Return the text of the progress bar, with the job's status."""
        job, status = self._job, ""
        if job is not None and not job.state.ended:
            counts = job.state.request_counts
            total = counts["total"] or len(job.state.custom_ids)
            status = f"job {job.state.status}, {counts['completed']} of {total} done"
        return "; ".join(filter(None, [status, super().note()]))

    def left(self, done: int) -> str:
        """Return how to continue after an interruption, and how to find the job."""
        hint = super().left(done)
        return hint if self._job is None or self._job.state.ended else f"{self._job.resume_hint()}; {hint}"

    async def rows(self) -> AsyncGenerator[tuple[int, Row]]:
        """Run the batch."""
        self._begin()
        reading = Reading(self._reading_ends(), nested=self.nested)
        async with contextlib.aclosing(grouped(self.inputs, _GROUP, reading=reading)) as groups:
            self._inputs.items = [item async for group in groups for item in group]
        self.count = len(self._inputs.items)
        self.items = self._indices()
        self._before_rows()
        async with contextlib.aclosing(super().rows()) as finished:
            async for index, row in finished:
                yield index, row
        path = self._context.state_path
        if path is not None and (self._job is None or self._job.state.ended):
            await asyncio.to_thread(path.unlink, missing_ok=True)

    def _begin(self) -> None:
        """Start the clock."""
        self._end = _now() + self._context.seconds

    def _reading_ends(self) -> float | None:
        """Return the loop's time at which inputs of unknown number are no longer waited for."""
        return self._end if self.count is None and self._end < math.inf else None

    def _before_rows(self) -> None:
        """Let every row wait for the job: none of them keeps another from starting."""
        self.options = replace(self.options, max_workers=max(1, self.count or 0), warm_prompt_cache=False)

    async def _indices(self) -> AsyncGenerator[int]:
        """Yield the indices of the inputs in the order in which their rows can be known."""
        await self._parse_inputs()
        inputs = self._inputs
        remaining = {*inputs.wanted.values(), *inputs.duplicates}
        self._reasks.expect(len(inputs.items) - len(inputs.duplicates))
        submitted = bool(inputs.wanted) and await self._start_job()
        for index in range(len(inputs.items)):
            if index not in remaining:
                yield index
        if submitted:
            async with contextlib.aclosing(self._answered()) as answered:
                async for index in answered:
                    remaining.discard(index)
                    yield index
        for index in sorted(remaining):
            yield index
        await self._after_indices()

    async def _after_indices(self) -> None:
        """Run the re-asks, once every row has begun."""
        if self._job is not None:
            await self._reasks.run(self._job, self._follow)

    async def _parse_inputs(self) -> None:
        """Parse the inputs, and find those that the job is to answer."""
        inputs, ids, seen = self._inputs, CustomIds(), set[Any]()
        for start in range(0, len(inputs.items), _GROUP):
            group = range(start, min(start + _GROUP, len(inputs.items)))
            keys = await asyncio.gather(*(self._parse(index, ids, seen) for index in group))
            inputs.wanted.update((key, index) for key, index in zip(keys, group, strict=True) if key)

    async def _parse(self, index: int, ids: CustomIds, seen: set[Any]) -> str:
        """Parse an input. Returns its id if the job is to answer it: it can be sent, and the checkpoint lacks it."""
        inputs = self._inputs
        inputs.request_ids.append("")
        try:
            parsed = inputs.items[index] = parse_request(inputs.items[index])
            plan = self.routes.of(parsed).plans[0]
            request = plan.request(parsed.messages)
            request_id = inputs.request_ids[index] = ids(request)
            inputs.prompt_tokens += prompt_tokens(request)
        except Exception:  # noqa: BLE001 - `_process` makes an error row of it
            return ""
        same = dedupe_key(request_id, plan)
        if self.options.dedupe and same in seen:
            inputs.duplicates.add(index)
            return ""
        seen.add(same)
        if self._checkpoint is None:
            return request_id
        prints = self._prints(request)
        known = self._checkpoint.found(request_id, prints, upgrade_id(request, prints, plan.untouched))
        if known is None:
            return request_id
        if await super()._still_passes(index, known, plan, request):
            return ""
        inputs.rejected.add(index)
        return request_id

    async def _still_passes(self, index: int, row: Row, plan: ChatPlan, request: Mapping[str, Any]) -> bool:  # noqa: ARG002 - it was checked in `_parse`
        return index not in self._inputs.rejected

    async def _start_job(self) -> bool:
        """Submit what no earlier call has submitted. Returns whether there is a job to wait for."""
        wanted = self._inputs.wanted
        self._job = await asyncio.to_thread(self._context.earlier_job, self.routes.first.plans[0], wanted.keys())
        known = set() if self._job is None else submitted_ids(self._job.state)
        missing = self._submittable([key for key in wanted if key not in known])
        await self._reserve([key for key in wanted if key in known] + missing)
        if missing:
            await self._submit(missing)
        return self._job is not None

    def _submittable(self, missing: list[str]) -> list[str]:
        """Return those of the missing rows that are to be submitted."""
        return missing

    async def _reserve(self, keys: Sequence[str]) -> None:
        """Reserve the cost upper bounds of these rows in the budget."""
        if self.options.max_cost is not None:
            indices = [self._inputs.wanted[key] for key in keys]
            requests = [self._inputs.items[index] for index in indices]
            limits = self.options.max_cost, self._budget.spent
            bounds = await asyncio.to_thread(submit.check_cost, self._context.call, requests, *limits)
            await self._reservations.reserve(dict(zip(indices, bounds, strict=True)))

    async def _submit(self, keys: list[str]) -> None:
        """Submit these rows, in a new job or in further input files of the earlier one."""
        requests = [replace(self._inputs.items[self._inputs.wanted[key]], custom_id=key) for key in keys]
        with tempfile.TemporaryDirectory(prefix="llmbatch-") as directory:
            self._job, paths, files = await self._context.prepared(self._job, requests, Path(directory))
            try:
                async with asyncio.timeout_at(self._live_at(len(self._inputs.wanted))):
                    await self._job.submit(paths, files, tolerant=self.tolerant)
            except TimeoutError:
                logger.warning("Batch job {}: out of time, submitted input files continue", self._job.id)
                self._job.abandon_unsubmitted()

    async def _answered(self) -> AsyncGenerator[int]:
        """Yield the indices of the rows that the job has answered, as they become known."""
        assert self._job is not None  # noqa: S101 - submitted
        arrived: asyncio.Queue[int | None] = asyncio.Queue()

        def on_row(key: str, row: Row) -> None:
            index = self._inputs.wanted[key]
            self._job_rows[index] = row
            arrived.put_nowait(index)

        async def follow() -> None:
            try:
                await self._follow(poller)
            finally:
                arrived.put_nowait(None)

        poller = JobPoller(self._job, self._inputs.wanted, on_row, tolerant=self.tolerant)
        following = asyncio.ensure_future(follow())
        try:
            while (index := await arrived.get()) is not None:
                yield index
            await following
        finally:
            following.cancel()
        self._after_polling(poller)

    def _after_polling(self, poller: JobPoller) -> None:
        """Take note of what the job has not answered in time."""

    async def _follow(self, poller: JobPoller) -> None:
        """Poll the job until it has ended; when its time is up, cancel it."""

        async def look() -> bool:
            ended = await poller.look()
            self.noted()
            return ended

        if not await poll_until(look, self._first_poll, lambda: self._time_left(len(poller.pending))):
            until = self._live_at(len(poller.pending)) or _now() + CANCEL_SECONDS
            await poller.cancel(max(until, _now() + self._first_poll), self._first_poll / _CANCEL_POLLS)

    @property
    def _first_poll(self) -> float:
        """Seconds of the first pause."""
        return min(FIRST_POLL, self._context.seconds / _LEAST_POLLS)

    def _time_left(self, rows: int) -> float:  # noqa: ARG002 - matters for lane "cheapest"
        """Return the seconds that the job may still take, with this number of rows not done."""
        return self._end - _now()

    def _live_at(self, rows: int) -> float | None:  # noqa: ARG002 - matters for lane "cheapest"
        """Return the loop's time at which this number of rows is sent live at the latest; None for never."""
        return None

    def _request_id(self, index: int, request: Mapping[str, Any]) -> str:  # noqa: ARG002 - known before
        return self._inputs.request_ids[index]

    async def _process_item(self, at: int, item: int) -> list[tuple[int, Row]]:  # noqa: ARG002 - the order of rows in time
        row = await self._process(item, self._inputs.items[item])
        if item not in self._inputs.duplicates:
            self._reasks.row_done()
        return [(item, row)]

    def _taken(self, index: int) -> Row | None:
        """Return a row's result from the job, once."""
        row = self._job_rows.pop(index, None)
        if row is not None:
            self._reservations.settle(index, row)
        return row

    async def _send_live(self, plan: ChatPlan, sender: Sender, one: Input, request: dict[str, Any]) -> Row:
        """Send a request as a batch without a job does."""
        return await super()._send_once(plan, sender, one, request)

    async def _send_once(self, plan: ChatPlan, sender: Sender, one: Input, request: dict[str, Any]) -> Row:
        """Return the job's answer to a row's first ask, or to a re-ask."""
        self._asks[one.index] += 1
        if (number := self._asks[one.index]) > 1:
            key = self._inputs.request_ids[one.index]
            return await self._reasks.answer(Reask(number, key, one.parsed, plan, sender, request))
        row = self._taken(one.index)
        if row is not None:
            return row
        failure = Failure(
            FailureType.DEADLINE_EXCEEDED, f"the batch job had not ended {CANCEL_SECONDS:g} s after the deadline"
        )
        return failure_row(failure, plan.target, one.custom_id, cost=None, lane=JOB)


def _now() -> float:
    return asyncio.get_running_loop().time()
