"""The most that a request can cost, for a budget that must hold."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from llmbatch._litellm import load
from llmbatch._litellm.prices import model_info

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

__all__ = ["worst_cost"]

# A token is at least one byte of the text; roles, separators and schemas around it take a few more.
_AROUND_A_MESSAGE, _IMAGE_TOKENS = 16, 3000


def worst_cost(plan: Any) -> Callable[[Mapping[str, Any]], float]:
    """A function from a request to the USD that it costs at the very most.

    Raises ValueError when the model has no known price, or when nothing bounds the length of an answer.
    """
    target = plan.target
    info = model_info(target.name, target.provider)
    if info.get("input_cost_per_token") is None:
        msg = (
            f"max_cost needs a price, and none is known for {target.model!r}: leave max_cost out, or register one with "
            "litellm.register_model({...})"
        )
        raise ValueError(msg)
    most = plan.params.get("max_tokens") or plan.params.get("max_completion_tokens") or info.get("max_output_tokens")
    embeds = info.get("mode") == "embedding"
    if not embeds and not most:
        msg = f"max_cost needs a bound on the answers of {target.model!r}: pass max_tokens="
        raise ValueError(msg)

    entry = load().model_cost.get(info.get("key"), info)
    tiers = [entry, *(entry.get("tiered_pricing") or ())]
    uplift = max([1.0, *(value for name, value in entry.items() if name.endswith("_multiplier"))])

    def dearest(*names: str) -> float:
        """Whatever follows the name: a length of the prompt, a service tier, a cache's time."""
        prices = (price for tier in tiers for name, price in tier.items() if name.startswith(names) and price)
        return float(uplift * max(prices, default=0.0))

    price_in = dearest("input_cost_per_token", "cache_creation_input_token_cost")
    price_out = 0.0 if embeds else dearest("output_cost_per_token", "output_cost_per_reasoning_token")
    around = len(json.dumps({k: v for k, v in plan.params.items() if k in {"tools", "functions"}}, default=str))
    if schema := getattr(plan, "response_format", None):
        around += len(json.dumps(schema.model_json_schema()))

    def worst(request: Mapping[str, Any]) -> float:
        answers = (most or 0) * (request.get("n") or 1)
        return price_in * (_prompt_tokens(request) + around) + price_out * answers

    return worst


def _prompt_tokens(request: Mapping[str, Any]) -> int:
    if (given := request.get("input")) is not None:
        return sum(len(text.encode()) for text in ([given] if isinstance(given, str) else given))
    total = 0
    for message in request["messages"]:
        parts = message.get("content")
        images = 0
        if isinstance(parts, list):
            images = sum(part.get("type") != "text" for part in parts)
            parts = [part for part in parts if part.get("type") == "text"]
        rest = {k: v for k, v in message.items() if k != "content"}
        text = parts if isinstance(parts, str) else json.dumps(parts, ensure_ascii=False)
        total += len(text.encode()) + len(json.dumps(rest)) + _AROUND_A_MESSAGE + images * _IMAGE_TOKENS
    return total
