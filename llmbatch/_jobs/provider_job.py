"""A job and what is done with it at the provider: submitting, polling, cancelling, and reading its results."""

from __future__ import annotations

import asyncio
import contextlib
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from llmbatch._jobs import resubmit
from llmbatch._jobs.job_state import InputFile, JobState
from llmbatch._jobs.output_files import JobRows
from llmbatch._jobs.remote import ProviderFailedError, Remote
from llmbatch._jobs.submit import Submission, known_state
from llmbatch._jobs.waiting_files import WaitingFiles
from llmbatch._litellm.provider_files import Access
from llmbatch._rows.structured_output import ResponseFormat
from llmbatch._util.batch_log import logger
from llmbatch.errors import BatchJobError
from llmbatch.providers.base import Payload
from llmbatch.providers.registry import provider_for

_CLIENT_ERRORS = range(400, 500)


class ProviderJob:
    """A job's state, its state file (`path`, None without one), and how to reach its provider."""

    def __init__(
        self, state: JobState, path: Path | None, access: Access, response_format: ResponseFormat | None
    ) -> None:
        self.state, self.path = state, path
        self.access, self.response_format = access, response_format
        self._waiting = WaitingFiles(state)

    @property
    def id(self) -> str:
        """The id that llmbatch gave it."""
        return self.state.id

    def save(self) -> None:
        """Write the state file, if it has one."""
        if self.path is not None:
            self.state.save(self.path)

    def remote(self) -> Remote:
        """Return the connection to its provider, for an `async with`."""
        return Remote(self.state, provider_for(self.state.provider).transport, self.access, self.save)

    def resume_hint(self) -> str:
        """Return how to find it again after an interruption."""
        place = f"{self.id!r}, model={self.state.model!r}" if self.path is None else repr(str(self.path))
        return (
            f"batch job {self.id} continues at the provider: job = llmbatch.retrieve_batch_job({place}), "
            "then job.wait().results() or job.cancel()"
        )

    async def submit(self, paths: Iterable[Path], files: Iterable[InputFile], *, tolerant: bool = False) -> None:
        """Submit these input files, which are at these paths.

        A file that the provider rejects raises ProviderFailedError; if `tolerant`, it fails and the others go on.
        """
        async with self.remote() as remote:
            for file, path in zip(files, paths, strict=True):
                try:
                    if not file.ended:
                        await remote.submit(file, path)
                except ProviderFailedError as exc:
                    if not tolerant or exc.failure.status_code not in _CLIENT_ERRORS:
                        raise
                    logger.warning("Batch job {}: {}", self.id, exc)
                    file.reject(str(exc), "rejected")
                    self.save()

    def abandon_unsubmitted(self) -> None:
        """Give up the input files that have not been submitted, but for those of re-asks."""
        for file in self.state.input_files:
            if not file.status and file.reask_round == 1:
                file.reject("it was not submitted in time")
        self.save()

    async def refresh(self, *, resubmit_waiting: bool = False) -> None:
        """Update the status of each input file; `resubmit_waiting` also submits those that wait, if there is room."""
        async with self.remote() as remote:
            for file in self.state.input_files:
                if file.running:
                    await remote.refresh(file)
            if resubmit_waiting:
                await self._waiting.submit(remote, self.save)

    async def cancel(self) -> None:
        """Ask the provider to end all batches that have not ended."""
        async with self.remote() as remote:
            for file in self.state.input_files:
                if file.status and not file.ended:
                    await remote.cancel(file)

    def rows(self) -> JobRows:
        """Return an empty collection for its rows."""
        return JobRows(self.state, self.response_format)

    async def read_into(self, rows: JobRows, files: Iterable[InputFile]) -> None:
        """Read the output and error files of these input files, which have ended."""
        async with self.remote() as remote:
            with tempfile.TemporaryDirectory(prefix="llmbatch-") as directory:
                for file in files:
                    paths = await _downloaded(remote, file, Path(directory))
                    await asyncio.to_thread(rows.add, file, paths)
            if rows.quoting:
                sent: dict[str, Payload] = {}
                with contextlib.suppress(BatchJobError):
                    sent = await resubmit.payloads_of(self.state, remote, rows.quoting, None)
                rows.remove_quotes(sent)


async def _downloaded(remote: Remote, file: InputFile, directory: Path) -> list[Path]:
    """Download an input file's output and error file."""
    paths: list[Path] = []
    for file_id in dict.fromkeys((file.output_file_id, file.error_file_id)):
        if file_id:
            paths.append(directory / f"{len(paths)}.jsonl")
            await remote.download(file_id, paths[-1])
    return paths


async def prepared_job(
    submission: Submission, path: Path | None, directory: Path, **how: Any
) -> tuple[ProviderJob, list[Path]]:
    """Write a submission's input files to `directory`, and return its job: new, or as an earlier call left it."""
    made, files = await asyncio.to_thread(submission.write, directory, **how)
    state = known_state(path, made)
    job = ProviderJob(state, path, submission.access, submission.response_format)
    job.save()
    return job, files
