"""OpenAI's batch lines, and the providers whose batch endpoints take exactly them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from llmbatch.providers.base import Payload, Provider

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["Groq", "HostedVLLM", "LiteLLMProxy", "OpenAI"]


class OpenAI(Provider):
    """OpenAI, and any service with its very batch endpoints, through `api_base`."""

    name = "openai"
    chat_url: ClassVar[str] = "/v1/chat/completions"
    embeddings_url: ClassVar[str] = "/v1/embeddings"

    def render_payload_for_batch_request(self, request: Mapping[str, Any], custom_id: str) -> Payload:
        """A line `{custom_id, method, url, body}`."""
        url = self.chat_url if "messages" in request else self.embeddings_url
        return {"custom_id": custom_id, "method": "POST", "url": url, "body": self.render_body(request)}


class Groq(OpenAI):
    """Groq, whose batch endpoints are OpenAI's."""

    name = "groq"


class HostedVLLM(OpenAI):
    """A vLLM server behind a gateway with batch endpoints; its own `run_batch` reads the same lines."""

    name = "hosted_vllm"


class LiteLLMProxy(OpenAI):
    """A LiteLLM proxy, which speaks OpenAI's API for whatever is behind it."""

    name = "litellm_proxy"
