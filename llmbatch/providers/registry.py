"""Which class speaks for a provider."""

from __future__ import annotations

from typing import Any, TypeVar

from llmbatch.providers.base import Provider
from llmbatch.providers.openai import XAI, Azure, Groq, HostedVLLM, LiteLLMProxy, Mistral, OpenAI

T = TypeVar("T", bound=type[Provider])

_providers: dict[str, type[Provider]] = {
    cls.name: cls for cls in (OpenAI, Azure, HostedVLLM, LiteLLMProxy, Groq, Mistral, XAI)
}


def register_provider(provider: T) -> T:
    """Let a `Provider` subclass speak for LiteLLM's provider of its `name`; also works as a class decorator.

    Raises TypeError and ValueError for what is no such class.

    Example:
        register_provider(Parasail)  # see `Provider`
    """
    given: Any = provider
    if not (isinstance(given, type) and issubclass(given, Provider)):
        msg = f"register_provider takes a subclass of llmbatch.Provider itself, not {provider!r}"
        raise TypeError(msg)
    if not provider.name:
        msg = f"{provider.__name__} has no name: set name to what LiteLLM writes before the slash of its models"
        raise ValueError(msg)
    _providers[provider.name] = provider
    return provider


def provider_for(name: str) -> Provider:
    """A new instance for a provider's name. Raises NotImplementedError when its class takes no batch requests."""
    provider = _providers.get(name, Provider)(name)
    if type(provider).render_payload_for_batch_request is Provider.render_payload_for_batch_request:
        provider.render_payload_for_batch_request({}, "")
    return provider
