"""One request to a provider, sent once: a chat, or embeddings (`chat_streams` has streamed chats)."""

from __future__ import annotations

import asyncio
import contextlib
import math
import socket
from collections.abc import Mapping
from typing import Any

from llmbatch._litellm import Answer, convert_response, http_session, instrumentation, load, provider_of, quiet_logging
from llmbatch._litellm.error_answer import raise_stated_error
from llmbatch._rows.answer_body import has_tokens, normalized_body

_REHEARSAL_SECONDS = 60.0
_ONE_SEND = {"num_retries": 0, "max_retries": 0, "timeout": http_session.LITELLM_TIMEOUT_SECONDS}


async def chat(request: Mapping[str, Any]) -> Answer:
    """Send one chat completion, once."""
    logging = quiet_logging.logging_arguments(request)
    try:
        metadata = {} if logging else quiet_logging.listener_metadata(request)
        response = await load().acompletion(**{**request, **metadata}, **one_send(request), **logging)
    except Exception:
        body = convert_response.recovered_body(logging.get("litellm_logging_obj"))
        if body is None:
            raise_stated_error(logging.get("litellm_logging_obj"))
            raise
        return Answer(body, {}, None)
    return answer_from(response, response, _hidden(response).get("response_cost"))


async def rehearse(request: Mapping[str, Any]) -> None:
    """Send a request to a port where nobody listens, so that LiteLLM has imported and built what calls need."""
    logging = quiet_logging.logging_arguments(request)
    if not logging or instrumentation.traced_library():
        return  # callbacks and tracing tools would report it
    with socket.socket() as nobody, contextlib.suppress(Exception):
        nobody.bind(("127.0.0.1", 0))
        base = f"http://127.0.0.1:{nobody.getsockname()[1]}/v1"
        given = {**request, **logging, "api_base": base, "api_key": "unused"}
        async with asyncio.timeout(_REHEARSAL_SECONDS):
            await load().acompletion(**given, **one_send(given))


async def embed(request: Mapping[str, Any]) -> Answer:
    """Send one embeddings request, once; vectors come back as lists of floats, whatever the wire form."""
    metadata = quiet_logging.listener_metadata(request) if quiet_logging.anybody_listens(request) else {}
    given = {**_embedding_format(), **request, **metadata, **embedding_options(request), **one_send(request)}
    response = await load().aembedding(**given)
    if not isinstance(getattr(response, "data", None), list):
        raise TypeError("empty or invalid response: no list of embeddings")
    return answer_from(response, response, _hidden(response).get("response_cost"))


def _embedding_format() -> dict[str, Any]:
    """Return the wire form to ask for; none for a traced OpenAI SDK.

    With one, LiteLLM calls `with_raw_response` of the SDK, whose answers OpenTelemetry's openai-v2 cannot read.
    """
    return {} if instrumentation.embeddings_are_traced() else {"encoding_format": "float"}


def embedding_options(request: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments with which LiteLLM sends `dimensions` to a server of any model.

    It takes every model of `openai/` for OpenAI's own, and calls the parameter `output_dimension` for Infinity, whose
    servers ignore that.
    """
    dimensions, provider = request.get("dimensions"), provider_of(request)
    if dimensions is None or not request.get("api_base"):
        return {}
    if provider == "infinity":
        return {"dimensions": None, "extra_body": {**(request.get("extra_body") or {}), "dimensions": dimensions}}
    return {"allowed_openai_params": ["dimensions"]} if provider == "openai" else {}


def answer_from(whole: Any, received: Any, cost: float | None) -> Answer:
    """Return LiteLLM's object as an `Answer`, with its cost if it has a usage."""
    return answer_of(whole, headers_of(received), cost)


def answer_of(whole: Any, headers: Mapping[str, str], cost: float | None) -> Answer:
    """Return LiteLLM's object as an `Answer`, with these headers."""
    # Vectors in base64 would warn: the OpenAI SDK types them as floats.
    body = normalized_body(whole.model_dump(warnings=False))
    priced = cost is not None and 0 <= cost < math.inf and has_tokens(body.get("usage"))
    return Answer(body, headers, cost if priced else None)


def one_send(request: Mapping[str, Any]) -> dict[str, Any]:
    return {**_ONE_SEND, "shared_session": http_session.hand_over(request)}


def _hidden(response: Any) -> dict[str, Any]:
    """Return LiteLLM's hidden parameters of an answer: its cost, the response's headers."""
    return getattr(response, "_hidden_params", None) or {}


def headers_of(response: Any) -> Mapping[str, str]:
    """Return the provider's response headers, lower-case."""
    headers = _hidden(response).get("additional_headers") or {}
    return {str(key).lower().removeprefix("llm_provider-"): str(value) for key, value in headers.items()}
