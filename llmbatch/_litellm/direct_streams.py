"""A streamed chat with `transport="direct"`, sent once: its deltas as they come, then its answer."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from llmbatch._litellm import Answer, convert_response, direct, load
from llmbatch._litellm.calls import answer_of
from llmbatch._litellm.chat_streams import IncompleteStreamError, assembled, deltas_of, stream_options
from llmbatch._litellm.direct_prices import answer_cost
from llmbatch._litellm.sse import StreamRecord, recording

if TYPE_CHECKING:
    import aiohttp

_PIECE_BYTES = 1 << 16
_FIELDS: dict[str, type] = {"usage": dict, "model": str, "created": int, "id": str}
_NOTHING: dict[str, Any] = {"choices": [{"index": 0, "delta": {}}]}


def stream_request(request: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments of a chat that is streamed; of several choices (`n`), which come whole, as they are."""
    if (request.get("n") or 1) > 1:
        return dict(request)
    return {**stream_options(request), **request, "stream": True}


async def direct_stream(request: Mapping[str, Any]) -> AsyncIterator[dict[str, Any] | Answer]:
    """Send one chat completion and yield each chunk's delta, then the whole `Answer`, as `chat_stream` does."""
    arguments = stream_request(request)
    if "stream" not in arguments:
        answer = await direct.send(arguments)
        for delta in deltas_of(answer):
            yield delta
        yield answer
        return
    record = StreamRecord(direct=True)
    async with contextlib.AsyncExitStack() as stack:
        with recording(record):
            response = await stack.enter_async_context(direct.target_for(arguments).posted(arguments))
        watch = record.watch
        if watch is None or watch.chunks is None:
            raise IncompleteStreamError(f"status {response.status} in place of a stream")
        read = 0
        async for _ in response.content.iter_chunked(_PIECE_BYTES):  # which feeds the watch
            for delta in _deltas(watch.chunks[read:], response):
                yield delta
            read = len(watch.chunks)
        for delta in _deltas(watch.chunks[read:], response):
            yield delta
        headers = direct.headers_of(response)
    plain = watch.plain_json()
    if plain is None:
        with _odd_chunks(response):
            given = watch.chunks or ([_NOTHING] if watch.done else [])
            whole = assembled([load().ModelResponseStream(**_sound(chunk)) for chunk in given], headers, watch, request)
        yield whole
        return
    answer = answer_of(convert_response.converted(plain), headers, None)
    answer = Answer(answer.body, headers, answer_cost(request, answer.body))
    for delta in deltas_of(answer):
        yield delta
    yield answer


def _deltas(chunks: list[dict[str, Any]], response: aiohttp.ClientResponse) -> Iterator[dict[str, Any]]:
    """Yield the deltas of chunks. Raises the SDK's error for one that is an error, or no chunk."""
    for chunk in chunks:
        if error := chunk.get("error"):
            _raise(error, response)
        choices = chunk.get("choices")
        for choice in choices if isinstance(choices, list) else ():
            with _odd_chunks(response):
                delta = {name: value for name, value in (choice.get("delta") or {}).items() if value is not None}
            if delta:
                yield {"choice": choice.get("index", 0), **delta}


@contextlib.contextmanager
def _odd_chunks(response: aiohttp.ClientResponse) -> Iterator[None]:
    """Raise the SDK's error in place of those that chunks of another shape cause."""
    try:
        yield
    except (TypeError, AttributeError, ValueError, KeyError) as exc:
        _raise({"message": f"a chunk of the stream has an odd shape ({type(exc).__name__})"}, response)


def _sound(chunk: dict[str, Any]) -> dict[str, Any]:
    """Return a chunk without fields of a wrong type that no answer needs."""
    return {
        name: value for name, value in chunk.items() if not (name in _FIELDS and not isinstance(value, _FIELDS[name]))
    }


def _raise(error: Any, response: aiohttp.ClientResponse) -> None:
    import httpx  # noqa: PLC0415 - comes with litellm
    import openai  # noqa: PLC0415 - comes with litellm

    body = error if isinstance(error, Mapping) else {"message": str(error)}
    request: Any = httpx.Request("POST", str(response.url.with_query(None)))
    raise openai.APIError(str(body.get("message") or "an error in the stream"), request, body=dict(body))
