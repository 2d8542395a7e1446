"""Lines of batch input files: render requests, write and read files. Nothing is sent.

A payload is `{custom_id, method, url, body}`, where the body is what the live call with the same arguments would send.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from llmbatch._jobs.input_files import Line, PayloadChecks, chat_plans, read_payloads, rendered
from llmbatch._request.messages import check_messages_list, check_texts
from llmbatch._request.parsed_request import ParsedRequest
from llmbatch._request.plans import DEFAULT_MAX_TOKENS, DEFAULT_TEMPERATURE, plan_embeddings
from llmbatch._util.files import json_line, replacing
from llmbatch.providers.base import Payload
from llmbatch.providers.registry import provider_for

if TYPE_CHECKING:
    import os

__all__ = [
    "read_batch_file",
    "render_batch_requests",
    "render_embeddings_requests",
    "stream_batch_requests",
    "stream_embeddings_requests",
    "write_batch_file",
]


def render_batch_requests(
    messages_list: Iterable[Any],
    model: str | None = None,
    temperature: float | None = DEFAULT_TEMPERATURE,
    max_tokens: int | None = DEFAULT_MAX_TOKENS,
    *,
    custom_ids: Sequence[str] | None = None,
    **kwargs: Any,
) -> list[Payload]:
    """Render the payloads that `create_chat_completions_batch` with the same arguments would send. Nothing is sent.

    Pass `custom_ids`, or ids are derived from the requests, the same from run to run. No key is needed. Raises
    BatchNotSupportedError (a NotImplementedError) if the provider has no batch support in llmbatch, and ValueError,
    with the row's number, for a row that cannot be sent.

    Example:
        payloads = render_batch_requests([[{"role": "user", "content": "Hi"}]], model="gpt-4o-mini")
        payloads[0]["body"]  # {"messages": […], "model": "gpt-4o-mini", "max_tokens": 200, "temperature": 0.3}
    """
    return list(stream_batch_requests(messages_list, model, temperature, max_tokens, custom_ids=custom_ids, **kwargs))


def stream_batch_requests(
    messages_list: Iterable[Any],
    model: str | None = None,
    temperature: float | None = DEFAULT_TEMPERATURE,
    max_tokens: int | None = DEFAULT_MAX_TOKENS,
    *,
    custom_ids: Iterable[str] | None = None,
    **kwargs: Any,
) -> Iterator[Payload]:
    """Render payloads as `render_batch_requests` does, one by one: `messages_list` may be a generator of any length.

    Example:
        write_batch_file("batch.jsonl", stream_batch_requests(iter(chats), "gpt-4o-mini"))
    """
    plans = chat_plans({"model": model, "temperature": temperature, "max_tokens": max_tokens, **kwargs})
    items, _ = check_messages_list(messages_list)
    return _raising(rendered(plans.of, items, custom_ids))


def render_embeddings_requests(
    texts: Iterable[str], model: str | None = None, *, custom_ids: Sequence[str] | None = None, **kwargs: Any
) -> list[Payload]:
    """Render the payloads that embed each text by itself, for `write_batch_file` and `submit_batch_job`.

    Example:
        payloads = render_embeddings_requests(["a cat", "a dog"], "text-embedding-3-small")
    """
    return list(stream_embeddings_requests(texts, model, custom_ids=custom_ids, **kwargs))


def stream_embeddings_requests(
    texts: Iterable[str], model: str | None = None, *, custom_ids: Iterable[str] | None = None, **kwargs: Any
) -> Iterator[Payload]:
    """Render payloads as `render_embeddings_requests` does, one by one.

    Example:
        write_batch_file("texts.jsonl", stream_embeddings_requests(iter(["a cat"]), "text-embedding-3-small"))
    """
    plan = plan_embeddings(model, **kwargs)
    provider = provider_for(plan.target.provider)
    items, _ = check_texts(texts)
    return _raising(rendered(lambda _: (plan, provider), map(ParsedRequest, items), custom_ids))


def _raising(lines: Iterable[Line]) -> Iterator[Payload]:
    for index, line in enumerate(lines):
        if line.payload is None:
            raise ValueError(f"row {index}: {line.problem}")
        yield line.payload


def write_batch_file(path: str | os.PathLike[str], payloads: Iterable[Payload]) -> int:
    """Write payloads as JSONL, one by one, and return their number. The file appears only when all are written.

    Raises ValueError for what makes a provider reject the whole file: a duplicate id, two models, two urls.

    Example:
        write_batch_file("batch.jsonl", render_batch_requests(chats, "gpt-4o-mini"))
    """
    check, number = PayloadChecks(), 0
    with replacing(path) as file:
        for number, payload in enumerate(payloads, 1):
            check(payload, f"payload {number}")
            file.write(json_line(payload))
    return number


def read_batch_file(path: str | os.PathLike[str]) -> Iterator[Payload]:
    """Yield the payloads of a JSONL file; blank lines are skipped.

    Raises ValueError, with the line's number, for a line that is not a payload, a duplicate id, two models, two urls.

    Example:
        models = {payload["body"]["model"] for payload in read_batch_file("batch.jsonl")}
    """
    return read_payloads(path)
