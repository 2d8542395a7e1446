"""A job's requests to its provider: retried after transient errors, and never carried out twice."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Self, TypeVar

from llmbatch._jobs.job_state import FILE_NOT_FOUND, InputFile, JobState
from llmbatch._litellm.provider_files import Access, Files, open_files
from llmbatch._request.classify import classify
from llmbatch._request.failures import Failure, clean
from llmbatch._request.retry import AttemptFailedError, retrying
from llmbatch._util.batch_log import logger
from llmbatch.errors import BatchJobError, BatchNotSupportedError

T = TypeVar("T")
_Batch = dict[str, Any]
_Lookup = Callable[[], Awaitable[_Batch | None]]

JOB_TAG, FILE_TAG = "llmbatch_job", "llmbatch_part"  # in a batch's metadata; older jobs have these names
MESSAGE_LEFT_OUT = "the provider's message may quote the request; it is left out since the provider's copy is gone"
_RETRIES = 6
_SERVER_ERRORS = range(500, 600)
_NO_LISTING = {404, 405, 501}
_STILL_READING = {"pending", "running"}
_READING_SECONDS, _READING_POLL = 600.0, 2.0
_CLOCK_SKEW = 86_400  # seconds by which the provider's clock may be behind
_ENDED = {"completed", "failed", "expired", "cancelled"}


class ProviderFailedError(BatchJobError):
    """The provider rejected one operation, or failed at it in every attempt; `failure` says how."""

    failure: Failure


class Remote:
    """One job at its provider. Use it in `async with`; `save` is called whenever the state has changed."""

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

    async def submit(self, file: InputFile, path: Path | None) -> None:
        """Upload an input file and create its batch, but not what an earlier try has done.

        `path` is None for a file that was uploaded before.
        """
        if file.input_file_id is None:
            assert path is not None  # noqa: S101 - it is to be uploaded
            send, find = partial(self._files.upload, path, file.name), partial(self._find_upload, file)
            uploaded = await self._once(file, "upload", f"upload {file.name}", send, find, path)
            if not uploaded.get("id"):
                raise BatchJobError(f"the provider gave no id for the uploaded file {file.name}; submit again")
            file.input_file_id = uploaded["id"]
            self._save()
            logger.info("Batch job {}: {} is file {}", self._state.id, file.name, file.input_file_id)
            await self._wait_until_read(uploaded)
        if file.batch_id is None:
            send, find = partial(self._create, file), partial(self._find_batch, file)
            batch = await self._once(file, "create", f"create the batch of {file.name}", send, find, path)
            if not batch.get("id"):
                raise BatchJobError(
                    f"the provider gave no id for the batch of {file.name}; check in its console whether it exists"
                )
            await self.take_over(file, batch)
            logger.info("Batch job {}: {} is batch {}", self._state.id, file.name, file.batch_id)
            self._wait_if_rejected(file)
            self._save()

    async def _once(  # noqa: PLR0917 - one step of `submit`
        self, file: InputFile, step: str, what: str, send: Callable[[], Awaitable[_Batch]], find: _Lookup,
        path: Path | None,
    ) -> _Batch:  # fmt: skip
        """Return what a step has created, in this try or in an earlier one whose response was lost."""
        if file.tried == step and (found := await find()) is not None:
            return found
        file.tried = step
        self._save()
        return await self._retried(send, what, find, path)

    async def _create(self, file: InputFile) -> _Batch:
        state = self._state
        metadata = {JOB_TAG: state.id, FILE_TAG: file.name, **state.metadata}
        assert file.input_file_id is not None  # noqa: S101 - uploaded before
        return await self._files.create(file.input_file_id, state.endpoint, state.completion_window, metadata)

    async def refresh(self, file: InputFile) -> None:
        """Update an input file's status."""
        before = file.status
        await self.take_over(file, await self.batch(file.batch_id or ""))
        if file.status != before:
            logger.info("Batch job {}: batch {} is {}", self._state.id, file.batch_id, file.status)
            self._wait_if_rejected(file)
            self._save()

    def _wait_if_rejected(self, file: InputFile) -> None:
        """Let a file be submitted again whose batch failed for a reason that passes."""
        if file.wait_for_resubmission():
            logger.warning("Batch job {}: {} is submitted again later: {}", self._state.id, file.name, _reason(file))

    async def cancel(self, file: InputFile) -> None:
        """Cancel an input file's batch, unless it has ended."""
        if file.batch_id is None:
            file.status = "cancelled"
            self._save()
            return
        try:
            batch = await self._retried(lambda: self._files.cancel(file.batch_id or ""), f"cancel {file.batch_id}")
            await self.take_over(file, batch)
        except ProviderFailedError:
            await self.refresh(file)
            if not file.ended:
                raise
        self._save()

    async def take_over(self, file: InputFile, batch: _Batch) -> None:
        """Update an input file from the provider's batch; its errors are kept without what they quote of requests."""
        before = file.errors
        file.update(batch)
        if len(file.errors) == len(before) and not file.rejections:
            file.errors = before
        elif file.errors and not file.queue_was_full:  # that one quotes nothing
            lines = await self._input_lines(file)
            for error in file.errors:
                number = error["line"]
                named = isinstance(number, int) and 0 < number <= len(lines)
                sent = lines[number - 1] if named else "\n".join(lines)
                error["message"] = clean(str(error["message"]), {"input": sent}) if lines else MESSAGE_LEFT_OUT

    async def _input_lines(self, file: InputFile) -> list[str]:
        """Return the lines of the provider's copy of an input file, none if it has no copy."""
        try:
            async with self.copy(file.input_file_id or "") as path:
                return (await asyncio.to_thread(path.read_text, "utf-8", "replace")).splitlines()
        except ProviderFailedError:
            return []

    @asynccontextmanager
    async def copy(self, file_id: str) -> AsyncIterator[Path]:
        """Download a file for as long as it is needed."""
        with tempfile.TemporaryDirectory(prefix="llmbatch-") as directory:
            path = Path(directory) / "copy.jsonl"
            await self.download(file_id, path)
            yield path

    async def download(self, file_id: str, path: Path) -> None:
        """Download a file to `path`."""
        await self._retried(lambda: self._files.download(file_id, path), f"download {file_id}")

    async def batch(self, batch_id: str) -> _Batch:
        """Return any batch of the account."""
        return await self._retried(lambda: self._files.retrieve(batch_id), f"look at {batch_id}")

    async def batches_of(self, job_id: str) -> list[_Batch]:
        """Return the batches that carry a job's tag, in the order of its input files."""

        async def look() -> list[_Batch]:
            return [batch async for batch in self._files.jobs() if (batch.get("metadata") or {}).get(JOB_TAG) == job_id]

        found = await self._retried(look, "list the batches")
        return sorted(found, key=lambda batch: (batch.get("created_at") or 0, str(batch["metadata"].get(FILE_TAG, ""))))

    async def queue_is_empty(self) -> bool:
        """Whether no batch of the account is running, as far as the provider lists them."""

        def running(batch: _Batch) -> bool:
            return str(batch.get("status")).lower() not in _ENDED

        try:
            return await self._first_listed(self._files.jobs, running) is None
        except ProviderFailedError:
            return False

    async def find_running_batch(self, file: InputFile) -> _Batch | None:
        """Return the batch that another process has created for a waiting input file."""
        try:
            return await self._first_listed(self._files.jobs, partial(self._is_batch_of, file))
        except ProviderFailedError:
            return None

    async def _wait_until_read(self, uploaded: _Batch) -> None:
        """Wait until Azure has read a file: it rejects a batch of one that it has not."""
        status, waited = str(uploaded.get("status")), 0.0
        while status in _STILL_READING and waited < _READING_SECONDS:
            await asyncio.sleep(_READING_POLL)
            waited += _READING_POLL
            status = await self._retried(lambda: self._files.file_status(uploaded["id"]), f"look at {uploaded['id']}")
        if status == "error":
            raise BatchJobError(
                f"the provider cannot read the uploaded file {uploaded['id']}; submit again with a new state file"
            )

    async def _find_upload(self, file: InputFile) -> _Batch | None:
        """Return the file of an upload whose response was lost. A second upload does no harm."""
        return await self._find(self._files.uploads, lambda item: item.get("filename") == file.name, harmless=True)

    async def _find_batch(self, file: InputFile) -> _Batch | None:
        """Return the batch of a creation whose response was lost."""
        return await self._find(self._files.jobs, partial(self._is_batch_of, file), harmless=False)

    def _is_batch_of(self, file: InputFile, batch: _Batch) -> bool:
        """Whether a listed batch is an input file's; earlier ones that the provider rejected are not."""
        metadata = batch.get("metadata") or {}
        tagged = (metadata.get(JOB_TAG), metadata.get(FILE_TAG)) == (self._state.id, file.name)
        ours = tagged or batch.get("input_file_id") == file.input_file_id
        return ours and not (file.rejections and str(batch.get("status")).lower() == "failed")

    async def _find(
        self, listing: Callable[[], AsyncIterator[_Batch]], is_sought: Callable[[_Batch], bool], *, harmless: bool
    ) -> _Batch | None:
        """Look for what a request created whose response was lost. Raises BatchJobError if that cannot be found out."""
        try:
            return await self._first_listed(listing, is_sought)
        except ProviderFailedError as exc:
            if exc.failure.status_code not in _NO_LISTING and exc.failure.type != BatchNotSupportedError.__name__:
                raise
            if harmless:
                return None
            raise BatchJobError(
                "the connection was lost while the batch was being created, and the provider has no list to look it up "
                "in; check in its console whether the batch exists before you submit again with a new state file"
            ) from None

    async def _first_listed(
        self, listing: Callable[[], AsyncIterator[_Batch]], is_sought: Callable[[_Batch], bool]
    ) -> _Batch | None:
        """Return the newest listed item that is sought; items older than the job are not looked at."""

        async def look() -> _Batch | None:
            async for item in listing():
                if is_sought(item):
                    return item
                if (item.get("created_at") or self._state.created_at) < self._state.created_at - _CLOCK_SKEW:
                    break
            return None

        return await self._retried(look, "list what was created")

    def _classify(self, exc: Exception, sent: Path | None) -> Failure:
        text = None if sent is None else sent.read_text("utf-8", "replace")
        return classify(exc, self._state.provider, {**self._access, "input": text})

    async def _retried(
        self, operation: Callable[[], Awaitable[T]], what: str, find: _Lookup | None = None, sent: Path | None = None
    ) -> T:
        """Return what an operation returns, retried after transient errors.

        `find` looks for the outcome of an attempt whose response was lost. `sent` is the file that an error may quote.
        """

        async def attempt() -> T:
            try:
                return await operation()
            except Exception as exc:
                failure = await asyncio.to_thread(self._classify, exc, sent)
                unsure = failure.billed is None or failure.status_code in _SERVER_ERRORS
                if find is not None and unsure and (found := await find()) is not None:
                    return found  # type: ignore[return-value]  # what the operation would have returned
                if find is not None and failure.status_code is not None and FILE_NOT_FOUND.search(failure.message):
                    failure = replace(failure, retryable=True)  # the file was uploaded a moment ago
                logger.debug("Batch job {}: could not {}: {}", self._state.id, what, failure.type)
                raise AttemptFailedError(failure) from exc

        try:
            return await retrying(_RETRIES)(attempt)
        except AttemptFailedError as exc:
            failure = exc.failure
            status = f" (status {failure.status_code})" if failure.status_code else ""
            error = ProviderFailedError(
                f"{self._state.provider} did not {what}: {failure.type}{status}: {failure.message}"
            )
            error.failure = failure
            raise error from None


def _reason(file: InputFile) -> str:
    """Return the provider's reason for rejecting an input file."""
    error = file.errors[0] if file.errors else {}
    return clean(f"{error.get('code') or 'error'}: {error.get('message')}")
