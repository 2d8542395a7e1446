"""From a caller's arguments to a batch that has been checked whole and not yet run: misuse raises here."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from llmbatch._batch.batch import Batch
from llmbatch._batch.chat_run import FLEX, ChatRun
from llmbatch._batch.embeddings_run import EmbeddingsRun
from llmbatch._leaves.checks import check_messages_list, check_texts
from llmbatch._litellm.prices import takes_flex
from llmbatch._request.plans import (
    DEFAULT_MAX_TOKENS,
    DEFAULT_TEMPERATURE,
    ChatPlan,
    default_model,
    plan_chat,
    plan_embeddings,
)
from llmbatch._request.processes import calling
from llmbatch._request.requests import over, provider_in
from llmbatch.options import CHATS_ONLY, Options
from llmbatch.providers import copilot

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from llmbatch._request.guards import Budget

__all__ = ["chat_batch", "embeddings_batch"]


def chat_batch(
    messages_list: Iterable[Any],
    model: str | None = None,
    temperature: float | None = DEFAULT_TEMPERATURE,
    max_tokens: int | None = DEFAULT_MAX_TOKENS,
    max_workers: int | Literal["auto"] = 10,
    *,
    shared_budget: Budget | None = None,
    kind: type[ChatRun] = ChatRun,
    **given: Any,
) -> Batch:
    """A batch of chats; `given` holds llmbatch's own options and LiteLLM's arguments.

    `shared_budget` is spent by other runs too.
    """
    if kind is ChatRun and (given.pop("batch_job", False) or given.get("lane") in {"job", "cheapest"}):
        msg = "batch jobs are for create_chat_completions_batch and as_completed; leave out lane= and batch_job="
        raise ValueError(msg)
    requests, count = check_messages_list(messages_list)
    given.pop("stream", None)  # whole rows need none; `stream_chat_completions_batch` streams by itself
    options = Options.among(given, max_workers=max_workers, count=count)
    call = {"model": model, "temperature": temperature, "max_tokens": max_tokens, **given}
    if options.lane == "flex":
        call["service_tier"] = _checked_tier(given.get("service_tier"))
    maker = _Maker(call, options.fallbacks)
    run = kind(
        requests, maker.call, maker.plans, maker.provider_of, options, calling("chat", options.processes), shared_budget
    )
    first = run.ways.first.plans[0]
    if options.lane == "flex" and not takes_flex(first.target):
        msg = f"{first.target.model} has no flex tier that LiteLLM knows a price of; leave out lane='flex'"
        raise ValueError(msg)
    facts = {
        "model": first.target.model,
        "temperature": first.params.get("temperature"),
        "max tokens": first.params.get("max_tokens"),
        "provider": first.target.provider,
    }
    return Batch(run, count, "Chat completion", facts, first.response_format)


def embeddings_batch(
    texts: Iterable[Any],
    model: str | None = None,
    max_workers: int | Literal["auto"] = 10,
    *,
    shared_budget: Budget | None = None,
    **given: Any,
) -> Batch:
    """A batch of embeddings."""
    if chats_only := sorted(CHATS_ONLY & given.keys()):
        msg = f"{chats_only[0]}= is for chat completions; leave it out"
        raise ValueError(msg)
    items, count = check_texts(texts)
    options = Options.among(given, max_workers=max_workers, count=count)
    plan = plan_embeddings(model, **given)
    facts = {"model": plan.target.model, "provider": plan.target.provider}
    return Batch(EmbeddingsRun(items, plan, options, shared_budget), count, "Embedding", facts)


def _checked_tier(given: str | None) -> str:
    if given not in {None, FLEX}:
        msg = f"lane='flex' sends service_tier='flex', not {given!r}; leave out one of them"
        raise ValueError(msg)
    return FLEX


class _Maker:
    """Makes plans for a call's requests: the one asked for, and those of the fallbacks."""

    def __init__(self, call: dict[str, Any], fallbacks: Sequence[str | dict[str, Any]]) -> None:
        self.call, self._fallbacks = call, fallbacks
        self._by_copilot = copilot.asked_for(call["model"], call)
        self._tokens: dict[Any, copilot.CopilotToken] = {}

    def plans(self, arguments: dict[str, Any]) -> list[ChatPlan]:
        """The plan for these arguments, and then its fallbacks'."""
        if self._by_copilot and self.provider_of(arguments["model"], self.call) == copilot.PROVIDER:
            arguments = {**arguments, "model": copilot.named(default_model(arguments["model"]))}
        entries = ({"model": entry} if isinstance(entry, str) else entry for entry in self._fallbacks)
        given = [over(arguments, {"model": default_model(None), **entry}, _provider_in) for entry in entries]
        return [self._plan(**one) for one in (arguments, *given)]

    def provider_of(self, model: str | None, call: Mapping[str, Any]) -> str | None:
        """The provider of a request's model; a bare name stays with Copilot where the call is for it."""
        bare = isinstance(model, str) and "/" not in model
        return copilot.PROVIDER if self._by_copilot and bare else _provider_in(model, call)

    def _plan(self, model: str | None, temperature: float | None, max_tokens: int | None, **kwargs: Any) -> ChatPlan:
        if copilot.asked_for(model, kwargs):
            return copilot.plan(model, temperature, max_tokens, kwargs, self._tokens)
        return plan_chat(model, temperature, max_tokens, **kwargs)


def _provider_in(model: str | None, call: Mapping[str, Any]) -> str | None:
    return copilot.PROVIDER if copilot.asked_for(model, call) else provider_in(model, call)
