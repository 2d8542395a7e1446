"""Chat completions for lists: the functions that users call."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Literal, Unpack, cast

from llmbatch import _litellm
from llmbatch._batch.batch import Batch
from llmbatch._batch.chat_run import ChatRun
from llmbatch._batch.prepare import chat_batch
from llmbatch._batch.streams import Events, StreamEvent
from llmbatch._jobs.job_state import job_state_path
from llmbatch._litellm.calls import rehearse
from llmbatch._request.messages import check_messages_list, checked_messages
from llmbatch._request.parsed_request import Request, parse_request
from llmbatch._request.plans import DEFAULT_MAX_TOKENS, DEFAULT_TEMPERATURE
from llmbatch._rows.failure_type import FailureType
from llmbatch._rows.row import Row
from llmbatch._rows.structured_output import M
from llmbatch._util.background_loop import Stream, awaited, in_background
from llmbatch.errors import RequestFailedError
from llmbatch.options import JOB_LANES, ChatOptions
from llmbatch.providers import copilot
from llmbatch.results import BatchResults

if TYPE_CHECKING:
    from llmbatch.dry_run import DryRun

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
_ListSettings = tuple[*_Settings, int | Literal["auto"]]
_Arguments = tuple[Iterable[Request], *_ListSettings]


def create_chat_completions_batch(
    messages_list: Iterable[Request],
    model: str | None = None,
    temperature: float | None = DEFAULT_TEMPERATURE,
    max_tokens: int | None = DEFAULT_MAX_TOKENS,
    max_workers: int | Literal["auto"] = 10,
    **options: Unpack[ChatOptions[M]],
) -> BatchResults[M]:
    """Answer a list of requests concurrently: one row in, one row out, in order, whatever fails.

    Returns BatchResults, a list of rows in the order of the input, or a DryRun with `dry_run=True`. A failed request is
    a row with `error`; misuse of the call raises ValueError or TypeError before anything is sent.

    Args:
        messages_list: requests, in a list, a generator or a column of a table. Each is a prompt, a conversation (a list
            of `{"role", "content"}` dicts), or a dict with `prompt` or `messages`, plus any parameter you want to
            override for this request (`model`, `temperature`, `system`, …), `custom_id`, and `metadata` (any JSON),
            which is copied to the row and never sent. Lines of an OpenAI batch file are accepted too, and are sent
            without the defaults. Build parts with images, audio or files by `image_part`, `audio_part`, `file_part`.
        model: LiteLLM's model string; else the environment's MODEL_CHOICE, else gpt-4o-mini.
        temperature: 0 to 2; None leaves it out. The default is omitted for models that reject it.
        max_tokens: the most tokens of an answer; None leaves it out. The default is omitted for reasoning models.
        max_workers: the most requests in flight, or "auto": more as long as that makes the batch faster.
        options: llmbatch's own, below. Everything else goes to LiteLLM untouched, as in `seed=1` or
            `api_base="http://…/v1"`; a parameter that LiteLLM does not know either is sent to the server as it is, and
            the log and the summary name it. Another library's name for one of the options raises ValueError.

    Options:
        system: a system message for each conversation; one that has a system or developer message keeps its own.
        requests_per_minute, tokens_per_minute: hard limits per account (provider, address and key; shared by its
            models), spread evenly. Left out, they are learned from the provider, for each model.
        retries: retries per request for 5xx, resets and timeouts, 6; 429s do not count.
        server_wait: seconds to wait for a server that restarts or loads its model, 300; rows use up no retries
            meanwhile. A server that has never answered in this run gets a tenth of it. With
            `fallbacks` rows fall back instead of waiting.
        timeout: seconds for one whole attempt, 600; None for no limit.
        deadline: seconds for the whole batch; unfinished rows become errors, and no more input is read.
        max_cost: a spending cap in USD. The maximum cost of each request is reserved before it is sent; requests
            without an upper bound (web search, other tools that the provider runs) are rejected. What earlier runs with
            the same `checkpoint` have spent counts too.
        fallbacks: models to try, in order, when a row finally fails.
        reask: how often to re-ask, in the same conversation, for an answer that does not match `response_format` (with
            pydantic's errors), that `validate` rejects, or that was truncated (with twice the tokens), 0.
        validate: a function of a row that returns None, or what is wrong with its answer. It is called in threads, for
            up to 8 rows at once, and may call llmbatch.
        dedupe: True sends identical requests once. Duplicates reuse the answer for free; their `same_as` is the index
            of the row that was sent. Answers are kept in memory until the batch has ended.
        checkpoint: path of a file of finished rows; a rerun sends only what is missing or failed.
        warm_prompt_cache: send one request per shared prefix first, so that the rest hit the prompt cache.
        progress: True or False for the bar; None: on in notebooks and terminal scripts.
        on_result: called with (index, row) as each row finishes, for one row at a time, in a thread of its own.
        on_event: called with each event of the batch (`llmbatch.events`: requests sent, rate-limited and sent again,
            limits found, rows done), in a thread of its own.
        custom_ids: one id per row, instead of the ids derived from the requests.
        processes: number of worker processes for LiteLLM calls, or "auto": one for each core.
        transport: "litellm", or "direct": send rendered requests with llmbatch's own HTTP session, at a fraction of the
            CPU; the rows are the same. For OpenAI-style providers (OpenAI, Azure, Groq, Mistral, xAI, vLLM, any
            `api_base`). Other requests, streams, and calls with LiteLLM callbacks, a cache or `client=` use LiteLLM.
        deployments: servers, regions or keys that answer together, as a list of dicts of LiteLLM's arguments, or a
            LiteLLM Router's `model_list` as it is. Each request is sent to the one that is expected to answer soonest.
            A transient error moves it to another one without counting as a retry; a deployment that fails is set
            aside and probed; one without the model or with a wrong key is used no more. `name`, `rpm`, `tpm`,
            `max_parallel_requests`, `weight`, `order` and `timeout` are for one deployment, as is every address and
            key: `api_base=` and `api_key=` do not go with this. Rows have the `deployment` that answered. A request
            may name those that it may be sent to: `{"prompt": …, "deployments": ["gpu1"]}`.
        dry_run: True sends nothing and returns a DryRun with `payloads` and `estimate`.
        lane: "live"; "job", the provider's own batch job at batch prices, which is waited for; "flex", OpenAI's flex
            tier, and the standard one when that has no resources; or "cheapest": a job for as long as the `deadline`
            allows, and the rest live. A job's rows arrive as its output files do; "job" re-asks in further files, the
            other lanes live. The same call with its `checkpoint` resumes the job that it left (its state is in a file
            next to the checkpoint, `….job`).
        batch_job: deprecated alias; True is lane="job".

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
    """Answer a list of requests concurrently; the async version of `create_chat_completions_batch`.

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
    """Answer requests concurrently and yield `(index, row)` as they finish, for any number of rows.

    Both `for index, row in as_completed(…)` and `async for` work. Memory does not grow with the number of rows: a slow
    consumer slows the sending. Leaving the loop early cancels what is in flight. Takes the arguments of
    `create_chat_completions_batch`, all but `dry_run`.

    Example:
        for index, row in as_completed(chats, "gpt-4o-mini", checkpoint="run.jsonl"):
            print(index, row["cost"])
    """
    batch = _batch(options, messages_list, model, temperature, max_tokens, max_workers)
    return Stream(batch.as_completed(), stats=lambda: batch.run.stats)


def stream_chat_completions_batch(
    messages_list: Iterable[Request],
    model: str | None = None,
    temperature: float | None = DEFAULT_TEMPERATURE,
    max_tokens: int | None = DEFAULT_MAX_TOKENS,
    max_workers: int | Literal["auto"] = 10,
    **options: Unpack[ChatOptions[M]],
) -> Stream[StreamEvent]:
    r"""Answer requests concurrently and yield each answer's deltas as they arrive.

    Yields dicts: `{"index", "attempt", "delta"}` with the next text delta (of the first choice; other choices have
    `"choice"`), and at each row's end `{"index", "row"}` with the whole row, usage and cost included. When `attempt`
    rises, discard the deltas before: the row is being sent again. A stream that was cut is a failed row. Takes the
    arguments of `create_chat_completions_batch`, all but `dry_run`.

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
    """Answer a list of requests through GitHub Copilot, with the token in GITHUB_TOKEN.

    Takes the options of `create_chat_completions_batch`. Requests are spread evenly, at
    COPILOT_REQUESTS_PER_MINUTE (60). Costs are None: Copilot is paid by subscription. Returns BatchResults.

    Example:
        results = create_chat_completions_batch_copilot(chats, "gpt-4o")
    """
    return in_background(
        _collected(options, messages_list, copilot.prefixed(model), temperature, max_tokens, max_workers)
    )


async def acreate_chat_completions_batch_copilot(
    messages_list: Iterable[Request],
    model: str = "gpt-4o",
    temperature: float | None = DEFAULT_TEMPERATURE,
    max_tokens: int | None = DEFAULT_MAX_TOKENS,
    max_workers: int | Literal["auto"] = 10,
    **options: Unpack[ChatOptions[M]],
) -> BatchResults[M]:
    """Answer through GitHub Copilot; the async version of `create_chat_completions_batch_copilot`.

    Example:
        results = await acreate_chat_completions_batch_copilot(chats)
    """
    return await awaited(
        _collected(options, messages_list, copilot.prefixed(model), temperature, max_tokens, max_workers)
    )


def create_chat_completion(
    messages: Request,
    model: str | None = None,
    temperature: float | None = DEFAULT_TEMPERATURE,
    max_tokens: int | None = DEFAULT_MAX_TOKENS,
    **options: Unpack[ChatOptions[M]],
) -> Row:
    """Answer one request and return its row.

    Takes a prompt, a conversation or a dict, as an item of `create_chat_completions_batch`'s list, and its options.
    Raises RequestFailedError when the request fails for good, and ValueError or TypeError for misuse.

    Example:
        row = create_chat_completion([{"role": "user", "content": "Capital of France?"}], "gpt-4o-mini")
        print(row["choices"][0]["message"]["content"], row["usage"], row["cost"])
    """
    return in_background(_answered(options, messages, model, temperature, max_tokens))


async def acreate_chat_completion(
    messages: Request,
    model: str | None = None,
    temperature: float | None = DEFAULT_TEMPERATURE,
    max_tokens: int | None = DEFAULT_MAX_TOKENS,
    **options: Unpack[ChatOptions[M]],
) -> Row:
    """Answer one request; the async version of `create_chat_completion`.

    Example:
        row = await acreate_chat_completion([{"role": "user", "content": "Capital of France?"}])
    """
    return await awaited(_answered(options, messages, model, temperature, max_tokens))


def warm_up(model: str | None = None, **options: Unpack[ChatOptions[M]]) -> None:
    """Load what the first request to a model needs (seconds of imports, its client, its prices). Nothing is sent.

    Call it when a server starts, so that its first visitor waits no longer than the next. Takes the options of
    `create_chat_completions_batch`, and raises ValueError and TypeError as it does.

    Example:
        warm_up("gpt-4o-mini")
    """
    in_background(_warmed(model, options))


async def awarm_up(model: str | None = None, **options: Unpack[ChatOptions[M]]) -> None:
    """Load what the first request needs; the async version of `warm_up`.

    Example:
        await awarm_up("gpt-4o-mini")
    """
    await awaited(_warmed(model, options))


def _batch(options: ChatOptions, *arguments: *_Arguments) -> Batch:
    """Return the batch for a public function's arguments, in their order."""
    given: dict[str, Any] = dict(options)
    if given.get("batch_job") or given.get("lane") in JOB_LANES:
        from llmbatch._jobs.lane_batch import job_batch  # noqa: PLC0415 - only batch jobs need it

        return job_batch(*arguments, given)
    if (path := given.get("checkpoint")) is not None and (state := job_state_path(path)).exists():
        raise ValueError(
            f"{state} belongs to a batch job that may still run and be charged. Collect its answers with lane='job' or "
            "lane='cheapest', or cancel it (BatchJob.load(path).cancel()) and delete the file."
        )
    return chat_batch(*arguments, **given)


async def _collected(options: ChatOptions[M], *arguments: *_Arguments) -> BatchResults[M]:
    """Return all rows, or what would be sent. The slow import of litellm does not delay other batches."""
    await asyncio.to_thread(_litellm.load)
    if options.get("dry_run") is True:
        return cast("BatchResults[M]", await _dry_run(options, *arguments))
    return await _batch(options, *arguments).collect()


async def _dry_run(options: ChatOptions, messages_list: Iterable[Request], *arguments: *_ListSettings) -> DryRun:
    """Check the call as a run would, and return what it would send."""
    from llmbatch.dry_run import DryRun, dry_payloads  # noqa: PLC0415 - only dry runs need it
    from llmbatch.estimate import estimate_batch  # noqa: PLC0415

    given = {name: value for name, value in options.items() if name != "dry_run"}
    items = list(check_messages_list(messages_list)[0])
    run = cast("ChatRun", _batch(cast("ChatOptions", given), items, *arguments).run)
    ids = run.options.custom_ids
    payloads, invalid = await asyncio.to_thread(dry_payloads, lambda parsed: run.routes.of(parsed).plans[0], items, ids)
    model, temperature, max_tokens, max_workers = arguments
    given = {name: value for name, value in given.items() if name not in {"batch_job", "completion_window"}}
    estimate = await asyncio.to_thread(
        estimate_batch, items, model, temperature, max_tokens, max_workers, **cast("Any", given)
    )
    return DryRun(payloads, estimate, invalid)


async def _warmed(model: str | None, options: ChatOptions[M]) -> None:
    await asyncio.to_thread(_litellm.load)
    given: dict[str, Any] = dict(options)
    run = cast("ChatRun", chat_batch([], model, **given).run)
    await rehearse(run.routes.first.plans[0].request([{"role": "user", "content": "Hi"}]))


async def _answered(options: ChatOptions, request: Request, *arguments: *_Settings) -> Row:
    parsed = parse_request(request)
    if parsed.problem is not None:
        raise ValueError(parsed.problem)
    checked_messages(parsed.messages)
    await asyncio.to_thread(_litellm.load)
    given: dict[str, Any] = {"progress": False, **options}
    if given.pop("max_workers", None) is not None:
        raise ValueError("max_workers= is for lists. Leave it out, or use create_chat_completions_batch")
    (row,) = await chat_batch([parsed], *arguments, 1, **given).collect()
    if "error" not in row:
        return row
    if row["error_details"]["type"] == FailureType.INVALID_ROW:
        raise ValueError(row["error"].removeprefix("InvalidRow: "))
    raise RequestFailedError(row)
