"""What requests cost, from LiteLLM's price map; None where it knows no price, never 0 for it."""

from __future__ import annotations

import copy
import functools
from typing import TYPE_CHECKING, Any, NamedTuple

from llmbatch._litellm import Target, load

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

__all__ = ["LinearPrices", "batch_cost", "count_tokens", "has_batch_price", "live_cost"]

# What else than its tokens an answer's price may depend on; prices for long prompts begin at 128,000 tokens.
_LONG = 100_000
_PLAIN_DETAILS = {"text_tokens", "reasoning_tokens"}
_EXTRAS = ("tools", "web_search_options", "service_tier", "extra_body")
_OTHER_PRICES = ("off_peak", "per_request", "per_second", "tiered", "reasoning")


def batch_cost(target: Target, usage: Mapping[str, Any] | None, answered_by: str | None = None) -> float | None:
    """USD of one answered request of a batch job; `answered_by` is the answer's own model, for names that are not."""
    info = _prices(target.name, target.provider) or (answered_by and _prices(answered_by, target.provider))
    if not info or not usage:
        return None
    calculate = load().cost_calculator.batch_cost_calculator
    try:
        parts = calculate(
            usage=_usage_class()(**usage), model=target.name, custom_llm_provider=target.provider, model_info=info
        )
    except Exception:  # noqa: BLE001 - a usage or a price of a shape that it does not expect
        return None
    return float(sum(parts))


def live_cost(target: Target, prompt_tokens: int, completion_tokens: int) -> float | None:
    """USD of live requests with so many tokens in sum."""
    info = _prices(target.name, target.provider)
    if not info:
        return None
    answers = completion_tokens * (info.get("output_cost_per_token") or 0.0)
    return float(prompt_tokens * (info.get("input_cost_per_token") or 0.0) + answers)


def has_batch_price(target: Target) -> bool:
    """Whether the map holds prices of batch jobs; where it does not, half the live price is taken."""
    info = _prices(target.name, target.provider)
    return bool(info and info.get("input_cost_per_token_batches"))


def count_tokens(target: Target, request: Mapping[str, Any]) -> int:
    """Prompt tokens of one request, tools included, by LiteLLM's tokenizer for the model (or a common one)."""
    counter = load().token_counter
    if "messages" in request:
        options = {key: request[key] for key in ("tools", "tool_choice") if request.get(key)}
        return int(
            counter(model=target.name, messages=request["messages"], use_default_image_token_count=True, **options)
        )
    given = request["input"]
    texts: Sequence[str] = [given] if isinstance(given, str) else given
    return sum(int(counter(model=target.name, text=text)) for text in texts)


class LinearPrices:
    """Costs of chats that are just tokens times price, by two multiplications; LiteLLM's own calculation takes 1 ms.

    A model's price is trusted to be that, or to be unknown, once LiteLLM has come to the same for an answer of it and
    for as long as its entries in the price map stay as they are. Answers with anything else to price (cached or audio
    tokens, tools, prices of the caller's own) are LiteLLM's.
    """

    def __init__(self) -> None:
        self._known: dict[tuple[Any, ...], tuple[list[Any], _Linear | None]] = {}

    def cost(self, logging: Any, result: Any, whole: Callable[[], float | None]) -> float | None:
        """USD of an answer; `whole` is LiteLLM's calculation of it."""
        try:
            key = self._key(logging, result)
        except (AttributeError, TypeError):  # another LiteLLM
            key = None
        if key is None:
            return whole()
        prices = load().model_cost
        entries = [len(prices), *(prices.get(name) for name in (result.model, logging.model, f"{key[1]}/{key[0]}"))]
        before, linear = self._known.get(key, (None, None))
        if linear is not None and before == entries:
            return linear.cost(result.usage)
        cost = whole()
        self._known[key] = (copy.deepcopy(entries), _agreeing(entries[1:], result.usage, cost))
        return cost

    @staticmethod
    def _key(logging: Any, result: Any) -> tuple[Any, ...] | None:
        """What the price depends on besides the tokens; None where it may depend on more."""
        litellm, usage, told = load(), result.usage, logging.model_call_details
        if not 0 < usage.total_tokens < _LONG or litellm.cost_discount_config or litellm.cost_margin_config:
            return None
        details = (usage.prompt_tokens_details, usage.completion_tokens_details)
        if any(value for part in details if part for name, value in part if name not in _PLAIN_DETAILS):
            return None
        if any(logging.optional_params.get(name) for name in _EXTRAS) or logging.custom_pricing_for(result):
            return None
        tier = getattr(result, "service_tier", None)
        return (logging.model, told.get("custom_llm_provider"), result.model, tier, getattr(usage, "cost", None))


class _Linear(NamedTuple):
    """USD a token; None where there is no price."""

    prompt: float | None
    completion: float

    def cost(self, usage: Any) -> float | None:
        if self.prompt is None:
            return None
        return float(self.prompt * usage.prompt_tokens + self.completion * usage.completion_tokens)


def _agreeing(entries: list[Any], usage: Any, cost: float | None) -> _Linear | None:
    """Prices by the token that give this cost; None where no entry has them, or prices that depend on more."""
    if not cost:
        return _Linear(cost, 0.0)
    for entry in filter(None, entries):
        if any(word in name for name, value in entry.items() if value for word in _OTHER_PRICES):
            continue
        linear = _Linear(entry.get("input_cost_per_token") or 0.0, entry.get("output_cost_per_token") or 0.0)
        if abs((linear.cost(usage) or 0.0) - cost) <= 1e-9 * cost:
            return linear
    return None


@functools.lru_cache(maxsize=256)
def _prices(model: str, provider: str) -> Any:
    """LiteLLM's entry for a model if it holds a price."""
    try:
        info = load().get_model_info(model=model, custom_llm_provider=provider)
    except Exception:  # noqa: BLE001 - LiteLLM raises a bare Exception for a model that it does not know
        return None
    known = any(value for key, value in info.items() if key.startswith(("input_cost_per", "output_cost_per")))
    return info if known else None


@functools.cache
def _usage_class() -> Any:
    load()
    from litellm.types.utils import Usage  # noqa: PLC0415 - imports litellm

    return Usage
