"""The only package that imports litellm, and only when the first call needs it (2-4 s, 2,600 modules).

Here is where a model goes (`resolve`), loading and closing. `calls` sends one request; `quiet` and `linear` save CPU
there by leaning on LiteLLM's internals. `render` gives a body without sending it. Requests are plain dicts of LiteLLM's
own keyword arguments.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import inspect
import logging
import os
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

from llmbatch._leaves.background import at_end, within_call
from llmbatch._litellm.unheard import unheard

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator, Mapping
    from types import ModuleType

__all__ = ["Answer", "Target", "get_json", "load", "parameters", "provider_of", "resolve", "unset_keys",
           "warm_up", "without_refused_defaults"]  # fmt: skip

_CALLBACK_SECONDS = 3.0
_BY_SDK = {"openai", "azure"}


@cache
def load() -> ModuleType:
    """Import litellm without its start-up downloads and its printed advice."""
    os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")
    os.environ.setdefault("LITELLM_LOCAL_ANTHROPIC_BETA_HEADERS", "True")
    with unheard(), _no_collections():
        import litellm  # noqa: PLC0415 - slow to import, so only when needed

        # Its pydantic models are built when first used: here, instead of within a request's timeout.
        litellm.ModelResponse(choices=[{"message": {"role": "assistant", "content": ""}}]).model_dump()
        litellm.ModelResponseStream(choices=[{"index": 0, "delta": {"content": ""}}]).model_dump()
    logging.getLogger("LiteLLM").addFilter(_asked_to_be_heard)
    litellm.suppress_debug_info = True
    litellm.disable_hf_tokenizer_download = True
    at_end(_ending)
    return litellm


def _asked_to_be_heard(record: logging.LogRecord) -> bool:
    """Whether a line of LiteLLM's log passes: it tells of each request at INFO, often root's level only."""
    return record.levelno != logging.INFO or not within_call() or bool(logging.getLogger("LiteLLM").level)


@contextlib.contextmanager
def _no_collections() -> Iterator[None]:
    """Looking for garbage among a million new objects that all stay takes a sixth of the import's time."""
    collects = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collects:
            gc.enable()


@dataclass(frozen=True, slots=True)
class Target:
    """Where a request goes: `model` as LiteLLM takes it, the provider's own `name` for it, `provider`, `api_base`."""

    model: str
    name: str
    provider: str
    api_base: str | None = None

    def arguments(self) -> dict[str, Any]:
        """LiteLLM's arguments for this target."""
        given = {"model": self.model, "custom_llm_provider": None, "api_base": self.api_base}
        if "/" not in self.model or not self.model.startswith(f"{self.provider}/"):
            given["custom_llm_provider"] = self.provider
        return {key: value for key, value in given.items() if value is not None}


@dataclass(frozen=True, slots=True)
class Answer:
    """A provider's answer: the body as a plain dict, the response headers, and USD (None: no known price)."""

    body: dict[str, Any]
    headers: Mapping[str, str]
    cost: float | None


@unheard()
def resolve(model: str, *, api_base: str | None = None, custom_llm_provider: str | None = None) -> Target:
    """Find the provider of a model string. A bare name with an `api_base` is an OpenAI-compatible server's.

    Raises ValueError for a model that LiteLLM cannot place.
    """
    litellm = load()
    try:
        name, provider, _, _ = litellm.get_llm_provider(
            model, custom_llm_provider=custom_llm_provider, api_base=api_base
        )
    except Exception:  # noqa: BLE001 - LiteLLM raises a BadRequestError that names no mend
        if api_base:
            return Target(model, model, "openai", api_base)
    else:
        return Target(model, name, provider, api_base)
    msg = (
        f"cannot tell which provider serves model {model!r}: put the provider in front ('openai/{model}', "
        f"'ollama/{model}', ...), or pass api_base='http://.../v1' for an OpenAI-compatible server"
    )
    raise ValueError(msg)


def provider_of(request: Mapping[str, Any]) -> str:
    """LiteLLM's name of the provider that a request's arguments say."""
    return str(request.get("custom_llm_provider") or str(request["model"]).partition("/")[0])


@cache
def parameters() -> frozenset[str]:
    """Names that LiteLLM itself takes for chats and embeddings; what it does not know it hands to the provider."""
    litellm = load()
    calls = (inspect.signature(call).parameters for call in (litellm.completion, litellm.embedding))
    return frozenset(litellm.OPENAI_CHAT_COMPLETION_PARAMS).union(*calls) - {"kwargs"}


def unset_keys(target: Target, request: Mapping[str, Any]) -> list[str]:
    """Names of the environment's variables that could hold a key and do not; none where the call names key or server.

    Keys have other sources too (profiles, LiteLLM's globals): good for an explanation, not for a refusal.
    """
    if request.get("api_key") or target.api_base:
        return []
    return list(load().validate_environment(f"{target.provider}/{target.name}")["missing_keys"])


def warm_up(target: Target) -> None:
    """Import what the first request to this target would import within its timeout (the OpenAI SDK: a second)."""
    if target.provider in _BY_SDK:
        with unheard(), _no_collections():
            import openai.resources  # noqa: F401, PLC0415 - comes with litellm


def without_refused_defaults(target: Target, temperature: float, max_tokens: int) -> dict[str, Any]:
    """Those of llmbatch's default parameters that the model takes.

    Reasoning models refuse a temperature, and think within their token budget, so that a small default would leave no
    room for the answer.
    """
    if _accepts(target, temperature=temperature) is None:
        renamed = _accepts(target, max_tokens=max_tokens) or {}
        return {} if "max_completion_tokens" in renamed or not renamed else {"max_tokens": max_tokens}
    if _accepts(target, max_tokens=max_tokens) is None:
        return {"temperature": temperature}
    return {"temperature": temperature, "max_tokens": max_tokens}


@unheard()
def _accepts(target: Target, **params: Any) -> dict[str, Any] | None:
    """LiteLLM's wire form of the parameters, None where it says that the model takes none such."""
    litellm = load()
    try:
        return dict(litellm.utils.get_optional_params(model=target.name, custom_llm_provider=target.provider, **params))
    except litellm.exceptions.UnsupportedParamsError:
        return None
    except Exception:  # noqa: BLE001 - providers that need more than a name to say: let the request tell
        return params


@contextlib.asynccontextmanager
async def _ending() -> AsyncIterator[None]:
    """Let callbacks hear of the last requests; when all tasks have ended, close the loop's clients."""
    await _callbacks_heard()
    yield
    litellm = load()
    await litellm.close_litellm_async_clients()
    from llmbatch._litellm import transport  # noqa: PLC0415 - imports aiohttp

    await transport.close()
    litellm.in_memory_llm_clients_cache.flush_cache()


async def _callbacks_heard() -> None:
    """Wait a moment until callbacks that a user has registered with LiteLLM have heard of the last requests."""
    with contextlib.suppress(Exception):  # LiteLLM's internals; the interpreter is ending
        from litellm.litellm_core_utils.logging_worker import GLOBAL_LOGGING_WORKER  # noqa: PLC0415 - imports litellm

        await asyncio.sleep(0)
        async with asyncio.timeout(_CALLBACK_SECONDS):
            await GLOBAL_LOGGING_WORKER.flush()


async def get_json(url: str, headers: Mapping[str, str]) -> dict[str, Any]:
    """GET a small JSON document with LiteLLM's own HTTP client; raises httpx.HTTPStatusError for an error status."""
    load()
    from litellm.llms.custom_httpx.http_handler import get_async_httpx_client  # noqa: PLC0415 - imports litellm
    from litellm.types.utils import LlmProviders  # noqa: PLC0415

    response = await get_async_httpx_client(llm_provider=LlmProviders.GITHUB_COPILOT).get(url, headers=dict(headers))
    response.raise_for_status()
    return response.json()  # type: ignore[no-any-return]
