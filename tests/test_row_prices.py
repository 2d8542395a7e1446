"""What the rows of a job cost, and what a live request would have cost."""

from __future__ import annotations

import random
from typing import Any

import pytest

from llmbatch._jobs.row_prices import RowPrices
from llmbatch._litellm import Target
from llmbatch._litellm.prices import batch_cost, standard_cost

OWN_PRICES = (("input_cost_per_token", 1e-6), ("output_cost_per_token", 2e-6))


def usages(count: int) -> list[dict[str, Any]]:
    """Usages of every size, some with cached or reasoning tokens, some malformed."""
    chance = random.Random(7)  # noqa: S311 - repeatable
    made: list[dict[str, Any]] = [{}, {"prompt_tokens": "3", "completion_tokens": None, "total_tokens": 3}]
    for _ in range(count):
        prompt, answer = chance.choice([3, 900, 40_000, 250_000]) + chance.randrange(90), chance.randrange(1, 3000)
        usage: dict[str, Any] = {"prompt_tokens": prompt, "completion_tokens": answer, "total_tokens": prompt + answer}
        if chance.random() < 0.5:
            usage["prompt_tokens_details"] = {"cached_tokens": chance.choice([0, 0, 2])}
        if chance.random() < 0.5:
            usage["completion_tokens_details"] = {"reasoning_tokens": chance.choice([0, 0, 1])}
        made.append(usage)
    return made


@pytest.mark.parametrize(
    ("model", "provider", "prices"),
    [
        ("gpt-4o-mini", "openai", ()),
        ("gpt-4.1", "openai", ()),
        ("gpt-5.4", "openai", ()),
        ("grok-4", "xai", ()),
        ("qwen-plus-latest", "dashscope", ()),
        ("nobody-knows", "openai", ()),
        ("nobody-knows", "openai", OWN_PRICES),
    ],
)
def test_row_prices_of_any_usage_are_litellms(model: str, provider: str, prices: Any) -> None:
    """Whatever a model's price depends on, and in whatever order the rows come."""
    target, known = Target(f"{provider}/{model}", model, provider, None, prices), RowPrices()
    for usage in usages(60):
        assert known.job(target, usage, model) == pytest.approx(batch_cost(target, usage, model))
        assert known.live(target, usage) == pytest.approx(standard_cost(target, usage))
