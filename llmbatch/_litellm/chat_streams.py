"""One streamed chat, sent once: its deltas as they come, then its answer as the provider sent it."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Iterator, Mapping
from dataclasses import replace
from typing import Any

from llmbatch._litellm import Answer, convert_response, load, provider_of
from llmbatch._litellm.calls import answer_from, answer_of, chat, headers_of, one_send
from llmbatch._litellm.quiet_logging import anybody_listens, listener_metadata
from llmbatch._litellm.sse import StreamRecord, StreamWatch, recording
from llmbatch._rows.answer_body import reported_cost
from llmbatch._rows.finish_reasons import keep_native_reason


class IncompleteStreamError(ConnectionError):
    """A stream that was cut, which never counts as a short answer."""


async def chat_stream(request: Mapping[str, Any]) -> AsyncIterator[dict[str, Any] | Answer]:
    """Send one chat completion and yield each chunk's delta (`{"choice", "content", …}`), then the whole `Answer`.

    Raises IncompleteStreamError if the stream ends before the answer does. Several choices (`n`) come whole, since
    LiteLLM mixes their streams.
    """
    if (request.get("n") or 1) > 1:
        answer = await chat(request)
        for delta in deltas_of(answer):
            yield delta
        yield answer
        return
    litellm = load()
    record, chunks = StreamRecord(), list[Any]()
    with recording(record):
        metadata = listener_metadata(request) if anybody_listens(request) else {}
        stream = await litellm.acompletion(
            **{**stream_options(request), **request, **metadata, **one_send(request), "stream": True}
        )
    while (chunk := await _next_chunk(stream, record)) is not None:
        chunks.append(chunk)
        for choice in chunk.choices:
            if delta := choice.delta.model_dump(exclude_none=True):
                yield {"choice": choice.index, **delta}
    if record.watch is not None and (plain := record.watch.plain_json()) is not None:
        whole = convert_response.converted(plain)
        answer = answer_from(whole, stream, _completion_cost(whole, request))
        for delta in deltas_of(answer):
            yield delta
    else:
        # LiteLLM makes up a finish reason when the provider sent none; what it received is on the wrapper.
        answer = assembled(chunks, headers_of(stream), record.watch, request, stream.received_finish_reason)
    yield answer


def stream_options(request: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments with which a provider sends a stream's usage."""
    supported = load().get_supported_openai_params(request["model"], request.get("custom_llm_provider")) or []
    return {"stream_options": {"include_usage": True}} if "stream_options" in supported else {}


def deltas_of(answer: Answer) -> Iterator[dict[str, Any]]:
    for choice in answer.body["choices"]:
        yield {"choice": choice["index"], **choice["message"]}


async def _next_chunk(stream: Any, record: StreamRecord) -> Any:
    """Return the next chunk; None at the end of the stream, or where LiteLLM does not accept how the provider ended it.

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


def assembled(
    chunks: list[Any],
    headers: Mapping[str, str],
    watch: StreamWatch | None,
    request: Mapping[str, Any],
    received: str | None = None,
) -> Answer:
    """Return the answer of all chunks, with the finish reasons and the usage that the provider sent, and no others.

    `received` is the finish reason where there is no watch.
    """
    ended = received is not None or (watch is not None and (watch.done or watch.reasons))
    if not ended or not chunks:
        raise IncompleteStreamError("the stream ended before its finish reason")
    whole = load().stream_chunk_builder(chunks, messages=request["messages"])
    if watch is not None and watch.usage is not None and "total_tokens" in watch.usage:
        with contextlib.suppress(Exception):  # a usage of a shape that LiteLLM does not expect
            whole.usage = load().Usage(**watch.usage)  # its own is an estimate if it did not read to the end
    answer = answer_of(whole, headers, _completion_cost(whole, request))
    for choice in answer.body["choices"]:
        index = choice.get("index", 0)
        keep_native_reason(choice, watch.reasons.get(index) if watch is not None else received)
    if watch is not None and not watch.sent_usage:
        answer.body["usage"] = {}  # LiteLLM's estimate
        return replace(answer, cost=None)
    reported = reported_cost(watch.usage) if watch is not None else None
    return answer if reported is None else replace(answer, cost=reported)


def _completion_cost(whole: Any, request: Mapping[str, Any]) -> float | None:
    try:
        return float(load().completion_cost(whole, model=request["model"], custom_llm_provider=provider_of(request)))
    except Exception:  # noqa: BLE001 - LiteLLM raises for a model that it has no price for
        return None
