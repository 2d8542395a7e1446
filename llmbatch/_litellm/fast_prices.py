"""A fast calculation of costs that are tokens times price: LiteLLM's own takes 1 ms per answer."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import Any

from llmbatch._litellm import load

# Tokens. Prices for long prompts begin at 128,000.
_LONG = 100_000
_PLAIN_DETAILS = {"text_tokens", "reasoning_tokens"}
_EXTRAS = ("tools", "web_search_options", "service_tier", "extra_body")
_PerToken = tuple[float | None, float]  # USD per token of the prompt and of the answer; None if there is no price
_OTHER_PRICES = ("off_peak", "per_request", "per_second", "tiered", "reasoning")


class LinearPrices:
    """Costs of chats that are tokens times price, calculated with two multiplications.

    A model's price per token is used once LiteLLM has calculated the same cost for one of its answers, and until the
    model's entries in the price map change. LiteLLM calculates the cost of every other answer (cached or audio tokens,
    tools, the caller's own prices).
    """

    def __init__(self) -> None:
        self._known: dict[tuple[Any, ...], tuple[list[Any], _PerToken | None]] = {}

    def cost(self, logging: Any, result: Any, whole: Callable[[], float | None]) -> float | None:
        """Return the USD of an answer; `whole` is LiteLLM's calculation."""
        try:
            key = self._key(logging, result)
        except (AttributeError, TypeError):  # another version of LiteLLM
            key = None
        if key is None:
            return whole()
        prices = load().model_cost
        entries = [len(prices), *(prices.get(name) for name in (result.model, logging.model, f"{key[1]}/{key[0]}"))]
        before, per_token = self._known.get(key, (None, None))
        if per_token is not None and before == entries:
            return linear_cost(per_token, result.usage)
        cost = whole()
        self._known[key] = (copy.deepcopy(entries), agreeing_prices(entries[1:], result.usage, cost))
        return cost

    @staticmethod
    def _key(logging: Any, result: Any) -> tuple[Any, ...] | None:
        """Return what the price depends on besides the tokens; None if it may depend on more."""
        litellm, usage, told = load(), result.usage, logging.model_call_details
        if not 0 < usage.total_tokens < _LONG or litellm.cost_discount_config or litellm.cost_margin_config:
            return None
        details = (usage.prompt_tokens_details, usage.completion_tokens_details)
        if any(value for part in details if part for name, value in part if name not in _PLAIN_DETAILS):
            return None
        if any(logging.optional_params.get(name) for name in _EXTRAS) or logging.custom_pricing_for(result):
            return None
        tier, reported = getattr(result, "service_tier", None), getattr(usage, "cost", None)
        if isinstance(reported, Mapping):
            return None
        return (logging.model, told.get("custom_llm_provider"), result.model, tier, reported)


def linear_cost(per_token: _PerToken, usage: Any) -> float | None:
    prompt, completion = per_token
    return None if prompt is None else float(prompt * usage.prompt_tokens + completion * usage.completion_tokens)


def agreeing_prices(entries: list[Any], usage: Any, cost: float | None) -> _PerToken | None:
    """Return the prices per token that give this cost; None if no entry has them, or if its prices depend on more."""
    if not cost:
        return (cost, 0.0)
    for entry in filter(None, entries):
        if any(word in name for name, value in entry.items() if value for word in _OTHER_PRICES):
            continue
        per_token = (entry.get("input_cost_per_token") or 0.0, entry.get("output_cost_per_token") or 0.0)
        if abs((linear_cost(per_token, usage) or 0.0) - cost) <= 1e-9 * cost:
            return per_token
    return None
