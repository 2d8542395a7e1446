"""Chat completions for lists: the functions that users call.

The parameters are written once, in `_prepared`; every public form (blocking, async, as completed, streamed) takes them.
"""

from __future__ import annotations

import asyncio
import inspect
from typing import TYPE_CHECKING, Any, Literal, ParamSpec, TypeVar, cast

from llmbatch import _litellm
from llmbatch._batch import Batch
from llmbatch._chat_run import ChatRun
from llmbatch._checks import check_messages_list, checked_messages
from llmbatch._identity import is_connection
from llmbatch._litellm.calls import chat
from llmbatch._options import OPTIONS_DOC, Options
from llmbatch._requests import DEFAULT_MAX_TOKENS, DEFAULT_TEMPERATURE, ChatPlan, default_model, plan_chat
from llmbatch._streams import Events, StreamEvent, assembled
from llmbatch._sync import Stream, bridged, synchronous
from llmbatch.errors import RequestFailedError
from llmbatch.providers import copilot

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Coroutine, Iterable, Sequence

    from llmbatch.results import BatchResults, Row

__all__ = [
    "acreate_chat_completion",
    "acreate_chat_completions_batch",
    "acreate_chat_completions_batch_copilot",
    "as_completed",
    "create_chat_completion",
    "create_chat_completions_batch",
    "create_chat_completions_batch_copilot",
    "stream_chat_completions_batch",
]

P = ParamSpec("P")
T = TypeVar("T")


def _prepared(
    messages_list: Iterable[Sequence[Any]],
    model: str | None = None,
    temperature: float | None = DEFAULT_TEMPERATURE,
    max_tokens: int | None = DEFAULT_MAX_TOKENS,
    max_workers: int | Literal["auto"] = 10,
    *,
    requests_per_minute: float | None = None,
    tokens_per_minute: float | None = None,
    retries: int = 6,
    timeout: float | None = 600.0,
    deadline: float | None = None,
    max_cost: float | None = None,
    fallbacks: Sequence[str | dict[str, Any]] = (),
    checkpoint: str | os.PathLike[str] | None = None,
    warm_prompt_cache: bool = False,
    progress: bool | None = None,
    on_result: Callable[[int, Row], object] | None = None,
    custom_ids: Sequence[str] | None = None,
    batch_job: bool = False,
    **kwargs: Any,
) -> Batch:
    """Check everything, send nothing."""
    if batch_job:
        msg = "batch_job=True is for create_chat_completions_batch; a batch job gives its rows all at once"
        raise ValueError(msg)
    conversations, count = check_messages_list(messages_list)
    streamed = bool(kwargs.pop("stream", False))
    first = _plan(model, temperature, max_tokens, kwargs)
    target = first.target
    if target.provider == copilot.PROVIDER:
        requests_per_minute = requests_per_minute or copilot.requests_per_minute()
    options = Options(
        max_workers=max_workers, requests_per_minute=requests_per_minute, tokens_per_minute=tokens_per_minute,
        retries=retries, timeout=timeout, deadline=deadline, max_cost=max_cost, fallbacks=fallbacks,
        checkpoint=checkpoint, warm_prompt_cache=warm_prompt_cache, progress=progress, on_result=on_result,
        custom_ids=custom_ids,
    )  # fmt: skip
    if custom_ids is not None and count is not None and len(custom_ids) != count:
        msg = f"custom_ids holds {len(custom_ids)} ids for {count} rows; give one each"
        raise ValueError(msg)
    plans = [first, *(_fallback(entry, target, temperature, max_tokens, kwargs) for entry in fallbacks)]
    run = ChatRun(conversations, plans, options, assembled if streamed else chat)
    facts = {
        "model": target.model,
        "temperature": first.params.get("temperature"),
        "max tokens": first.params.get("max_tokens"),
        "provider": target.provider,
    }
    return Batch(run, count, "Chat completion", facts, first.response_format)


def _plan(model: str | None, temperature: float | None, max_tokens: int | None, kwargs: dict[str, Any]) -> ChatPlan:
    if copilot.asked_for(model, kwargs):
        return copilot.plan(model, temperature, max_tokens, kwargs)
    return plan_chat(model, temperature, max_tokens, **kwargs)


def _fallback(
    entry: str | dict[str, Any],
    first: _litellm.Target,
    temperature: float | None,
    max_tokens: int | None,
    kwargs: dict[str, Any],
) -> ChatPlan:
    """A fallback's plan. The first model's server and key go to no other provider."""
    given = {"model": entry} if isinstance(entry, str) else dict(entry)
    model = given.pop("model", None) or default_model(None)
    own = {k: v for k, v in kwargs.items() if is_connection(k)}
    try:
        same = _litellm.resolve(model, api_base=own.get("api_base")).provider == first.provider
    except ValueError:
        same = False
    if same and not any(map(is_connection, given)):
        given = {**own, **given}
    return _plan(model, temperature, max_tokens, {**{k: v for k, v in kwargs.items() if k not in own}, **given})


_ROWS_DOC = (
    """
    Args:
        messages_list: conversations, each a list of `{"role", "content"}` dicts; a list or a generator.
        model: LiteLLM's model string; else the environment's MODEL_CHOICE, else gpt-4o-mini.
        temperature: 0 to 2; None leaves it out. The default is not sent to models that take none.
        max_tokens: tokens of each answer at most; None leaves it out. The default is not sent to reasoning models.
"""
    + OPTIONS_DOC
)


def _form(name: str, doc: str) -> Callable[[Callable[..., T]], Callable[..., T]]:
    """Give a public form its name, `_prepared`'s parameters for `help()`, and the shared documentation."""

    def decorate(function: Callable[..., T]) -> Callable[..., T]:
        signature = inspect.signature(_prepared)
        returns = inspect.signature(function).return_annotation
        function.__signature__ = signature.replace(return_annotation=returns)  # type: ignore[attr-defined]
        function.__name__ = function.__qualname__ = name
        function.__doc__ = doc
        return function

    return decorate


async def _ready(prepare: Callable[P, Batch], *args: P.args, **kwargs: P.kwargs) -> Batch:
    """A prepared batch; the slow import of litellm does not hold up other batches."""
    await asyncio.to_thread(_litellm.load)
    return prepare(*args, **kwargs)


def _collecting(prepare: Callable[P, Batch]) -> Callable[P, Coroutine[Any, Any, BatchResults]]:
    @_form(
        "acreate_chat_completions_batch",
        f"""Answer a list of conversations concurrently: one row in, one row out, in order, whatever fails.

    Returns BatchResults, a list of rows in the order of the input. A failed request is a row with `error`; misuse of
    the call raises ValueError or TypeError before anything is sent.
{_ROWS_DOC}
        batch_job: True runs it as the provider's own batch job, at batch prices, and waits for it.

    Example:
        results = create_chat_completions_batch([[{{"role": "user", "content": "Capital of France?"}}]])
        print(results.texts, results.summary())
    """,
    )
    async def acreate(*args: P.args, **kwargs: P.kwargs) -> BatchResults:
        if not kwargs.pop("batch_job", False):
            batch = await _ready(prepare, *args, **kwargs)
            return await batch.collect()
        from llmbatch.jobs import arun_batch_job  # noqa: PLC0415 - only batch jobs need it

        window: Any = kwargs.pop("completion_window", "24h")
        batch = await _ready(prepare, *args, **kwargs)
        return await arun_batch_job(cast("ChatRun", batch.run), window)

    return bridged(acreate)


def _completing(prepare: Callable[P, Batch]) -> Callable[P, Stream[tuple[int, Row]]]:
    @_form(
        "as_completed",
        f"""Answer conversations concurrently and yield `(index, row)` as they finish, for any number of rows.

    Both `for index, row in as_completed(…)` and `async for` work. Memory does not grow with the number of rows: a slow
    consumer slows the sending. Leaving the loop early cancels what is in flight.
{_ROWS_DOC}

    Example:
        for index, row in as_completed(chats, "gpt-4o-mini", checkpoint="run.jsonl"):
            print(index, row["cost"])
    """,
    )
    def as_completed(*args: P.args, **kwargs: P.kwargs) -> Stream[tuple[int, Row]]:
        return Stream(prepare(*args, **kwargs).as_completed())

    return as_completed


def _streaming(prepare: Callable[P, Batch]) -> Callable[P, Stream[StreamEvent]]:
    @_form(
        "stream_chat_completions_batch",
        f"""Answer conversations concurrently and yield each answer's pieces as they arrive.

    Yields dicts: `{{"index", "attempt", "delta"}}` with the next piece of text (of the first choice; other choices have
    `"choice"`), and at each row's end `{{"index", "row"}}` with the whole row, usage and cost included. When `attempt`
    rises, the pieces before are void: the row is being sent again. A stream cut short is a failed row.
{_ROWS_DOC}

    Example:
        for event in stream_chat_completions_batch(chats, "gpt-4o-mini"):
            print(event["index"], event.get("delta", "\\n"))
    """,
    )
    def stream(*args: P.args, **kwargs: P.kwargs) -> Stream[StreamEvent]:
        return Stream(aiter(Events(prepare(*args, **kwargs))))

    return stream


acreate_chat_completions_batch = _collecting(_prepared)
create_chat_completions_batch = synchronous(acreate_chat_completions_batch)
as_completed = _completing(_prepared)
stream_chat_completions_batch = _streaming(_prepared)


@bridged
async def acreate_chat_completions_batch_copilot(
    messages_list: Iterable[Sequence[Any]],
    model: str = "gpt-4o",
    temperature: float | None = DEFAULT_TEMPERATURE,
    max_tokens: int | None = DEFAULT_MAX_TOKENS,
    max_workers: int | Literal["auto"] = 10,
    **kwargs: Any,
) -> BatchResults:
    """Answer a list of conversations through GitHub Copilot, with the token of GITHUB_TOKEN.

    Takes the options of `create_chat_completions_batch`. Requests are paced evenly at COPILOT_REQUESTS_PER_MINUTE (60).
    Costs are None: Copilot is paid by subscription. Returns BatchResults.

    Example:
        results = create_chat_completions_batch_copilot(chats, "gpt-4o")
    """
    model = model if model.startswith(copilot.PREFIX) else copilot.PREFIX + model
    batch = await _ready(_prepared, messages_list, model, temperature, max_tokens, max_workers, **kwargs)
    return await batch.collect()


@bridged
async def acreate_chat_completion(
    messages: Sequence[Any],
    model: str | None = None,
    temperature: float | None = DEFAULT_TEMPERATURE,
    max_tokens: int | None = DEFAULT_MAX_TOKENS,
    **kwargs: Any,
) -> Row:
    """Answer one conversation; returns its row, and raises RequestFailedError when it fails for good.

    Takes the options of `create_chat_completions_batch`. Raises ValueError or TypeError for misuse.

    Example:
        row = create_chat_completion([{"role": "user", "content": "Capital of France?"}], "gpt-4o-mini")
        print(row["choices"][0]["message"]["content"], row["usage"], row["cost"])
    """
    checked_messages(messages)
    kwargs.setdefault("progress", False)
    batch = await _ready(_prepared, [messages], model, temperature, max_tokens, 1, **kwargs)
    (row,) = await batch.collect()
    if "error" in row:
        raise RequestFailedError(row)
    return row


create_chat_completion = synchronous(acreate_chat_completion)
create_chat_completions_batch_copilot = synchronous(acreate_chat_completions_batch_copilot)
