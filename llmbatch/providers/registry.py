"""Which class speaks for a provider: OpenAI's batch lines as they are, by Azure's paths, or translated by LiteLLM."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, TypeVar

from llmbatch.providers.base import Payload, Provider

T = TypeVar("T", bound=type[Provider])


class OpenAI(Provider):
    """OpenAI, and any service with its very batch endpoints, through `api_base`."""

    chat_url: ClassVar[str] = "/v1/chat/completions"
    embeddings_url: ClassVar[str] = "/v1/embeddings"

    def render_payload_for_batch_request(self, request: Mapping[str, Any], custom_id: str) -> Payload:
        """A line `{custom_id, method, url, body}`."""
        url = self.chat_url if "messages" in request else self.embeddings_url
        return {"custom_id": custom_id, "method": "POST", "url": url, "body": self.render_body(request)}


class Azure(OpenAI):
    """Azure OpenAI, whose paths have no version; the model is the batch deployment."""

    max_rows = 100_000
    transport = "azure"
    chat_url = "/chat/completions"
    embeddings_url = "/embeddings"


class Translated(OpenAI):
    """Mistral, whose jobs LiteLLM can neither list nor cancel, and xAI, with counters and results instead of files."""

    transport = "litellm"


_providers: dict[str, type[Provider]] = {
    "openai": OpenAI,
    "azure": Azure,
    "groq": OpenAI,
    "hosted_vllm": OpenAI,  # behind a gateway with batch endpoints; vLLM's own `run_batch` reads the same lines
    "litellm_proxy": OpenAI,  # for whatever is behind it
    "mistral": Translated,
    "xai": Translated,
}


def register_provider(provider: T) -> T:
    """Let a `Provider` subclass speak for LiteLLM's provider of its `name`; also works as a class decorator.

    Raises TypeError and ValueError for what is no such class.

    Example:
        register_provider(Parasail)  # see `Provider`
    """
    given: Any = provider
    if not (isinstance(given, type) and issubclass(given, Provider)):
        raise TypeError(f"register_provider takes a subclass of llmbatch.Provider itself, not {provider!r}")
    if not provider.name:
        raise ValueError(
            f"{provider.__name__} has no name: set name to what LiteLLM writes before the slash of its models"
        )
    _providers[provider.name] = provider
    return provider


def has_batch_lines(name: str) -> bool:
    """Whether a provider's class implements `render_payload_for_batch_request`."""
    known = _providers.get(name, Provider).render_payload_for_batch_request
    return known is not Provider.render_payload_for_batch_request


def provider_for(name: str) -> Provider:
    """A new instance for a provider's name. Raises NotImplementedError when its class takes no batch requests."""
    provider = _providers.get(name, Provider)(name)
    if type(provider).render_payload_for_batch_request is Provider.render_payload_for_batch_request:
        provider.render_payload_for_batch_request({}, "")
    return provider
