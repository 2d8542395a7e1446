"""A batch job as its user sees it: status, waiting, results, and what to do with the rows that failed."""

from __future__ import annotations

import asyncio
import math
import os
import time
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from llmbatch._jobs import resubmit, submit
from llmbatch._jobs.job_state import WAITING, JobState
from llmbatch._jobs.polling import FIRST_POLL, poll_until
from llmbatch._jobs.provider_job import ProviderJob
from llmbatch._jobs.remote import ProviderFailedError
from llmbatch._jobs.webhook_events import Headers, batch_id_of
from llmbatch._litellm.provider_files import Access
from llmbatch._rows.row import add_spent, numbered
from llmbatch._rows.structured_output import ResponseFormat, checked_format
from llmbatch._util.background_loop import awaited, in_background
from llmbatch._util.batch_log import logger
from llmbatch._util.checks import check_number
from llmbatch.errors import BatchJobError, BatchJobTimeoutError
from llmbatch.progress import ProgressBar
from llmbatch.providers.base import Payload
from llmbatch.results import BatchResults

PathLike = str | os.PathLike[str]


class BatchJob:
    """A job at a provider's Batch API. Its requests are in one or more input files, each with a batch of its own.

    Methods that send requests to the provider have async versions: `arefresh, arefresh_from, await_, acancel,
    aresults, aresubmit_failed, arun_failed_live`.

    Attributes:
        state: everything that llmbatch knows about the job, as plain data without prompts and keys.
        path: its state file, None for a job that is kept in memory only.

    Example:
        job = submit_batch_job(chats, "gpt-4o-mini", state="chats.job.json")
        results = job.wait().results()
    """

    def __init__(
        self,
        state: JobState,
        *,
        path: PathLike | None = None,
        access: Access | None = None,
        response_format: ResponseFormat | None = None,
    ) -> None:
        access = access or Access(api_version=state.api_version)
        place = None if path is None else Path(path)
        self._job = ProviderJob(state, place, access, checked_format(response_format))

    @property
    def state(self) -> JobState:
        """Everything that llmbatch knows about the job."""
        return self._job.state

    @property
    def path(self) -> Path | None:
        """The state file, None for a job that is kept in memory only."""
        return self._job.path

    @property
    def id(self) -> str:
        """The id that llmbatch gave it; the provider keeps it in each batch's metadata as `llmbatch_job`."""
        return self.state.id

    @property
    def batch_ids(self) -> list[str]:
        """The provider's ids of its batches."""
        return self.state.batch_ids

    @property
    def status(self) -> str:
        """The status when the provider was last asked.

        `submitting` until each input file has been submitted; `waiting` while an input file waits for room in the
        account's queue (`wait` submits it again); then OpenAI's status of the slowest batch: `validating, in_progress,
        finalizing, cancelling`. When all have ended: `completed`, or the first of `failed, expired, cancelled` that any
        batch has.
        """
        return self.state.status

    @property
    def ended(self) -> bool:
        """Whether the provider does nothing more for it, when it was last asked."""
        return self.state.ended

    @property
    def request_counts(self) -> dict[str, int]:
        """The provider's own counts, `total, completed, failed`, when it was last asked; they may not add up."""
        return self.state.request_counts

    def __len__(self) -> int:
        return len(self.state.custom_ids)

    def __repr__(self) -> str:
        return f"<BatchJob {self.id}: {self.status}, {len(self)} rows in {len(self.state.input_files)} input files>"

    def to_dict(self) -> dict[str, Any]:
        """Return the state as JSON-serialisable data."""
        return asdict(self.state)

    def save(self, path: PathLike | None = None) -> None:
        """Write the state file; with `path`, there and to no other file from now on."""
        if path is not None:
            self._job.path = Path(path)
        self._job.save()

    @classmethod
    def load(cls, path: PathLike, *, response_format: ResponseFormat | None = None, **access: Any) -> BatchJob:
        """Read a job's state file. Keys are not in it: pass `api_key=`, or set the environment variable.

        Raises FileNotFoundError, and BatchJobError for a file of another kind.
        """
        state = JobState.load(path)
        given = submit.access_from({"api_version": state.api_version, **access})
        return cls(state, path=path, access=given, response_format=response_format)

    @classmethod
    def of_event(
        cls, event: Any, headers: Headers, states: Iterable[PathLike], *, secret: str | None = None, **how: Any
    ) -> BatchJob | None:
        """Return the job that a webhook event is about, from these state files; None if it is none of them.

        Takes an event as `refresh_from` does, and the options of `load`. Call `refresh()` for the job's new status.
        """
        batch_id = batch_id_of(event, headers, secret)
        sought = batch_id.encode("utf-8", "replace")
        known = (path for path in states if sought in Path(path).read_bytes())
        return next((job for job in (cls.load(path, **how) for path in known) if batch_id in job.batch_ids), None)

    def refresh(self) -> BatchJob:
        """Ask the provider for the job's status; returns the job."""
        return in_background(self._refresh())

    async def arefresh(self) -> BatchJob:
        """Ask the provider for the job's status; the async version of `refresh`."""
        return await awaited(self._refresh())

    def refresh_from(self, event: Any, headers: Headers = None, *, secret: str | None = None) -> BatchJob:
        """Refresh the job when the provider's webhook says that one of its batches has ended; returns the job.

        `event` is the request's body as it came, with its `headers`. Their signature is checked with `secret`, or with
        the environment variable OPENAI_WEBHOOK_SECRET. An event that is parsed already counts as checked. The event is
        only a hint: the status is what the provider answers when asked, so repeated, late and forged events do no harm.

        Raises ValueError for an event with a bad signature, BatchJobError for an event of another job.
        """
        return in_background(self._refresh_from(event, headers, secret))

    async def arefresh_from(self, event: Any, headers: Headers = None, *, secret: str | None = None) -> BatchJob:
        """Refresh the job for a webhook event; the async version of `refresh_from`."""
        return await awaited(self._refresh_from(event, headers, secret))

    def wait(self, poll: float = FIRST_POLL, timeout: float | None = None, *, progress: bool | None = None) -> BatchJob:
        """Poll the job until it has ended, and return it.

        `poll` is the first pause in seconds; pauses grow to a minute. Network errors are retried. Input files that the
        provider rejected because the account's queue was full are submitted again when there is room. Raises
        TimeoutError after `timeout` seconds (the job continues), BatchJobError if the provider rejects the request.
        """
        return in_background(self._wait(poll, timeout, progress=progress))

    async def await_(
        self,
        poll: float = FIRST_POLL,
        timeout: float | None = None,  # noqa: ASYNC109 - of many requests
        *,
        progress: bool | None = None,
    ) -> BatchJob:
        """Poll the job until it has ended; the async version of `wait`."""
        return await awaited(self._wait(poll, timeout, progress=progress))

    def cancel(self) -> BatchJob:
        """Ask the provider to end the job, and return it. Answers that it has by then are kept and charged."""
        return in_background(self._cancel())

    async def acancel(self) -> BatchJob:
        """Ask the provider to end the job; the async version of `cancel`."""
        return await awaited(self._cancel())

    def results(self) -> BatchResults:
        """Return the rows in the order of the input, joined from the provider's output and error files.

        A request that failed, expired, was cancelled, or has no result, an unreadable one or two different ones is an
        error row. Costs are at batch prices. Raises BatchJobError while the job has not ended.
        """
        return in_background(self._results())

    async def aresults(self) -> BatchResults:
        """Return the rows in the order of the input; the async version of `results`."""
        return await awaited(self._results())

    def resubmit_failed(self, payloads: PathLike | Iterable[Payload] | None = None) -> BatchJob:
        """Submit the failed rows again, in further batches of this job, and return it. Then wait() for it again.

        The requests are read from the provider's copy of the input files, or from `payloads` (a path or a list).
        `results()` has the new answers in place of the failures. Rows that cannot be sent stay as they are.
        """
        return in_background(self._resubmit_failed(payloads))

    async def aresubmit_failed(self, payloads: PathLike | Iterable[Payload] | None = None) -> BatchJob:
        """Submit the failed rows again; the async version of `resubmit_failed`."""
        return await awaited(self._resubmit_failed(payloads))

    def run_failed_live(self, *, payloads: PathLike | Iterable[Payload] | None = None, **options: Any) -> BatchResults:
        """Send the failed rows as live requests, at live prices, and return all rows with the new ones in place.

        Takes the options of `create_chat_completions_batch`; `model=` sends them to another model.
        """
        return in_background(self._run_failed_live(payloads=payloads, **options))

    async def arun_failed_live(
        self, *, payloads: PathLike | Iterable[Payload] | None = None, **options: Any
    ) -> BatchResults:
        """Send the failed rows as live requests; the async version of `run_failed_live`."""
        return await awaited(self._run_failed_live(payloads=payloads, **options))

    async def _refresh(self) -> BatchJob:
        await self._job.refresh()
        return self

    async def _refresh_from(self, event: Any, headers: Headers, secret: str | None) -> BatchJob:
        batch_id = await asyncio.to_thread(batch_id_of, event, headers, secret)
        if batch_id not in self.batch_ids:
            raise BatchJobError(
                f"{batch_id!r:.60} is not a batch of job {self.id}; BatchJob.of_event finds an event's job by state "
                "files"
            )
        # All input files: of two handlers at once, each with a copy of the state, the later one must see the job's end.
        return await self._refresh()

    async def _wait(
        self,
        poll: float = FIRST_POLL,
        timeout: float | None = None,  # noqa: ASYNC109 - of many requests
        *,
        progress: bool | None = None,
    ) -> BatchJob:
        check_number("poll", poll, "it is the first pause in seconds", least=0)
        if timeout is not None:
            check_number("timeout", timeout, "None waits without a limit", least=0)
        end = math.inf if timeout is None else time.monotonic() + timeout
        bar = ProgressBar(len(self), progress)

        async def look() -> bool:
            try:
                await self._job.refresh(resubmit_waiting=True)
            except ProviderFailedError as exc:
                if not exc.failure.retryable:
                    raise
                logger.warning("Batch job {}: {}; trying again", self.id, exc)
            counts = self.request_counts
            bar.reach(counts["completed"] + counts["failed"], f"{self.status}, {counts['failed']} failed")
            if self.status == "submitting":
                raise BatchJobError(
                    f"submission of job {self.id} was interrupted; call submit_batch_job again with its state file, or "
                    "the batch with its checkpoint"
                )
            return self.ended

        try:
            if not await poll_until(look, poll, lambda: end - time.monotonic()):
                raise BatchJobTimeoutError(
                    f"job {self.id} is {self.status} after {timeout} s; it continues, wait() again"
                )
        finally:
            bar.close()
        return self

    async def _cancel(self) -> BatchJob:
        await self._job.cancel()
        return self

    async def _results(self) -> BatchResults:
        if not self.ended:
            await self._refresh()
        if not self.ended:
            raise BatchJobError(f"job {self.id} is {self.status}; call wait() first, results come when it has ended")
        rows, files = self._job.rows(), self.state.input_files
        await self._job.read_into(rows, files)
        ends = [file.ended_at for file in files if file.ended_at]
        elapsed = float(max(0, max(ends) - self.state.created_at)) if ends else 0.0
        return BatchResults(rows.in_order(), elapsed=elapsed, response_format=self._job.response_format)

    async def _resubmit_failed(self, payloads: PathLike | Iterable[Payload] | None = None) -> BatchJob:
        interrupted = self.status in {"submitting", WAITING}
        failed = [] if interrupted else [row["custom_id"] for row in (await self._results()).failed]
        async with self._job.remote() as remote:
            await resubmit.resubmit(self.state, remote, failed, payloads, self.save)
        return self

    async def _run_failed_live(
        self, *, payloads: PathLike | Iterable[Payload] | None = None, **options: Any
    ) -> BatchResults:
        results = await self._results()
        failed = [row["custom_id"] for row in results.failed]
        async with self._job.remote() as remote:
            found = await resubmit.payloads_of(self.state, remote, failed, payloads)
        live_rows = await resubmit.run_live(self.state, self._job.access, found, options)
        by_id = {row["custom_id"]: row for row in live_rows}
        for index, row in enumerate(results):
            if (live := by_id.get(row["custom_id"])) is not None:
                add_spent(live, row)
                results[index] = numbered(index, live)
        return results
