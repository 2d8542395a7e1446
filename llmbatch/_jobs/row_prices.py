"""Costs of a job's rows: LiteLLM's calculation takes 0.2 ms, and most rows cost tokens times price."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from llmbatch._litellm import Target
from llmbatch._litellm.prices import batch_cost, standard_cost

_Usage = Mapping[str, Any]
_Price = Callable[[_Usage], float | None]

# Tokens of the requests whose costs give a price per token. A price that changes in between, such as tiers by length,
# does not agree with a row's cost.
_FEW, _MANY = 1_000, 30_000
_TOKENS = ("prompt_tokens", "completion_tokens", "total_tokens")
_DETAILS = {"prompt_tokens_details", "completion_tokens_details"}
_TOLERANCE = 1e-9


class RowPrices:
    """Prices the rows of a job: at batch prices, and at live prices for what was saved.

    A price per token is used once LiteLLM has come to the same cost for a row. A usage with anything but plain tokens
    (cached, audio or reasoning tokens, long prompts) is always LiteLLM's.
    """

    def __init__(self) -> None:
        self._known: dict[tuple[Any, ...], tuple[float, float] | None] = {}

    def job(self, target: Target, usage: _Usage | None, answered_by: str | None) -> float | None:
        """Return USD of an answer in a job; `answered_by` is the answer's own model."""
        return self._cost(("job", target, answered_by), usage, lambda used: batch_cost(target, used, answered_by))

    def live(self, target: Target, usage: _Usage | None) -> float | None:
        """Return USD of the same answer to a live request."""
        return self._cost(("live", target), usage, lambda used: standard_cost(target, used))

    def _cost(self, key: tuple[Any, ...], usage: _Usage | None, price: _Price) -> float | None:
        if usage is None:
            return None
        if not _is_plain(usage):
            return price(usage)
        if key not in self._known:
            self._known[key] = _per_token(price, usage)
        per_token = self._known[key]
        return price(usage) if per_token is None else _linear(per_token, usage)


def _is_plain(usage: _Usage) -> bool:
    """Whether a usage is just tokens: nothing else in it is priced."""
    if any(usage.get(name) for name in usage if name not in _TOKENS and name not in _DETAILS):
        return False
    if any(type(usage.get(name)) is not int or not 0 < usage[name] <= _MANY for name in _TOKENS):
        return False
    details = (usage.get(name) or {} for name in _DETAILS)
    return all(isinstance(one, Mapping) and not any(one.values()) for one in details)


def _per_token(price: _Price, usage: _Usage) -> tuple[float, float] | None:
    """Return the prices of a prompt's and of an answer's token; None if a cost is not their sum."""
    short, long_prompt, long_answer = (
        price({"prompt_tokens": prompt, "completion_tokens": answer, "total_tokens": prompt + answer})
        for prompt, answer in ((_FEW, _FEW), (_MANY, _FEW), (_FEW, _MANY))
    )
    cost = price(usage)
    if short is None or long_prompt is None or long_answer is None or cost is None:
        return None
    per_token = ((long_prompt - short) / (_MANY - _FEW), (long_answer - short) / (_MANY - _FEW))
    return per_token if abs(_linear(per_token, usage) - cost) <= _TOLERANCE * max(cost, _TOLERANCE) else None


def _linear(per_token: tuple[float, float], usage: _Usage) -> float:
    return float(per_token[0] * usage["prompt_tokens"] + per_token[1] * usage["completion_tokens"])
