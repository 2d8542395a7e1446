"""From a caller's arguments to a batch that has been checked whole and not yet run: misuse raises here."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from llmbatch import _litellm
from llmbatch._batch.batch import Batch
from llmbatch._batch.chat_run import ChatRun
from llmbatch._batch.embeddings_run import EmbeddingsRun
from llmbatch._leaves.checks import check_messages_list, check_texts
from llmbatch._leaves.identity import is_connection, is_price
from llmbatch._request.plans import (
    DEFAULT_MAX_TOKENS,
    DEFAULT_TEMPERATURE,
    ChatPlan,
    default_model,
    plan_chat,
    plan_embeddings,
)
from llmbatch._request.processes import calling
from llmbatch.options import CHATS_ONLY, Options
from llmbatch.providers import copilot

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["chat_batch", "embeddings_batch"]


def chat_batch(
    messages_list: Iterable[Any],
    model: str | None = None,
    temperature: float | None = DEFAULT_TEMPERATURE,
    max_tokens: int | None = DEFAULT_MAX_TOKENS,
    max_workers: int | Literal["auto"] = 10,
    **given: Any,
) -> Batch:
    """A batch of chats; `given` holds llmbatch's own options and LiteLLM's arguments."""
    if given.pop("batch_job", False):
        msg = "batch_job=True is for create_chat_completions_batch; a batch job gives its rows all at once"
        raise ValueError(msg)
    conversations, count = check_messages_list(messages_list)
    given.pop("stream", None)  # whole rows need none; `stream_chat_completions_batch` streams by itself
    first = _plan(model, temperature, max_tokens, given)
    target = first.target
    if target.provider == copilot.PROVIDER:
        given["requests_per_minute"] = given.get("requests_per_minute") or copilot.requests_per_minute()
    options = Options.among(given, max_workers=max_workers, count=count)
    plans = [first, *(_fallback(entry, target, temperature, max_tokens, given) for entry in options.fallbacks)]
    run = ChatRun(conversations, plans, options, calling("chat", options.processes))
    facts = {
        "model": target.model,
        "temperature": first.params.get("temperature"),
        "max tokens": first.params.get("max_tokens"),
        "provider": target.provider,
    }
    return Batch(run, count, "Chat completion", facts, first.response_format)


def embeddings_batch(
    texts: Iterable[Any], model: str | None = None, max_workers: int | Literal["auto"] = 10, **given: Any
) -> Batch:
    """A batch of embeddings."""
    if chats_only := sorted(CHATS_ONLY & given.keys()):
        msg = f"{chats_only[0]}= is for chat completions; leave it out"
        raise ValueError(msg)
    items, count = check_texts(texts)
    options = Options.among(given, max_workers=max_workers, count=count)
    plan = plan_embeddings(model, **given)
    facts = {"model": plan.target.model, "provider": plan.target.provider}
    return Batch(EmbeddingsRun(items, plan, options), count, "Embedding", facts)


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
    """A fallback's plan. The first model's server and key go to no other provider, its prices to no other model."""
    given = {"model": entry} if isinstance(entry, str) else dict(entry)
    model = given.pop("model", None) or default_model(None)
    kwargs = {k: v for k, v in kwargs.items() if not is_price(k)}
    own = {k: v for k, v in kwargs.items() if is_connection(k)}
    try:
        same = _litellm.resolve(model, api_base=own.get("api_base")).provider == first.provider
    except ValueError:
        same = False
    if same and not any(map(is_connection, given)):
        given = {**own, **given}
    return _plan(model, temperature, max_tokens, {**{k: v for k, v in kwargs.items() if k not in own}, **given})
