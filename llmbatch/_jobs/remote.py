"""A job's dealings with its provider: again after faults, never twice."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Self, TypeVar

from loguru import logger

from llmbatch._jobs.job_state import JobState, Part
from llmbatch._litellm.provider_files import Access, Files, open_files
from llmbatch._request.classify import classify
from llmbatch._request.failures import Failure, clean
from llmbatch._request.retry import AttemptFailedError, retrying
from llmbatch.errors import BatchJobError, BatchNotSupportedError

_Found = Callable[[], Awaitable[dict[str, Any] | None]]

T = TypeVar("T")

JOB_TAG, PART_TAG = "llmbatch_job", "llmbatch_part"
MESSAGE_LEFT_OUT = "the provider's words may quote the request, and are left out since its copy of that is gone"
_RETRIES = 6
_SERVER_ERRORS = range(500, 600)
_UNLISTED = {404, 405, 501}  # a provider without a list of files or jobs
_STILL_READING = {"pending", "running"}
_READING_SECONDS, _READING_POLL = 600.0, 2.0
_OLDER = 86_400  # seconds by which the provider's clock may be behind


class ProviderFailedError(BatchJobError):
    """The provider refused one operation for good; `failure` says how."""

    failure: Failure


class Remote:
    """The provider's side of one job. Use it in `async with`; `save` is called whenever the state has changed."""

    def __init__(self, state: JobState, transport: str, access: Access, save: Callable[[], None]) -> None:
        self._state = state
        self._save = save
        self._access = vars(access)
        self._open: Callable[[], Files] = lambda: open_files(transport, state.target, access)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc: object) -> None:
        if "_files" in vars(self):
            await self._files.close()

    @cached_property
    def _files(self) -> Files:
        return self._open()

    async def submit(self, part: Part, path: Path) -> None:
        """Upload a part's file and create its batch, unless an earlier try already did."""
        if part.input_file_id is None:
            send, lost = partial(self._files.upload, path, part.name), partial(self._lost_upload, part)
            uploaded = await self._once(part, "upload", f"upload {part.name}", send, lost, path)
            if not uploaded.get("id"):
                raise BatchJobError(f"the provider gave no id for the uploaded file {part.name}; submit again")
            part.input_file_id = uploaded["id"]
            self._save()
            logger.info("Batch job {}: {} is file {}", self._state.id, part.name, part.input_file_id)
            await self._read_by_provider(uploaded)
        if part.batch_id is None:
            send, lost = partial(self._create, part), partial(self._lost_job, part)
            batch = await self._once(part, "create", f"create the batch of {part.name}", send, lost, path)
            if not batch.get("id"):
                raise BatchJobError(
                    f"the provider gave no id for the batch of {part.name}: see in its console whether it is there"
                )
            await self.take_over(part, batch)
            self._save()
            logger.info("Batch job {}: {} is batch {}", self._state.id, part.name, part.batch_id)

    async def _once(  # noqa: PLR0917 - one step of `submit`
        self, part: Part, step: str, what: str, send: Callable[[], Awaitable[dict[str, Any]]], lost: _Found, path: Path
    ) -> dict[str, Any]:
        """What a step comes to, or has come to in an earlier try, whose answer was lost."""
        if part.tried == step and (found := await lost()) is not None:
            return found
        part.tried = step
        self._save()
        return await self._again(send, what, lost, path)

    async def _create(self, part: Part) -> dict[str, Any]:
        state = self._state
        metadata = {JOB_TAG: state.id, PART_TAG: part.name, **state.metadata}
        assert part.input_file_id is not None  # noqa: S101 - uploaded before
        return await self._files.create(part.input_file_id, state.endpoint, state.completion_window, metadata)

    async def refresh(self, part: Part) -> None:
        """Ask how a part is doing."""
        before = part.status
        await self.take_over(part, await self.batch(part.batch_id or ""))
        if part.status != before:
            logger.info("Batch job {}: batch {} is {}", self._state.id, part.batch_id, part.status)
            self._save()

    async def cancel(self, part: Part) -> None:
        """Ask for a part's end; one that has ended meanwhile is left as it is."""
        try:
            batch = await self._again(lambda: self._files.cancel(part.batch_id or ""), f"cancel {part.batch_id}")
            await self.take_over(part, batch)
        except ProviderFailedError:
            await self.refresh(part)
            if not part.ended:
                raise
        self._save()

    async def take_over(self, part: Part, batch: dict[str, Any]) -> None:
        """Take over what the provider says of a part; its reasons for a refusal are kept without what they quote."""
        before = part.errors
        part.update(batch)
        if len(part.errors) == len(before):
            part.errors = before
        elif part.errors:
            lines = await self._input_lines(part)
            for error in part.errors:
                number = error["line"]
                named = isinstance(number, int) and 0 < number <= len(lines)
                asked = lines[number - 1] if named else "\n".join(lines)
                error["message"] = clean(str(error["message"]), {"input": asked}) if lines else MESSAGE_LEFT_OUT

    async def _input_lines(self, part: Part) -> list[str]:
        """The provider's copy of a part's input file; empty where there is none."""
        try:
            async with self.copy(part.input_file_id or "") as path:
                return (await asyncio.to_thread(path.read_text, "utf-8", "replace")).splitlines()
        except ProviderFailedError:
            return []

    @asynccontextmanager
    async def copy(self, file_id: str) -> AsyncIterator[Path]:
        """A file's content on this machine, for as long as it is needed."""
        with tempfile.TemporaryDirectory(prefix="llmbatch-") as directory:
            path = Path(directory) / "copy.jsonl"
            await self.download(file_id, path)
            yield path

    async def download(self, file_id: str, path: Path) -> None:
        """A file's content into `path`."""
        await self._again(lambda: self._files.download(file_id, path), f"download {file_id}")

    async def batch(self, batch_id: str) -> dict[str, Any]:
        """Any batch of the account."""
        return await self._again(lambda: self._files.retrieve(batch_id), f"look at {batch_id}")

    async def batches_of(self, job_id: str) -> list[dict[str, Any]]:
        """The batches that carry a job's tag, in the order of its parts."""

        async def look() -> list[dict[str, Any]]:
            return [job async for job in self._files.jobs() if (job.get("metadata") or {}).get(JOB_TAG) == job_id]

        found = await self._again(look, "list the batches")
        return sorted(found, key=lambda job: (job.get("created_at") or 0, str(job["metadata"].get(PART_TAG, ""))))

    async def _read_by_provider(self, uploaded: dict[str, Any]) -> None:
        """Azure refuses a batch of a file that it has not finished reading."""
        status, waited = str(uploaded.get("status")), 0.0
        while status in _STILL_READING and waited < _READING_SECONDS:
            await asyncio.sleep(_READING_POLL)
            waited += _READING_POLL
            status = await self._again(lambda: self._files.file_status(uploaded["id"]), f"look at {uploaded['id']}")
        if status == "error":
            raise BatchJobError(
                f"the provider cannot read the uploaded file {uploaded['id']}; submit again with a new state file"
            )

    async def _lost_upload(self, part: Part) -> dict[str, Any] | None:
        """The file of an upload whose answer was lost. Where files cannot be listed, a second one does no harm."""
        return await self._found(self._files.uploads, lambda file: file.get("filename") == part.name, harmless=True)

    async def _lost_job(self, part: Part) -> dict[str, Any] | None:
        """The batch of a creation whose answer was lost."""

        def ours(job: dict[str, Any]) -> bool:
            metadata = job.get("metadata") or {}
            tagged = (metadata.get(JOB_TAG), metadata.get(PART_TAG)) == (self._state.id, part.name)
            return tagged or job.get("input_file_id") == part.input_file_id

        return await self._found(self._files.jobs, ours, harmless=False)

    async def _found(
        self,
        listed: Callable[[], AsyncIterator[dict[str, Any]]],
        ours: Callable[[dict[str, Any]], bool],
        *,
        harmless: bool,
    ) -> dict[str, Any] | None:
        async def look() -> dict[str, Any] | None:
            async for item in listed():
                if ours(item):
                    return item
                if (item.get("created_at") or self._state.created_at) < self._state.created_at - _OLDER:
                    break
            return None

        try:
            return await self._again(look, "look for what a lost answer was about")
        except ProviderFailedError as exc:
            if exc.failure.status_code not in _UNLISTED and exc.failure.type != BatchNotSupportedError.__name__:
                raise
            if harmless:
                return None
            raise BatchJobError(
                "the connection was lost while the batch was being created, and the provider has no list to look it up "
                "in; see in its console whether the batch is there before you submit again with a new state file"
            ) from None

    def _classified(self, exc: Exception, sent: Path | None) -> Failure:
        asked = None if sent is None else sent.read_text("utf-8", "replace")
        return classify(exc, self._state.provider, {**self._access, "input": asked})

    async def _again(
        self,
        operation: Callable[[], Awaitable[T]],
        what: str,
        lost: Callable[[], Awaitable[Any]] | None = None,
        sent: Path | None = None,
    ) -> T:
        """Do it again after faults. `lost` looks for the outcome of a try whose answer did not arrive.

        `sent` is the file that a refusal may quote.
        """

        async def once() -> T:
            try:
                return await operation()
            except Exception as exc:
                failure = await asyncio.to_thread(self._classified, exc, sent)
                unsure = failure.billed is None or failure.status_code in _SERVER_ERRORS
                if lost is not None and unsure and (found := await lost()) is not None:
                    return found  # type: ignore[no-any-return]  # what the operation would have returned
                logger.debug("Batch job {}: could not {}: {}", self._state.id, what, failure.type)
                raise AttemptFailedError(failure) from exc

        try:
            return await retrying(_RETRIES)(once)
        except AttemptFailedError as exc:
            failure = exc.failure
            status = f" (status {failure.status_code})" if failure.status_code else ""
            msg = f"{self._state.provider} did not {what}: {failure.type}{status}: {failure.message}"
            refusal = ProviderFailedError(msg)
            refusal.failure = failure
            raise refusal from None
