"""From what a caller passes to LiteLLM's keyword arguments: the one place, for live calls and for rendered payloads.

A plan is made once per batch and checks the call as a whole: misuse raises. `plan.request(row)` then makes each row's
arguments; a row that cannot be sent raises ValueError there, which the caller turns into an error row.
"""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from llmbatch import _litellm
from llmbatch._request.sender import Credentials
from llmbatch._rows.structured_output import ResponseFormat, checked_format
from llmbatch._util.checks import check_number, checked_messages, checked_text, copied
from llmbatch._util.identity import is_price
from llmbatch.options import OWN_OPTIONS


class _DefaultFloat(float):
    """Equal to its value, but told apart by identity from a caller's own."""


class _DefaultInt(int):
    """Equal to its value, but told apart by identity from a caller's own."""


DEFAULT_MODEL = "gpt-4o-mini"
DEFAULT_EMBEDDING_MODEL = "text-embedding-3-small"
# Untouched, they are sent only to models that take them; a caller's own value is always sent, equal or not.
DEFAULT_TEMPERATURE: float = _DefaultFloat(0.3)
DEFAULT_MAX_TOKENS: int = _DefaultInt(200)

_HOTTEST = 2.0
# difflib's ratios: 'max_worker' is above the one for our own options, LiteLLM's 'max_tokens' below; 'temprature' and
# 'tool' are above the one for LiteLLM's parameters, Groq's 'reasoning_format' below.
_ALIKE, _ALIKE_TO_LITELLMS = 0.77, 0.88
_NOT_MISSPELT = {"max_fallbacks", "models"}
_WORKERS = "use max_workers= (requests in flight at most)"
_PRICE_A_TOKEN = re.compile(r"((input|output)_cost_per_token|cache_(read|creation)_input_token_cost)(_batches)?")
_INSTEAD = {
    "num_retries": "llmbatch retries itself, use retries=",
    "max_retries": "llmbatch retries itself, use retries=",
    "request_timeout": "use timeout= (seconds for each attempt)",
    "rpm": "use requests_per_minute=",
    "tpm": "use tokens_per_minute=",
    "messages": "the conversations are the first argument",
    "system": 'begin each conversation with {"role": "system", "content": "..."}',
    **dict.fromkeys(("concurrency", "max_concurrency", "max_concurrent_requests", "max_parallel_requests"), _WORKERS),
    **dict.fromkeys(("batch_size", "workers", "num_workers", "n_jobs", "parallelism"), _WORKERS),
}


def default_model(model: str | None) -> str:
    """The model given, else the environment's MODEL_CHOICE, else gpt-4o-mini."""
    return model or os.environ.get("MODEL_CHOICE") or DEFAULT_MODEL


@dataclass(frozen=True, eq=False)
class _Plan:
    """What every request of a batch shares.

    Attributes:
        target: where the requests go.
        params: LiteLLM's keyword arguments, everything but what each row asks. May hold keys: never print it.
        credentials: what goes with each attempt, where tokens expire.
    """

    target: _litellm.Target
    params: Mapping[str, Any] = field(repr=False)
    credentials: Credentials | None = field(default=None, repr=False)


@dataclass(frozen=True, eq=False)
class ChatPlan(_Plan):
    """Of chats; `response_format` is what answers are to match, if they are to be JSON."""

    response_format: ResponseFormat | None = None

    def request(self, messages: Any) -> dict[str, Any]:
        """LiteLLM's arguments for one conversation; nothing in them is shared, for LiteLLM changes what it is given.

        Raises ValueError for messages that cannot be sent.
        """
        return {**copied(self.params), "messages": checked_messages(messages)}


class EmbeddingsPlan(_Plan):
    """Of embeddings."""

    def request(self, text: Any) -> dict[str, Any]:
        """LiteLLM's arguments for one text. Raises as `ChatPlan.request` does."""
        return {**copied(self.params), "input": checked_text(text)}


def plan_chat(
    model: str | None = None,
    temperature: float | None = DEFAULT_TEMPERATURE,
    max_tokens: int | None = DEFAULT_MAX_TOKENS,
    **kwargs: Any,
) -> ChatPlan:
    """Check the arguments of a chat batch and find its target. llmbatch's own options say only how, and are left out.

    Raises ValueError and TypeError, with the mend.
    """
    kwargs = _checked_kwargs(kwargs)
    if temperature is not None:
        check_number("temperature", temperature, "None leaves it to the model", least=0, most=_HOTTEST)
    # Caps and estimates rely on all three.
    for name, value in (
        ("max_tokens", max_tokens),
        *((name, kwargs.get(name)) for name in ("n", "max_completion_tokens")),
    ):
        if value is not None:
            check_number(name, value, "None leaves it to the model", whole=True, least=1)
    target = _target(default_model(_checked_model(model)), kwargs)
    if target.prices and "output_cost_per_token" not in dict(target.prices):
        raise ValueError(
            "prices of your own need both input_cost_per_token= and output_cost_per_token= (USD); 0 is a price too"
        )
    if temperature is DEFAULT_TEMPERATURE or max_tokens is DEFAULT_MAX_TOKENS:
        accepted = _litellm.without_refused_defaults(target, float(DEFAULT_TEMPERATURE), int(DEFAULT_MAX_TOKENS))
        if temperature is DEFAULT_TEMPERATURE:
            temperature = accepted.get("temperature")
        if max_tokens is DEFAULT_MAX_TOKENS:
            max_tokens = None if "max_completion_tokens" in kwargs else accepted.get("max_tokens")
    if kwargs.get("tools"):
        from llmbatch._request.tool_schema import tool_schema  # noqa: PLC0415 - needs pydantic, which few batches do

        kwargs["tools"] = [tool_schema(tool) for tool in kwargs["tools"]]
    given = {"temperature": temperature, "max_tokens": max_tokens}
    chosen = {name: value for name, value in given.items() if value is not None}
    return ChatPlan(
        target=target,
        params={**target.arguments(), **kwargs, **chosen},
        response_format=checked_format(kwargs.get("response_format")),
    )


def plan_embeddings(model: str | None, **kwargs: Any) -> EmbeddingsPlan:
    """Check the arguments of an embeddings batch and find its target; raises as `plan_chat` does."""
    kwargs = _checked_kwargs(kwargs)
    target = _target(_checked_model(model) or DEFAULT_EMBEDDING_MODEL, kwargs)
    return EmbeddingsPlan(target=target, params={**target.arguments(), **kwargs})


def _target(model: str, kwargs: dict[str, Any]) -> _litellm.Target:
    """The target, for which address, provider and prices are taken out of `kwargs`."""
    api_base = kwargs.pop("api_base", None) or kwargs.pop("base_url", None)
    provider = kwargs.pop("custom_llm_provider", None)
    for name, value in (("api_base", api_base), ("custom_llm_provider", provider)):
        if value is not None and not isinstance(value, str):
            raise TypeError(f"{name} must be a string, not {type(value).__name__}")
    prices = _own_prices(kwargs)
    return replace(_litellm.resolve(model, api_base=api_base, custom_llm_provider=provider), prices=prices)


def _own_prices(kwargs: dict[str, Any]) -> tuple[tuple[str, float], ...]:
    """The caller's own prices, taken out of `kwargs`: some LiteLLMs would keep them for every call of the process."""
    names = sorted(name for name in kwargs if is_price(name))
    for name in names:
        if not _PRICE_A_TOKEN.fullmatch(name):
            raise ValueError(f"{name}= is no price by the token; give such prices to litellm.register_model({{...}})")
        check_number(name, kwargs[name], "it is in USD a token", least=0)
    if names and "input_cost_per_token" not in names:
        raise ValueError(f"{names[0]}= alone is no price; pass input_cost_per_token= too (USD)")
    return tuple((name, float(kwargs.pop(name))) for name in names)


def _checked_model(model: Any) -> str | None:
    if model is not None and not isinstance(model, str):
        raise TypeError(
            f"model must be a string such as 'gpt-4o-mini' or 'groq/llama-3.1-8b-instant', not {type(model).__name__}"
        )
    if model is not None and not model.strip():
        raise ValueError("model is empty; name one, or leave it out for MODEL_CHOICE of the environment or the default")
    return model


def _checked_kwargs(kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """LiteLLM's arguments among `kwargs`, those that are None left out. What looks misspelt raises."""
    left_out = OWN_OPTIONS | {"stream"}
    for name, value in kwargs.items():
        if name in _INSTEAD:
            raise ValueError(f"{name}= is not for batches: {_INSTEAD[name]}")
        if name == "stream" and value:
            raise ValueError("stream=True is not supported here: leave it out, a batch returns whole answers")
        if name in OWN_OPTIONS | _NOT_MISSPELT | _litellm.parameters():
            continue
        close = difflib.get_close_matches(name, OWN_OPTIONS, 1, _ALIKE)
        close = close or difflib.get_close_matches(name, _litellm.parameters(), 1, _ALIKE_TO_LITELLMS)
        if close:
            raise ValueError(f"unknown option {name}=; did you mean {close[0]}=?")
    return {name: value for name, value in kwargs.items() if value is not None and name not in left_out}
