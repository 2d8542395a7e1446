"""Chats by way of a batch job: all of them, or as far as it gets before the deadline, and the rest live."""

from __future__ import annotations

import asyncio
import contextlib
import math
import tempfile
from collections import Counter
from collections.abc import AsyncGenerator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from loguru import logger

from llmbatch._batch.base_run import GUESSED_ANSWER_TOKENS
from llmbatch._batch.batch import Batch
from llmbatch._batch.chat_run import ChatRun, Input
from llmbatch._batch.prepare import chat_batch
from llmbatch._batch.row_builder import failure_row, labelled
from llmbatch._jobs import submit
from llmbatch._jobs.batch_job import BatchJob, begun
from llmbatch._jobs.job_poller import JobPoller
from llmbatch._jobs.job_state import job_state_path
from llmbatch._jobs.model_costs import answer_limit
from llmbatch._jobs.output_files import JOB
from llmbatch._jobs.polling import FIRST_POLL, polled
from llmbatch._jobs.reask_rounds import Ask, Rounds
from llmbatch._litellm import Target
from llmbatch._request.failures import Failure
from llmbatch._request.parsed_request import parse_request
from llmbatch._request.plans import ChatPlan
from llmbatch._request.sender import Sender, prompt_tokens
from llmbatch._rows.failure_type import FailureType
from llmbatch._rows.row import Row, add_spent
from llmbatch._util.fan_out import Reading, grouped
from llmbatch._util.identity import CustomIds, fingerprints

# A job with little time is looked at more often: so many times before its deadline.
_LOOKS = 50
# Seconds. A provider takes up to ten minutes to end a cancelled job; of a short deadline it gets this share.
_CANCEL_SECONDS, _CANCEL_SHARE = 600.0, 0.25
_LIVE_MARGIN = 1.5  # times the time that the rest is expected to take live
_LEAST_LIVE_SECONDS, _LEAST_LIVE_SHARE = 300.0, 0.15  # that are left for them, however few they are
_ANSWER_SECONDS, _TOKENS_PER_SECOND = 2.0, 50.0  # of an answer, until one has been seen
_AUTO_WORKERS = 64
_AT_ONCE, _MOMENT = 100, 0.05
_ROWS_OWN = ("reask", "validate", "dedupe")


def job_batch(  # noqa: PLR0917 - the public functions' own order
    messages_list: Any, model: str | None, temperature: float | None, max_tokens: int | None,
    max_workers: Any, given: dict[str, Any],
) -> Batch:  # fmt: skip
    """The batch of a call whose `lane` is a job's, or with `batch_job=True`, as lane "job" was called first."""
    if given.pop("batch_job", False) and given.setdefault("lane", "job") != "job":
        raise ValueError(f"batch_job=True is lane='job', not {given['lane']!r}; leave out one of them")
    window = given.pop("completion_window", "24h")
    batch = chat_batch(messages_list, model, temperature, max_tokens, max_workers, kind=LaneRun, **given)
    assert isinstance(batch.run, LaneRun)  # noqa: S101 - as asked for
    batch.run.begin(window)
    return batch


class LaneRun(ChatRun):
    """Chats that a job is to answer; lane "cheapest" sends live what it will not answer in time.

    In the job each request has its id from the checkpoint as `custom_id`, so that an answer belongs to what was asked.
    Rows come as parts of the job end; its state stands beside the checkpoint until the batch has ended.
    """

    def begin(self, window: str) -> None:
        """Take the options apart: what is the job's, and what is the rows'."""
        options = self.options
        self._window, self._cheapest = window, options.lane == "cheapest"
        if options.fallbacks and not self._cheapest:
            raise ValueError(
                "a batch job stays with its provider: leave fallbacks out, take lane='cheapest', or use "
                "job.run_failed_live(model=...) after it"
            )
        self._state_path = None if options.checkpoint is None else job_state_path(options.checkpoint)
        self._seconds = math.inf if options.deadline is None else options.deadline
        if not self._cheapest:
            self.options = replace(options, deadline=None)
        self._call = {name: value for name, value in self.ways.call.items() if name not in _ROWS_OWN}
        self._job: BatchJob | None = None
        self._asked: list[Any] = []
        self._request_ids: list[str] = []
        self._prompt_tokens = 0.0
        self._from_job: dict[int, Row] = {}
        self._held: dict[int, float] = {}
        self._copies, self._replied, self._open = set[int](), Counter[int](), set[int]()
        self._rounds: Rounds | None = None
        self._doubtful: dict[int, Row] = {}
        self._late_rows: dict[int, Row] = {}

    def note(self) -> str:
        """The job's status too, while it runs."""
        job, status = self._job, ""
        if job is not None and not job.ended:
            counts = job.request_counts
            status = f"job {job.status}, {counts['completed']} of {counts['total'] or len(job)} done"
        return "; ".join(filter(None, [status, super().note()]))

    def left(self, done: int) -> str:
        """How to find the job again too."""
        said = super().left(done)
        return said if self._job is None or self._job.ended else f"{self._job.left()}; {said}"

    async def rows(self) -> AsyncGenerator[tuple[int, Row]]:
        """Run it."""
        self._end = _now() + self._seconds
        self._deadline = self._end if self._cheapest and self._end < math.inf else None
        until = self._end - self._live_time(0) if self.count is None and self._end < math.inf else None
        reading = Reading(until, nested=self.nested)
        async with contextlib.aclosing(grouped(self.inputs, _AT_ONCE, reading=reading)) as groups:
            self._asked = [item async for group in groups for item in group]
        self.count = count = len(self._asked)
        self.items = self._in_turn()
        if not self._cheapest:  # rows wait for the job, and not for each other
            self.options = replace(self.options, max_workers=max(1, count), warm_prompt_cache=False)
        async with contextlib.aclosing(super().rows()) as finished:
            async for index, row in finished:
                yield index, row
        if self._state_path is not None and (self._job is None or self._job.ended):
            await asyncio.to_thread(self._state_path.unlink, missing_ok=True)

    async def _in_turn(self) -> AsyncGenerator[int]:
        """The inputs in the order in which their rows can be known."""
        wanted = await self._wanted()
        submitted = bool(wanted) and await self._submitted(wanted)
        rest = {*wanted.values(), *self._copies}
        for index in range(len(self._asked)):
            if index not in rest:
                yield index
        if submitted:
            arrived: asyncio.Queue[int | None] = asyncio.Queue()

            def known(key: str, row: Row) -> None:
                (self._late_rows if self._open else self._from_job)[wanted[key]] = row
                arrived.put_nowait(wanted[key])

            assert self._job is not None  # noqa: S101 - submitted
            self._rounds = None if self._cheapest else Rounds(len(self._asked) - len(self._copies))
            watch = JobPoller(self._job, wanted, known, forgiving=self._cheapest)
            watching = asyncio.ensure_future(self._watched(watch, arrived))
            try:
                while (answered := await arrived.get()) is not None:
                    rest.discard(answered)
                    yield answered
                await watching
            finally:
                watching.cancel()
            self._open = {wanted[key] for key in watch.open}
        for index in sorted(rest):
            yield index
        if self._open:
            await self._late_answers(watch)
        if self._rounds is not None and self._job is not None:
            await self._rounds.run(self._job, self._followed)

    async def _wanted(self) -> dict[str, int]:
        """The inputs that a job may answer, by their ids in it: what can be sent and the checkpoint does not hold."""
        ids, wanted, tokens, seen = CustomIds(), dict[str, int](), 0.0, set[Any]()
        for index, item in enumerate(self._asked):
            if not index % _AT_ONCE:
                await asyncio.sleep(0)
            request_id, same = "", None
            with contextlib.suppress(Exception):  # `_row` makes an error row of it
                asked = self._asked[index] = parse_request(item)
                plan = self.ways.of(asked).plans[0]
                request = plan.request(asked.messages)
                request_id = ids(request)
                same = self._same(request_id, plan)
                tokens += prompt_tokens(request)
            self._request_ids.append(request_id)
            if request_id and self.options.dedupe and same in seen:
                self._copies.add(index)
            elif request_id and (self._checkpoint is None or request_id not in self._checkpoint):
                wanted[request_id] = index
            seen.add(same)
        self._prompt_tokens = tokens / max(1, len(self._asked))
        return wanted

    async def _submitted(self, wanted: Mapping[str, int]) -> bool:
        """Whether a job is under way for some of these inputs: an earlier call's, or a new one."""
        self._job = await asyncio.to_thread(self._earlier, wanted)
        if self._job is None and self._cheapest and self._time_left(len(wanted)) <= 0:
            logger.warning("deadline={:g} leaves no time for a batch job: the batch goes live", self._seconds)
            return False
        inputs = wanted if self._job is None else {k: wanted[k] for k in self._job.state.custom_ids if k in wanted}
        if self.options.max_cost is not None:
            requests = [self._asked[index] for index in inputs.values()]
            limits = self.options.max_cost, self._budget.spent
            costs = await asyncio.to_thread(submit.check_cost, self._call, requests, *limits)
            self._held = dict(zip(inputs.values(), costs, strict=True))
            await self._budget.reserve(sum(costs))
        if self._job is None:
            try:
                await self._submit(wanted)
            except NotImplementedError as exc:
                if not self._cheapest:
                    raise
                logger.warning("lane='cheapest' goes live: {}", exc)
                self._budget.settle(sum(self._held.values()), 0.0)
                self._held.clear()
                return False
        return True

    def _earlier(self, wanted: Mapping[str, int]) -> BatchJob | None:
        """The job that an earlier call left, where it has been submitted and these inputs are in it."""
        if self._state_path is None or not self._state_path.exists():
            return None
        plan = self.ways.first.plans[0]
        access = vars(submit.access_from(plan.params))
        job = BatchJob.load(self._state_path, response_format=plan.response_format, **access)
        if not all(part.status for part in job.state.parts if part.asks == 1):
            if all(key in wanted for key in job.state.custom_ids):
                return None
            job.give_up()
        if any(key in wanted for key in job.state.custom_ids):
            return job
        if not job.ended:
            raise ValueError(
                f"{self._state_path} is the state of job {job.id}, which still runs for other requests: choose another "
                "checkpoint, or cancel that job"
            )
        self._state_path.unlink()
        return None

    async def _submit(self, wanted: Mapping[str, int]) -> None:
        requests = [replace(self._asked[index], custom_id=key) for key, index in wanted.items()]
        submission = submit.of_call(self._call, requests, None)
        with tempfile.TemporaryDirectory(prefix="llmbatch-") as directory:
            how = {"completion_window": self._window}
            self._job, files = await begun(submission, self._state_path, Path(directory), **how)
            try:
                async with asyncio.timeout_at(self._live_at(len(wanted))):
                    await self._job.submit(files, refusable=self._cheapest)
            except TimeoutError:
                logger.warning("Batch job {} was not submitted in time; what of it was goes on", self._job.id)
                self._job.give_up()

    @property
    def _first_poll(self) -> float:
        return min(FIRST_POLL, self._seconds / _LOOKS)

    @property
    def _grace(self) -> float:
        """Seconds that a cancelled job gets to end."""
        return min(_CANCEL_SECONDS, _CANCEL_SHARE * self._seconds) if self._cheapest else _CANCEL_SECONDS

    def _live_time(self, rows: int) -> float:
        """Seconds that so many rows may take live: by the limits that are known, and by how long answers have taken."""
        if not self._cheapest:
            return 0.0
        plan, limiters = self.ways.first.plans[0], list(self._limiters)
        most = answer_limit(plan) or GUESSED_ANSWER_TOKENS
        seen = [limiter.latency for limiter in limiters if limiter.latency is not None]
        latency = max(seen, default=_ANSWER_SECONDS + most / _TOKENS_PER_SECOND)
        workers = self.options.max_workers if isinstance(self.options.max_workers, int) else _AUTO_WORKERS
        paced = max(
            limiter.seconds_for(rows, limiter.estimated_tokens(self._prompt_tokens, most)) for limiter in limiters
        )
        least = min(_LEAST_LIVE_SECONDS, _LEAST_LIVE_SHARE * self._seconds)
        return max(least, _LIVE_MARGIN * max(paced, math.ceil(rows / workers) * latency))

    def _time_left(self, rows: int) -> float:
        """Seconds that the job may still take, with so many rows not done, before it is cancelled."""
        return self._end - self._live_time(rows) - (self._grace if self._cheapest else 0.0) - _now()

    def _live_at(self, rows: int) -> float | None:
        """The loop's time at which so many rows have to go live at the latest; None for never."""
        return self._end - self._live_time(rows) if self._cheapest and self._end < math.inf else None

    async def _watched(self, watch: JobPoller, arrived: asyncio.Queue[int | None]) -> None:
        try:
            await self._followed(watch)
        finally:
            arrived.put_nowait(None)

    async def _followed(self, watch: JobPoller) -> None:
        """Look at the job until it has ended, or it is time to go live: then end it."""

        async def look() -> bool:
            ended = await watch.look()
            self.noted()
            return ended

        if not await polled(look, self._first_poll, lambda: self._time_left(len(watch.pending))):
            until = self._live_at(len(watch.pending)) or _now() + self._grace
            await watch.end(max(until, _now() + self._first_poll), self._first_poll / _LOOKS)

    async def _late_answers(self, watch: JobPoller) -> None:
        """What a job that did not end in time has answered after all, while its rows were asked live.

        Both are charged for, and the row says so.
        """

        def under_way() -> bool:
            return len(self._doubtful) < len(self._open)

        ended = await polled(watch.look, self._first_poll, lambda: 1.0 if under_way() else 0.0)
        while under_way():  # noqa: ASYNC110 - these have a time limit of their own
            await asyncio.sleep(_MOMENT)
        if not ended:
            logger.warning("The batch job has not ended: it may answer {} rows too", len(self._open))
        for index, late in self._late_rows.items():
            self._settled_late(index, self._doubtful[index], late)

    def _settled_late(self, index: int, row: Row, late: Row) -> None:
        del row["paid_twice"]
        self._settle(index, late)
        if "error" not in late:
            before = row.copy()
            if "error" in row:
                row.clear()  # type: ignore[attr-defined]
                row.update(late)
                labelled(row, before["custom_id"], before.get("metadata"))
                add_spent(row, before)
            else:
                row["paid_twice"] = late["cost"]
                add_spent(row, late)
        asked = self._asked[index]
        request = self.ways.of(asked).plans[0].request(asked.messages)
        self._record(self._request_ids[index], fingerprints(request), row)

    def _request_id(self, index: int, request: Mapping[str, Any]) -> str:  # noqa: ARG002 - known before
        return self._request_ids[index]

    async def _done(self, at: int, item: int) -> list[tuple[int, Row]]:  # noqa: ARG002 - its place in time
        """The row of an input, in doubt where a job that has not ended may answer it too."""
        row = await self._row(item, self._asked[item])
        if self._rounds is not None and item not in self._copies:
            self._rounds.done()
        if item in self._open:
            row["paid_twice"] = None
            self._doubtful[item] = row
        return [(item, row)]

    async def _reply(self, plan: ChatPlan, sender: Sender, one: Input, request: dict[str, Any]) -> Row:
        """The job's answer, where it has one; live where it has not and that may help."""
        index = one.index
        row = self._from_job.pop(index, None)
        self._replied[index] += 1
        if self._rounds is not None and (number := self._replied[index]) > 1:
            key = self._request_ids[index]
            return await self._rounds.answer(Ask(number, key, one.asked, plan, sender, request))
        if row is None and not self._cheapest:
            failure = Failure(
                FailureType.DEADLINE_EXCEEDED, f"the batch job had not ended {self._grace:g} s after the deadline"
            )
            return failure_row(failure, plan.target, one.custom_id, cost=None, lane=JOB)
        if row is not None:
            self._settle(index, row)
            if not (self._cheapest and self._helps(row)):
                return row
        live = await super()._reply(plan, sender, one, request)
        if row is not None:
            add_spent(live, row)
            if row["cost"] is None:
                live["paid_twice"] = None
        return live

    def _helps(self, row: Row) -> bool:
        """Whether a live request may do better than a job's."""
        if "error" not in row:
            return False
        details = row["error_details"]
        return bool(details["retryable"] or details["type"] == FailureType.BATCH_REFUSED or self.options.fallbacks)

    def _late(self, index: int, custom_id: str, target: Target | None = None) -> Row:
        row = self._from_job.pop(index, None)
        if row is not None:
            self._settle(index, row)
        return row if row is not None and "error" not in row else super()._late(index, custom_id, target)

    def _settle(self, index: int, row: Row) -> None:
        """A job's row is known: what was held for it comes back, less what it has cost."""
        self._budget.settle(self._held.pop(index, 0.0), row["cost"])


def _now() -> float:
    return asyncio.get_running_loop().time()
