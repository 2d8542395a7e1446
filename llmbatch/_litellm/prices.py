"""Costs of requests from LiteLLM's price map; None if a price is unknown, never 0."""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from llmbatch._litellm import Target, load
from llmbatch._rows.answer_body import has_tokens

_CHARACTERS_PER_TOKEN = 4
_THRESHOLD = re.compile(r"_cost(?:_per_token)?_above_(\d+)(k?)_tokens")


def batch_cost(target: Target, usage: Mapping[str, Any] | None, answered_by: str | None = None) -> float | None:
    """Return the USD of one answer of a batch job; `answered_by` is the answer's own model, for names that are not."""
    info = _prices(target) or (answered_by and _prices(replace(target, name=answered_by)))
    if not info or usage is None or not has_tokens(usage):
        return None
    calculate = load().cost_calculator.batch_cost_calculator
    try:
        parts = calculate(
            usage=load().Usage(**usage), model=target.name, custom_llm_provider=target.provider, model_info=info
        )
    except Exception:  # noqa: BLE001 - a usage or a price of a shape that it does not expect
        return None
    return float(sum(parts))


def standard_cost(target: Target, usage: Mapping[str, Any] | None, tier: str | None = None) -> float | None:
    """USD of one live answer, of the standard tier unless one is given, by the caller's own prices if there are any.

    LiteLLM never sees those with a request: it would keep them for every call.
    """
    if usage is None or not has_tokens(usage) or not _prices(target):
        return None
    prompt, completion = usage.get("prompt_tokens") or 0, usage.get("completion_tokens") or 0
    own = {"output_cost_per_token": 0.0, **dict(target.prices)} if target.prices else None
    try:
        parts = load().cost_per_token(
            model=target.name, custom_llm_provider=target.provider, prompt_tokens=prompt, completion_tokens=completion,
            usage_object=load().Usage(**usage), custom_cost_per_token=own, service_tier=tier,
        )  # fmt: skip
    except Exception:  # noqa: BLE001 - a usage or a price of a shape that it does not expect
        return None
    return float(sum(parts))


def has_price(target: Target) -> bool:
    """Whether a price is known for live requests."""
    return bool(_prices(target))


def price_thresholds(target: Target) -> list[int]:
    """Return the prompt lengths in tokens above which other prices apply to the whole request, in order."""
    if target.prices:
        return []
    entry, bounds = price_entry(target), set[int]()
    for name, value in entry.items():
        if value is not None and (found := _THRESHOLD.search(name)):
            bounds.add(int(found[1]) * (1000 if found[2] else 1))
    for tier in entry.get("tiered_pricing") or ():
        bounds.update(int(bound) for bound in tier.get("range") or () if bound)
    return sorted(bounds)


def has_cached_batch_price(target: Target) -> bool:
    """Whether cached tokens have a batch price, or no price of their own at all; else jobs pay the live price."""
    entry = price_entry(target)
    return not entry.get("cache_read_input_token_cost") or bool(entry.get("cache_read_input_token_cost_batches"))


def has_batch_price(target: Target) -> bool:
    """Return whether the map has batch prices; without them half the live price is used."""
    return bool(_prices(target).get("input_cost_per_token_batches"))


def has_flex_price(target: Target) -> bool:
    """Whether a price of the flex tier is known."""
    return bool(_prices(target).get("input_cost_per_token_flex"))


def takes_flex(target: Target) -> bool:
    """Return whether the map has a flex price for the model, or does not know the model."""
    entry = price_entry(target)
    return bool(target.prices or entry.get("input_cost_per_token_flex") or not entry.get("input_cost_per_token"))


def count_tokens(target: Target, request: Mapping[str, Any]) -> int:
    """Count the prompt tokens of one chat, tools included, or of one text, by LiteLLM's tokenizer for the model."""
    counter = load().token_counter
    given: Any = request["input"] if "input" in request else request["messages"]
    try:
        if "input" in request:
            return int(counter(model=target.name, text=given))
        options = {key: request[key] for key in ("tools", "tool_choice") if request.get(key)}
        return int(counter(model=target.name, messages=given, use_default_image_token_count=True, **options))
    except Exception:  # noqa: BLE001 - parts of a kind that LiteLLM cannot count
        return len(json.dumps(given)) // _CHARACTERS_PER_TOKEN


def model_info(model: str, provider: str) -> Mapping[str, Any]:
    """Return LiteLLM's entry for a model; empty if it has none."""
    try:
        return load().get_model_info(model=model, custom_llm_provider=provider)  # type: ignore[no-any-return]
    except Exception:  # noqa: BLE001 - LiteLLM raises a bare Exception for a model that it does not know
        return {}


def price_entry(target: Target) -> Mapping[str, Any]:
    """Return a model's prices and limits. The caller's own prices replace LiteLLM's."""
    info, known = model_info(target.name, target.provider), load().model_cost
    limits = {name: info.get(name) for name in ("mode", "max_input_tokens", "max_output_tokens")}
    # The model as it was named may have a price of its region.
    entry = (known.get(target.model) if info else None) or known.get(str(info.get("key"))) or info
    return {**limits, **(dict(target.prices) or entry)}


@functools.lru_cache(maxsize=256)
def _prices(target: Target) -> Mapping[str, Any]:
    """Return the caller's own prices, or LiteLLM's entry if it has a price; empty if none is known."""
    info = dict(target.prices) or model_info(target.name, target.provider)
    known = target.prices or any(v for k, v in info.items() if k.startswith(("input_cost_per", "output_cost_per")))
    return info if known else {}
