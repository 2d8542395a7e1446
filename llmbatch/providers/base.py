"""The interface of a provider that takes batch requests."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal, TypedDict

from llmbatch._litellm.render_body import Renderer
from llmbatch.errors import BatchNotSupportedError


class Payload(TypedDict):
    """A request as a line of a batch input file: the HTTP method, path and body."""

    custom_id: str
    method: str
    url: str
    body: dict[str, Any]


class Provider:
    """A provider that may take batch requests; one instance serves one batch.

    Subclass it and `register_provider` the class to let a provider's models be rendered and submitted.

    Attributes:
        name: LiteLLM's name for it, before the slash of a model.
        max_rows, max_bytes: the limits of one input file.
        transport: how files and jobs are sent: "openai" (the OpenAI SDK), "azure" (its Azure client), or "litellm" for
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
        """`render_body(request)` returns the body that a live call with LiteLLM's arguments `request` would send."""

    def render_payload_for_batch_request(self, request: Mapping[str, Any], custom_id: str) -> Payload:  # noqa: ARG002 - for subclasses
        """Return the line of an input file for one request; its body is exactly what the live call would send.

        `request` holds LiteLLM's arguments, with `messages` for a chat and `input` for embeddings. Raises
        BatchNotSupportedError, a NotImplementedError, unless a subclass implements it.
        """
        raise BatchNotSupportedError(
            f"{self._name} has no batch support in llmbatch. Use lane='live', or register a Provider that implements "
            "render_payload_for_batch_request (llmbatch.register_provider)"
        )
