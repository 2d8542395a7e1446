"""The only package that imports litellm, and only when the first call needs it (`loading`).

This module finds the provider of a model (`resolve`) and asks LiteLLM about parameters. `calls` sends one request;
`quiet_logging` and `fast_prices` save CPU there. `render_body` renders a body without sending it. `private_api` lists
what depends on LiteLLM's internals. Requests are plain dicts of LiteLLM's keyword arguments.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

from llmbatch._litellm.loading import internal
from llmbatch._litellm.loading import load as load
from llmbatch._util.identity import is_connection


def own_keys() -> list[str]:
    """Return the keys that were set on LiteLLM itself (`litellm.api_key = …`)."""
    settings = vars(sys.modules.get("litellm", sys)).items()
    return [value for name, value in settings if name.endswith(("_key", "_token")) and isinstance(value, str)]


@dataclass(frozen=True, slots=True)
class Target:
    """Where a request goes: `model` as LiteLLM takes it, the provider's own `name` for it, `provider`, `api_base`.

    `prices` are the caller's own, by LiteLLM's names, in USD per token.
    """

    model: str
    name: str
    provider: str
    api_base: str | None = None
    prices: tuple[tuple[str, float], ...] = ()

    def arguments(self) -> dict[str, Any]:
        """Return LiteLLM's arguments for this target."""
        named = self.model.startswith(f"{self.provider}/")
        given = {"custom_llm_provider": None if named else self.provider, "api_base": self.api_base}
        return {"model": self.model} | {key: value for key, value in given.items() if value is not None}


@dataclass(frozen=True, slots=True)
class Answer:
    """A provider's answer: the body as a plain dict, the response headers, and USD (None: no known price)."""

    body: dict[str, Any]
    headers: Mapping[str, str]
    cost: float | None


def resolve(model: str, *, api_base: str | None = None, custom_llm_provider: str | None = None) -> Target:
    """Find the provider of a model string. A bare name with an `api_base` belongs to an OpenAI-compatible server.

    Raises ValueError if the provider cannot be determined.
    """
    litellm = load()
    try:
        name, provider, _, _ = litellm.get_llm_provider(
            model, custom_llm_provider=custom_llm_provider, api_base=api_base
        )
    except Exception:  # noqa: BLE001 - LiteLLM's BadRequestError names no fix
        if api_base:
            return Target(model, model, "openai", api_base)
    else:
        return Target(model, name, provider, api_base)
    raise ValueError(
        f"the provider of model {model!r} cannot be determined. Put the provider in front ('openai/{model}', "
        f"'ollama/{model}', ...), or pass api_base='http://.../v1' for an OpenAI-compatible server"
    )


def provider_of(request: Mapping[str, Any]) -> str:
    """Return LiteLLM's name of the provider that a request's arguments name."""
    return str(request.get("custom_llm_provider") or str(request["model"]).partition("/")[0])


@cache
def parameters() -> frozenset[str]:
    """Return the names of LiteLLM's own parameters for chats and embeddings; it sends any other to the provider."""
    litellm = load()
    calls = (inspect.signature(call).parameters for call in (litellm.completion, litellm.embedding))
    return frozenset(litellm.OPENAI_CHAT_COMPLETION_PARAMS).union(*calls) - {"kwargs"}


def unknown_parameters(target: Target, names: Iterable[str]) -> tuple[str, ...]:
    """Return the names that LiteLLM does not know, not even for this provider: it sends them as they are."""
    strange = [name for name in names if name not in parameters() | _settings() and not is_connection(name)]
    if not strange:
        return ()
    try:
        known = load().get_supported_openai_params(model=target.name, custom_llm_provider=target.provider)
    except Exception:  # noqa: BLE001 - a provider that needs more than a name to say
        known = None
    return tuple(sorted(set(strange) - set(known or ())))


@cache
def _settings() -> frozenset[str]:
    """Return the names that LiteLLM keeps to itself, and `extra_body`, which holds what the caller means to send."""
    return frozenset(internal("litellm.types.utils:all_litellm_params") or ()) | {"extra_body", "drop_params"}


def unset_keys(target: Target, request: Mapping[str, Any]) -> list[str]:
    """Return the environment variables for a key that are not set; none if the call names a key or a server.

    Keys have other sources too (profiles, LiteLLM's globals): use this for explanations, not to reject a request.
    """
    if request.get("api_key") or target.api_base:
        return []
    return list(load().validate_environment(f"{target.provider}/{target.name}")["missing_keys"])


def warm_up(target: Target) -> None:
    """Import what the first request would import within its timeout (the OpenAI SDK takes a second)."""
    if target.provider in {"openai", "azure"}:
        load()
        import openai.resources.chat.completions  # noqa: F401, PLC0415 - comes with litellm


def accepted_defaults(target: Target, temperature: float, max_tokens: int) -> dict[str, Any]:
    """Return those of llmbatch's default parameters that the model accepts.

    Reasoning models reject a temperature, and think within their token limit, so that a small default would leave no
    room for the answer.
    """
    if _accepts(target, temperature=temperature) is None:
        renamed = _accepts(target, max_tokens=max_tokens) or {}
        return {} if "max_completion_tokens" in renamed or not renamed else {"max_tokens": max_tokens}
    if _accepts(target, max_tokens=max_tokens) is None:
        return {"temperature": temperature}
    return {"temperature": temperature, "max_tokens": max_tokens}


def _accepts(target: Target, **params: Any) -> dict[str, Any] | None:
    """Return the parameters as LiteLLM sends them, None if it says that the model does not accept them."""
    litellm = load()
    try:
        return dict(litellm.utils.get_optional_params(model=target.name, custom_llm_provider=target.provider, **params))
    except litellm.exceptions.UnsupportedParamsError:
        return None
    except Exception:  # noqa: BLE001 - providers that need more than a name to say
        return params


async def get_json(url: str, headers: Mapping[str, str]) -> dict[str, Any]:
    """GET a small JSON document with LiteLLM's own HTTP client; raises httpx.HTTPStatusError for an error status."""
    client = internal("litellm.llms.custom_httpx.http_handler:get_async_httpx_client")
    response = await client(llm_provider=load().LlmProviders.GITHUB_COPILOT).get(url, headers=dict(headers))
    response.raise_for_status()
    return response.json()  # type: ignore[no-any-return]
