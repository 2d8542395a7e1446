"""How a batch sends one request once: through LiteLLM or directly, in this process or in worker processes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from llmbatch._litellm import Answer, direct, provider_of
from llmbatch._litellm.instrumentation import traced_calls
from llmbatch._request.genai_spans import traced as traced_call
from llmbatch._request.plans import ChatPlan, EmbeddingsPlan
from llmbatch._request.process_pool import calling
from llmbatch._request.sender import Call
from llmbatch._util.batch_log import logger
from llmbatch.options import Options
from llmbatch.providers.registry import has_batch_lines

_OPERATIONS = {"chat": "chat", "embed": "embeddings"}


def sending(kind: Literal["chat", "embed"], options: Options) -> Call:
    """Return the function that sends one request once."""
    through_litellm = calling(kind, options.processes)
    if options.transport == "litellm":
        return through_litellm
    direct.new_batch()
    directly: Call | None = None
    reported: set[str] = set()
    traced: str | None = None

    async def call(request: dict[str, Any]) -> Answer:
        nonlocal directly, traced
        if traced is None:
            library = traced_calls()
            traced = f"a tracing tool has patched {library}, and would not see them" if library else ""
        reason = traced or _why_not(request)
        if reason is None:
            if directly is None:
                directly = traced_call(calling(f"{kind}-direct", options.processes), _OPERATIONS[kind])
            return await directly(request)
        if reason not in reported:
            reported.add(reason)
            logger.info("transport='direct': {} requests go through LiteLLM: {}", provider_of(request), reason)
        return await through_litellm(request)

    return call


def warm_up(plan: ChatPlan | EmbeddingsPlan, options: Options) -> None:
    """Render a first request, so that the first ones that a limit lets go are sent without delay."""
    if options.transport == "litellm":
        return
    request = plan.request([{"role": "user", "content": "?"}] if isinstance(plan, ChatPlan) else "?")
    if _why_not(request) is None:
        direct.prepare(request)


def _why_not(request: Mapping[str, Any]) -> str | None:
    """Say why a request cannot be sent directly; None if it can."""
    provider = provider_of(request)
    if not has_batch_lines(provider):
        return f"llmbatch knows no OpenAI-style requests of {provider}"
    return direct.why_not(request)
