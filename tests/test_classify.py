"""`classify`: the failure for each kind of exception of LiteLLM, the SDKs and the transport (made up here)."""

from __future__ import annotations

from email.utils import formatdate
from types import SimpleNamespace
from typing import Any

import pytest

from llmbatch._request.classify import classify
from llmbatch._request.failures import Failure, Scope
from llmbatch._request.rejections import MAX_USEFUL_WAIT_SECONDS


def made(name: str, message: str = "it broke", cause: BaseException | None = None, **attributes: Any) -> Exception:
    """An exception of a class of that name."""
    made_up: Exception = type(name, (Exception,), {})(message)
    vars(made_up).update(attributes)
    made_up.__cause__ = cause
    return made_up


def rejected(status: int, message: str = "no", **headers: str) -> Exception:
    """A provider's answer with an error status."""
    given = {name.replace("_", "-"): value for name, value in headers.items()}
    return made("APIStatusError", message, status_code=status, response=SimpleNamespace(headers=given))


def request_to(host: str, port: int | None = None, scheme: str = "https") -> Any:
    """What a transport's exceptions hold."""
    return SimpleNamespace(url=SimpleNamespace(host=host, port=port, scheme=scheme))


def answer(status: int, **headers: str) -> Any:
    return SimpleNamespace(status_code=status, headers=headers)


LOST = {"retryable": True, "billed": None}
KINDS: dict[str, tuple[Exception, Failure]] = {
    "no cassette": (
        made("UnhandledError", cause=made("CannotOverwriteExistingCassetteException")),
        Failure(
            "CassetteMiss",
            "this request is not in the cassette; record it anew, or use the inputs it was recorded with",
        ),
    ),
    "an answer": (
        made("HTTPStatusError", response=answer(403)),
        Failure("HTTPStatusError", "it broke", 403, scope=Scope.UNKNOWN),
    ),
    "no time": (made("APITimeoutError"), Failure("Timeout", "it broke", **LOST)),
    "nobody there": (
        made("APIError", cause=made("ConnectError")),
        Failure("ConnectionError", "it broke", retryable=True, unavailable=True, scope=Scope.SHARED),
    ),
    "nobody there, said further out": (
        made("APIError", cause=made("ConnectError", "no", made("OSError"), request=request_to("there", 7))),
        Failure("ConnectionError", "no (there:7)", retryable=True, unavailable=True, scope=Scope.SHARED),
    ),
    "no resources, in words": (
        made("RateLimitError", "Resource Unavailable", status_code=429),
        Failure("RateLimitError", "Resource Unavailable", 429, retryable=True, rate_limited=True, no_resources=True),
    ),
    "no resources, by its code": (
        made("RateLimitError", "busy", made("SDKs", code="resource_unavailable"), status_code=429),
        Failure("RateLimitError", "busy", 429, retryable=True, rate_limited=True, no_resources=True),
    ),
    "a limit, by its code": (
        made("RateLimitError", "busy", made("SDKs", code="rate_limit_exceeded"), status_code=429),
        Failure("RateLimitError", "busy", 429, retryable=True, rate_limited=True),
    ),
    "a CA that nobody knows": (
        made("APIError", cause=made("ConnectError", "no", made("SSLCertVerificationError", "verify failed"))),
        Failure(
            "CertificateError",
            "it broke. For a company's or a proxy's CA, set SSL_CERT_FILE to its certificates",
            scope=Scope.FINAL,
        ),
    ),
    "a proxy's password": (
        made("APIError", cause=made("ClientHttpProxyError", "407", status=407)),
        Failure(
            "ProxyError",
            "the proxy wants a user and a password (407 Proxy Authentication Required). "
            "Set HTTPS_PROXY (or HTTP_PROXY) to http://user:password@host:port",
            407,
            scope=Scope.FINAL,
        ),
    ),
    "a wrong protocol": (
        made("APIError", cause=made("ConnectError", "no", made("SSLError", "wrong version number"))),
        Failure("ConnectionError", "it broke", retryable=True, scope=Scope.SHARED),
    ),
    "round and round": (
        made("TooManyRedirects"),
        Failure("TooManyRedirects", "it broke (check api_base)", scope=Scope.SHARED),
    ),
    "a cut stream": (
        made("APIError", cause=made("BrokenStreamError", "the stream ended early")),
        Failure("ConnectionError", "the stream ended early", **LOST),
    ),
    "too large": (made("AnswerTooLargeError"), Failure("AnswerTooLarge", "it broke", 200, billed=None)),
    "a cut": (made("APIError", cause=made("ClientError")), Failure("ConnectionError", "it broke", **LOST)),
    "no key": (
        made("APIConnectionError", "OPENAI_API_KEY is not set"),
        Failure("AuthenticationError", "OPENAI_API_KEY is not set", 401, scope=Scope.SHARED),
    ),
    "no key, as a 500": (
        made("InternalServerError", "Missing credentials", status_code=500),
        Failure("AuthenticationError", "Missing credentials", 401, scope=Scope.SHARED),
    ),
    "words about a key": (
        made("TypeError", "X_TOKEN is not set"),
        Failure("TypeError", "X_TOKEN is not set", billed=None),
    ),
    "no JSON": (made("JSONDecodeError"), Failure("UnparsableAnswer", "it broke", 200, **LOST)),
    "a status": (rejected(400, "bad"), Failure("APIStatusError", "bad", 400)),
    "a bug here": (
        made("APIError", "it broke", KeyError("x")),
        Failure("APIError", "it broke (KeyError: 'x')", billed=None),
    ),
    "a bug that is named": (
        made("APIError", "a KeyError", KeyError("x")),
        Failure("APIError", "a KeyError", billed=None),
    ),
    "a bug of the same name": (made("APIError", "a", made("APIError", "b")), Failure("APIError", "a", billed=None)),
    "a plain bug": (made("APIError", "a", Exception("b")), Failure("APIError", "a", billed=None)),
    "a stream's error": (
        made("APIError", body={"message": "busy", "code": 503}),
        Failure("StreamError", "busy", 503, scope=Scope.SHARED, **LOST),
    ),
    "a stream's other error": (
        made("APIError", body={"message": "busy", "status_code": 418}),
        Failure("StreamError", "busy", 418, billed=None),
    ),
    "a stream's code": (
        made("APIError", body={"type": "x", "code": "rate_limit_exceeded"}),
        Failure("StreamError", "it broke", 429, rate_limited=True, **LOST),
    ),
    "a stream's type": (
        made("APIError", body={"type": "overloaded_error"}),
        Failure("StreamError", "it broke", 529, **LOST),
    ),
    "a number that is no status": (
        made("APIError", body={"message": "what", "code": 7}),
        Failure("StreamError", "what", 200, **LOST),
    ),
    "wrapped by LiteLLM": (
        made("MidStreamFallbackError", "cut Original exception: again", original_exception=made("X", status_code=400)),
        Failure("StreamError", "cut", 400, billed=None),
    ),
}


@pytest.mark.parametrize(("error", "failure"), KINDS.values(), ids=KINDS)
def test_classify_each_kind_gives_its_failure(error: Exception, failure: Failure) -> None:
    """By class names in the chain of causes, attributes and words; the exception's own provider comes first."""
    expected = {name: getattr(failure, name) for name in Failure.__slots__ if name not in {"headers", "scope"}}
    for provider in ("openai", "groq"):
        found = classify(error, provider)
        assert {name: getattr(found, name) for name in expected} == {**expected, "provider": provider}
        if found.type != "StreamError":
            assert found.shared == failure.shared
    vars(error)["llm_provider"] = "azure"
    assert classify(error, "openai").provider == "azure"


def test_classify_unprintable_exception_gives_failure() -> None:
    """An exception that cannot be printed is that row's failure."""

    class Mute(Exception):  # noqa: N818 - a name like any other
        def __str__(self) -> str:
            raise LookupError

    said = "its text could not be read (LookupError)"
    assert classify(Mute(), "openai") == Failure("Mute", said, provider="openai", billed=None)
    assert classify(made("APIError", ""), "openai").message == "no message"


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (made("ConnectError", "refused", _request=request_to("h")), "refused (h:443)"),
        (made("ConnectError", "refused", request=request_to("h", scheme="http")), "refused (h:80)"),
        (made("ConnectError", "refused", _request=request_to("h", 8000)), "refused (h:8000)"),
        (made("ConnectError", "cannot reach h:443 ssl:default", _request=request_to("h")), "cannot reach h:443"),
        (made("APIError", "outer", made("ConnectError", "refused", _request=request_to("h"))), "refused (h:443)"),
        (made("APIError", "outer", made("TransportError", "", request=request_to("h"))), "outer (h:443)"),
    ],
    ids=lambda given: given if isinstance(given, str) else "",
)
def test_classify_connection_error_names_address(error: Exception, message: str) -> None:
    """The host and port that were tried, once; the words are the transport's, where it has some."""
    assert classify(error).message == message


def test_classify_litellms_made_up_request_is_not_address() -> None:
    """Its exceptions hold one of their own."""
    outer = made("APIConnectionError", "Connection error", made("ConnectError", "refused"), request=request_to("api"))
    type(outer).__module__ = "litellm.exceptions"
    assert classify(outer).message == "Connection error"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('litellm.BadRequestError: OpenAIException - {"error": {"message": "a", "more": {"x": {}}}}', "a"),
        ('{"error": {"message": "b"}}', "b"),
        ('Error: {"error": "c"}', "c"),
        ('{"message": "d"}', "d"),
        ('{"detail": "e"}', "e"),
        ('{"error": {"code": 1}, "message": "f"}', "f"),
        ('{"error": {"code": 1}, "detail": "g"}', "g"),
        ('{"error": "h", "message": "other", "detail": "other"}', "h"),
        ('{"error": {"code": 1}}', '{"error": {"code": 1}}'),
        ('{"error": {}', '{"error": {}'),
        ("plain", "plain"),
    ],
)
def test_classify_message_is_providers_explanation(text: str, message: str) -> None:
    """LiteLLM's prefixes, JSON and advice around it are removed."""
    assert classify(rejected(400, text)).message == message


REFUSALS: dict[str, tuple[Exception, dict[str, Any]]] = {
    "bad request": (rejected(400), {"retryable": False, "shared": False, "rate_limited": False, "billed": False}),
    "bad key": (rejected(401), {"retryable": False, "shared": True}),
    "bad key, said otherwise": (rejected(400, "Wrong API key"), {"retryable": False, "shared": True}),
    "limited": (
        rejected(429, retry_after="3"),
        {"retryable": True, "rate_limited": True, "shared": False, "retry_after": 3.0},
    ),
    "down": (rejected(503), {"retryable": True, "rate_limited": False, "scope": Scope.UNKNOWN, "retry_after": None}),
    "no credit": (rejected(402), {"retryable": False, "shared": True}),
    "spent": (rejected(429, "insufficient_quota"), {"retryable": False, "rate_limited": False, "shared": True}),
    "spent for a while": (rejected(429, "insufficient_quota", retry_after="3"), {"retryable": True, "shared": False}),
    "too large": (rejected(500, "request too large"), {"retryable": False, "shared": False}),
    "tomorrow": (rejected(429, retry_after="7200"), {"retryable": False, "rate_limited": False, "shared": True}),
    "just not tomorrow": (
        rejected(429, retry_after=str(MAX_USEFUL_WAIT_SECONDS)),
        {"retryable": True, "shared": False},
    ),
    "try again": (rejected(400, x_should_retry="TRUE"), {"retryable": True}),
    "do not": (rejected(503, x_should_retry="False"), {"retryable": False}),
}


@pytest.mark.parametrize(("error", "expected"), REFUSALS.values(), ids=REFUSALS)
def test_classify_error_status_by_words_and_headers(error: Exception, expected: dict[str, Any]) -> None:
    """By its status, its words and its headers."""
    failure = classify(error)
    assert {name: getattr(failure, name) for name in expected} == expected


@pytest.mark.parametrize(
    ("headers", "hint"),
    [
        ({"retry_after_ms": "300"}, 0.3),
        ({"retry_after_ms": "0", "retry_after": "1"}, 1.0),
        ({"retry_after_ms": "300", "retry_after": "9"}, 0.3),
        ({"retry_after_ms": "soon", "retry_after": "2"}, 2.0),
        ({"retry_after": "0"}, 0.0),
        ({"retry_after": "-5"}, 0.0),
        ({"retry_after": "soon"}, None),
        ({"retry_after": formatdate(1_700_000_000, usegmt=True)}, 0.0),
        ({}, None),
    ],
    ids=str,
)
def test_classify_retry_after_forms_in_seconds(headers: dict[str, str], hint: float | None) -> None:
    """Milliseconds before seconds, unless there are none; the past is now, and what cannot be read is no hint."""
    assert classify(rejected(429, **headers)).retry_after == (hint if hint is None else pytest.approx(hint))
