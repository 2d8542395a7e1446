"""How a batch sends one request once: through LiteLLM or directly, in this process or in worker processes."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from functools import partial
from typing import Any, Literal

from llmbatch._litellm import Answer, direct, provider_of
from llmbatch._litellm.chat_streams import chat_stream
from llmbatch._litellm.direct_streams import direct_stream, stream_request
from llmbatch._litellm.instrumentation import traced_calls
from llmbatch._request.genai_spans import traced as traced_call
from llmbatch._request.plans import ChatPlan, EmbeddingsPlan
from llmbatch._request.process_pool import calling
from llmbatch._request.sender import Call
from llmbatch._util.batch_log import logger
from llmbatch.options import Options, Transport
from llmbatch.providers.registry import has_batch_lines

_OPERATIONS = {"chat": "chat", "embed": "embeddings"}


class Sending:
    """Sends the requests of one batch, each by the transport that it asks for, else by the batch's."""

    def __init__(self, kind: Literal["chat", "embed"], options: Options) -> None:
        self._transport = options.transport
        self._reported: set[str] = set()
        self._traced: str | None = None
        self._through_litellm = calling(kind, options.processes)
        self._send_directly = partial(calling, f"{kind}-direct", options.processes)
        self._operation = _OPERATIONS[kind]
        self._directly: Call | None = None
        direct.new_batch()

    async def __call__(self, request: dict[str, Any], transport: Transport | None = None) -> Answer:
        """Send one request once."""
        if not self._is_direct(request, transport):
            return await self._through_litellm(request)
        if self._directly is None:
            self._directly = traced_call(self._send_directly(), self._operation)
        return await self._directly(request)

    def stream(self, request: dict[str, Any], transport: Transport | None = None) -> AsyncIterator[Any]:
        """Send one request once; yield its deltas, then its answer. Streams need no worker processes."""
        return direct_stream(request) if self._is_direct(stream_request(request), transport) else chat_stream(request)

    def _is_direct(self, request: dict[str, Any], transport: Transport | None) -> bool:
        if (transport or self._transport) != "direct":
            return False
        if self._traced is None:
            library = traced_calls()
            self._traced = f"a tracing tool has patched {library}, and would not see them" if library else ""
        reason = self._traced or _why_not(request)
        if reason is not None and reason not in self._reported:
            self._reported.add(reason)
            logger.info("transport='direct': {} requests go through LiteLLM: {}", provider_of(request), reason)
        return reason is None


def warm_up(plan: ChatPlan | EmbeddingsPlan, options: Options) -> None:
    """Render a first request, so that the first ones that a limit lets go are sent without delay."""
    if (plan.transport or options.transport) != "direct":
        return
    request = plan.request([{"role": "user", "content": "?"}] if isinstance(plan, ChatPlan) else "?")
    if _why_not(request) is None:
        direct.prepare(request)


def _why_not(request: Mapping[str, Any]) -> str | None:
    """Return why a request cannot be sent directly; None if it can."""
    provider = provider_of(request)
    if not has_batch_lines(provider):
        return f"llmbatch knows no OpenAI-style requests of {provider}"
    return direct.why_not(request)
