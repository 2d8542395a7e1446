"""Batch jobs: the same rows from the provider's own Batch API, at batch prices, within hours.

    job = submit_batch_job(messages_list, model="gpt-4o-mini", state="job.json")
    results = job.wait().results()          # BatchResults, as create_chat_completions_batch returns them

The state file is written before anything is created at the provider. After an interruption, the same call with the
same file continues the submission, and `BatchJob.load("job.json")` finds the job again from any process.
"""

from __future__ import annotations

import asyncio
import os
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Unpack

from llmbatch._jobs import resubmit, submit
from llmbatch._jobs.batch_job import BatchJob, PathLike
from llmbatch._jobs.provider_job import ProviderJob, prepared_job
from llmbatch._request.plans import DEFAULT_MAX_TOKENS, DEFAULT_TEMPERATURE
from llmbatch._rows.structured_output import ResponseFormat
from llmbatch._util.background_loop import awaited, in_background
from llmbatch.options import ChatOptions

__all__ = [
    "BatchJob",
    "aretrieve_batch_job",
    "asubmit_batch_job",
    "retrieve_batch_job",
    "submit_batch_job",
]


def submit_batch_job(
    requests: Iterable[Any] | PathLike,
    model: str | None = None,
    temperature: float | None = DEFAULT_TEMPERATURE,
    max_tokens: int | None = DEFAULT_MAX_TOKENS,
    *,
    metadata: dict[str, str] | None = None,
    state: PathLike | None = None,
    max_rows: int | None = None,
    max_bytes: int | None = None,
    **options: Unpack[ChatOptions],
) -> BatchJob:
    """Submit a list of requests, a list of payloads, or a batch file, to the provider's Batch API.

    Takes the arguments of `create_chat_completions_batch` and sends the same bodies. Requests for several models of one
    provider make an input file for each model; requests for another provider, address or key raise ValueError. Payloads
    and files have their own parameters: with them, pass only `model` (LiteLLM's name of it), `api_base`, `api_key` and
    other options of the connection.

    Args:
        requests: requests, payloads of `render_batch_requests` or `render_embeddings_requests`, or a JSONL path.
        model: LiteLLM's model string.
        temperature: as in `create_chat_completions_batch`.
        max_tokens: as in `create_chat_completions_batch`.
        completion_window: how long the provider may take; most providers accept "24h" only.
        metadata: up to 14 strings by name, kept with the batches at the provider.
        state: path of the job's state file. The same call with the same file never submits twice.
        max_rows: maximum number of lines in an input file (default: the provider's limit). More rows make more files.
        max_bytes: maximum size of an input file (default: the provider's limit).
        custom_ids: one id for each row, instead of ids derived from the requests.
        max_cost: spending cap in USD; a job that may cost more is not submitted.
        kwargs: LiteLLM's, as in `create_chat_completions_batch`.

    Returns a BatchJob. Raises ValueError or TypeError for misuse, NotImplementedError for a provider without batch
    support, BatchJobError if the provider rejects the job; the state file then says what was created.

    Example:
        job = submit_batch_job([[{"role": "user", "content": "Hi"}]], model="gpt-4o-mini", state="job.json")
        job.wait().results().texts
    """
    how = {"metadata": metadata or {}, "max_rows": max_rows, "max_bytes": max_bytes}
    return in_background(_submitted(options, how, state, requests, model, temperature, max_tokens))


async def asubmit_batch_job(
    requests: Iterable[Any] | PathLike,
    model: str | None = None,
    temperature: float | None = DEFAULT_TEMPERATURE,
    max_tokens: int | None = DEFAULT_MAX_TOKENS,
    *,
    metadata: dict[str, str] | None = None,
    state: PathLike | None = None,
    max_rows: int | None = None,
    max_bytes: int | None = None,
    **options: Unpack[ChatOptions],
) -> BatchJob:
    """Submit requests to the provider's Batch API; the async version of `submit_batch_job`.

    Example:
        job = await asubmit_batch_job(chats, model="gpt-4o-mini", state="chats.json")
    """
    how = {"metadata": metadata or {}, "max_rows": max_rows, "max_bytes": max_bytes}
    return await awaited(_submitted(options, how, state, requests, model, temperature, max_tokens))


def retrieve_batch_job(
    job: PathLike | Sequence[str],
    *,
    model: str | None = None,
    response_format: ResponseFormat | None = None,
    **kwargs: Any,
) -> BatchJob:
    """Return a job by its state file, by llmbatch's id ("job-…"), or by the provider's batch id or ids ("batch_…").

    Without a state file, the rows' ids are read from the provider's copy of the input files. Then pass `model`,
    `api_base`, `api_key` and other options of the connection as you did for the submission.

    Example:
        job = retrieve_batch_job("job.json")
        print(job.status, job.request_counts)
    """
    return in_background(_found(job, model, response_format, kwargs))


async def aretrieve_batch_job(
    job: PathLike | Sequence[str],
    *,
    model: str | None = None,
    response_format: ResponseFormat | None = None,
    **kwargs: Any,
) -> BatchJob:
    """Return a job by its state file or ids; the async version of `retrieve_batch_job`.

    Example:
        job = await aretrieve_batch_job("job.json")
    """
    return await awaited(_found(job, model, response_format, kwargs))


async def _submitted(
    options: ChatOptions,
    how: dict[str, Any],
    state: PathLike | None,
    *arguments: *tuple[Any, str | None, float | None, int | None],
) -> BatchJob:
    """Submit the job of a public function's arguments. An interruption says how to find the job, since it continues."""
    given: dict[str, Any] = dict(options)
    window, custom_ids = given.pop("completion_window", "24h"), given.pop("custom_ids", None)
    submission = await asyncio.to_thread(submit.prepare, *arguments, custom_ids, given)
    with tempfile.TemporaryDirectory(prefix="llmbatch-") as directory:
        path = None if state is None else Path(state)
        job, paths = await prepared_job(submission, path, Path(directory), completion_window=window, **how)
        try:
            await job.submit(paths, job.state.input_files[: len(paths)])
        except asyncio.CancelledError as exc:
            exc.add_note(job.resume_hint())
            raise
    return BatchJob(job.state, path=path, access=job.access, response_format=job.response_format)


async def _found(
    job: PathLike | Sequence[str], model: str | None, response_format: ResponseFormat | None, given: dict[str, Any]
) -> BatchJob:
    await asyncio.to_thread(submit.check_access_names, given, model)
    if isinstance(job, os.PathLike) or (isinstance(job, str) and os.path.exists(job)):  # noqa: ASYNC240, PTH110 - one look at a local path
        known = BatchJob.load(job, response_format=response_format, **given)
        return await known.arefresh()
    state, access = await asyncio.to_thread(submit.empty_state, model, given)
    found = BatchJob(state, access=access, response_format=response_format)
    async with ProviderJob(state, None, access, None).remote() as remote:
        await resubmit.recover(state, remote, [job] if isinstance(job, str) else list(job))
    return found
