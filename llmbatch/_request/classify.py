"""The one place that decides what an exception of LiteLLM, an SDK or the network means.

`RULES` is an ordered list: the first rule that applies makes the `Failure`. The order matters where a later rule would
match too; the rules' comments say so.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from http import HTTPStatus
from typing import Any, NamedTuple

from llmbatch._request.error_report import ERROR_STATUS, ErrorReport, report_of
from llmbatch._request.failures import MAX_MESSAGE_CHARACTERS, Failure, Scope
from llmbatch._request.redaction import redacted
from llmbatch._request.rejections import proxy_wants_password, rejection, wrong_path
from llmbatch._rows.failure_type import FailureType

_CUT = {"TransportError", "ClientError", "ConnectionError", "IncompleteRead", "EndOfStream"}
_UNREACHABLE = {"ConnectError", "ClientConnectorError", "ConnectionRefusedError", "gaierror", "SSLError", "InvalidURL"}
# Unreachable for good: waiting for the server would not help.
_NOT_STARTING = {"InvalidURL", "SSLError", "ClientConnectorSSLError"}
_TIMED_OUT = {"TimeoutError", "Timeout", "APITimeoutError", "TimeoutException"}
_UNREADABLE = {"JSONDecodeError", "UnicodeDecodeError", "DecodingError", "RecursionError"}
_UNREADABLE_WORDS = (
    "empty or invalid response",
    "unable to get json response",
    "error converting to valid response",
    "response with no 'choices'",
    "'choices' that is not a list",
    "'str' object has no attribute 'model_dump'",  # LiteLLM on embeddings that are not JSON
)
_UNTRUSTED = ("certificate_verify_failed", "certificate verify failed", "self-signed certificate")
_NO_KEY = (
    "missing credentials",
    "api_key client option must be set",
    "_key is not set",
    "_token is not set",
    "_key` is not set",
    "_token` is not set",
    "unable to locate credentials",
    "default credentials were not found",
)
# An error event of a stream may name the kind of error instead of a status.
_STATUS_OF_TYPE = {"invalid_request": 400, "authentication": 401, "rate_limit": 429, "insufficient_quota": 429,
                   "overloaded": 529, "server_error": 500, "api_error": 500}  # fmt: skip


class Rule(NamedTuple):
    """One kind of failure: when it applies, what it means, and the message that it was written for."""

    applies: Callable[[ErrorReport], Any]
    build: Callable[[ErrorReport], Failure]
    written_for: str


def classify(exc: BaseException, provider: str | None = None, request: Mapping[str, Any] | None = None) -> Failure:
    """Return what an exception from LiteLLM, a provider's SDK or the transport means; never raises itself.

    `request` holds LiteLLM's arguments, keys included: nothing of them is left in the message.
    """
    try:
        report = report_of(exc, provider, partial(redacted, request=request))
        failure = next(rule.build(report) for rule in RULES if rule.applies(report))
    except Exception as own:  # noqa: BLE001 - whatever a provider has put into an error, it is that row's error only
        message = f"its text could not be read ({type(own).__name__})"
        return Failure(type(exc).__name__, message, provider=provider, billed=None)
    return replace(failure, message=failure.message[:MAX_MESSAGE_CHARACTERS])


def _unlisted(report: ErrorReport) -> Failure:
    """Return the failure of a bug or a missing module on this side: sending again helps with neither."""
    root, message = report.chain[-1], report.message
    if type(root).__name__ not in {report.kind, "Exception"} and type(root).__name__ not in message:
        message = report.hide(f"{message} ({type(root).__name__}: {root})")
    return Failure(report.kind, message, None, report.provider, billed=None)


def _lost(report: ErrorReport, kind: FailureType, message: str, status: int | None = None) -> Failure:
    """Return the failure of an attempt that may have been processed, but whose answer did not arrive."""
    return Failure(kind, message, status, report.provider, retryable=True, billed=None)


def _broken_stream(report: ErrorReport) -> Failure:
    message = report.hide(str(report.cause("BrokenStreamError") or report.message))
    return _lost(report, FailureType.CONNECTION, message)


def _unreachable(report: ErrorReport) -> Failure:
    return Failure(
        FailureType.CONNECTION,
        report.with_address(),
        None,
        report.provider,
        retryable=True,
        unavailable=report.names.isdisjoint(_NOT_STARTING),
        scope=Scope.SHARED,
    )


def _untrusted(report: ErrorReport) -> Failure:
    message = f"{report.with_address()}. For a company's or a proxy's CA, set SSL_CERT_FILE to its certificates"
    return Failure(FailureType.CERTIFICATE, message, None, report.provider, scope=Scope.FINAL)


def _socks(report: ErrorReport) -> Failure:
    message = report.hide(str(report.cause("SocksProxyError") or report.message))
    return Failure(FailureType.PROXY, message, None, report.provider, scope=Scope.FINAL)


def _redirected(report: ErrorReport) -> Failure:
    message = report.hide(str(report.cause("RedirectedElsewhereError") or report.message))
    return Failure(FailureType.REDIRECTED_ELSEWHERE, message, None, report.provider, scope=Scope.FINAL)


def _error_with_status_200(report: ErrorReport) -> Failure:
    """Return the failure that a body of status 200 describes (LM Studio, some gateways)."""
    body = report.body or {}
    error = body.get("error")
    places = [error if isinstance(error, Mapping) else {}, body]
    codes = (place.get(name) for place in places for name in ("code", "status", "status_code"))
    status = next((code for code in codes if isinstance(code, int) and code in ERROR_STATUS), None)
    if status is not None:
        return replace(rejection(report, status), type=FailureType.API)
    wrong = wrong_path(report, HTTPStatus.OK)
    message = report.message
    if wrong:
        message += " (check api_base: most servers want an address that ends in /v1)"
    return Failure(
        FailureType.UNPARSABLE_ANSWER,
        message,
        HTTPStatus.OK.value,
        report.provider,
        retryable=not wrong,
        scope=Scope.SHARED if wrong else Scope.UNKNOWN,
    )


def _unreadable(report: ErrorReport) -> Failure:
    page = "<html" in report.words or "<!doctype" in report.words
    message = f"{report.message} (a web page: check api_base)" if page else report.message
    scope = Scope.UNKNOWN if page else Scope.ROW
    return replace(_lost(report, FailureType.UNPARSABLE_ANSWER, message, HTTPStatus.OK.value), scope=scope)


def _in_stream(report: ErrorReport) -> Failure:
    """Return the failure that the provider reported inside a stream that had begun with status 200."""
    body, original = report.body or {}, getattr(report.chain[0], "original_exception", None)
    numbers = [body.get("status_code"), body.get("code"), getattr(original, "status_code", None)]
    status = next((n for n in numbers if isinstance(n, int) and n in ERROR_STATUS), None)
    if status in {None, 500}:
        words = f"{body.get('type')} {body.get('code')}"
        status = next((number for word, number in _STATUS_OF_TYPE.items() if word in words), None)
    message = report.message.partition(" Original exception: ")[0]
    if status is None:
        return _lost(report, FailureType.STREAM, message, HTTPStatus.OK.value)
    return replace(rejection(report, status), type=FailureType.STREAM, message=message, billed=None)


def _no_key(report: ErrorReport) -> bool:
    """Return whether LiteLLM or an SDK looked for a key before sending and found none."""
    words = report.message.lower()
    missing = "missing" in words and "api key" in words
    return report.status_is_litellms and (missing or any(text in words for text in _NO_KEY))


def _without_key(report: ErrorReport) -> str:
    """Return the message; the OpenAI SDK's own names arguments that llmbatch does not have."""
    if report.provider != "openai" or "workload_identity" not in report.message:
        return report.message
    return "there is no API key: set OPENAI_API_KEY, or pass api_key=, or api_base= for a server of your own"


def _named(*names: str) -> Callable[[ErrorReport], bool]:
    return lambda report: not report.names.isdisjoint(names)


RULES = [
    Rule(
        _named("CannotOverwriteExistingCassetteException"),
        lambda r: Failure(
            FailureType.CASSETTE_MISS,
            "this request is not in the cassette; record it anew, or use the inputs it was recorded with",
            provider=r.provider,
        ),
        "vcrpy: Can't overwrite existing cassette ... in your current record mode ('none')",
    ),
    Rule(_named("SocksProxyError"), _socks, "HTTPS_PROXY=socks5h://localhost:1080, which LiteLLM speaks HTTP to"),
    Rule(_named("RedirectedElsewhereError"), _redirected, "307 with a Location on another host"),
    Rule(
        lambda r: (
            any(getattr(link, "status", None) == HTTPStatus.PROXY_AUTHENTICATION_REQUIRED for link in r.chain)
            or "407 proxy authentication" in r.words
        ),
        proxy_wants_password,
        "aiohttp for an https address: 407, message='Proxy Authentication Required'",
    ),
    # Before unreachable hosts, which certificate errors are a subclass of.
    Rule(
        lambda r: "SSLCertVerificationError" in r.names or any(text in r.words for text in _UNTRUSTED),
        _untrusted,
        "aiohttp: [SSL: CERTIFICATE_VERIFY_FAILED] certificate verify failed: unable to get local issuer certificate",
    ),
    # Before cuts, which they look like; the answer was there and may have been paid for.
    Rule(
        lambda r: r.cause("LineTooLong") or any("too many headers received" in str(link).lower() for link in r.chain),
        lambda r: Failure(
            FailureType.ANSWER_TOO_LARGE,
            f"the response's headers are too large: {r.message}",
            HTTPStatus.OK.value,
            r.provider,
            billed=None,
        ),
        "aiohttp: Got more than 8190 bytes when reading: b'X-Policy...'",
    ),
    Rule(
        lambda r: r.answered and r.status is not None,
        lambda r: rejection(r, r.status or 0),
        "any provider: a response with an error status",
    ),
    Rule(
        lambda r: r.cause("ErrorAnswerError"),
        _error_with_status_200,
        'LM Studio, 200: {"error": "Unexpected endpoint or method. (POST /chat/completions)"}',
    ),
    Rule(
        lambda r: r.kind in _TIMED_OUT,
        lambda r: _lost(r, FailureType.TIMEOUT, r.message),
        "asyncio.timeout: TimeoutError; openai: Request timed out.",
    ),
    Rule(
        _named(*_UNREACHABLE),
        _unreachable,
        "aiohttp: Cannot connect to host 127.0.0.1:1 ssl:default [Connection refused]",
    ),
    Rule(
        _named("TooManyRedirects"),
        lambda r: Failure(
            FailureType.TOO_MANY_REDIRECTS, f"{r.message} (check api_base)", None, r.provider, scope=Scope.SHARED
        ),
        "httpx: Exceeded maximum allowed redirects.",
    ),
    # Before other cuts: its own words say where the stream ended.
    Rule(_named("BrokenStreamError"), _broken_stream, "llmbatch: the stream ended before its finish reason"),
    # Before cuts, a subclass of which it is.
    Rule(
        _named("AnswerTooLargeError"),
        lambda r: Failure(FailureType.ANSWER_TOO_LARGE, r.message, HTTPStatus.OK.value, r.provider, billed=None),
        "llmbatch: the answer is longer than 64 MB",
    ),
    Rule(
        _named(*_CUT),
        lambda r: _lost(r, FailureType.CONNECTION, r.with_address()),
        "aiohttp: Server disconnected; [Errno 104] Connection reset by peer",
    ),
    Rule(
        _no_key,
        lambda r: Failure(
            FailureType.AUTHENTICATION, _without_key(r), HTTPStatus.UNAUTHORIZED.value, r.provider, scope=Scope.SHARED
        ),
        "openai: Missing credentials. Please pass an `api_key`, or set the `OPENAI_API_KEY` environment variable",
    ),
    Rule(
        lambda r: not r.names.isdisjoint(_UNREADABLE) or any(word in r.words for word in _UNREADABLE_WORDS),
        _unreadable,
        "LiteLLM: Empty or invalid response from LLM endpoint. Received: '<html>sign in</html>'",
    ),
    Rule(
        lambda r: (
            getattr(r.chain[0], "original_exception", None) is not None
            or any(isinstance(getattr(link, "body", None), dict) for link in r.chain)
        ),
        _in_stream,
        'OpenAI, in a stream: data: {"error": {"message": "The server is overloaded", "type": "overloaded_error"}}',
    ),
    Rule(
        lambda r: r.status is not None and not r.status_is_litellms,
        lambda r: rejection(r, r.status or 0),
        "LiteLLM: an error object in an answer with status 200, or a request that it rejects itself",
    ),
    Rule(lambda _: True, _unlisted, "anything else: a KeyError in LiteLLM's conversion of an answer"),
]
