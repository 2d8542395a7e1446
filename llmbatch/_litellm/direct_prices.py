"""The cost of an answer that came without LiteLLM's pipeline, as LiteLLM calculates it."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

from llmbatch._litellm import load, provider_of
from llmbatch._litellm.fast_prices import EXTRAS, LONG, PLAIN_DETAILS, LinearPrices
from llmbatch._rows.answer_body import has_tokens

# Fields of an answer that a plain price depends on.
_PRICED = ("model", "usage", "service_tier")
_prices = LinearPrices()


def answer_cost(request: Mapping[str, Any], body: Mapping[str, Any]) -> float | None:
    """Return the USD of an answer's body, None if it has no known price."""
    usage = body.get("usage")
    if not usage or not has_tokens(usage):
        return None
    key = _key(request, body)
    if key is None:
        return _litellm_cost(request, body)
    counts = usage.get("prompt_tokens") or 0, usage.get("completion_tokens") or 0
    priced = {name: body[name] for name in _PRICED if body.get(name) is not None}
    return _prices.linear(key, key[1:4], counts, functools.partial(_litellm_cost, request, priced))


def _key(request: Mapping[str, Any], body: Mapping[str, Any]) -> tuple[Any, ...] | None:
    """Return what the price depends on besides the two token counts; None if it may depend on more."""
    litellm, usage = load(), body["usage"]
    if not 0 < (usage.get("total_tokens") or 0) < LONG or litellm.cost_discount_config or litellm.cost_margin_config:
        return None
    for details in (usage.get("prompt_tokens_details"), usage.get("completion_tokens_details")):
        if details and any(value for name, value in details.items() if name not in PLAIN_DETAILS):
            return None
    if any(map(request.get, EXTRAS)) or _has_annotations(body):
        return None
    model, cost = str(request["model"]), usage.get("cost")
    names = (body.get("model"), model, f"{provider_of(request)}/{model}")
    return None if isinstance(cost, dict | list) else ("chat" if "messages" in request else "embed", *names, cost)


def _has_annotations(body: Mapping[str, Any]) -> bool:
    """Return whether an answer cites pages: the provider may charge for the searches."""
    return any(choice["message"].get("annotations") for choice in body.get("choices") or ())


def _litellm_cost(request: Mapping[str, Any], body: Mapping[str, Any]) -> float | None:
    litellm, is_chat = load(), "messages" in request
    try:
        answer = litellm.ModelResponse(**body) if is_chat else litellm.EmbeddingResponse(**{**body, "data": []})
        cost = litellm.completion_cost(
            answer, model=request["model"], custom_llm_provider=provider_of(request),
            call_type="acompletion" if is_chat else "aembedding",
        )  # fmt: skip
    except Exception:  # noqa: BLE001 - LiteLLM raises for a model that it has no price for
        return None
    return float(cost) if cost is not None and cost >= 0 else None
