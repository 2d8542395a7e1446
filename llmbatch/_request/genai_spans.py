"""Spans for requests that LiteLLM does not see (`transport="direct"`), after OpenTelemetry's GenAI conventions.

They exist if the application records spans with OpenTelemetry. They hold no prompts and no answers.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from typing import Any

from llmbatch._litellm import Answer, provider_of
from llmbatch._request.retry import AttemptFailedError
from llmbatch._request.sender import Call
from llmbatch._util.row_tag import current_row

_PARAMETERS = ("temperature", "top_p", "max_tokens", "seed", "frequency_penalty", "presence_penalty")
_NOT_RECORDING = {"ProxyTracerProvider", "NoOpTracerProvider"}


def traced(call: Call, operation: str) -> Call:
    """Return a call that makes a span around each request, as a child of the caller's; the same one if none records."""
    trace = sys.modules.get("opentelemetry.trace")  # an application that records spans has imported it
    if trace is None or type(trace.get_tracer_provider()).__name__ in _NOT_RECORDING:
        return call
    tracer = trace.get_tracer("llmbatch")

    async def send(request: dict[str, Any]) -> Answer:
        model = str(request["model"]).removeprefix(f"{provider_of(request)}/")
        with tracer.start_as_current_span(
            f"{operation} {model}",
            kind=trace.SpanKind.CLIENT,
            attributes=_of_request(request, operation, model),
            record_exception=False,  # its message may quote the prompt
            set_status_on_exception=False,
        ) as span:
            try:
                answer = await call(request)
            except BaseException as exc:
                kind = exc.failure.type if isinstance(exc, AttemptFailedError) else type(exc).__name__
                span.set_attribute("error.type", str(kind))
                span.set_status(trace.Status(trace.StatusCode.ERROR))
                raise
            span.set_attributes(_of_answer(answer))
            return answer

    return send


def _of_request(request: Mapping[str, Any], operation: str, model: str) -> dict[str, Any]:
    given: dict[str, Any] = {
        "gen_ai.operation.name": operation,
        "gen_ai.provider.name": provider_of(request),
        "gen_ai.request.model": model,
    }
    given |= {f"gen_ai.request.{name}": request[name] for name in _PARAMETERS if request.get(name) is not None}
    if (row := current_row()) is not None:
        given |= {"llmbatch.batch_id": row.batch_id, "llmbatch.index": row.index, "llmbatch.custom_id": row.custom_id}
        if row.metadata is not None:
            given["llmbatch.metadata"] = json.dumps(row.metadata, ensure_ascii=False)
    return given


def _of_answer(answer: Answer) -> dict[str, Any]:
    body = answer.body
    usage = body.get("usage") or {}
    reasons = [str(choice.get("finish_reason")) for choice in body.get("choices") or ()]
    given = {
        "gen_ai.response.id": body.get("id"),
        "gen_ai.response.model": body.get("model"),
        "gen_ai.response.finish_reasons": reasons or None,
        "gen_ai.usage.input_tokens": usage.get("prompt_tokens"),
        "gen_ai.usage.output_tokens": usage.get("completion_tokens"),
    }
    return {name: value for name, value in given.items() if value is not None}
