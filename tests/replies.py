"""The test provider's usual answers: deterministic, so that a test knows which request a row belongs to."""

from __future__ import annotations

import base64
import hashlib
import json
import struct
from typing import Any

from tests.wire import Request, Response

MODEL = "test-model"


def answer_to(text: str) -> str:
    """The deterministic answer to a chat whose last user message is `text`."""
    return f"answer {hashlib.sha256(text.encode()).hexdigest()[:10]} to: {text[:60]}"


def vector_for(text: str, dimensions: int = 8) -> list[float]:
    """The deterministic embedding of `text`: float32 values, the same over float and base64."""
    digest = hashlib.shake_128(text.encode()).digest(2 * dimensions)
    values = (n / 32768 for n in struct.unpack(f"<{dimensions}h", digest))
    return list(struct.unpack(f"<{dimensions}f", struct.pack(f"<{dimensions}f", *values)))


def token_count(text: str) -> int:
    """Four characters a token, at least one."""
    return max(1, len(text) // 4)


def reply(request: Request) -> Response:
    """The usual answer to a request: an echo that tells which request it belongs to."""
    path = request.path.partition("?")[0]
    if path.endswith("/chat/completions") and isinstance(request.json, dict):
        return chat_reply(request)
    if path.endswith("/embeddings") and isinstance(request.json, dict):
        return embedding_reply(request.json)
    if path.endswith("/models"):
        return Response(body={"object": "list", "data": [{"id": MODEL, "object": "model", "owned_by": "tests"}]})
    return Response(404, body={"error": {"message": f"no route {path}", "type": "invalid_request_error", "code": None}})


def chat_reply(request: Request) -> Response:
    """A chat completion with `n` equal choices, as JSON or as an event stream of one chunk a word."""
    asked, answer = request.json, answer_to(request.text)
    n = asked.get("n") or 1
    prompt = sum(token_count(str(message.get("content") or "")) for message in asked.get("messages") or [])
    usage = {"prompt_tokens": prompt, "completion_tokens": n * token_count(answer)}
    usage["total_tokens"] = sum(usage.values())
    head = {
        "id": f"chatcmpl-{hashlib.sha256(request.body).hexdigest()[:12]}",
        "created": 1_700_000_000,
        "model": asked.get("model") or MODEL,
    }
    if not asked.get("stream"):
        message = {"role": "assistant", "content": answer}
        choices = [{"index": i, "message": message, "logprobs": None, "finish_reason": "stop"} for i in range(n)]
        return Response(body={**head, "object": "chat.completion", "choices": choices, "usage": usage})
    head["object"] = "chat.completion.chunk"
    words = answer.split(" ")
    deltas: list[dict[str, Any]] = [
        {"role": "assistant", "content": words[0]},
        *({"content": f" {w}"} for w in words[1:]),
    ]
    chunks = [
        {**head, "choices": [{"index": i, "delta": delta, "finish_reason": None}]} for delta in deltas for i in range(n)
    ]
    chunks += [{**head, "choices": [{"index": i, "delta": {}, "finish_reason": "stop"}]} for i in range(n)]
    if (asked.get("stream_options") or {}).get("include_usage"):
        chunks.append({**head, "choices": [], "usage": usage})
    return event_stream([*(json.dumps(chunk) for chunk in chunks), "[DONE]"])


def said(content: Any, finish_reason: str = "stop", **message: Any) -> Response:
    """A chat completion of this content; `message` is what else it holds."""
    message = {"role": "assistant", "content": content, **message}
    choices = [{"index": 0, "message": message, "finish_reason": finish_reason}]
    usage = {"prompt_tokens": 7, "completion_tokens": 5, "total_tokens": 12}
    body = {"id": "x", "object": "chat.completion", "created": 1, "model": MODEL, "choices": choices, "usage": usage}
    return Response(body=body)


def event_stream(events: list[str]) -> Response:
    """A server-sent event stream of these data lines."""
    body = "".join(f"data: {event}\n\n" for event in events)
    return Response(headers={"content-type": "text/event-stream"}, body=body)


def embedding_reply(asked: dict[str, Any]) -> Response:
    """One vector a text, as floats or base64, of `dimensions` numbers (8 unless asked otherwise)."""
    texts = [asked["input"]] if isinstance(asked.get("input"), str) else list(map(str, asked.get("input") or []))
    vectors: list[Any] = [vector_for(text, asked.get("dimensions") or 8) for text in texts]
    if asked.get("encoding_format") == "base64":
        vectors = [base64.b64encode(struct.pack(f"<{len(v)}f", *v)).decode() for v in vectors]
    data = [{"object": "embedding", "index": i, "embedding": vector} for i, vector in enumerate(vectors)]
    tokens = sum(map(token_count, texts))
    usage = {"prompt_tokens": tokens, "total_tokens": tokens}
    return Response(body={"object": "list", "data": data, "model": asked.get("model") or MODEL, "usage": usage})
