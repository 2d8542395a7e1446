"""What an exception of LiteLLM, an SDK or the transport says: the provider's own words, status, headers and address.

It reads class names and attributes only, so that no provider library has to be imported.
"""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any

ERROR_STATUS = range(400, 600)
_MAX_TEXT_CHARACTERS = 1_000_000
_SSL = re.compile(r" ssl:(?:<.*?>|default)")  # in aiohttp's messages


@dataclass(frozen=True, slots=True)
class ErrorReport:
    """Everything that is known about a failed attempt.

    Attributes:
        kind: name of the outermost exception's class.
        names: class names in the chain of causes, with their base classes.
        message: the provider's explanation, or the exception's, without keys.
        status: HTTP status that LiteLLM or the SDK states, None if it is no error status.
        answered: whether the provider's response with an error status is known.
        code: the provider's `code`, `type` and `status` fields, lower case, in one string.
        details: the response's whole text, lower case; for evidence, never shown.
        headers: of the response, lower case.
        hide: removes keys and prompts from a text.
    """

    chain: list[BaseException]
    kind: str
    names: set[str]
    message: str
    status: int | None
    answered: bool
    provider: str | None
    code: str = ""
    details: str = ""
    body: Mapping[str, Any] | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    hide: Callable[[str], str] = str

    @property
    def words(self) -> str:
        """The explanation and the codes, lower case: what rules look at."""
        return f"{self.message} {self.code}".lower()

    @property
    def status_is_litellms(self) -> bool:
        """Whether LiteLLM made the status up: it gives 500 to whatever it cannot place, its own bugs included."""
        return not self.answered and (
            self.kind == "APIConnectionError" or self.status == HTTPStatus.INTERNAL_SERVER_ERROR
        )

    def cause(self, *names: str) -> BaseException | None:
        """Return the first exception of the chain that has one of these class names."""
        return next((link for link in self.chain if type(link).__name__ in names), None)

    def with_address(self) -> str:
        """Return the transport's own message, with the host and port that it tried."""
        for link in reversed(self.chain):
            request = vars(link).get("_request") or vars(link).get("request")
            # LiteLLM's own errors hold a made-up request.
            if request is None or type(link).__module__.startswith("litellm"):
                continue
            address = f"{request.url.host}:{request.url.port or (443 if request.url.scheme == 'https' else 80)}"
            words = self.hide(_SSL.sub("", str(link))) or self.message
            return words if address in words else f"{words} ({address})"
        return self.message


def report_of(exc: BaseException, provider: str | None, hide: Callable[[str], str]) -> ErrorReport:
    """Read an exception and its causes."""
    chain = list(_chain(exc))
    response = next((r for link in chain if _text_of(r := getattr(link, "response", None))), None)
    if response is None:
        response = next((r for link in chain if (r := getattr(link, "response", None)) is not None), None)
    body = _body_of(chain, response)
    text = _text_of(response)
    http_error = any(type(link).__name__ == "HTTPStatusError" for link in chain)
    status = getattr(exc, "status_code", None)
    if http_error and isinstance(given := getattr(response, "status_code", None), int):
        status = given
    return ErrorReport(
        chain=chain,
        kind=type(exc).__name__,
        names={cls.__name__ for link in chain for cls in type(link).__mro__},
        message=hide(explanation(body) or _own_words(exc, chain, text)) or "no message",
        status=status if isinstance(status, int) and status in ERROR_STATUS else None,
        answered=http_error,
        provider=getattr(exc, "llm_provider", None) or provider,
        code=_codes(body, chain),
        details=text[:_MAX_TEXT_CHARACTERS].lower(),
        body=body,
        headers=_lower(getattr(response, "headers", None) or getattr(exc, "litellm_response_headers", None) or {}),
        hide=hide,
    )


def explanation(body: Any) -> str | None:
    """Return the provider's reason in an error body of any known shape, None if there is none.

    Shapes: OpenAI's `{"error": {"message"}}`, `{"error": "…"}` (LM Studio, xAI), `{"message"}`, FastAPI's
    `{"detail": "…"}` and `{"detail": [{"loc", "msg"}]}`, and OpenRouter's `error.metadata.raw`, which holds the
    upstream's own error as JSON or text.
    """
    if isinstance(body, str):
        return _unwrapped(body)
    if isinstance(body, list):
        return "; ".join(filter(None, map(_detail, body))) or None
    if not isinstance(body, Mapping):
        return None
    error = body.get("error")
    if isinstance(error, str) and error:
        return _unwrapped(error)
    inner = error if isinstance(error, Mapping) else {}
    outer = inner.get("message") or body.get("message")
    metadata = inner.get("metadata") or body.get("metadata")
    return _with_metadata(outer, metadata) or explanation(body.get("detail") or body.get("msg"))


def _with_metadata(outer: Any, metadata: Any) -> str | None:
    """Return a message with what OpenRouter's metadata adds to it: the upstream's reason, or a moderation's reasons."""
    metadata = metadata if isinstance(metadata, Mapping) else {}
    reasons = metadata.get("reasons")
    if raw := explanation(metadata.get("raw")):
        name = metadata.get("provider_name")
        return ": ".join(str(part) for part in (outer, name, raw) if part)
    if outer and isinstance(reasons, list) and reasons:
        return f"{outer} ({', '.join(map(str, reasons))})"
    return str(outer) if outer else None


def _unwrapped(text: str) -> str:
    """Return the reason in a text that may be JSON."""
    with contextlib.suppress(ValueError, RecursionError):
        body = json.loads(text)
        if isinstance(body, Mapping | list):
            return explanation(body) or text
    return text


def _detail(item: Any) -> str:
    """Return one of FastAPI's validation errors in words: `body.messages: field required`."""
    if not isinstance(item, Mapping):
        return str(item)
    where = ".".join(map(str, item.get("loc") or ()))
    message = str(item.get("msg") or item.get("message") or "")
    return f"{where}: {message}" if where else message


def _chain(exc: BaseException | None) -> Iterator[BaseException]:
    seen: set[int] = set()
    while exc is not None and id(exc) not in seen:
        seen.add(id(exc))
        yield exc
        exc = exc.__cause__ or exc.__context__


def _text_of(response: Any) -> str:
    with contextlib.suppress(Exception):  # a streamed response that nobody has read
        text = response.text
        return text if isinstance(text, str) else ""
    return ""


def _body_of(chain: list[BaseException], response: Any) -> dict[str, Any] | None:
    """Return the error body: as it was sent, else as the SDK keeps it (the inner part of `error`)."""
    with contextlib.suppress(ValueError, RecursionError):
        body = json.loads(_text_of(response))
        if isinstance(body, list):  # Google's streams
            body = body[0] if body else None
        if isinstance(body, dict):
            return body
    bodies = (getattr(link, "body", None) for link in chain)
    if (kept := next((body for body in bodies if isinstance(body, dict)), None)) is not None:
        return kept
    # LiteLLM puts the body behind its own prefix.
    text = str(chain[0])[:_MAX_TEXT_CHARACTERS]
    if (at := text.find("{")) >= 0:
        with contextlib.suppress(ValueError, RecursionError):
            body, _ = json.JSONDecoder().raw_decode(text[at:])
            return body if isinstance(body, dict) else None
    return None


def _own_words(exc: BaseException, chain: list[BaseException], text: str) -> str:
    """Return the exception's message without the prefixes and advice that LiteLLM and the SDKs put around it."""
    # The OpenAI SDK keeps a body that is not an object apart, and its message has only the status.
    bodies = (getattr(link, "body", None) for link in chain)
    words = next((body for body in bodies if isinstance(body, str) and body.strip()), str(exc))
    if re.fullmatch(r".*Error code: \d+\s*", words) and text.strip():
        words = text
    words = re.split(r"\sTraceback \(most recent call last\)", words[:_MAX_TEXT_CHARACTERS])[0]
    words = re.sub(r"^(?:(?:litellm\.)?\w+(?:Error|Timeout)?: )+(?:\w*Exception(?: \w+)? - )?", "", words.strip())
    return re.sub(r"\.? Handle with `litellm\.\w+`\.?$", "", words)


def _codes(body: Mapping[str, Any] | None, chain: list[BaseException]) -> str:
    error = (body or {}).get("error")
    places = [body or {}, error if isinstance(error, Mapping) else {}]
    found = [place.get(name) for place in places for name in ("code", "type", "status", "reason")]
    found += [vars(link).get("code") for link in chain]  # aiohttp's property of that name is deprecated
    return " ".join(dict.fromkeys(str(value) for value in found if isinstance(value, str | int))).lower()


def _lower(headers: Mapping[str, Any]) -> dict[str, str]:
    return {str(name).lower(): str(value) for name, value in headers.items()}
