"""What a response with an error status means: for this row, for the other rows, and for when to try again.

The evidence is the provider's own words and codes. The status decides only where they say nothing.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Mapping
from dataclasses import replace
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from typing import NamedTuple

from llmbatch._limits.rate_headers import DURATION, names_concurrency_limit, seconds_from_now, seconds_in
from llmbatch._request.error_report import ErrorReport
from llmbatch._request.failures import RETRYABLE_STATUS, Failure, Scope
from llmbatch._rows.failure_type import FailureType

# A provider that asks to wait longer than this has a quota of a day or more; a batch does not wait for it.
MAX_USEFUL_WAIT_SECONDS = 900.0

_RETRY_AFTER_MS = ("retry-after-ms", "x-ms-retry-after-ms")
_RETRY_AFTER = ("retry-after", "x-ratelimit-retry-after", "ratelimit-reset-after", "x-retry-after", "retry_after")
_PREFIX = "llm_provider-"  # LiteLLM's proxy puts it before each header of the provider behind it
_WAIT_IN_WORDS = re.compile(
    rf"(?i)\b(?:try again|retry|retrying|wait|resets?)(?: again)?(?: in| after| for)?(?: about)? ({DURATION})"
)
_SERVER_ERRORS = range(500, 600)
_BUDGET_STATUS = {401, 402, 403, 429}


class ScopeRule(NamedTuple):
    """Evidence in words.

    `written_for` names the provider and the message that the pattern was written for.
    """

    scope: Scope
    pattern: re.Pattern[str]
    written_for: str


def _rule(scope: Scope, *patterns: str, written_for: str) -> ScopeRule:
    return ScopeRule(scope, re.compile("|".join(patterns)), written_for)


_MODALITY = r"(?:image|vision|audio|video|file|pdf|document|tool|function|json|structured|multimodal|response_format)"

SCOPE_RULES = [
    # An account in trouble uses the words of content moderation, so this comes first.
    _rule(
        Scope.SHARED,
        r"\b(?:account|organi[sz]ation|api key)\b[^.]{0,60}"
        r"\b(?:suspended|deactivated|banned|disabled|blocked|terminated|revoked|expired|not active)\b",
        written_for="OpenAI: The OpenAI account associated with this API key has been deactivated.",
    ),
    _rule(
        Scope.UNKNOWN,
        "can only afford",
        written_for="OpenRouter, 402: You requested up to 4096 tokens, but can only afford 300",
    ),
    _rule(
        Scope.ROW,
        "no endpoints? found that supports?",
        rf"(?:does not|doesn't|do not|not) support[^.]{{0,20}} {_MODALITY}",
        rf"{_MODALITY}[^.]{{0,30}} (?:is|are) not supported",
        written_for="OpenRouter, 404: No endpoints found that support image input",
    ),
    _rule(
        Scope.ROW,
        "moderation|flagged|violat|usage guideline|safety_check|guardrail|harmful|inappropriate|responsible ai",
        "content[ _-](?:polic|filter|management|safety)|prohibited content|prompt was (?:blocked|filtered)|blocked by",
        written_for="xAI, 403: Content violates usage guidelines. OpenRouter, 403: requires moderation",
    ),
    _rule(
        Scope.ROW,
        "maximum context length|context[ _]length|context window|too long|too large|too many tokens",
        "maximum (?:input|prompt)|exceeds? the (?:maximum|limit|context)|tokens_limit_reached|string_above_max_length",
        written_for="OpenAI, 400: This model's maximum context length is 8192 tokens",
    ),
    _rule(
        Scope.SHARED,
        "api[ _-]?key|no_db_connection|no connected db|subscription key|access token",
        "invalid[ _](?:authentication|token|credentials|subscription)|authenticat|credential|unauthori[sz]ed",
        written_for="xAI, 400: Incorrect API key provided. LiteLLM's proxy, 400, for a wrong key: No connected db",
    ),
    _rule(
        Scope.SHARED,
        r"\bmodel\b.{0,120}?\b(?:does not exist|not found|not exist|not available|no longer|not allowed)",
        r"\bmodel\b.{0,120}?\b(?:decommissioned|deprecated|retired|not supported in)",
        r"(?:invalid|unknown|unsupported|no such) model\b|model_not_found|not_a_chat_model|not a chat model",
        "deploymentnotfound|deployment for this resource does not exist",
        written_for="OpenAI, 404: The model `x` does not exist. LiteLLM's proxy, 400: Invalid model name passed in",
    ),
    _rule(
        Scope.SHARED,
        "does not have (?:access|permission)|not have access|must be verified|permission[_ ](?:error|denied)",
        "country, region|unsupported_country|location is not supported|ip address|not authorized to access",
        "service_disabled|has not been used in project|not allowed to (?:access|call|use)",
        written_for="OpenAI, 403: Project `x` does not have access to model `y`",
    ),
]

# What servers answer for a path that they do not have.
_WRONG_PATH = re.compile(
    r"unexpected endpoint or method|<!doctype|<html|cannot post /|404 page not found|method not allowed|invalid url"
    r"|\bno such (?:page|route|endpoint)\b|\bno route\b|unknown (?:url|path|route)|(?:endpoint|path) not found"
)
_BARE_NOT_FOUND = re.compile(r"^\W*(?:detail\W+)?(?:error\W+)?not[ _]found\W*$|^\W*404\W+not found\W*$")
_CHECK_ADDRESS = "check api_base: most servers want an address that ends in /v1"

_REQUEST_TOO_LARGE = (
    "request too large",
    "tokens_limit_reached",
    "request_too_large",
    "too large to process",  # llama.cpp, 500: input (992 tokens) is too large to process. increase the physical batch
)
_QUOTA_WORDS = (
    "insufficient_quota",
    "exceeded your current quota",
    "credit balance is too low",
    "insufficient balance",
    "insufficient credits",
    "billing_hard_limit",
)
# LiteLLM's proxy: "Budget has been exceeded!" (422) of a key, "crossed budget: Exceeded budget for provider" (429).
# OpenRouter: "Key limit exceeded (total limit)" (403).
_BUDGET = re.compile(r"budget has been exceeded|budget_exceeded|crossed budget|exceeded ?budget|key limit exceeded")
_BUDGET_CODES = re.compile(r"budget|exceeded_limit")
# Gemini's quotaId in error.details is "GenerateRequestsPerDayPerProjectPerModel-FreeTier".
_DAILY_QUOTA_ID = re.compile(r'"quotaid"\s*:\s*"([^"]*per(?:day|month)[^"]*)"')
# Groq: "Rate limit reached ... on tokens per day (TPD)". OpenRouter: "free-models-per-day".
_DAILY_WORDS = re.compile(
    r"\b(?:requests|tokens) per day\b|\((?:rpd|tpd)\)|per-day\b|\bdaily (?:quota|limit|request|token)"
)
# Reset headers, with the header that says how much of that quota remains.
_RESETS = [("x-ratelimit-reset", "x-ratelimit-remaining"), ("ratelimit-reset", "ratelimit-remaining")]
_RESETS += [
    (f"x-ratelimit-reset-{unit}", f"x-ratelimit-remaining-{unit}")
    for unit in ("requests", "tokens", "requests-day", "tokens-day")
]
# llama.cpp: 503 "Loading model". Hugging Face: 503 "Model x is currently loading". Envoy: "no healthy upstream".
_STARTING = re.compile(
    r"loading model|model (?:\S+ )?(?:is )?(?:currently |still )?loading|is loading|still loading|loading the model"
    r"|(?:starting|warming|booting) up"
    r"|\b(?:server|model|service|engine)\b[^.]{0,40} (?:is )?(?:not (?:yet )?ready|starting|restarting)"
    r"|no healthy upstream|upstream connect error|connection refused|engine is not running"
)
_RESET_IN_METADATA = re.compile(r'"x-ratelimit-reset"\s*:\s*"?(\d{10,13})')
_NO_RESOURCES = re.compile(r"resource[ _]unavailable")


def is_too_large(message: str) -> bool:
    """Return whether the provider says that a request is too large, which no retry fixes."""
    words = message.lower()
    return any(word in words for word in _REQUEST_TOO_LARGE)


def rejection(report: ErrorReport, status: int) -> Failure:
    """Return the failure for a response with an error status."""
    words, headers = report.words, report.headers
    if status == HTTPStatus.PROXY_AUTHENTICATION_REQUIRED:
        return proxy_wants_password(report)
    # A slot is free when an answer has come, whatever Retry-After says.
    concurrency = names_concurrency_limit(headers, report.message)
    retry_after = None if concurrency else retry_after_of(headers, report.message)
    failure = Failure(
        report.kind,
        report.message,
        status,
        report.provider,
        retry_after=retry_after,
        # A 5xx may come after the work was done, but no provider is known to bill one.
        billed=False,
        headers=headers,
    )
    if is_too_large(words):
        return failure
    quota = _exhausted_quota(report, status, retry_after)
    if quota is not None:
        return replace(failure, message=f"{report.message} ({quota})", scope=Scope.FINAL)
    # Gemini words an ordinary rate limit as an exhausted quota, but says when to come back.
    out_of_quota = status == HTTPStatus.PAYMENT_REQUIRED or (
        any(word in words for word in _QUOTA_WORDS) and retry_after is None
    )
    advice = headers.get("x-should-retry", "").lower()
    retryable = (status in RETRYABLE_STATUS or advice == "true") and advice != "false" and not out_of_quota
    if status in _SERVER_ERRORS and retryable and _STARTING.search(words):
        return replace(failure, retryable=True, unavailable=True, scope=Scope.SHARED)
    rate_limited = retryable and status == HTTPStatus.TOO_MANY_REQUESTS
    scope = _scope(report, status, rate_limited=rate_limited)
    if out_of_quota and scope is Scope.ROW:
        scope = Scope.SHARED
    if scope is Scope.SHARED and wrong_path(report, status):
        failure = replace(failure, message=f"{report.message} ({_CHECK_ADDRESS})")
    return replace(
        failure,
        retryable=retryable,
        rate_limited=rate_limited,
        scope=scope,
        no_resources=rate_limited and _NO_RESOURCES.search(words) is not None,
    )


def proxy_wants_password(report: ErrorReport) -> Failure:
    """Return the failure of a request that the proxy of the environment rejects with 407."""
    message = (
        "the proxy wants a user and a password (407 Proxy Authentication Required). "
        "Set HTTPS_PROXY (or HTTP_PROXY) to http://user:password@host:port"
    )
    return Failure(FailureType.PROXY, message, 407, report.provider, scope=Scope.FINAL)


def wrong_path(report: ErrorReport, status: int) -> bool:
    """Return whether the server says that it does not have this path, as when /v1 is missing."""
    if status not in {HTTPStatus.OK, HTTPStatus.NOT_FOUND, HTTPStatus.METHOD_NOT_ALLOWED}:
        return False
    if _WRONG_PATH.search(report.words) or _WRONG_PATH.search(report.details):
        return True
    return status == HTTPStatus.METHOD_NOT_ALLOWED or _BARE_NOT_FOUND.search(report.message.lower()) is not None


def _scope(report: ErrorReport, status: int, *, rate_limited: bool) -> Scope:
    """Return which requests the rejection concerns."""
    if rate_limited:
        return Scope.ROW
    if rule := next((rule for rule in SCOPE_RULES if rule.pattern.search(report.words)), None):
        return rule.scope
    if status == HTTPStatus.UNAUTHORIZED or wrong_path(report, status):
        return Scope.SHARED
    if status in {HTTPStatus.FORBIDDEN, HTTPStatus.NOT_FOUND} or status in _SERVER_ERRORS:
        return Scope.UNKNOWN
    return Scope.ROW


def _exhausted_quota(report: ErrorReport, status: int, retry_after: float | None) -> str | None:
    """Return which quota is used up and when it resets, None where waiting a few minutes may help."""
    words, limited = report.words, status == HTTPStatus.TOO_MANY_REQUESTS
    reset = retry_after if retry_after is not None and retry_after > MAX_USEFUL_WAIT_SECONDS else None
    if limited and retry_after is None:
        reset = _hours_until_reset(report)
    when = "" if reset is None else f", resets in {_duration(reset)}: the provider asks to wait {reset:.0f} s"
    if reset is not None and not limited:
        return f"the provider asks to wait {reset:.0f} s ({_duration(reset)})"
    if _BUDGET.search(words) and (status in _BUDGET_STATUS or _BUDGET_CODES.search(report.code)):
        return f"the budget is spent{when or '; its owner can raise it'}"
    if limited and (found := _DAILY_QUOTA_ID.search(report.details)):
        name = _in_its_own_case(report, found[1])
        return f"the daily quota {name} is used up{when or ', resets at midnight Pacific time'}"
    if limited and _DAILY_WORDS.search(words) and (reset is not None or retry_after is None):
        return f"the daily quota is used up{when or ', resets within a day'}"
    return None if reset is None else f"the quota is used up{when}"


def _in_its_own_case(report: ErrorReport, lowered: str) -> str:
    text = str(report.body)
    at = text.lower().find(lowered)
    return text[at : at + len(lowered)] if at >= 0 else lowered


def _hours_until_reset(report: ErrorReport) -> float | None:
    """Return the seconds until a quota resets that is used up for long, by headers or error metadata."""
    now = _server_time(report.headers)
    resets = [
        seconds_from_now(_header(report.headers, reset), now)
        for reset, remaining in _RESETS
        if (_header(report.headers, remaining) or "0").strip() in {"0", "0.0"}
    ]
    # OpenRouter repeats the upstream's headers in error.metadata.headers.
    if found := _RESET_IN_METADATA.search(report.details):
        resets.append(seconds_from_now(found[1], now))
    return next((seconds for seconds in resets if seconds and seconds > MAX_USEFUL_WAIT_SECONDS), None)


def _duration(seconds: float) -> str:
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min"


def _header(headers: Mapping[str, str], name: str) -> str | None:
    return headers.get(name) or headers.get(f"{_PREFIX}{name}")


def retry_after_of(headers: Mapping[str, str], message: str) -> float | None:
    """Return the seconds that the provider asks to wait: in headers, milliseconds first, else in its message.

    Milliseconds of 0 come with a real number of seconds (Azure). A date counts from the response's own `Date`.
    """
    now = _server_time(headers)
    given = [f"{_header(headers, name)}ms" for name in _RETRY_AFTER_MS]
    given += [_header(headers, name) or "" for name in _RETRY_AFTER]
    waits = [wait for value in given if (wait := seconds_from_now(value, now)) is not None]
    if waits:
        return next(filter(None, waits), 0.0)
    found = _WAIT_IN_WORDS.search(message)
    return seconds_in(found[1]) if found else None


def _server_time(headers: Mapping[str, str]) -> float | None:
    """Return the response's own `Date` in epoch seconds: this machine's clock may be wrong."""
    with contextlib.suppress(ValueError, TypeError, OverflowError):
        return parsedate_to_datetime(headers["date"]).timestamp() if "date" in headers else None
    return None
