"""A chat batch with lane="cheapest": a job answers what it can before the deadline, the rest is sent live."""

from __future__ import annotations

import asyncio
import math
from typing import Any

from llmbatch._batch.base_run import GUESSED_ANSWER_TOKENS
from llmbatch._batch.chat_run import Input
from llmbatch._jobs.job_poller import JobPoller
from llmbatch._jobs.job_run import CANCEL_SECONDS, JobRun
from llmbatch._jobs.late_answers import LateAnswers, merge_late
from llmbatch._jobs.model_costs import answer_limit
from llmbatch._litellm import Target
from llmbatch._request.plans import ChatPlan
from llmbatch._request.sender import Sender
from llmbatch._rows.failure_type import FailureType
from llmbatch._rows.row import Row, add_spent
from llmbatch._util.batch_log import logger
from llmbatch._util.identity import fingerprints, upgrade_id

CANCEL_SHARE = 0.25  # of a short deadline, for the job's end after it was cancelled
LIVE_MARGIN = 1.5  # times the time that the remaining rows are expected to take live
LEAST_LIVE_SECONDS = 300.0  # for live rows, however few there are
LEAST_LIVE_SHARE = 0.15  # of a short deadline, likewise
_ANSWER_SECONDS, _TOKENS_PER_SECOND = 2.0, 50.0  # of a live answer, until one has been seen
_AUTO_WORKERS = 64  # workers that max_workers="auto" is expected to reach
_BETTER_LIVE = {
    FailureType.BATCH_REFUSED,
    FailureType.INVALID_ROW,
}  # failures of the job, which a live request does not meet


class CheapestRun(JobRun):
    """One batch of chats in a job, and live as far as the job fails, or does not end in time.

        read and parse all inputs
          |
        submit ---- no time, or no Batch API: send all rows live
          |
        poll        rows are released as their input files end; failed ones are sent live
          |           in time before the deadline: cancel the job, take the answers that it has
        live        the remaining rows
          |           if the cancelled job has not ended: poll it, its late answers are paid twice
        done

    Rows that an earlier call's job lacks are submitted in a further input file if there is time, else sent live.
    """

    tolerant = True
    _late_answers: LateAnswers | None = None
    _poller: JobPoller | None = None

    def _configure(self) -> None:
        """Take all options: they are those of the live requests too."""

    def _begin(self) -> None:
        super()._begin()
        self._deadline = self._end if self._end < math.inf else None

    def _reading_ends(self) -> float | None:
        until = super()._reading_ends()
        return None if until is None else until - self._live_time(0)

    def _before_rows(self) -> None:
        """Keep the caller's max_workers, for the live requests."""

    async def _start_job(self) -> bool:
        try:
            return await super()._start_job()
        except NotImplementedError as exc:
            logger.warning("lane='cheapest': sending all rows live: {}", exc)
            self._reservations.release()
            return False

    def _submittable(self, missing: list[str]) -> list[str]:
        if missing and self._time_left(len(self._inputs.wanted)) <= 0:
            logger.warning(
                "deadline={:g} is too short for a batch job of {} rows; sending them live",
                self._context.seconds,
                len(missing),
            )
            return []
        return missing

    def _after_polling(self, poller: JobPoller) -> None:
        """Watch for late answers, if the cancelled job has not ended."""
        unanswered = poller.unanswered()
        if unanswered:
            wanted = self._inputs.wanted
            late = self._late_answers = LateAnswers((wanted[key] for key in unanswered), self._update_late)
            self._poller, poller.on_row = poller, lambda key, row: late.add_late(wanted[key], row)

    async def _after_indices(self) -> None:
        if self._late_answers is not None and self._poller is not None:
            await self._late_answers.collect(self._poller.look, self._first_poll)

    def _update_late(self, index: int, row: Row, late: Row) -> None:
        """Update a row that the job has answered too, here and in the checkpoint."""
        self._reservations.settle(index, late)
        merge_late(row, late)
        parsed = self._inputs.items[index]
        plan = self.routes.of(parsed).plans[0]
        request = plan.request(parsed.messages)
        prints = fingerprints(request)
        self._record(self._inputs.request_ids[index], prints, row, upgrade_id(request, prints, plan.untouched))

    @property
    def _grace(self) -> float:
        """Seconds that a cancelled job gets to end."""
        return min(CANCEL_SECONDS, CANCEL_SHARE * self._context.seconds)

    def _live_time(self, rows: int) -> float:
        """Return the seconds that `rows` rows take live, by the known limits and the latency of earlier answers."""
        plan, limiters = self.routes.first.plans[0], list(self._limiters)
        most = answer_limit(plan) or GUESSED_ANSWER_TOKENS
        latencies = [limiter.latency for limiter in limiters if limiter.latency is not None]
        latency = max(latencies, default=_ANSWER_SECONDS + most / _TOKENS_PER_SECOND)
        workers = self.options.max_workers if isinstance(self.options.max_workers, int) else _AUTO_WORKERS
        tokens = self._inputs.prompt_tokens / max(1, len(self._inputs.items))
        limited = max(limiter.seconds_for(rows, limiter.estimated_tokens(tokens, most)) for limiter in limiters)
        least = min(LEAST_LIVE_SECONDS, LEAST_LIVE_SHARE * self._context.seconds)
        return max(least, LIVE_MARGIN * max(limited, math.ceil(rows / workers) * latency))

    def _time_left(self, rows: int) -> float:
        return self._end - self._live_time(rows) - self._grace - asyncio.get_running_loop().time()

    def _live_at(self, rows: int) -> float | None:
        return self._end - self._live_time(rows) if self._end < math.inf else None

    async def _process_item(self, at: int, item: int) -> list[tuple[int, Row]]:
        rows = await super()._process_item(at, item)
        if self._late_answers is not None:
            self._late_answers.add_live(*rows[0])
        return rows

    async def _send_once(self, plan: ChatPlan, sender: Sender, one: Input, request: dict[str, Any]) -> Row:
        """Return the job's answer if there is one; else send the request live, if that may help."""
        row = self._taken(one.index)
        if row is not None and not self._is_better_live(row):
            return row
        live = await self._send_live(plan, sender, one, request)
        if row is not None:
            add_spent(live, row)
            if row["cost"] is None:
                live["paid_twice"] = None
        return live

    def _is_better_live(self, row: Row) -> bool:
        """Whether a live request may succeed where the job has failed."""
        if "error" not in row:
            return False
        details = row["error_details"]
        return bool(details["retryable"] or details["type"] in _BETTER_LIVE or self.options.fallbacks)

    def _late_row(self, index: int, custom_id: str, target: Target | None = None) -> Row:
        """Return the row at the deadline: the job's answer, if there is one."""
        row = self._taken(index)
        return row if row is not None and "error" not in row else super()._late_row(index, custom_id, target)
