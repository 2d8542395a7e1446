"""OpenAI's batch lines, and the providers that take them: as they are, by Azure's paths, or translated by LiteLLM."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from llmbatch.providers.base import Payload, Provider

if TYPE_CHECKING:
    from collections.abc import Mapping


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


class Azure(OpenAI):
    """Azure OpenAI, whose paths have no version; the model is the batch deployment."""

    name = "azure"
    max_rows = 100_000
    transport = "azure"
    chat_url = "/chat/completions"
    embeddings_url = "/embeddings"


class Mistral(OpenAI):
    """Mistral's batch jobs; they can be neither listed nor cancelled through LiteLLM."""

    name = "mistral"
    transport = "litellm"


class XAI(OpenAI):
    """xAI's batches, which have counters instead of a status and results instead of a file."""

    name = "xai"
    transport = "litellm"
