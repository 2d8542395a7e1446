"""One request to a provider, sent once: a chat, a streamed chat, or embeddings."""

from __future__ import annotations

import asyncio
import contextlib
import math
import socket
from collections.abc import AsyncIterator, Mapping
from dataclasses import replace
from typing import Any

from llmbatch._litellm import Answer, convert_response, http_session, load, quiet_logging
from llmbatch._litellm.error_answer import raise_stated_error
from llmbatch._litellm.sse import StreamRecord, recording
from llmbatch._rows.answer_body import has_tokens, reported_cost, sound
from llmbatch._rows.finish_reasons import keep_native_reason

_REHEARSAL_SECONDS = 60.0
_ONE_SEND = {"num_retries": 0, "max_retries": 0, "timeout": http_session.LITELLM_TIMEOUT_SECONDS}


async def chat(request: Mapping[str, Any]) -> Answer:
    """Send one chat completion, once."""
    logging = quiet_logging.logging_arguments(request)
    try:
        response = await load().acompletion(**request, **_one_send(request), **logging)
    except Exception:
        body = convert_response.mended(logging.get("litellm_logging_obj"))
        if body is None:
            raise_stated_error(logging.get("litellm_logging_obj"))
            raise
        return Answer(body, {}, None)
    return _answer(response, response, _hidden(response).get("response_cost"))


async def chat_stream(request: Mapping[str, Any]) -> AsyncIterator[dict[str, Any] | Answer]:
    """Send one chat completion and yield each chunk's delta (`{"index", "content", …}`), then the whole `Answer`.

    Raises IncompleteStreamError when the stream ends before its finish reason. Several choices (`n`) come whole, since
    LiteLLM runs their streams together.
    """
    if (request.get("n") or 1) > 1:
        answer = await chat(request)
        for choice in answer.body["choices"]:
            yield {"choice": choice["index"], **choice["message"]}
        yield answer
        return
    litellm = load()
    given = litellm.get_supported_openai_params(request["model"], request.get("custom_llm_provider")) or []
    options = {"stream_options": {"include_usage": True}} if "stream_options" in given else {}
    record, chunks = StreamRecord(), list[Any]()
    with recording(record):
        stream = await litellm.acompletion(**{**options, **request, **_one_send(request), "stream": True})
    while (chunk := await _next_chunk(stream, record)) is not None:
        chunks.append(chunk)
        for choice in chunk.choices:
            if delta := choice.delta.model_dump(exclude_none=True):
                yield {"choice": choice.index, **delta}
    watch = record.watch
    if watch is not None and (plain := watch.plain_json()) is not None:
        answer = _plain_answer(plain, stream, request)
        for choice in answer.body["choices"]:
            yield {"choice": choice["index"], **choice["message"]}
        yield answer
        return
    # LiteLLM makes up a finish reason when the provider sent none; what it received is on the wrapper.
    ended = watch is not None and (watch.done or watch.reasons)
    if stream.received_finish_reason is None and not ended:
        raise IncompleteStreamError("the stream ended before its finish reason")
    if not chunks:
        raise IncompleteStreamError("the stream ended without an answer")
    whole = litellm.stream_chunk_builder(chunks, messages=request["messages"])
    answer = _answer(whole, stream, _completion_cost(whole, request))
    reasons = watch.reasons if watch is not None else {0: stream.received_finish_reason}
    for choice in answer.body["choices"]:
        keep_native_reason(choice, reasons.get(choice.get("index", 0)))
    if watch is not None and not watch.sent_usage:
        answer.body["usage"] = {}  # LiteLLM's estimate
        answer = replace(answer, cost=None)
    elif watch is not None and (reported := reported_cost(watch.usage)) is not None:
        answer = replace(answer, cost=reported)
    yield answer


async def _next_chunk(stream: Any, record: StreamRecord) -> Any:
    """Return the next chunk; None at the end of the stream, or where LiteLLM does not like how the provider ended it.

    LiteLLM raises for a stream that ends with `[DONE]` and no finish reason, and for the reasons "error" and "abort".
    """
    try:
        with recording(record):
            return await anext(stream, None)
    except Exception as exc:
        watch = record.watch
        if watch is not None and watch.plain_json() is not None:
            return None
        if watch is None or not (watch.done or watch.reasons) or "finish_reason" not in str(exc):
            raise
        return None


def _plain_answer(body: dict[str, Any], stream: Any, request: Mapping[str, Any]) -> Answer:
    """Return the answer of a server that answered a streaming request with plain JSON. Raises its error, if it is one."""
    whole = convert_response.converted(body)
    return _answer(whole, stream, _completion_cost(whole, request))


def _completion_cost(whole: Any, request: Mapping[str, Any]) -> float | None:
    try:
        return float(load().completion_cost(whole, model=request["model"]))
    except Exception:  # noqa: BLE001 - LiteLLM raises for a model that it has no price for
        return None


async def rehearse(request: Mapping[str, Any]) -> None:
    """Send a request to a port where nobody listens: what the first one imports and builds is then there."""
    logging = quiet_logging.logging_arguments(request)
    if not logging:
        return  # callbacks would hear of it
    with socket.socket() as nobody, contextlib.suppress(Exception):
        nobody.bind(("127.0.0.1", 0))
        base = f"http://127.0.0.1:{nobody.getsockname()[1]}/v1"
        given = {**request, **logging, "api_base": base, "api_key": "unused"}
        async with asyncio.timeout(_REHEARSAL_SECONDS):
            await load().acompletion(**given, **_one_send(given))


class IncompleteStreamError(ConnectionError):
    """A stream that was cut: never a short answer."""


async def embed(request: Mapping[str, Any]) -> Answer:
    """Send one embeddings request, once; vectors come back as lists of floats, whatever the wire form."""
    response = await load().aembedding(**{"encoding_format": "float", **request, **_one_send(request)})
    if not isinstance(getattr(response, "data", None), list):
        raise TypeError("empty or invalid response: no list of embeddings")
    return _answer(response, response, _hidden(response).get("response_cost"))


def _answer(whole: Any, received: Any, cost: float | None) -> Answer:
    """What LiteLLM has made of what it received, with its price where tokens were counted."""
    body = sound(whole.model_dump(warnings=False))  # of vectors in base64, which the OpenAI SDK types as floats
    priced = cost is not None and 0 <= cost < math.inf and has_tokens(body.get("usage"))
    return Answer(body, _headers(received), cost if priced else None)


def _one_send(request: Mapping[str, Any]) -> dict[str, Any]:
    return {**_ONE_SEND, "shared_session": http_session.hand_over(request)}


def _hidden(response: Any) -> dict[str, Any]:
    """What LiteLLM keeps beside an answer: its price, the response's headers."""
    return getattr(response, "_hidden_params", None) or {}


def _headers(response: Any) -> Mapping[str, str]:
    """The provider's response headers, lower-case."""
    headers = _hidden(response).get("additional_headers") or {}
    return {str(key).lower().removeprefix("llm_provider-"): str(value) for key, value in headers.items()}
