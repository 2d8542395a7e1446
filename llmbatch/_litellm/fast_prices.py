"""A fast calculation of costs that are tokens times price: LiteLLM's own takes 1 ms per answer."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from llmbatch._litellm import load

# Tokens. Prices for long prompts begin at 128,000.
LONG = 100_000
PLAIN_DETAILS = {"text_tokens", "reasoning_tokens"}
EXTRAS = ("tools", "web_search_options", "service_tier", "extra_body")
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
            names = () if key is None else (result.model, logging.model, f"{key[1]}/{key[0]}")
            counts = result.usage.prompt_tokens, result.usage.completion_tokens
        except (AttributeError, TypeError):  # another version of LiteLLM
            return whole()
        return whole() if key is None else self.linear(key, names, counts, whole)

    def linear(
        self, key: tuple[Any, ...], names: Iterable[Any], counts: tuple[float, float], whole: Callable[[], float | None]
    ) -> float | None:
        """Return the USD of an answer with these numbers of tokens.

        `key` is all else that its price depends on; `names` are those of the entries in LiteLLM's price map.
        """
        prices = load().model_cost
        entries = [len(prices), *map(prices.get, names)]
        before, per_token = self._known.get(key, (None, None))
        if per_token is not None and before == entries:
            return _linear(per_token, counts)
        cost = whole()
        self._known[key] = (copy.deepcopy(entries), _agreeing(entries[1:], counts, cost))
        return cost

    @staticmethod
    def _key(logging: Any, result: Any) -> tuple[Any, ...] | None:
        """Return what the price depends on besides the tokens; None if it may depend on more."""
        litellm, usage, call_details = load(), result.usage, logging.model_call_details
        if not 0 < usage.total_tokens < LONG or litellm.cost_discount_config or litellm.cost_margin_config:
            return None
        details = (usage.prompt_tokens_details, usage.completion_tokens_details)
        if any(value for part in details if part for name, value in part if name not in PLAIN_DETAILS):
            return None
        if any(logging.optional_params.get(name) for name in EXTRAS) or logging.custom_pricing_for(result):
            return None
        tier, reported = getattr(result, "service_tier", None), getattr(usage, "cost", None)
        if isinstance(reported, Mapping):
            return None
        return (logging.model, call_details.get("custom_llm_provider"), result.model, tier, reported)


def _linear(per_token: _PerToken, counts: tuple[float, float]) -> float | None:
    prompt, completion = per_token
    return None if prompt is None else float(prompt * counts[0] + completion * counts[1])


def _agreeing(entries: list[Any], counts: tuple[float, float], cost: float | None) -> _PerToken | None:
    """Return the prices per token that give this cost; None if no entry has them, or if its prices depend on more."""
    if not cost:
        return (cost, 0.0)
    for entry in filter(None, entries):
        if any(word in name for name, value in entry.items() if value for word in _OTHER_PRICES):
            continue
        per_token = (entry.get("input_cost_per_token") or 0.0, entry.get("output_cost_per_token") or 0.0)
        if abs((_linear(per_token, counts) or 0.0) - cost) <= 1e-9 * cost:
            return per_token
    return None
