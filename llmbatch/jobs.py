"""Batch jobs: the same rows through the provider's own Batch API, at batch prices, within hours.

    job = submit_batch_job(messages_list, model="gpt-4o-mini", state="job.json")
    results = job.wait().results()          # BatchResults, as create_chat_completions_batch returns them

The state file is written before anything is created at the provider. The same call with the same file goes on where a
killed one stopped, and `BatchJob.load("job.json")` finds the job again from any process.
"""

from __future__ import annotations

import asyncio
import os
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Unpack

from llmbatch._jobs import resubmit, submit
from llmbatch._jobs.batch_job import BatchJob, PathLike, begun
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
    """Submit a list of requests, of payloads, or a batch file, to the provider's Batch API.

    Takes the arguments of `create_chat_completions_batch` and sends the same bodies. Requests for several models of one
    provider make several files; requests for another provider, address or key are refused. Payloads and files carry
    their own parameters: with them only `model` (LiteLLM's name, for the provider), `api_base`, `api_key` and the like
    count.

    Args:
        requests: requests, payloads of `render_batch_requests` or `render_embeddings_requests`, or a JSONL path.
        model: LiteLLM's model string.
        temperature: as in `create_chat_completions_batch`.
        max_tokens: as in `create_chat_completions_batch`.
        completion_window: how long the provider may take; most know "24h" only.
        metadata: up to 14 strings by name to keep with the batches.
        state: path of the job's state file; the same call with the same file never submits twice.
        max_rows: lines of an input file, the provider's limit unless given; more rows make more files.
        max_bytes: bytes of an input file, likewise.
        custom_ids: one id a row, instead of the ids derived from the requests.
        max_cost: USD never to exceed; a job that may cost more is not submitted.
        kwargs: LiteLLM's, as in `create_chat_completions_batch`.

    Returns a BatchJob. Raises ValueError or TypeError for misuse, NotImplementedError for a provider without support,
    BatchJobError when the provider refuses; then the state file remembers what was created.

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
    """Submit to the provider's Batch API; the awaitable twin of `submit_batch_job`.

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
    """A job by its state file, by llmbatch's id ("job-…"), or by the provider's batch id or ids ("batch_…").

    Without a state file the rows' ids are read from the provider's copy of the input files, and `model` (LiteLLM's
    name, for the provider) and `api_base`, `api_key` and the like must be given as at the submission.

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
    """Find a job; the awaitable twin of `retrieve_batch_job`.

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
    """The job of a public function's arguments; an interruption says how to find it again, since it goes on."""
    given: dict[str, Any] = dict(options)
    window, custom_ids = given.pop("completion_window", "24h"), given.pop("custom_ids", None)
    submission = await asyncio.to_thread(submit.prepare, *arguments, custom_ids, given)
    with tempfile.TemporaryDirectory(prefix="llmbatch-") as directory:
        job, files = await begun(submission, state, Path(directory), completion_window=window, **how)
        try:
            await job.submit(files)
        except asyncio.CancelledError as exc:
            exc.add_note(job.left())
            raise
    return job


async def _found(
    job: PathLike | Sequence[str], model: str | None, response_format: ResponseFormat | None, given: dict[str, Any]
) -> BatchJob:
    if isinstance(job, os.PathLike) or (isinstance(job, str) and os.path.exists(job)):  # noqa: ASYNC240, PTH110 - one look at a local path
        known = BatchJob.load(job, response_format=response_format, **given)
        return await known.arefresh()
    state, access = await asyncio.to_thread(submit.unknown_state, model, given)
    found = BatchJob(state, access=access, response_format=response_format)
    async with found.remote() as remote:
        await resubmit.recover(state, remote, [job] if isinstance(job, str) else list(job))
    return found
