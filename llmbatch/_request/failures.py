"""What went wrong with one attempt: the one classifier of everything that LiteLLM, an SDK or the network raises.

It reads exceptions by class name and attributes, so that it needs no provider library to be imported.
A `Failure` holds no exception: those keep request headers (keys) and prompts alive.
"""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from http import HTTPStatus
from typing import Any

from llmbatch._limits.rate_headers import DURATION, names_concurrency_limit, seconds_from_now, seconds_in
from llmbatch._request.redaction import redacted

RETRYABLE_STATUS = {408, 409, 425, 429, 498, 500, 502, 503, 504, *range(520, 530)}
_ERROR_STATUS, _SHARED_STATUS = range(400, 600), {401, 403, 404, *range(500, 600)}
# Seconds that a provider asks to wait (a daily quota), and that a batch should not.
HINT_HOPELESS = 900.0
_LONGEST_MESSAGE = 500
_LONGEST_READ = 1_000_000
_CUT = {"TransportError", "ClientError", "ConnectionError", "IncompleteRead", "EndOfStream"}
_UNREACHABLE = {"ConnectError", "ClientConnectorError", "ConnectionRefusedError", "gaierror", "SSLError", "InvalidURL"}
_TIMED_OUT = {"TimeoutError", "Timeout", "APITimeoutError", "TimeoutException"}
_GARBLED = {"JSONDecodeError", "UnicodeDecodeError", "DecodingError", "RecursionError"}
_GARBLED_WORDS = (
    "empty or invalid response",
    "unable to get json response",
    "error converting to valid response",
    "response with no 'choices'",
    "'choices' that is not a list",
    "'str' object has no attribute 'model_dump'",  # LiteLLM on embeddings that are no JSON
)
_QUOTA_WORDS = (
    "insufficient_quota",
    "exceeded your current quota",
    "credit balance is too low",
    "insufficient balance",
    "insufficient credits",
    "billing_hard_limit",
)
_ERROR_WORDS = {"invalid_request": 400, "authentication": 401, "rate_limit": 429, "insufficient_quota": 429,
                "overloaded": 529, "server_error": 500, "api_error": 500}  # fmt: skip
# LiteLLM or an SDK looked for a key before sending, and found none.
_KEYLESS = re.compile(
    r"(?i)missing credentials|missing [\w ]*\bapi key\b|api_key client option must be set|_(?:key|token)`? is not set"
    r"|unable to locate credentials|default credentials were not found"
)
_SCARCE = re.compile(r"(?i)resource[ _]unavailable")
_TOO_LARGE_WORDS = ("request too large", "tokens_limit_reached", "request_too_large")
_HINT_IN_TEXT = re.compile(
    rf"(?i)\b(?:try again|retry|retrying|wait|resets?)(?: again)?(?: in| after| for)?(?: about)? ({DURATION})"
)


@dataclass(frozen=True, slots=True)
class Failure:
    """One failed attempt, in words that a row can carry.

    Attributes:
        type: short name, as in `RateLimitError`.
        message: one line without keys.
        status_code: the provider's HTTP status, None when it did not answer.
        retryable: whether sending the same request again may succeed.
        refused: whether the provider refused for its rate limit, which pacing mends.
        hint: seconds that the provider asks to wait before the next attempt.
        shared: whether the other rows would meet the same fault (bad key, no such model, provider down).
        billed: whether the provider may have charged for it (None: unknown).
        mended: whether its cause is gone (a new token), so that the next attempt is not counted as a retry.
        scarce: whether a tier had no resources for it (OpenAI's flex), which waiting or another tier mends.
        headers: that the provider refused it with.
    """

    type: str
    message: str
    status_code: int | None = None
    provider: str | None = None
    retryable: bool = False
    refused: bool = False
    hint: float | None = None
    shared: bool = False
    billed: bool | None = False
    mended: bool = False
    scarce: bool = False
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)


def clean(text: str, request: Mapping[str, Any] | None = None) -> str:
    """One line of at most 500 characters, without keys and without what `request` (LiteLLM's arguments) sent."""
    return redacted(text, request)[:_LONGEST_MESSAGE]


def classify(exc: BaseException, provider: str | None = None, request: Mapping[str, Any] | None = None) -> Failure:
    """Say what an exception from LiteLLM, a provider's SDK or the transport means; never raises itself.

    `request` holds LiteLLM's arguments, keys included: nothing of them is left in the message.
    """
    try:
        failure = _classified(exc, provider, partial(redacted, request=request))
    except Exception as own:  # noqa: BLE001 - whatever a provider has put into an error, it is that row's error only
        return Failure(
            type(exc).__name__, f"its text could not be read ({type(own).__name__})", provider=provider, billed=None
        )
    scarce = failure.refused and (
        _SCARCE.search(failure.message) is not None
        or any(getattr(link, "code", None) == "resource_unavailable" for link in _chain(exc))
    )
    return replace(failure, message=failure.message[:_LONGEST_MESSAGE], scarce=scarce)


def _classified(exc: BaseException, provider: str | None, hide: Callable[[str], str]) -> Failure:  # noqa: C901, PLR0911, PLR0912 - one line a kind of fault
    chain = list(_chain(exc))
    names = {cls.__name__ for link in chain for cls in type(link).__mro__}
    kind, message = type(exc).__name__, hide(_message(exc)) or "no message"
    low = message.lower()
    provider = getattr(exc, "llm_provider", None) or provider

    if "CannotOverwriteExistingCassetteException" in names:
        text = "this request is not in the cassette; record it anew, or use the inputs it was recorded with"
        return Failure("CassetteMiss", text, provider=provider)
    answer = next((link.response for link in chain if type(link).__name__ == "HTTPStatusError"), None)  # type: ignore[attr-defined]  # httpx's
    if answer is not None:
        return _refusal(kind, message, answer.status_code, provider, answer.headers)
    if kind in _TIMED_OUT:
        return Failure("Timeout", message, None, provider, retryable=True, billed=None)
    if names & _UNREACHABLE:
        return Failure("ConnectionError", _with_address(message, chain), None, provider, retryable=True, shared=True)
    if "TooManyRedirects" in names:
        return Failure("TooManyRedirects", f"{message} (check api_base)", None, provider, shared=True)
    if "BrokenStreamError" in names:
        broken = next(hide(str(link)) for link in chain if type(link).__name__ == "BrokenStreamError")
        return Failure("ConnectionError", broken, None, provider, retryable=True, billed=None)
    if "AnswerTooLargeError" in names:
        return Failure("AnswerTooLarge", message, 200, provider, billed=None)
    if names & _CUT:
        return Failure("ConnectionError", _with_address(message, chain), None, provider, retryable=True, billed=None)
    if _dressed_up(exc) and _KEYLESS.search(message):
        return Failure("AuthenticationError", message, HTTPStatus.UNAUTHORIZED, provider, shared=True)
    if names & _GARBLED or any(word in low for word in _GARBLED_WORDS):
        return Failure("UnparsableAnswer", message, 200, provider, retryable=True, billed=None)
    if (announced := _announced(exc, chain, message, provider, hide)) is not None:
        return announced
    status = getattr(exc, "status_code", None)
    if isinstance(status, int) and status in _ERROR_STATUS and not _dressed_up(exc):
        # An error object in an answer with status 200, a request that LiteLLM refuses itself, or an SDK's own error.
        headers = getattr(getattr(exc, "response", None), "headers", None) or {}
        return _refusal(kind, message, status, provider, headers)
    # A bug or a missing module on this side, or an answer of an unknown shape: sending it again mends neither.
    root = chain[-1]
    if type(root).__name__ not in {kind, "Exception"} and type(root).__name__ not in message:
        message = hide(f"{message} ({type(root).__name__}: {root})")
    return Failure(kind, message, None, provider, billed=None)


def _announced(
    exc: BaseException,
    chain: list[BaseException],
    message: str,
    provider: str | None,
    hide: Callable[[str], str],
) -> Failure | None:
    """A failure that the provider announced in an answer that had begun well, with status 200: an error in a stream."""
    body = next((found for link in chain if isinstance(found := getattr(link, "body", None), dict)), None)
    original = getattr(exc, "original_exception", None)
    if body is None and original is None:
        return None
    given = body or {}
    numbers = [given.get("status_code"), given.get("code"), getattr(original, "status_code", None)]
    status = next((n for n in numbers if isinstance(n, int) and n in _ERROR_STATUS), None)
    if status in {None, 500}:
        words = f"{given.get('type')} {given.get('code')}"
        status = next((number for word, number in _ERROR_WORDS.items() if word in words), None)
    message = hide(str(given.get("message") or message.partition(" Original exception: ")[0]))
    if status is None:
        return Failure("StreamError", message, 200, provider, retryable=True, billed=None)
    return replace(_refusal("StreamError", message, status, provider, {}), billed=None)


def _chain(exc: BaseException | None) -> Iterator[BaseException]:
    seen: set[int] = set()
    while exc is not None and id(exc) not in seen:
        seen.add(id(exc))
        yield exc
        exc = exc.__cause__ or exc.__context__


def _with_address(message: str, chain: list[BaseException]) -> str:
    """The transport's own words, and the host and port that it tried; LiteLLM's errors hold a request made up."""
    for link in reversed(chain):
        request = vars(link).get("_request") or vars(link).get("request")
        if request is None or type(link).__module__.startswith("litellm"):
            continue
        address = f"{request.url.host}:{request.url.port or (443 if request.url.scheme == 'https' else 80)}"
        words = clean(re.sub(r" ssl:(?:<.*?>|default)", "", str(link))) or message
        return words if address in words else f"{words} ({address})"
    return message


def _dressed_up(exc: BaseException) -> bool:
    """Whether the status is LiteLLM's own: it gives 500 to whatever it cannot place, its own bugs included."""
    given = getattr(exc, "status_code", None)
    return given == HTTPStatus.INTERNAL_SERVER_ERROR or type(exc).__name__ == "APIConnectionError"


def _message(exc: BaseException) -> str:
    """The provider's own words, out of the prefixes, JSON and advice that LiteLLM and the SDKs put around them."""
    # The OpenAI SDK keeps an answer that is no object apart, and says its status only.
    bodies = (getattr(link, "body", None) for link in _chain(exc))
    text = next((body for body in bodies if isinstance(body, str) and body.strip()), str(exc))
    text = re.split(r"\sTraceback \(most recent call last\)", text[:_LONGEST_READ])[0]
    text = re.sub(r"^(?:(?:litellm\.)?\w+(?:Error|Timeout)?: )+(?:\w*Exception - )?", "", text.strip())
    text = re.sub(r"\.? Handle with `litellm\.\w+`\.?$", "", text)
    if (at := text.find("{")) >= 0:
        with contextlib.suppress(ValueError, RecursionError):
            body = json.loads(text[at:])
            error = body.get("error")
            error = error.get("message") if isinstance(error, dict) else error
            text = str(error or body.get("message") or body.get("detail") or text)
    return text


def _refusal(kind: str, message: str, status: int, provider: str | None, headers: Mapping[str, str]) -> Failure:
    """A failure that the provider itself answered with."""
    low = message.lower()
    hint = None if names_concurrency_limit(headers, message) else _hint(headers, message)
    too_large = any(word in low for word in _TOO_LARGE_WORDS)
    # Gemini words an ordinary rate limit as a spent quota, but says when to come back.
    spent = any(word in low for word in _QUOTA_WORDS) and hint is None
    out_of_quota = spent or status == HTTPStatus.PAYMENT_REQUIRED
    hopeless = hint is not None and hint > HINT_HOPELESS
    wish = headers.get("x-should-retry", "").lower()
    retryable = (status in RETRYABLE_STATUS or wish == "true") and wish != "false"
    retryable = retryable and not (too_large or out_of_quota or hopeless)
    shared = out_of_quota or hopeless or status in _SHARED_STATUS or "api key" in low
    if hopeless:
        message = f"{message} (the provider asks to wait {hint:.0f} s)"
    return Failure(
        kind,
        message,
        status,
        provider,
        retryable=retryable,
        refused=retryable and status == HTTPStatus.TOO_MANY_REQUESTS,
        hint=hint,
        shared=shared and not too_large,
        # A 5xx may come after the work was done, but no provider is known to bill one.
        billed=False,
        headers=headers,
    )


def _hint(headers: Mapping[str, str], message: str) -> float | None:
    """Seconds to wait: Retry-After-Ms unless 0, else Retry-After (seconds or a date), else what the text says."""
    after = (f"{headers.get('retry-after-ms')}ms", headers.get("retry-after"))
    hints = [hint for value in after if (hint := seconds_from_now(value)) is not None]
    if hints:
        return next(filter(None, hints), 0.0)
    found = _HINT_IN_TEXT.search(message)
    return seconds_in(found[1]) if found else None
