"""What LiteLLM would put on the wire for a request: address, headers and body, found out without sending anything.

LiteLLM builds the whole request and is stopped just before its transport. The SDK's routes are stopped twice: first
for the key and the address that LiteLLM has chosen, then in an SDK client with these, for the exact path and headers.
"""

from __future__ import annotations

import functools
import json
import sys
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from llmbatch._litellm import load, provider_of
from llmbatch._litellm.loading import internal
from llmbatch._litellm.private_api import LOGGING
from llmbatch._litellm.quiet_logging import new_logging
from llmbatch._litellm.render_body import SDK_ROUTES

# Of the SDK's and httpx's own making; aiohttp sets its own.
_CONNECTION_HEADERS = {"host", "content-length", "accept-encoding", "connection"}
_ENDPOINTS = {"chat": "/chat/completions", "embeddings": "/embeddings"}


@dataclass(frozen=True, slots=True)
class WireRequest:
    """A request as it goes out. May hold keys: never print it."""

    url: str
    headers: Mapping[str, str] = field(repr=False)
    body: dict[str, Any] = field(repr=False)
    by_sdk: bool = True

    def encoded(self, body: Mapping[str, Any]) -> bytes:
        """The bytes of a body, written as the SDK or LiteLLM's own HTTP handler writes them."""
        if self.by_sdk:
            return json.dumps(body, ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode()
        return json.dumps(body).encode()


class NotOnTheWireError(ValueError):
    """LiteLLM does not send this request as one POST to an OpenAI-style endpoint."""


class _Stopped(BaseException):
    """Carries the request out; not an Exception, so that nothing on the way handles it."""

    def __init__(self, found: Any) -> None:
        super().__init__()
        self.found = found


@dataclass(frozen=True, slots=True)
class _Reported:
    """What LiteLLM reports to its logging object just before it sends."""

    key: Any
    base: str
    version: Any
    headers: Any
    body: Any
    by_sdk: bool


def wire_request(request: Mapping[str, Any]) -> WireRequest:
    """Find out what LiteLLM would send for a chat (`messages`) or for embeddings (`input`).

    Raises LiteLLM's own errors for parameters that the model does not take, and NotOnTheWireError for a request that
    LiteLLM would not send as one POST to /chat/completions or /embeddings.
    """
    kind = "chat" if "messages" in request else "embeddings"
    given = {name: value for name, value in request.items() if value is not None} | {"num_retries": 0, "max_retries": 0}
    if kind == "embeddings":
        given = {"encoding_format": "float"} | given
    reported = _stopped(request, given, stop_sdk=True)
    made = None
    if isinstance(reported, _Reported) and reported.by_sdk:
        made = _stopped(request, given | {"client": _stopping_client(request, reported)}, stop_sdk=False)
    elif isinstance(reported, _Reported):
        body = reported.body if isinstance(reported.body, str | bytes) else json.dumps(reported.body or {})
        made = WireRequest(reported.base, _own_headers(reported.headers or {}), json.loads(body), by_sdk=False)
    if not isinstance(made, WireRequest) or not made.url.partition("?")[0].endswith(_ENDPOINTS[kind]):
        model = request["model"]
        raise NotOnTheWireError(f"LiteLLM does not send model {model!r} to {_ENDPOINTS[kind]} with these parameters")
    return made


def _stopped(request: Mapping[str, Any], given: dict[str, Any], *, stop_sdk: bool) -> Any:
    """Have LiteLLM build the request; what it was stopped with, None if it was not stopped."""
    call = load().completion if "messages" in request else load().embedding
    logging = new_logging(_stopping_logging(stop_sdk=stop_sdk), request, call.__name__)
    try:
        with ThreadPoolExecutor(1) as thread:  # in the main thread LiteLLM would make an event loop and leave it open
            thread.submit(call, **given, litellm_logging_obj=logging).result()
    except _Stopped as stopped:
        return stopped.found
    return None


@functools.cache
def _stopping_logging(*, stop_sdk: bool) -> Any:
    class StoppingLogging(internal(LOGGING)):  # type: ignore[misc]  # a class
        def pre_call(self, input: Any, api_key: Any, model: Any = None, additional_args: Any = None) -> None:  # noqa: A002, ARG002 - LiteLLM's signature
            given = additional_args or {}
            by_sdk = bool(given.get("openai_sdk")) or sys._getframe(1).f_globals["__name__"] in SDK_ROUTES  # noqa: SLF001
            if by_sdk and not stop_sdk:
                return
            base, version = str(given.get("api_base") or ""), given.get("api_version")
            body, headers = given.get("complete_input_dict"), given.get("headers")
            raise _Stopped(_Reported(api_key, base, version, headers, body, by_sdk))

    return StoppingLogging


def _stopping_client(request: Mapping[str, Any], reported: _Reported) -> Any:
    """An SDK client with LiteLLM's key and address that builds requests and sends none."""
    import openai  # noqa: PLC0415 - comes with litellm

    def stop(made: Any) -> None:
        raise _Stopped(WireRequest(str(made.url), _own_headers(made.headers), json.loads(made.content)))

    given: dict[str, Any] = {
        "api_key": reported.key or "none",
        "max_retries": 0,
        "http_client": openai.DefaultHttpxClient(event_hooks={"request": [stop]}),
    }
    if provider_of(request) == "azure":
        return openai.AzureOpenAI(azure_endpoint=reported.base, api_version=reported.version, **given)
    organization = request.get("organization") or load().organization
    return openai.OpenAI(base_url=reported.base, organization=organization, **given)


def _own_headers(headers: Mapping[str, Any]) -> dict[str, str]:
    """The headers that are the request's own, not the transport's or the SDK's."""
    given = {str(name).lower(): str(value) for name, value in headers.items()}
    return {k: v for k, v in given.items() if k not in _CONNECTION_HEADERS and not k.startswith("x-stainless-")}
