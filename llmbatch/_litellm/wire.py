"""What LiteLLM would put on the wire for a request: address, headers and body, found out without sending anything."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from typing import Any

from llmbatch._litellm import load, provider_of
from llmbatch._litellm.calls import embedding_options
from llmbatch._litellm.stop_before_send import StoppedRequest, stopped_request, stopping_http_client

# Of the SDK's and httpx's own making; aiohttp sets its own.
_CONNECTION_HEADERS = {"host", "content-length", "accept-encoding", "connection"}
_ENDPOINTS = {"chat": "/chat/completions", "embeddings": "/embeddings"}
_SDK_ENCODER = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), allow_nan=False)
_OWN_ENCODER = json.JSONEncoder()


class NotOnTheWireError(ValueError):
    """LiteLLM does not send this request as one POST to an OpenAI-style endpoint."""


class Wire:
    """How LiteLLM sends requests with one set of parameters. May hold keys: never print it.

    Attributes:
        url, headers: of the requests; empty before the first `body`.
    """

    def __init__(self) -> None:
        self.url = ""
        self.headers: dict[str, str] = {}
        self._client: Any = None
        self._encoder = _SDK_ENCODER

    def body(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """Return the body that LiteLLM would send for a chat (`messages`) or for embeddings (`input`).

        Raises LiteLLM's own errors for parameters that the model does not take, and NotOnTheWireError for a request
        that LiteLLM would not send as one POST to /chat/completions or /embeddings.
        """
        kind = "chat" if "messages" in request else "embeddings"
        given = {**request, "num_retries": 0, "max_retries": 0}
        if kind == "embeddings":
            given |= embedding_options(request)
        given = {name: value for name, value in given.items() if value is not None}
        stopped = None
        if self._client is None:
            stopped = stopped_request(request, given)
            if stopped is not None and stopped.by_sdk:
                self._client = _sdk_client(request, stopped)
        if self._client is not None:
            stopped = stopped_request(request, given | {"client": self._client})
        if stopped is None or not stopped.url.partition("?")[0].endswith(_ENDPOINTS[kind]):
            model = request["model"]
            raise NotOnTheWireError(
                f"LiteLLM does not send model {model!r} to {_ENDPOINTS[kind]} with these parameters"
            )
        self.url, self.headers = stopped.url, _own_headers(stopped.headers)
        self._encoder = _SDK_ENCODER if stopped.by_sdk else _OWN_ENCODER
        return stopped.body

    def encoded(self, body: Mapping[str, Any]) -> bytes:
        """Return the bytes of a body, as the SDK or LiteLLM's own HTTP handler writes them."""
        return self._encoder.encode(body).encode()


def _sdk_client(request: Mapping[str, Any], stopped: StoppedRequest) -> Any:
    """Return an SDK client with LiteLLM's key and address. Raises LiteLLM's error for a key that is missing."""
    import openai  # noqa: PLC0415 - comes with litellm

    provider = provider_of(request)
    given: dict[str, Any] = {"api_key": stopped.key, "max_retries": 0, "http_client": stopping_http_client()}
    try:
        if provider == "azure":
            version = stopped.version or request.get("api_version") or load().api_version
            version = version or os.environ.get("AZURE_API_VERSION") or load().AZURE_DEFAULT_API_VERSION
            return openai.AzureOpenAI(azure_endpoint=stopped.url, api_version=version, **given)
        organization = request.get("organization") or load().organization
        return openai.OpenAI(base_url=stopped.url, organization=organization, **given)
    except openai.OpenAIError as exc:
        load().exception_type(model=request["model"], original_exception=exc, custom_llm_provider=provider)
        raise


def _own_headers(headers: Mapping[str, Any]) -> dict[str, str]:
    """Return the headers that are the request's own, not the transport's or the SDK's."""
    given = {str(name).lower(): str(value) for name, value in headers.items()}
    return {k: v for k, v in given.items() if k not in _CONNECTION_HEADERS and not k.startswith("x-stainless-")}
