"""The rate limits that providers state in their response headers. No state, no policy.

Forms seen in real traffic: `x-ratelimit-{limit,remaining,reset}-{requests,tokens}` (OpenAI, Groq, Azure with
`x-ratelimit-renewalperiod-*`), `x-ratelimit-{limit,remaining}-{req,tokens}-minute` (Mistral),
`anthropic-ratelimit-{requests,tokens,input-tokens}-{limit,remaining,reset}`, and the IETF draft's `ratelimit` with
`ratelimit-policy` (`q=1000;w=300`). A bare `x-ratelimit-limit` names no unit and is ignored.
"""

from __future__ import annotations

import contextlib
import math
import re
import time
from collections.abc import Mapping
from datetime import datetime
from email.utils import parsedate_to_datetime
from typing import NamedTuple

_MINUTE = 60.0
_AMOUNT = r"(\d+(?:\.\d+)?)\s*(ms|milli\w*|s|secs?|seconds?|m|mins?|minutes?|h|hrs?|hours?|d|days?)(?![a-z])"
_UNIT_SECONDS = {"s": 1.0, "m": _MINUTE, "h": 3600.0, "d": 86_400.0}
DURATION = rf"(?:{_AMOUNT}(?:,? and |,? )?)+"
# A form of the headers, with "{}" for limit, remaining and reset, and the seconds that its limit is for where it says.
_FORMS = {
    "requests": [
        ("x-ratelimit-{}-requests", None),
        ("x-ratelimit-{}-req-minute", _MINUTE),
        ("anthropic-ratelimit-requests-{}", None),
    ],
    "tokens": [
        ("x-ratelimit-{}-tokens", None),
        ("x-ratelimit-{}-tokens-minute", _MINUTE),
        ("anthropic-ratelimit-input-tokens-{}", None),
        ("anthropic-ratelimit-tokens-{}", None),
    ],
}


_CONCURRENCY = re.compile(r"(?i)max_parallel_requests|\bconcurren(t|cy)\b|\bparallel requests\b")


class StatedLimit(NamedTuple):
    """A limit as a provider's headers state it: its `rate` a second, and what is `remaining` now."""

    rate: float
    remaining: float


def stated_limits(headers: Mapping[str, str]) -> dict[str, StatedLimit]:
    """Return the stated limits by unit (`"requests"`, `"tokens"`); empty if there are none."""
    found: dict[str, StatedLimit] = {}
    if not any("ratelimit" in name for name in headers):
        return found
    for unit, templates in _FORMS.items():
        for template, window in templates:
            limit = _number(headers.get(template.format("limit")))
            remaining = _number(headers.get(template.format("remaining")))
            if limit is None or remaining is None or limit <= 0:
                continue
            stated_window = window or _number(headers.get(f"x-ratelimit-renewalperiod-{unit}"))
            if stated_window is None:
                stated_window = _window(limit, remaining, seconds_from_now(headers.get(template.format("reset"))))
            found[unit] = StatedLimit(limit / max(stated_window, 1.0), max(0.0, remaining))
            break
    if "requests" not in found and (stated := _ietf(headers)):
        found["requests"] = stated
    return found


def names_concurrency_limit(headers: Mapping[str, str], message: str) -> bool:
    """Return whether a 429 says that it is about requests in flight: its Retry-After is then no time to wait.

    A slot is free when an answer has come; LiteLLM's proxy says 60 s whatever that takes.
    """
    return _CONCURRENCY.search(f"{headers.get('rate_limit_type', '')} {message}") is not None


def _window(limit: float, remaining: float, reset: float | None) -> float:
    """Return the seconds in which the whole limit refills: a minute, unless the reset time shows that it is longer.

    A reset within a minute says nothing: it may be a fixed window's end or a leaky bucket's refill.
    """
    if reset is None or reset <= _MINUTE + 1 or remaining >= limit:
        return _MINUTE
    return max(_MINUTE, reset * limit / (limit - remaining))


def _ietf(headers: Mapping[str, str]) -> StatedLimit | None:
    now, policy = headers.get("ratelimit", ""), headers.get("ratelimit-policy", "")
    remaining = re.search(r"\br=(\d{1,15})", now)
    quota, window = re.search(r"\bq=(\d{1,15})", policy), re.search(r"\bw=(\d{1,7})(?!\d)", policy)
    if not (remaining and quota and window and int(window[1])):
        return None
    return StatedLimit(int(quota[1]) / int(window[1]), float(remaining[1]))


def seconds_from_now(value: str | None, now: float | None = None) -> float | None:
    """Return the seconds that a header names; None if it is not a time.

    Forms: `120ms`, `8.64s`, `6m0s`, `1h2m`, plain seconds, an ISO time, an HTTP date, epoch (milli)seconds.
    """
    if not value:
        return None
    value, now = value.strip(), time.time() if now is None else now
    if (number := _number(value)) is not None:
        epoch, epoch_ms = 1e9, 1e12
        if number > epoch_ms:
            number /= 1000
        return max(0.0, number - now) if number > epoch else max(0.0, number)
    if re.fullmatch(DURATION, value):
        return seconds_in(value)
    for parse in (datetime.fromisoformat, parsedate_to_datetime):
        with contextlib.suppress(ValueError, TypeError, OverflowError):
            return max(0.0, parse(value).timestamp() - now)
    return None


def seconds_in(duration: str) -> float:
    """Return the sum of the amounts of a `DURATION`."""
    amounts = ((float(number), unit.lower()) for number, unit in re.findall(f"(?i){_AMOUNT}", duration))
    return sum(n * (0.001 if unit.startswith(("ms", "mil")) else _UNIT_SECONDS[unit[0]]) for n, unit in amounts)


def _number(value: str | None) -> float | None:
    with contextlib.suppress(TypeError, ValueError):
        number = float(value)  # type: ignore[arg-type]
        return number if math.isfinite(number) else None
    return None
