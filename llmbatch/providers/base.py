"""What a provider must offer to take batch requests."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal, TypedDict

from llmbatch._litellm.render_body import Renderer


class Payload(TypedDict):
    """A request as a line of a provider's batch file: the wire's own method, path and body."""

    custom_id: str
    method: str
    url: str
    body: dict[str, Any]


class Provider:
    """A provider as batch requests see it; one instance serves one batch.

    Subclass it and `register_provider` the class to let a provider's models be rendered and submitted.

    Attributes:
        name: as LiteLLM writes it before the slash of a model.
        max_rows, max_bytes: what one input file may hold.
        transport: how files and jobs travel: "openai" (the OpenAI SDK), "azure" (its Azure client), or "litellm" for
            an API that LiteLLM translates.

    Example:
        @register_provider
        class Parasail(Provider):
            name = "parasail"

            def render_payload_for_batch_request(self, request, custom_id):
                body = self.render_body(request)
                return {"custom_id": custom_id, "method": "POST", "url": "/v1/chat/completions", "body": body}
    """

    name: ClassVar[str] = ""
    max_rows: ClassVar[int] = 50_000
    max_bytes: ClassVar[int] = 200_000_000
    transport: ClassVar[Literal["openai", "azure", "litellm"]] = "openai"

    def __init__(self, name: str = "") -> None:
        self._name = name or self.name or type(self).__name__
        self.render_body = Renderer()
        """`render_body(request)` is the body that a live call with LiteLLM's arguments `request` would send."""

    def render_payload_for_batch_request(self, request: Mapping[str, Any], custom_id: str) -> Payload:
        """The line of a batch file for one request, whose body is exactly what the live call would send.

        `request` holds LiteLLM's arguments, with `messages` for a chat and `input` for embeddings.
        """
        raise NotImplementedError(
            f"{self._name} does not support batch requests. Provider must implement render_payload_for_batch_request "
            f"(see llmbatch.register_provider); create_chat_completions_batch works with every provider"
        )
