"""What requests cost, from LiteLLM's price map; None where it knows no price, never 0 for it."""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from llmbatch._litellm import Target, load
from llmbatch._rows.answer_body import has_tokens

_CHARACTERS_PER_TOKEN = 4


def batch_cost(target: Target, usage: Mapping[str, Any] | None, answered_by: str | None = None) -> float | None:
    """USD of one answered request of a batch job; `answered_by` is the answer's own model, for names that are not."""
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


def standard_cost(target: Target, usage: Mapping[str, Any] | None) -> float | None:
    """USD of one live answer of the standard tier, by the caller's own prices where there are any.

    LiteLLM never sees those with a request: it would keep them for every call.
    """
    if usage is None or not has_tokens(usage) or not _prices(target):
        return None
    prompt, completion = usage.get("prompt_tokens") or 0, usage.get("completion_tokens") or 0
    own = {"output_cost_per_token": 0.0, **dict(target.prices)} if target.prices else None
    try:
        parts = load().cost_per_token(
            model=target.name, custom_llm_provider=target.provider, prompt_tokens=prompt, completion_tokens=completion,
            usage_object=load().Usage(**usage), custom_cost_per_token=own,
        )  # fmt: skip
    except Exception:  # noqa: BLE001 - a usage or a price of a shape that it does not expect
        return None
    return float(sum(parts))


def live_cost(target: Target, prompt_tokens: int, completion_tokens: int, tier: str = "") -> float | None:
    """USD of live requests with so many tokens in sum; `tier` ends LiteLLM's names of a service tier's prices."""
    if not (info := _prices(target)):
        return None
    prompts, answers = (info.get(f"{side}_cost_per_token{tier}") for side in ("input", "output"))
    if tier and None in {prompts, answers}:
        return None
    return float(prompt_tokens * (prompts or 0.0) + completion_tokens * (answers or 0.0))


def has_batch_price(target: Target) -> bool:
    """Whether the map holds prices of batch jobs; where it does not, half the live price is taken."""
    return bool(_prices(target).get("input_cost_per_token_batches"))


def takes_flex(target: Target) -> bool:
    """Whether the map has a price of the model's flex tier, or does not know the model."""
    entry = price_entry(target)
    return bool(target.prices or entry.get("input_cost_per_token_flex") or not entry.get("input_cost_per_token"))


def count_tokens(target: Target, request: Mapping[str, Any]) -> int:
    """Prompt tokens of one chat, tools included, by LiteLLM's tokenizer for the model (or a common one)."""
    options = {key: request[key] for key in ("tools", "tool_choice") if request.get(key)}
    messages, counter = request["messages"], load().token_counter
    try:
        return int(counter(model=target.name, messages=messages, use_default_image_token_count=True, **options))
    except Exception:  # noqa: BLE001 - parts of a kind that LiteLLM cannot count
        return len(json.dumps(messages)) // _CHARACTERS_PER_TOKEN


def model_info(model: str, provider: str) -> Mapping[str, Any]:
    """LiteLLM's entry for a model; empty where it has none."""
    try:
        return load().get_model_info(model=model, custom_llm_provider=provider)  # type: ignore[no-any-return]
    except Exception:  # noqa: BLE001 - LiteLLM raises a bare Exception for a model that it does not know
        return {}


def price_entry(target: Target) -> Mapping[str, Any]:
    """All that is known of a model's prices and limits; the caller's own prices stand alone."""
    info, known = model_info(target.name, target.provider), load().model_cost
    limits = {name: info.get(name) for name in ("mode", "max_input_tokens", "max_output_tokens")}
    # The model as it was named may have a price of its region.
    entry = (known.get(target.model) if info else None) or known.get(str(info.get("key"))) or info
    return {**limits, **(dict(target.prices) or entry)}


@functools.lru_cache(maxsize=256)
def _prices(target: Target) -> Mapping[str, Any]:
    """The caller's own prices, or LiteLLM's entry if it holds a price; empty where none is known."""
    info = dict(target.prices) or model_info(target.name, target.provider)
    known = target.prices or any(v for k, v in info.items() if k.startswith(("input_cost_per", "output_cost_per")))
    return info if known else {}
