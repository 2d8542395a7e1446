"""A batch job as its user sees it: status, waiting, results, and what to do about the rows that failed."""

from __future__ import annotations

import asyncio
import contextlib
import math
import os
import tempfile
import time
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from loguru import logger

from llmbatch._jobs import resubmit, submit
from llmbatch._jobs.job_state import JobState, Part
from llmbatch._jobs.output_files import Join
from llmbatch._jobs.polling import FIRST_POLL, polled
from llmbatch._jobs.remote import ProviderFailedError, Remote
from llmbatch._jobs.webhook_events import Headers, batch_of
from llmbatch._litellm.provider_files import Access
from llmbatch._rows.row import add_spent, numbered
from llmbatch._rows.structured_output import ResponseFormat, checked_format
from llmbatch._util.background_loop import awaited, in_background
from llmbatch._util.checks import check_number
from llmbatch.errors import BatchJobError, BatchJobTimeoutError
from llmbatch.progress import ProgressBar
from llmbatch.providers.base import Payload
from llmbatch.providers.registry import provider_for
from llmbatch.results import BatchResults

_PROGRESS = ("validating", "in_progress", "finalizing", "cancelling")
_ENDS = ("failed", "expired", "cancelled")
_REFUSALS = range(400, 500)

PathLike = str | os.PathLike[str]


class BatchJob:
    """A job at a provider's Batch API: one batch for each input file, seen as one.

    Every method that asks the provider has an async twin: `arefresh, arefresh_from, await_, acancel, aresults,
    aresubmit_failed, arun_failed_live`.

    Attributes:
        state: all that is known of it, as plain data without prompts and keys.
        path: its state file, None for a job kept in memory only.

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
        self.state = state
        self.path = None if path is None else Path(path)
        self._access = access or Access(api_version=state.api_version)
        self._response_format = checked_format(response_format)

    @property
    def id(self) -> str:
        """The id that llmbatch gave it; the provider keeps it in each batch's metadata as `llmbatch_job`."""
        return self.state.id

    @property
    def batch_ids(self) -> list[str]:
        """The provider's ids of its batches."""
        return [part.batch_id for part in self.state.parts if part.batch_id]

    @property
    def status(self) -> str:
        """As last seen: `submitting` until each file has its batch, then OpenAI's words for the slowest part.

        When all parts have ended: `completed`, or else the first of `failed, expired, cancelled` that any part is.
        """
        statuses = [part.status for part in self.state.parts]
        if "" in statuses:
            return "submitting"
        return next((status for status in (*_PROGRESS, *_ENDS) if status in statuses), "completed")

    @property
    def ended(self) -> bool:
        """Whether the provider does nothing more for it, as last seen."""
        return all(part.ended for part in self.state.parts)

    @property
    def request_counts(self) -> dict[str, int]:
        """The provider's own count of its requests, `total, completed, failed`, as last seen; they may not add up."""
        counts = [part.request_counts for part in self.state.parts]
        return {name: sum(count.get(name, 0) for count in counts) for name in ("total", "completed", "failed")}

    def __len__(self) -> int:
        return len(self.state.custom_ids)

    def __repr__(self) -> str:
        return f"<BatchJob {self.id}: {self.status}, {len(self)} rows in {len(self.state.parts)} files>"

    def to_dict(self) -> dict[str, Any]:
        """The state as JSON-serialisable data."""
        return asdict(self.state)

    def save(self, path: PathLike | None = None) -> None:
        """Write the state file, to `path` from now on if one is given."""
        self.path = Path(path) if path is not None else self.path
        if self.path is not None:
            self.state.save(self.path)

    @classmethod
    def load(cls, path: PathLike, *, response_format: ResponseFormat | None = None, **access: Any) -> BatchJob:
        """A job from its state file. Keys are not in it: they come from `api_key=` or the environment.

        Raises FileNotFoundError, and BatchJobError for a file that is no state file.
        """
        state = JobState.load(path)
        given = submit.access_from({"api_version": state.api_version, **access})
        return cls(state, path=path, access=given, response_format=response_format)

    @classmethod
    def of_event(
        cls, event: Any, headers: Headers, states: Iterable[PathLike], *, secret: str | None = None, **how: Any
    ) -> BatchJob | None:
        """The job that a webhook's event is about, among those with these state files; None if it is none of them.

        Takes an event as `refresh_from` does, and what `load` does. The job is as its file says: refresh() it.
        """
        batch_id = batch_of(event, headers, secret)
        sought = batch_id.encode("utf-8", "replace")
        known = (path for path in states if sought in Path(path).read_bytes())
        return next((job for job in (cls.load(path, **how) for path in known) if batch_id in job.batch_ids), None)

    def refresh(self) -> BatchJob:
        """Ask the provider how the job is doing; returns the job itself."""
        return in_background(self._refresh())

    async def arefresh(self) -> BatchJob:
        """The awaitable twin of `refresh`."""
        return await awaited(self._refresh())

    def refresh_from(self, event: Any, headers: Headers = None, *, secret: str | None = None) -> BatchJob:
        """`refresh` for a provider's webhook, which says that one of the job's batches has ended; returns the job.

        `event` is the request's body as it came, with its `headers`: their signature is checked with `secret`, else
        with the environment's OPENAI_WEBHOOK_SECRET. An event that is parsed already is taken as checked. It is a hint:
        what counts is what the provider says when asked, so that repeated, late and forged events do no harm.

        Raises ValueError for an event that is not to be trusted, BatchJobError for one of another job.
        """
        return in_background(self._refresh_from(event, headers, secret))

    async def arefresh_from(self, event: Any, headers: Headers = None, *, secret: str | None = None) -> BatchJob:
        """The awaitable twin of `refresh_from`."""
        return await awaited(self._refresh_from(event, headers, secret))

    def wait(self, poll: float = FIRST_POLL, timeout: float | None = None, *, progress: bool | None = None) -> BatchJob:
        """Look at the job until it has ended, and return it.

        `poll` is the first pause in seconds; pauses grow to a minute. Faults of the network are waited out. Raises
        TimeoutError after `timeout` seconds (the job goes on), BatchJobError when the provider refuses to tell.
        """
        return in_background(self._wait(poll, timeout, progress=progress))

    async def await_(
        self,
        poll: float = FIRST_POLL,
        timeout: float | None = None,  # noqa: ASYNC109 - of many looks
        *,
        progress: bool | None = None,
    ) -> BatchJob:
        """The awaitable twin of `wait`."""
        return await awaited(self._wait(poll, timeout, progress=progress))

    def cancel(self) -> BatchJob:
        """Ask the provider to end the job, and return it; what is done by then is kept and charged."""
        return in_background(self._cancel())

    async def acancel(self) -> BatchJob:
        """The awaitable twin of `cancel`."""
        return await awaited(self._cancel())

    def results(self) -> BatchResults:
        """The rows, in the order of the input, joined from the provider's output and error files.

        A row that failed, expired, was cancelled, is missing, unreadable or contradicted by a second answer is an error
        row. Costs are at batch prices. Raises BatchJobError while the job has not ended.
        """
        return in_background(self._results())

    async def aresults(self) -> BatchResults:
        """The awaitable twin of `results`."""
        return await awaited(self._results())

    def resubmit_failed(self, payloads: PathLike | Iterable[Payload] | None = None) -> BatchJob:
        """Submit the failed rows once more, as further batches of this job, and return it: wait() for it again.

        The requests are read back from the provider's copy of the input files, or from `payloads` (a path or a list).
        `results()` has the new answers in the places of the failures. Rows that could not be sent stay as they are.
        """
        return in_background(self._resubmit_failed(payloads))

    async def aresubmit_failed(self, payloads: PathLike | Iterable[Payload] | None = None) -> BatchJob:
        """The awaitable twin of `resubmit_failed`."""
        return await awaited(self._resubmit_failed(payloads))

    def run_failed_live(self, *, payloads: PathLike | Iterable[Payload] | None = None, **options: Any) -> BatchResults:
        """Send the failed rows now, as live requests at live prices, and return all rows with the new ones in place.

        Takes the options of `create_chat_completions_batch`; `model=` sends them to another model.
        """
        return in_background(self._run_failed_live(payloads=payloads, **options))

    async def arun_failed_live(
        self, *, payloads: PathLike | Iterable[Payload] | None = None, **options: Any
    ) -> BatchResults:
        """The awaitable twin of `run_failed_live`."""
        return await awaited(self._run_failed_live(payloads=payloads, **options))

    async def submit(
        self, files: Iterable[Path], parts: Iterable[Part] | None = None, *, refusable: bool = False
    ) -> None:
        """Submit its parts, whose input files these are; where `refusable`, the provider's refusal ends a part."""
        async with self.remote() as remote:
            for part, path in zip(self.state.parts if parts is None else parts, files, strict=False):
                try:
                    if not part.ended:
                        await remote.submit(part, path)
                except ProviderFailedError as exc:
                    if not refusable or exc.failure.status_code not in _REFUSALS:
                        raise
                    logger.warning("Batch job {}: {}", self.id, exc)
                    part.refused(str(exc))
                    self.save()

    def give_up(self) -> None:
        """Its parts that have no batch get none any more, but for what is asked again."""
        for part in self.state.parts:
            if not part.status and part.asks == 1:
                part.refused("it was not submitted in time")
        self.save()

    def left(self) -> str:
        """How to find it again after an interruption."""
        again = f"{self.id!r}, model={self.state.model!r}" if self.path is None else repr(str(self.path))
        return (
            f"batch job {self.id} goes on at the provider: job = llmbatch.retrieve_batch_job({again}), "
            "then job.wait().results() or job.cancel()"
        )

    async def _refresh(self) -> BatchJob:
        async with self.remote() as remote:
            for part in self.state.parts:
                if part.batch_id and not part.ended:
                    await remote.refresh(part)
        return self

    async def _refresh_from(self, event: Any, headers: Headers, secret: str | None) -> BatchJob:
        batch_id = await asyncio.to_thread(batch_of, event, headers, secret)
        if batch_id not in self.batch_ids:
            raise BatchJobError(
                f"{batch_id!r:.60} is no batch of job {self.id}; BatchJob.of_event finds an event's job by state files"
            )
        # All parts: of two handlers at once, each with its own copy of the state, the later one must see the job's end.
        return await self._refresh()

    async def _wait(
        self,
        poll: float = FIRST_POLL,
        timeout: float | None = None,  # noqa: ASYNC109 - of many looks
        *,
        progress: bool | None = None,
    ) -> BatchJob:
        check_number("poll", poll, "it is the first pause in seconds", least=0)
        if timeout is not None:
            check_number("timeout", timeout, "None waits as long as it takes", least=0)
        end = math.inf if timeout is None else time.monotonic() + timeout
        bar = ProgressBar(len(self), progress)

        async def look() -> bool:
            try:
                await self._refresh()
            except ProviderFailedError as exc:
                if not exc.failure.retryable:
                    raise
                logger.warning("Batch job {}: {}; looking again", self.id, exc)
            counts = self.request_counts
            bar.reach(counts["completed"] + counts["failed"], f"{self.status}, {counts['failed']} failed")
            if self.status == "submitting":
                raise BatchJobError(
                    f"job {self.id} was not submitted to its end; call submit_batch_job again with its state file, or "
                    "the batch with its checkpoint"
                )
            return self.ended

        try:
            if not await polled(look, poll, lambda: end - time.monotonic()):
                raise BatchJobTimeoutError(
                    f"job {self.id} is {self.status} after {timeout} s; it goes on, wait() again"
                )
        finally:
            bar.close()
        return self

    async def _cancel(self) -> BatchJob:
        async with self.remote() as remote:
            for part in self.state.parts:
                if part.batch_id and not part.ended:
                    await remote.cancel(part)
        return self

    async def _results(self) -> BatchResults:
        if not self.ended:
            await self._refresh()
        if not self.ended:
            raise BatchJobError(
                f"job {self.id} is {self.status}; its results come when it has ended, call wait() first"
            )
        join = self.join()
        await self.take(join, self.state.parts)
        ends = [part.ended_at for part in self.state.parts if part.ended_at]
        elapsed = float(max(0, max(ends) - self.state.created_at)) if ends else 0.0
        return BatchResults(join.rows(), elapsed=elapsed, response_format=self._response_format)

    def join(self) -> Join:
        """What the files of its parts are to be taken into."""
        return Join(self.state, self._response_format)

    async def take(self, join: Join, parts: Iterable[Part]) -> None:
        """Take over what some parts, which have ended, say of their rows."""
        async with self.remote() as remote:
            with tempfile.TemporaryDirectory(prefix="llmbatch-") as directory:
                for part in parts:
                    files = await self._downloaded(remote, part, Path(directory))
                    await asyncio.to_thread(join.add, part, files)
            if join.told:
                asked: dict[str, Payload] = {}
                with contextlib.suppress(BatchJobError):
                    asked = await resubmit.bodies(self.state, remote, join.told, None)
                join.without_quotes(asked)

    async def _downloaded(self, remote: Remote, part: Part, directory: Path) -> list[Path]:
        paths: list[Path] = []
        for file_id in dict.fromkeys((part.output_file_id, part.error_file_id)):
            if file_id:
                paths.append(directory / f"{len(paths)}.jsonl")
                await remote.download(file_id, paths[-1])
        return paths

    async def _resubmit_failed(self, payloads: PathLike | Iterable[Payload] | None = None) -> BatchJob:
        failed = [] if self.status == "submitting" else (await self._results()).failed
        async with self.remote() as remote:
            await resubmit.resubmit(self.state, remote, [row["custom_id"] for row in failed], payloads, self.save)
        return self

    async def _run_failed_live(
        self, *, payloads: PathLike | Iterable[Payload] | None = None, **options: Any
    ) -> BatchResults:
        results = await self._results()
        failed = [row["custom_id"] for row in results.failed]
        async with self.remote() as remote:
            bodies = await resubmit.bodies(self.state, remote, failed, payloads)
        rows = {row["custom_id"]: row for row in await resubmit.run_live(self.state, self._access, bodies, options)}
        for index, row in enumerate(results):
            if (live := rows.get(row["custom_id"])) is not None:
                add_spent(live, row)
                results[index] = numbered(index, live)
        return results

    def remote(self) -> Remote:
        """The provider's side of it, to be used in `async with`."""
        return Remote(self.state, provider_for(self.state.provider).transport, self._access, self.save)


async def begun(
    submission: submit.Submission, path: PathLike | None, directory: Path, **how: Any
) -> tuple[BatchJob, list[Path]]:
    """A job that is to be submitted, or that an earlier call left in `path`, and its input files."""
    made, files = await asyncio.to_thread(submission.write, directory, **how)
    known = submit.known_state(path, made)
    job = BatchJob(known, path=path, access=submission.access, response_format=submission.response_format)
    job.save()
    return job, files
