"""A provider's answer, checked and normalized: programs can rely on its shape, whatever was sent."""

from __future__ import annotations

import base64
import contextlib
import json
import math
import struct
from collections.abc import Mapping
from typing import Any

from llmbatch._rows.row import NO_USAGE, well_formed

_SIDES = ("prompt", "completion")


def normalized_body(body: Mapping[str, Any]) -> dict[str, Any]:
    """Return the body of an answer (to a chat or to texts) as strict JSON in UTF-8.

    A usage that cannot be true is empty. A `model` that is not text is None, and so is a vector with anything but
    numbers. Raises ValueError if the choices or the data have an unknown shape.
    """
    data, choices = body.get("data"), body.get("choices") or []
    items = [_item(one) for one in data] if isinstance(data, list) and not choices else None
    if items is None and not (isinstance(choices, list) and all(map(_is_choice, choices))):
        raise ValueError("empty or invalid response: its choices have no known shape")
    left_out = {"data"} if items is None else {"data", "choices"}
    made = _plain({name: value for name, value in body.items() if name not in left_out})
    if "usage" in made:
        made["usage"] = normalized_usage(made["usage"])
        if items is None and not _can_be_true(made["usage"], choices):
            made["usage"] = {}
    if not isinstance(made.get("model"), str | None):
        made["model"] = None
    return made if items is None else {**made, "data": items}


def _is_choice(choice: Any) -> bool:
    return isinstance(choice, Mapping) and isinstance(choice.get("message") or {}, Mapping)


def _plain(body: dict[str, Any]) -> dict[str, Any]:
    """Return the body as strict JSON: valid Unicode, None for NaN and infinity."""
    try:
        json.dumps(body, ensure_ascii=False, allow_nan=False).encode()
    except (ValueError, TypeError):
        text = well_formed(json.dumps(body, ensure_ascii=False, skipkeys=True, default=str))
        return dict(json.loads(text, parse_constant=lambda _: None))
    return body


def normalized_usage(given: Any) -> dict[str, Any]:
    """Return a usage with its details; empty if one of its totals is not a number of tokens."""
    if not isinstance(given, Mapping):
        return {}
    if not all(_is_count(given[name]) for name in NO_USAGE if given.get(name) is not None):
        return {}
    usage = {
        name: round(value) if name in NO_USAGE and value is not None else _details(value)
        for name, value in given.items()
    }
    # LiteLLM makes 0 of a total that the server leaves out.
    if not usage.get("total_tokens") and (total := sum(usage.get(f"{side}_tokens") or 0 for side in _SIDES)):
        usage["total_tokens"] = total
    return usage


def _can_be_true(usage: Mapping[str, Any], choices: list[Mapping[str, Any]]) -> bool:
    """Return whether an answer with these choices can have taken so few tokens.

    llama.cpp reports the tokens of one choice for all of them. A token is hardly ever longer than a word.
    """
    completion = usage.get("completion_tokens") or 0
    if (len(choices) == 1 and completion and usage.get("prompt_tokens")) or not has_tokens(usage):
        return True
    if reported_cost(usage) is not None:
        return True
    texts = ((choice.get("message") or {}).get("content") for choice in choices)
    words = sum(len(text.split()) for text in texts if isinstance(text, str))
    return bool(usage.get("prompt_tokens")) and words <= completion


def has_tokens(usage: Mapping[str, Any] | None) -> bool:
    """Return whether a usage has any tokens, so that a cost can be calculated."""
    return any((usage or {}).get(name) for name in NO_USAGE)


def reported_cost(usage: Mapping[str, Any] | None) -> float | None:
    """Return the USD that a provider reports in a usage, as a number or as an object with a total."""
    cost = (usage or {}).get("cost")
    if isinstance(cost, Mapping):
        cost = cost.get("total_cost")
    return float(cost) if isinstance(cost, int | float) and _is_count(cost) else None


def _details(value: Any) -> Any:
    """Return details without values that are not a number of tokens."""
    if isinstance(value, Mapping):
        return {name: _details(one) for name, one in value.items()}
    return value if _is_count(value) or not isinstance(value, int | float) or isinstance(value, bool) else None


def _is_count(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < math.inf


def _item(given: Any) -> dict[str, Any]:
    """Return an item of an embeddings answer: its vector, and its index if that is a whole number."""
    given = given if isinstance(given, Mapping) else {}
    item = _plain({name: value for name, value in given.items() if name != "embedding"})
    if not isinstance(item.get("index", 0), int):
        del item["index"]
    return {**item, "embedding": _vector(given.get("embedding"))}


def _vector(given: Any) -> list[Any] | None:
    """Return a vector as a list of numbers (or of such lists), decoded from base64; None if it is not one."""
    with contextlib.suppress(TypeError, ValueError, OverflowError, struct.error):
        found = given
        if isinstance(given, str):
            found = [value for (value,) in struct.iter_unpack("<f", base64.b64decode(given))]
        return found if _is_vector(found) else None
    return None


def _is_vector(value: Any) -> bool:
    if isinstance(value, list) and value and isinstance(value[0], list):
        return all(map(_is_vector, value))
    return isinstance(value, list) and math.isfinite(sum(value))
