"""Chat completions for lists: the functions that users call."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from typing import Any, Literal, Unpack, cast

from llmbatch import _litellm
from llmbatch._batch.batch import Batch
from llmbatch._batch.chat_run import ChatRun
from llmbatch._batch.prepare import chat_batch
from llmbatch._batch.streams import Events, StreamEvent
from llmbatch._jobs.job_state import job_state_path
from llmbatch._litellm.calls import rehearse
from llmbatch._request.parsed_request import Request
from llmbatch._request.plans import DEFAULT_MAX_TOKENS, DEFAULT_TEMPERATURE
from llmbatch._rows.row import Row
from llmbatch._rows.structured_output import M
from llmbatch._util.background_loop import Stream, awaited, in_background
from llmbatch._util.checks import checked_messages
from llmbatch.errors import RequestFailedError
from llmbatch.options import JOB_LANES, ChatOptions
from llmbatch.providers import copilot
from llmbatch.results import BatchResults

__all__ = [
    "acreate_chat_completion",
    "acreate_chat_completions_batch",
    "acreate_chat_completions_batch_copilot",
    "as_completed",
    "awarm_up",
    "create_chat_completion",
    "create_chat_completions_batch",
    "create_chat_completions_batch_copilot",
    "stream_chat_completions_batch",
    "warm_up",
]

_Settings = tuple[str | None, float | None, int | None]
_Arguments = tuple[Iterable[Request], *_Settings, int | Literal["auto"]]


def create_chat_completions_batch(
    messages_list: Iterable[Request],
    model: str | None = None,
    temperature: float | None = DEFAULT_TEMPERATURE,
    max_tokens: int | None = DEFAULT_MAX_TOKENS,
    max_workers: int | Literal["auto"] = 10,
    **options: Unpack[ChatOptions[M]],
) -> BatchResults[M]:
    """Answer a list of requests concurrently: one row in, one row out, in order, whatever fails.

    Returns BatchResults, a list of rows in the order of the input. A failed request is a row with `error`; misuse of
    the call raises ValueError or TypeError before anything is sent.

    Args:
        messages_list: requests, in a list or a generator. Each is a prompt, a conversation (a list of
            `{"role", "content"}` dicts), or a dict with `prompt` or `messages`, and whatever stands for this row before
            what the call says: `model`, `temperature`, any other parameter, `custom_id`, and `metadata` (any JSON),
            which comes back in the row and is never sent. A line of a batch file is such a dict too.
        model: LiteLLM's model string; else the environment's MODEL_CHOICE, else gpt-4o-mini.
        temperature: 0 to 2; None leaves it out. The default is not sent to models that take none.
        max_tokens: tokens of each answer at most; None leaves it out. The default is not sent to reasoning models.
        max_workers: requests in flight at most, or "auto": as many as make it faster.
        options: llmbatch's own, below. Everything else goes to LiteLLM untouched, as in `seed=1` or
            `api_base="http://…/v1"`.

    Options:
        requests_per_minute, tokens_per_minute: limits never to exceed, for each account (provider, address and key),
            all its models together; left out, they are learnt from the provider, for each model.
        retries: faults (5xx, resets, timeouts) that a row survives, 6; refusals for a rate limit do not count.
        timeout: seconds for one whole attempt, 600; None for no end.
        deadline: seconds for the whole batch; rows not done by then become error rows, and a generator is asked for
            no more.
        max_cost: USD never to exceed; each request's worst case is reserved before it is sent. What nothing bounds
            (web search, other tools that the provider runs) is refused.
        fallbacks: models to try, in order, when a row finally fails.
        reask: times to ask again, in the same conversation, for an answer that does not fit `response_format` (with
            what pydantic says of it), that `validate` refuses, or that was cut off (with twice the tokens), 0.
        validate: a function of a row that returns None, or what is wrong with its answer.
        dedupe: True sends requests that ask the very same once; the other rows are copies at no cost, whose `same_as`
            is the index of the one that was sent. Answers are remembered until the batch has ended.
        checkpoint: path of a journal of finished rows; a rerun sends only what is missing or failed.
        warm_prompt_cache: let one row of each shared beginning go first, so that the others meet a warm cache.
        progress: True or False for the bar; None shows it in a notebook, and to a script in its terminal.
        on_result: called with (index, row) as each row finishes, on llmbatch's own thread.
        custom_ids: one id a row, instead of the ids derived from the requests.
        processes: in how many processes LiteLLM's part of the calls runs, or "auto": as many as there are cores.
        lane: "live"; "job", the provider's own batch job, at batch prices, which is waited for; "flex", OpenAI's flex
            tier, and the standard one where that has no resources; or "cheapest": a job for as long as the `deadline`
            allows, and the rest live. A job's rows come as its files are done; a "job" asks again in further files,
            the others live. The same call with its `checkpoint` goes on with the job that it left (its state is beside
            the journal, `….job`).
        batch_job: True is lane="job" as it was called first.

    Example:
        results = create_chat_completions_batch([[{"role": "user", "content": "Capital of France?"}]])
        print(results.texts, results.summary())
    """
    return in_background(_collected(options, messages_list, model, temperature, max_tokens, max_workers))


async def acreate_chat_completions_batch(
    messages_list: Iterable[Request],
    model: str | None = None,
    temperature: float | None = DEFAULT_TEMPERATURE,
    max_tokens: int | None = DEFAULT_MAX_TOKENS,
    max_workers: int | Literal["auto"] = 10,
    **options: Unpack[ChatOptions[M]],
) -> BatchResults[M]:
    """Answer a list of conversations concurrently; the awaitable twin of `create_chat_completions_batch`.

    Example:
        results = await acreate_chat_completions_batch([[{"role": "user", "content": "Capital of France?"}]])
    """
    return await awaited(_collected(options, messages_list, model, temperature, max_tokens, max_workers))


def as_completed(
    messages_list: Iterable[Request],
    model: str | None = None,
    temperature: float | None = DEFAULT_TEMPERATURE,
    max_tokens: int | None = DEFAULT_MAX_TOKENS,
    max_workers: int | Literal["auto"] = 10,
    **options: Unpack[ChatOptions[M]],
) -> Stream[tuple[int, Row]]:
    """Answer conversations concurrently and yield `(index, row)` as they finish, for any number of rows.

    Both `for index, row in as_completed(…)` and `async for` work. Memory does not grow with the number of rows: a slow
    consumer slows the sending. Leaving the loop early cancels what is in flight. Takes the arguments of
    `create_chat_completions_batch`.

    Example:
        for index, row in as_completed(chats, "gpt-4o-mini", checkpoint="run.jsonl"):
            print(index, row["cost"])
    """
    return Stream(_batch(options, messages_list, model, temperature, max_tokens, max_workers).as_completed())


def stream_chat_completions_batch(
    messages_list: Iterable[Request],
    model: str | None = None,
    temperature: float | None = DEFAULT_TEMPERATURE,
    max_tokens: int | None = DEFAULT_MAX_TOKENS,
    max_workers: int | Literal["auto"] = 10,
    **options: Unpack[ChatOptions[M]],
) -> Stream[StreamEvent]:
    r"""Answer conversations concurrently and yield each answer's pieces as they arrive.

    Yields dicts: `{"index", "attempt", "delta"}` with the next piece of text (of the first choice; other choices have
    `"choice"`), and at each row's end `{"index", "row"}` with the whole row, usage and cost included. When `attempt`
    rises, the pieces before are void: the row is being sent again. A stream cut short is a failed row. Takes the
    arguments of `create_chat_completions_batch`.

    Example:
        for event in stream_chat_completions_batch(chats, "gpt-4o-mini"):
            print(event["index"], event.get("delta", "\n"))
    """
    return Stream(aiter(Events(_batch(options, messages_list, model, temperature, max_tokens, max_workers))))


def create_chat_completions_batch_copilot(
    messages_list: Iterable[Request],
    model: str = "gpt-4o",
    temperature: float | None = DEFAULT_TEMPERATURE,
    max_tokens: int | None = DEFAULT_MAX_TOKENS,
    max_workers: int | Literal["auto"] = 10,
    **options: Unpack[ChatOptions[M]],
) -> BatchResults[M]:
    """Answer a list of conversations through GitHub Copilot, with the token of GITHUB_TOKEN.

    Takes the options of `create_chat_completions_batch`. Requests are paced evenly at COPILOT_REQUESTS_PER_MINUTE (60).
    Costs are None: Copilot is paid by subscription. Returns BatchResults.

    Example:
        results = create_chat_completions_batch_copilot(chats, "gpt-4o")
    """
    return in_background(_collected(options, messages_list, copilot.named(model), temperature, max_tokens, max_workers))


async def acreate_chat_completions_batch_copilot(
    messages_list: Iterable[Request],
    model: str = "gpt-4o",
    temperature: float | None = DEFAULT_TEMPERATURE,
    max_tokens: int | None = DEFAULT_MAX_TOKENS,
    max_workers: int | Literal["auto"] = 10,
    **options: Unpack[ChatOptions[M]],
) -> BatchResults[M]:
    """Answer through GitHub Copilot; the awaitable twin of `create_chat_completions_batch_copilot`.

    Example:
        results = await acreate_chat_completions_batch_copilot(chats)
    """
    return await awaited(_collected(options, messages_list, copilot.named(model), temperature, max_tokens, max_workers))


def create_chat_completion(
    messages: Sequence[Any],
    model: str | None = None,
    temperature: float | None = DEFAULT_TEMPERATURE,
    max_tokens: int | None = DEFAULT_MAX_TOKENS,
    **options: Unpack[ChatOptions[M]],
) -> Row:
    """Answer one conversation; returns its row, and raises RequestFailedError when it fails for good.

    Takes the options of `create_chat_completions_batch`. Raises ValueError or TypeError for misuse.

    Example:
        row = create_chat_completion([{"role": "user", "content": "Capital of France?"}], "gpt-4o-mini")
        print(row["choices"][0]["message"]["content"], row["usage"], row["cost"])
    """
    return in_background(_answered(options, messages, model, temperature, max_tokens))


async def acreate_chat_completion(
    messages: Sequence[Any],
    model: str | None = None,
    temperature: float | None = DEFAULT_TEMPERATURE,
    max_tokens: int | None = DEFAULT_MAX_TOKENS,
    **options: Unpack[ChatOptions[M]],
) -> Row:
    """Answer one conversation; the awaitable twin of `create_chat_completion`.

    Example:
        row = await acreate_chat_completion([{"role": "user", "content": "Capital of France?"}])
    """
    return await awaited(_answered(options, messages, model, temperature, max_tokens))


def warm_up(model: str | None = None, **options: Unpack[ChatOptions[M]]) -> None:
    """Load what the first request to a model needs (seconds of imports, its client, its prices); nothing is sent.

    For the start of a server, so that its first visitor waits no longer than the next. Takes the options of
    `create_chat_completions_batch`, and raises ValueError and TypeError as it does.

    Example:
        warm_up("gpt-4o-mini")
    """
    in_background(_warmed(model, options))


async def awarm_up(model: str | None = None, **options: Unpack[ChatOptions[M]]) -> None:
    """Load what the first request needs; the awaitable twin of `warm_up`.

    Example:
        await awarm_up("gpt-4o-mini")
    """
    await awaited(_warmed(model, options))


def _batch(options: ChatOptions, *arguments: *_Arguments) -> Batch:
    """The batch of a public function's arguments, in their order."""
    given: dict[str, Any] = dict(options)
    if given.get("batch_job") or given.get("lane") in JOB_LANES:
        from llmbatch._jobs.hybrid_run import job_batch  # noqa: PLC0415 - only batch jobs need it

        return job_batch(*arguments, given)
    if (path := given.get("checkpoint")) is not None and (state := job_state_path(path)).exists():
        raise ValueError(
            f"{state} belongs to a batch job that may still run and be charged. Collect its answers with lane='job' or "
            "lane='cheapest', or cancel it (BatchJob.load(path).cancel()) and delete the file."
        )
    return chat_batch(*arguments, **given)


async def _collected(options: ChatOptions[M], *arguments: *_Arguments) -> BatchResults[M]:
    """All rows. The slow import of litellm does not hold up other batches."""
    await asyncio.to_thread(_litellm.load)
    return await _batch(options, *arguments).collect()


async def _warmed(model: str | None, options: ChatOptions[M]) -> None:
    await asyncio.to_thread(_litellm.load)
    given: dict[str, Any] = dict(options)
    run = cast("ChatRun", chat_batch([], model, **given).run)
    await rehearse(run.ways.first.plans[0].request([{"role": "user", "content": "Hi"}]))


async def _answered(options: ChatOptions, messages: Sequence[Any], *arguments: *_Settings) -> Row:
    checked_messages(messages)
    await asyncio.to_thread(_litellm.load)
    given: dict[str, Any] = {"progress": False, **options}
    (row,) = await chat_batch([messages], *arguments, 1, **given).collect()
    if "error" in row:
        raise RequestFailedError(row)
    return row
