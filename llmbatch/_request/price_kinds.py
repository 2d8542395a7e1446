"""What each price in LiteLLM's map is charged for."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from enum import Enum
from typing import Any


class PriceKind(Enum):
    """What a price is charged for."""

    PROMPT = "a token of the prompt's text"
    MEDIA = "a token of an image, audio or video in the prompt"
    ANSWER = "a token of the answer"
    REQUEST = "a request"
    IMAGE = "an image in the prompt"
    DURATION = "a second of audio or video in the prompt"
    NOT_CHARGED = "something that max_cost rejects, or that no chat uses"


# The beginnings of the price keys of each kind: what follows them names a tier of the same price.
_KINDS = {
    PriceKind.PROMPT: r"input_cost_per_(token|character)"
    r"|(explicit_)?cache_(creation|read)_input_token_cost|citation_cost_per_token",
    PriceKind.MEDIA: r"(input_cost_per|cache_(creation|read)_input)_(audio|image|video)_token",
    PriceKind.ANSWER: r"output_cost_per_([a-z]+_)?token",
    PriceKind.REQUEST: r"input_cost_per_(query|request)",
    PriceKind.IMAGE: r"input_cost_per_image(?!_token)",
    PriceKind.DURATION: r"input_cost_per_(audio|video)_per_second",
    PriceKind.NOT_CHARGED: r"search_|google_maps_|code_interpreter_|file_search_|computer_use_|vector_store_|guardrail_"
    r"|.*_dbu_|output_cost_per_image",
}
_PATTERNS = [(kind, re.compile(pattern)) for kind, pattern in _KINDS.items()]
# Tiers that no batch job is served at.
_LIVE_TIER = re.compile(r".*_(priority|flex|balanced|fast|ultrafast|decisions)$")


def kind_of(name: str) -> PriceKind | None:
    """Return what the price of this name is charged for; None for a name that no kind is known of."""
    return next((kind for kind, pattern in _PATTERNS if pattern.match(name)), None)


def numbers_in(entry: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    """Yield the numbers of a price entry by name, those of its tiers and hours included."""
    for name, value in entry.items():
        for inner in value if isinstance(value, list) else [value]:
            if isinstance(inner, Mapping):
                yield from numbers_in(inner)
            elif isinstance(inner, int | float) and not isinstance(inner, bool):
                yield name, float(inner)


def highest_prices(prices: Iterable[tuple[str, float]], *, job: bool) -> dict[PriceKind, float]:
    """Return the highest price of each kind, live or in a batch job.

    LiteLLM takes half of a price that has none for batches, except for what was cached.
    """
    highest: dict[PriceKind, float] = {}
    for name, value in prices:
        kind = kind_of(name)
        if kind is None or (job and _LIVE_TIER.match(name)):
            continue
        whole = not job or "cache_read" in name or name.endswith("_batches")
        highest[kind] = max(highest.get(kind, 0.0), value if whole else value / 2)
    return highest
