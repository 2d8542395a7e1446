"""LiteLLM's keyword arguments for each request of a call: the one place, for live calls and for rendered payloads.

A plan is made once per batch and checks the call as a whole: misuse raises. `plan.request(messages)` returns the
arguments of one request; it raises ValueError for one that cannot be sent, which the caller turns into an error row.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any
from urllib.parse import urlsplit

from llmbatch import _litellm
from llmbatch._litellm.connection import effective_address_and_key
from llmbatch._request.argument_names import check_argument_names
from llmbatch._request.connection_check import check_connection
from llmbatch._request.deployments import Deployment
from llmbatch._request.messages import checked_messages, checked_text, with_system
from llmbatch._request.sender import Credentials
from llmbatch._rows.structured_output import ResponseFormat, checked_format
from llmbatch._util.checks import check_number, copied
from llmbatch._util.identity import is_price
from llmbatch.options import OWN_OPTIONS, Transport, check_choice


class _DefaultFloat(float):
    """A default value: equal to a caller's own, and told apart from it by identity."""


class _DefaultInt(int):
    """A default value: equal to a caller's own, and told apart from it by identity."""


DEFAULT_MODEL = "gpt-4o-mini"
DEFAULT_EMBEDDING_MODEL = "text-embedding-3-small"
# An untouched default is sent only to models that accept it; a caller's own value is always sent, even if it is equal.
DEFAULT_TEMPERATURE: float = _DefaultFloat(0.3)
DEFAULT_MAX_TOKENS: int = _DefaultInt(200)

_MAX_TEMPERATURE = 2.0
_OPENAI_HOST = "api.openai.com"
# Arguments and variables with which the OpenAI SDK needs no api_key.
_SDKS_OWN_KEYS = frozenset({"client", "OPENAI_ADMIN_KEY"})
_TOKEN_PRICE = re.compile(r"((input|output)_cost_per_token|cache_(read|creation)_input_token_cost)(_batches)?")
# Options of single functions, which read them before a plan is made.
_OPTIONS = OWN_OPTIONS | {"stream", "completion_window"}


def default_model(model: str | None) -> str:
    """Return the model that was given, else the environment's MODEL_CHOICE, else gpt-4o-mini."""
    return model or os.environ.get("MODEL_CHOICE") or DEFAULT_MODEL


@dataclass(frozen=True, eq=False)
class _Plan:
    """What the requests of a batch have in common.

    Attributes:
        target: where the requests go.
        params: LiteLLM's keyword arguments, all but the messages or the text. May hold keys: never print it.
        credentials: what goes with each attempt, where tokens expire.
        sent_as_is: names of parameters that neither llmbatch nor LiteLLM knows for this provider.
        transport: how the requests are sent; None as the batch says.
        deployments: the deployments that may answer, where the caller has named some.
    """

    target: _litellm.Target
    params: Mapping[str, Any] = field(repr=False)
    credentials: Credentials | None = field(default=None, repr=False)
    sent_as_is: tuple[str, ...] = ()
    deployments: tuple[DeploymentPlan, ...] = ()
    transport: Transport | None = None


@dataclass(frozen=True, eq=False)
class DeploymentPlan:
    """A deployment, and the plan of requests that are sent to it."""

    deployment: Deployment
    plan: Any


@dataclass(frozen=True, eq=False)
class ChatPlan(_Plan):
    """A plan for chats.

    Attributes:
        response_format: what answers must match, if they are to be JSON.
        system: the system message for conversations that have none.
        untouched: the options that have llmbatch's default, which is sent only to models that accept it.
    """

    response_format: ResponseFormat | None = None
    system: str | None = None
    untouched: frozenset[str] = frozenset()

    def request(self, messages: Any) -> dict[str, Any]:
        """Return LiteLLM's arguments for one conversation, as copies: LiteLLM changes what it is given.

        Raises ValueError for messages that cannot be sent.
        """
        return {**copied(self.params), "messages": with_system(self.system, checked_messages(messages))}


class EmbeddingsPlan(_Plan):
    """A plan for embeddings."""

    def request(self, text: Any) -> dict[str, Any]:
        """Return LiteLLM's arguments for one text. Raises as `ChatPlan.request` does."""
        return {**copied(self.params), "input": checked_text(text)}


def plan_chat(
    model: str | None = None,
    temperature: float | None = DEFAULT_TEMPERATURE,
    max_tokens: int | None = DEFAULT_MAX_TOKENS,
    **kwargs: Any,
) -> ChatPlan:
    """Check the arguments of a chat batch and find its target. llmbatch's own options, all but `system`, are ignored.

    Raises ValueError and TypeError that say how to fix the call.
    """
    system, transport = _checked_system(kwargs.get("system")), kwargs.get("transport")
    if transport is not None:
        check_choice("transport", transport, Transport)
    kwargs = _checked_kwargs(kwargs, model)
    if temperature is not None:
        check_number("temperature", temperature, "None leaves it to the model", least=0, most=_MAX_TEMPERATURE)
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
            "output_cost_per_token= is missing. Pass it with input_cost_per_token= (USD per token); 0 is a price too"
        )
    defaults = {"temperature": temperature is DEFAULT_TEMPERATURE, "max_tokens": max_tokens is DEFAULT_MAX_TOKENS}
    if any(defaults.values()):
        accepted = _litellm.accepted_defaults(target, float(DEFAULT_TEMPERATURE), int(DEFAULT_MAX_TOKENS))
        if temperature is DEFAULT_TEMPERATURE:
            temperature = accepted.get("temperature")
        if max_tokens is DEFAULT_MAX_TOKENS:
            max_tokens = None if "max_completion_tokens" in kwargs else accepted.get("max_tokens")
    if kwargs.get("tools"):
        from llmbatch._request.tool_schema import tool_schema  # noqa: PLC0415 - imports pydantic, which few batches need

        kwargs["tools"] = [tool_schema(tool) for tool in kwargs["tools"]]
    _add_unused_key(target, kwargs)
    given = {"temperature": temperature, "max_tokens": max_tokens}
    chosen = {name: value for name, value in given.items() if value is not None}
    return ChatPlan(
        target=target,
        params={**target.arguments(), **kwargs, **chosen},
        sent_as_is=_litellm.unknown_parameters(target, kwargs),
        response_format=checked_format(kwargs.get("response_format")),
        system=system,
        transport=transport,
        untouched=frozenset(name for name, is_default in defaults.items() if is_default),
    )


def plan_embeddings(model: str | None, **kwargs: Any) -> EmbeddingsPlan:
    """Check the arguments of an embeddings batch and find its target. Raises as `plan_chat` does."""
    kwargs = _checked_kwargs(kwargs, model)
    target = _target(_checked_model(model) or DEFAULT_EMBEDDING_MODEL, kwargs)
    _add_unused_key(target, kwargs)
    params = {**target.arguments(), **kwargs}
    return EmbeddingsPlan(target=target, params=params, sent_as_is=_litellm.unknown_parameters(target, kwargs))


def _add_unused_key(target: _litellm.Target, kwargs: dict[str, Any]) -> None:
    """Add a key that says nothing for a server of the user's own: without one the OpenAI SDK sends no request."""
    if target.provider != "openai" or not _SDKS_OWN_KEYS.isdisjoint([*kwargs, *os.environ]):
        return
    address, key = effective_address_and_key(target, kwargs)
    if key is None and address and urlsplit(address).hostname != _OPENAI_HOST:
        kwargs["api_key"] = "none"


def check_key(model: str | None = None, **kwargs: Any) -> None:
    """Raise ValueError if requests to OpenAI would fail for want of a key."""
    target = _target(default_model(model), {name: value for name, value in kwargs.items() if value is not None})
    address, key = effective_address_and_key(target, kwargs)
    no_key = target.provider == "openai" and key is None and _SDKS_OWN_KEYS.isdisjoint([*kwargs, *os.environ])
    if no_key and urlsplit(address or "").hostname == _OPENAI_HOST:
        raise ValueError(
            f"there is no API key for {target.model}. Set OPENAI_API_KEY, choose another provider's model, or give the "
            "address of your own server (--api-base http://localhost:8000/v1)."
        )


def check_names(given: Mapping[str, Any], *, own: frozenset[str] = frozenset(), model: Any = None) -> None:
    """Raise ValueError for an argument whose name is a mistake; `own` names more options than every function has."""
    named = given.get("custom_llm_provider") or str(model or "").partition("/")[0]
    check_argument_names(given, _OPTIONS | own, _litellm.parameters(), str(named))


def _checked_kwargs(kwargs: Mapping[str, Any], model: Any) -> dict[str, Any]:
    """Return LiteLLM's arguments among `kwargs`, without those that are None. Raises ValueError for misspelt names."""
    check_names(kwargs, model=model)
    if kwargs.get("deployments") is not None:
        raise ValueError("deployments= is for live batches and their estimates. Leave it out here")
    if kwargs.get("stream"):
        raise ValueError("stream=True is not supported: a batch returns whole answers. Leave stream out")
    return {name: value for name, value in kwargs.items() if value is not None and name not in _OPTIONS}


def _checked_system(system: Any) -> str | None:
    if system is not None and not isinstance(system, str):
        raise TypeError(f"system must be a string, not {type(system).__name__}. Put other parts into the messages")
    if system is not None and not system.strip():
        raise ValueError("system must be a non-empty string. Leave it out for no system message")
    return system


def _target(model: str, kwargs: dict[str, Any]) -> _litellm.Target:
    """Return the target; takes address, provider and prices out of `kwargs`."""
    api_base = kwargs.pop("api_base", None) or kwargs.pop("base_url", None)
    provider = kwargs.pop("custom_llm_provider", None)
    for name, value in (("api_base", api_base), ("custom_llm_provider", provider)):
        if value is not None and not isinstance(value, str):
            several = '. For several servers pass deployments=[{"api_base": A}, {"api_base": B}]'
            advice = several if name == "api_base" and isinstance(value, list | tuple) else ""
            raise TypeError(f"{name} must be a string, not {type(value).__name__}{advice}")
    prices = _own_prices(kwargs)
    target = replace(_litellm.resolve(model, api_base=api_base, custom_llm_provider=provider), prices=prices)
    check_connection(target, kwargs)
    return target


def _own_prices(kwargs: dict[str, Any]) -> tuple[tuple[str, float], ...]:
    """Take the caller's own prices out of `kwargs`: some versions of LiteLLM would keep them for the whole process."""
    names = sorted(name for name in kwargs if is_price(name))
    for name in names:
        if not _TOKEN_PRICE.fullmatch(name):
            raise ValueError(
                f"{name}= is not a price per token. Give such prices to litellm.register_model({{...}}) instead"
            )
        check_number(name, kwargs[name], "it is in USD per token", least=0)
    if names and "input_cost_per_token" not in names:
        raise ValueError(f"{names[0]}= is not enough. Pass input_cost_per_token= too (USD per token)")
    return tuple((name, float(kwargs.pop(name))) for name in names)


def _checked_model(model: Any) -> str | None:
    if model is not None and not isinstance(model, str):
        raise TypeError(
            f"model must be a string such as 'gpt-4o-mini' or 'groq/llama-3.1-8b-instant', not {type(model).__name__}"
        )
    if model is not None and not model.strip():
        raise ValueError("model must be a non-empty string. Leave it out for MODEL_CHOICE or the default model")
    return model
