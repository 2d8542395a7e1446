"""What goes to one model: its rows and tokens, and what they cost, live or as a batch job."""

from __future__ import annotations

import bisect
import json
from array import array
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from llmbatch._jobs.input_files import Filling
from llmbatch._litellm import Target
from llmbatch._litellm.prices import (
    batch_cost,
    count_tokens,
    has_flex_price,
    price_thresholds,
    standard_cost,
    takes_flex,
)
from llmbatch._request.plans import ChatPlan, EmbeddingsPlan
from llmbatch.providers.base import Provider
from llmbatch.providers.registry import provider_for

# Counting the tokens of a row takes 0.1 ms and more: this many rows are counted, and of the others one in fifty.
_COUNTED_ROWS = 1000
_THEN_EVERY = 50
_SAMPLE_TOKENS = 1_000_000  # of an answer, to find its price per token

_Price = Callable[[Mapping[str, Any]], float | None]


class Counts:
    """The rows of one model and service tier, counted for an estimate.

    Attributes:
        sent: rows that can be sent.
        counted: rows whose tokens were counted; the others are scaled by their length.
        images: rows with images or files.
        limits: the different limits of an answer, None for no limit.
        answers: tokens of all answers at their limits; None if one has none.
    """

    def __init__(self, target: Target, provider: Provider | None, tier: str | None = None) -> None:
        self.target, self.provider, self.tier = target, provider, tier
        self.sent = self.counted = self.images = 0
        self.limits: set[int | None] = set()
        self.answers: int | None = 0
        self._characters = self._counted_characters = self._counted_tokens = 0
        self._thresholds = price_thresholds(target)
        # For each row, if its own length decides its price: tokens, or -1 - characters where they were not counted.
        self._lengths, self._answer_limits = array("q"), array("q")

    def add(self, plan: ChatPlan | EmbeddingsPlan, request: Mapping[str, Any]) -> None:
        """Count one more row."""
        self.sent += 1
        limit = answer_limit(plan)
        self.limits.add(limit)
        answer = None if limit is None else limit * (plan.params.get("n") or 1)
        self.answers = None if answer is None or self.answers is None else self.answers + answer
        given = request["input"] if "input" in request else request["messages"]
        characters = len(json.dumps(given, ensure_ascii=False))
        self.images += not isinstance(given, str) and any(_has_media(message) for message in given)
        self._characters += characters
        length = -1 - characters
        if self.sent <= _COUNTED_ROWS or self.sent % _THEN_EVERY == 0:
            length = count_tokens(self.target, request)
            self.counted += 1
            self._counted_characters += characters
            self._counted_tokens += length
        if self._thresholds:
            self._lengths.append(length)
            self._answer_limits.append(answer or 0)

    @property
    def prompt(self) -> int:
        """Tokens of all prompts."""
        return round(self._counted_tokens + (self._characters - self._counted_characters) * self._tokens_per_character)

    @property
    def _tokens_per_character(self) -> float:
        return self._counted_tokens / self._counted_characters if self._counted_characters else 0.0

    def live(self, *, answers: bool) -> float | None:
        """USD as live requests; `answers`: with all answers at their limits, else for the prompts alone."""
        return self._cost(lambda usage: standard_cost(self.target, usage, self.tier), answers=answers)

    def flex(self, *, answers: bool) -> float | None:
        """USD at the flex tier, likewise."""
        if not has_flex_price(self.target):
            return None
        return self._cost(lambda usage: standard_cost(self.target, usage, "flex"), answers=answers)

    def job(self, *, answers: bool) -> float | None:
        """USD as a batch job, likewise."""
        if self.provider is None:
            return None
        return self._cost(lambda usage: batch_cost(self.target, usage), answers=answers)

    def _cost(self, price: _Price, *, answers: bool) -> float | None:
        """Return the sum of what the rows cost, each by the price for a prompt of its length."""
        if answers and self.answers is None:
            return None
        costs = [_linear_cost(price, *band, answers=answers) for band in self._bands()]
        return None if None in costs else sum(cost for cost in costs if cost is not None)

    def _bands(self) -> list[tuple[int, int, int]]:
        """Return, for each price by length, its longest prompt, and the tokens of all its prompts and answers."""
        if not self._thresholds:
            return [(max(self.prompt, 1), self.prompt, self.answers or 0)]
        bands: dict[int, list[int]] = {}
        scale = self._tokens_per_character
        for length, answer in zip(self._lengths, self._answer_limits, strict=True):
            tokens = length if length >= 0 else round((-1 - length) * scale)
            band = bands.setdefault(bisect.bisect_left(self._thresholds, tokens), [1, 0, 0])
            band[:] = max(band[0], tokens), band[1] + tokens, band[2] + answer
        return [(longest, prompts, answers) for longest, prompts, answers in bands.values()]

    def missing(self, lane: str) -> str:
        """Return why the rows cannot go by a lane; "" if they can."""
        if lane == "job" and self.provider is None:
            return f"{self.target.provider} has no batch support in llmbatch"
        if lane == "flex" and not takes_flex(self.target):
            return f"no flex price is known for {self.target.model}"
        return ""


class CountedPlan(NamedTuple):
    """A plan, the provider that renders its requests (None without batch support), and the counts they belong to."""

    plan: ChatPlan | EmbeddingsPlan
    provider: Provider | None
    counts: Counts


class ModelCounts:
    """The counts of each model and service tier, and how the rows of a model fill input files."""

    def __init__(self) -> None:
        self.counts: dict[tuple[Target, str | None], Counts] = {}
        self._fillings: dict[Target, Filling] = {}

    def plan(self, plan: ChatPlan | EmbeddingsPlan) -> CountedPlan:
        """Return the plan with a provider of its own, whose renderer serves one set of parameters."""
        target, tier = plan.target, plan.params.get("service_tier")
        try:
            provider: Provider | None = provider_for(target.provider)
        except NotImplementedError:
            provider = None
        counts = self.counts.setdefault((target, tier), Counts(target, provider, tier))
        return CountedPlan(plan, provider, counts)

    def begins_file(self, target: Target, provider: Provider, size: int) -> bool:
        """Put a line of this size into the model's input files; return whether it is the first of a file."""
        if target not in self._fillings:
            self._fillings[target] = Filling(provider.max_rows, provider.max_bytes)
        return self._fillings[target].begins_file(size)


def _linear_cost(price: _Price, longest: int, prompts: int, completions: int, *, answers: bool) -> float | None:
    """Return the price of these tokens, where a request of up to `longest` tokens costs tokens times price."""
    prompt_only = price(_usage(longest, 0))
    if prompt_only is None:
        return None
    cost = prompt_only / longest * prompts
    if answers and completions:
        with_answer = price(_usage(longest, _SAMPLE_TOKENS))
        if with_answer is None:
            return None
        cost += (with_answer - prompt_only) / _SAMPLE_TOKENS * completions
    return cost


def _usage(prompt: int, completion: int) -> dict[str, int]:
    return {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}


def answer_limit(plan: ChatPlan | EmbeddingsPlan) -> int | None:
    """Return the most tokens of an answer, None without a limit."""
    if isinstance(plan, EmbeddingsPlan):
        return 0
    return plan.params.get("max_tokens") or plan.params.get("max_completion_tokens")


def _has_media(message: Mapping[str, Any]) -> bool:
    content = message.get("content")
    return isinstance(content, list) and any(part.get("type") != "text" for part in content)
