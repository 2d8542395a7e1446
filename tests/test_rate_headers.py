"""The limits that providers state in their headers, in the forms that were seen in real traffic."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest

from llmbatch._limits.rate_headers import (
    StatedLimit,
    names_concurrency_limit,
    seconds_from_now,
    seconds_in,
    stated_limits,
)


def openai(unit: str, limit: str, remaining: str, reset: str | None = None) -> dict[str, str]:
    """Return headers in OpenAI's form."""
    values = {"limit": limit, "remaining": remaining, "reset": reset}
    return {f"x-ratelimit-{name}-{unit}": value for name, value in values.items() if value is not None}


@pytest.mark.parametrize(
    ("headers", "limits"),
    [
        (openai("requests", "600", "10", "5s"), {"requests": StatedLimit(10.0, 10.0)}),
        (openai("tokens", "6000", "0"), {"tokens": StatedLimit(100.0, 0.0)}),
        (
            openai("requests", "60", "1") | openai("tokens", "600", "7"),
            {"requests": StatedLimit(1.0, 1.0), "tokens": StatedLimit(10.0, 7.0)},
        ),
        (
            {**openai("requests", "60", "1"), "x-ratelimit-renewalperiod-requests": "10"},
            {"requests": StatedLimit(6.0, 1.0)},
        ),
        (
            {"x-ratelimit-limit-req-minute": "120", "x-ratelimit-remaining-req-minute": "3"},
            {"requests": StatedLimit(2.0, 3.0)},
        ),
        (
            {
                "anthropic-ratelimit-requests-limit": "60",
                "anthropic-ratelimit-requests-remaining": "59",
                "anthropic-ratelimit-input-tokens-limit": "6000",
                "anthropic-ratelimit-input-tokens-remaining": "100",
            },
            {"requests": StatedLimit(1.0, 59.0), "tokens": StatedLimit(100.0, 100.0)},
        ),
        ({"ratelimit": '"default";r=50;t=30', "ratelimit-policy": '"default";q=300;w=60'}, {"requests": (5.0, 50.0)}),
    ],
)
def test_stated_limits_known_forms_are_read(headers: dict[str, str], limits: dict[str, StatedLimit]) -> None:
    """OpenAI, Azure, Mistral, Anthropic, and the IETF's draft."""
    assert stated_limits(headers) == limits


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"x-ratelimit-limit": "10", "x-ratelimit-remaining": "1"},
        openai("requests", "10", "many"),
        openai("requests", "0", "0"),
        openai("requests", "-1", "-1"),
        openai("requests", "nan", "inf"),
        {"ratelimit": "r=1", "ratelimit-policy": "q=1;w=0"},
        {"ratelimit": "r=7", "ratelimit-policy": "q=5;w=999999999999999"},
        {"ratelimit": "r=1"},
    ],
    ids=str,
)
def test_stated_limits_unknown_forms_are_ignored(headers: dict[str, str]) -> None:
    """Without a unit, a limit above 0, or numbers, headers say nothing."""
    assert stated_limits(headers) == {}


@pytest.mark.parametrize(
    ("reset", "seconds"),
    [(None, 60.0), ("5s", 60.0), ("61s", 60.0), ("14m24s", 86_400.0), ("1h", 360_000.0)],
)
def test_stated_limits_late_reset_shows_longer_window(reset: str | None, seconds: float) -> None:
    """A limit of 10,000 of which 9,900 remain refills within a minute, unless the rest takes longer."""
    assert stated_limits(openai("requests", "10000", "9900", reset))["requests"].rate == pytest.approx(10_000 / seconds)


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("120ms", 0.12), ("8.64s", 8.64), ("6m0s", 360.0), ("1h2m", 3720.0), ("1 hour and 2 minutes", 3720.0),
        ("2d", 172_800.0), ("3", 3.0), ("0", 0.0), ("-5", 0.0), ("soon", None), ("", None), (None, None),
    ],
)  # fmt: skip
def test_seconds_from_now_durations_are_read(value: str | None, seconds: float | None) -> None:
    """Durations and plain seconds; what is not a time is None, and a negative one 0."""
    assert seconds_from_now(value) == (seconds if seconds is None else pytest.approx(seconds))


def test_seconds_from_now_moments_are_read() -> None:
    """An ISO time, an HTTP date, and epoch seconds and milliseconds; the past is now."""
    moment = datetime.now(UTC) + timedelta(seconds=600)
    forms = (moment.isoformat(), format_datetime(moment, usegmt=True), str(moment.timestamp()))
    for value in (*forms, str(moment.timestamp() * 1000)):
        assert seconds_from_now(value) == pytest.approx(600, abs=60)
    assert seconds_from_now("2001-01-01T00:00:00Z") == 0.0


def test_seconds_in_sums_amounts() -> None:
    """Of a duration in words."""
    assert seconds_in("1 minute and 30 seconds") == 90.0


@pytest.mark.parametrize(
    ("headers", "message", "named"),
    [
        ({"rate_limit_type": "max_parallel_requests"}, "", True),
        ({"rate_limit_type": "requests"}, "", False),
        ({}, "Limit type: max_parallel_requests. Current limit: 2", True),
        ({}, "organization concurrency: 1, please try again", True),
        ({}, "Rate limit reached for requests", False),
    ],
)
def test_names_concurrency_limit_in_header_or_message(headers: dict[str, str], message: str, named: bool) -> None:
    """LiteLLM's proxy has a header; others say it in words."""
    assert names_concurrency_limit(headers, message) is named
