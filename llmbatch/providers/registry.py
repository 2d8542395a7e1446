"""The classes of providers with batch support: OpenAI's format, Azure's paths, or an API that LiteLLM translates."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, TypeVar

from llmbatch.providers.base import Payload, Provider

T = TypeVar("T", bound=type[Provider])


class OpenAI(Provider):
    """OpenAI, and services with the same batch endpoints, through `api_base`."""

    chat_url: ClassVar[str] = "/v1/chat/completions"
    embeddings_url: ClassVar[str] = "/v1/embeddings"

    def render_payload_for_batch_request(self, request: Mapping[str, Any], custom_id: str) -> Payload:
        """Return a line `{custom_id, method, url, body}`."""
        url = self.chat_url if "messages" in request else self.embeddings_url
        return {"custom_id": custom_id, "method": "POST", "url": url, "body": self.render_body(request)}


class Azure(OpenAI):
    """Azure OpenAI: its paths have no version, and the model is the batch deployment."""

    max_rows = 100_000
    transport = "azure"
    chat_url = "/chat/completions"
    embeddings_url = "/embeddings"


class Translated(OpenAI):
    """Mistral (LiteLLM can neither list nor cancel its jobs) and xAI (counters and results instead of files)."""

    transport = "litellm"


_providers: dict[str, type[Provider]] = {
    "openai": OpenAI,
    "azure": Azure,
    "groq": OpenAI,
    "hosted_vllm": OpenAI,  # behind a gateway with batch endpoints; `vllm run-batch` reads the same lines
    "litellm_proxy": OpenAI,  # for whatever is behind it
    "mistral": Translated,
    "xai": Translated,
}


def register_provider(provider: T) -> T:
    """Use a `Provider` subclass for LiteLLM's provider of its `name`. Also works as a class decorator.

    Raises TypeError for what is not a subclass of Provider, and ValueError for a class without a name.

    Example:
        register_provider(Parasail)  # see `Provider`
    """
    given: Any = provider
    if not (isinstance(given, type) and issubclass(given, Provider)):
        raise TypeError(f"register_provider must be given a subclass of llmbatch.Provider, not {provider!r}")
    if not provider.name:
        raise ValueError(
            f"{provider.__name__} has no name. Set name to what LiteLLM writes before the slash of its models"
        )
    _providers[provider.name] = provider
    return provider


def has_batch_lines(name: str) -> bool:
    """Whether a provider's class implements `render_payload_for_batch_request`."""
    known = _providers.get(name, Provider).render_payload_for_batch_request
    return known is not Provider.render_payload_for_batch_request


def provider_for(name: str) -> Provider:
    """Return a new instance for a provider's name. Raises BatchNotSupportedError if it has no batch support."""
    provider = _providers.get(name, Provider)(name)
    if type(provider).render_payload_for_batch_request is Provider.render_payload_for_batch_request:
        provider.render_payload_for_batch_request({}, "")
    return provider
