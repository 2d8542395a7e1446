"""`transport="direct"`: the same rows as through LiteLLM, sent past its pipeline."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

import llmbatch
from llmbatch._litellm import load
from tests.replies import said
from tests.talk import chats
from tests.wire import Response

if TYPE_CHECKING:
    from pathlib import Path

    from tests.server import Server

MODELS = ["openai/gpt-4o-mini", "hosted_vllm/local"]
NOT_COMPARED = ("elapsed", "waited", "created", "started_at")
DETAILS = {"prompt_tokens_details": {"cached_tokens": 2}, "completion_tokens_details": {"reasoning_tokens": 1}}
CALL = {"id": "t", "type": "function", "function": {"name": "f", "arguments": "{}"}}
TOKEN = {"token": "b", "logprob": -0.1, "bytes": [98], "top_logprobs": []}


def answer(*, usage: dict[str, Any] | None = None, choice: dict[str, Any] | None = None, **body: Any) -> Response:
    """A plain answer with other fields."""
    reply = said("yes")
    reply.body["usage"] |= usage or {}
    reply.body["choices"][0] |= choice or {}
    reply.body |= body
    return reply


def failed(status: int, **error: Any) -> Response:
    """An error of OpenAI's shape."""
    return Response(status, body={"error": {"message": "no", "type": "t", "param": None, "code": None, **error}})


ANSWERS: dict[str, Response] = {
    "plain": answer(),
    "tool calls": said(None, "tool_calls", tool_calls=[CALL]),
    "thinking tags": said("<think>a</think>b"),
    "thinking tags after a space": said(" <think>a</think>b"),
    "reasoning content": said("b", reasoning_content="r"),
    "reasoning": said("b", reasoning="r"),
    "a finish reason of the server's own": said("b", "eos"),
    "cut off": said("b", "length"),
    "refusal": said(None, refusal="no"),
    "cached and reasoning tokens": answer(usage=DETAILS),
    "floats": answer(usage={"prompt_tokens": 7.0}),
    "service tier": answer(service_tier="default", system_fingerprint="fp"),
    "fields of the server's own": answer(timings={"a": 1.5}, foo=1),
    "cost": answer(usage={"cost": 0.5}),
    "log probabilities": answer(choice={"logprobs": {"content": [TOKEN]}}),
    "citations": answer(citations=["u"]),
    "no choices": answer(choices=[]),
    "bad key": failed(401, message="bad key", code="invalid_api_key"),
    "context window": failed(
        400, message="This model's maximum context length is 10 tokens", code="context_length_exceeded"
    ),
    "bad request": failed(400, param="x"),
    "forbidden": failed(403),
    "not found": failed(404),
    "rate limit": failed(429),
    "server error in words": Response(500, body="boom"),
    "unavailable": failed(503),
}


def rows_by(transport: Any, server: Server, model: str, prompts: list[str], **options: Any) -> list[llmbatch.Row]:
    """The rows of a batch, without what differs between any two runs."""
    given: dict[str, Any] = {"api_base": server.api_base, "api_key": "sk-x", "progress": False, "retries": 0, **options}
    rows = llmbatch.create_chat_completions_batch(prompts, model, transport=transport, **given)
    return [{name: value for name, value in row.items() if name not in NOT_COMPARED} for row in rows]


@pytest.mark.parametrize("model", MODELS)
def test_direct_gives_the_rows_of_litellm(server: Server, model: str) -> None:
    """For answers and errors of every kind, first and second of its kind, in one batch."""
    server.handler = lambda request: ANSWERS[request.text.partition("|")[0]]
    prompts = [f"{name}|{number}" for name in ANSWERS for number in range(3)]
    options: dict[str, Any] = {"max_workers": 1, "checkpoint": None}
    expected: list[llmbatch.Row] = []
    found: list[llmbatch.Row] = []
    for name in ANSWERS:  # a batch each: shared errors end a batch
        mine = [prompt for prompt in prompts if prompt.startswith(f"{name}|")]
        expected += rows_by("litellm", server, model, mine, **options)
        found += rows_by("direct", server, model, mine, **options)
    assert found == expected


@pytest.mark.parametrize("model", MODELS)
def test_direct_sends_the_bytes_and_headers_of_litellm(server: Server, model: str) -> None:
    """Body, path, key and the caller's own headers are the same."""
    options = {"extra_headers": {"x-mine": "1"}, "seed": 3, "extra_body": {"guided": {"a": 1}}, "max_workers": 1}
    for transport in ("litellm", "direct"):
        rows_by(transport, server, model, ["Ünïcode", "b", "c"], **options)
    through, direct = server.requests[:3], server.requests[3:]
    assert [one.body for one in direct] == [one.body for one in through]
    assert [one.path for one in direct] == [one.path for one in through]
    names = ("authorization", "content-type", "x-mine")
    assert [[one.headers.get(n) for n in names] for one in direct] == [
        [one.headers.get(n) for n in names] for one in through
    ]


def test_direct_does_not_call_acompletion(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not even for the first request."""
    monkeypatch.setattr(load(), "acompletion", None)
    rows = rows_by("direct", server, MODELS[0], ["a", "b"])
    assert not [row["error"] for row in rows if "error" in row]


def test_direct_embeddings_equal_those_of_litellm(server: Server) -> None:
    """Vectors, usage and cost."""
    made = [
        llmbatch.create_embeddings_batch(
            ["a", "b", "c"], "openai/text-embedding-3-small", api_base=server.api_base, api_key="k", transport=transport
        )
        for transport in ("litellm", "direct")
    ]
    assert made[0].embeddings == made[1].embeddings
    assert (made[0].usage, made[0].cost) == (made[1].usage, made[1].cost)


def test_a_listener_keeps_requests_on_litellm(server: Server, monkeypatch: pytest.MonkeyPatch, log: list[str]) -> None:
    """A callback hears of each answer; the log says once why."""
    heard: list[Any] = []

    async def listen(kwargs: Any, response: Any, start: Any, end: Any) -> None:
        heard.append(kwargs["model"])

    for name in ("success_callback", "_async_success_callback"):  # LiteLLM moves it from one to the other
        monkeypatch.setattr(load(), name, [listen])
    rows_by("direct", server, MODELS[0], ["a", "b", "c"])
    assert sum("callbacks are registered" in line for line in log) == 1


def test_providers_without_batch_lines_stay_on_litellm(
    server: Server, monkeypatch: pytest.MonkeyPatch, log: list[str]
) -> None:
    """Anthropic's API is not OpenAI's: LiteLLM translates."""
    server.handler = lambda _: Response(
        body={
            "id": "m", "type": "message", "role": "assistant", "model": "claude", "stop_reason": "end_turn",
            "content": [{"type": "text", "text": "hello"}], "usage": {"input_tokens": 3, "output_tokens": 2},
        }
    )  # fmt: skip
    monkeypatch.setenv("ANTHROPIC_API_KEY", "k")
    base = server.api_base.removesuffix("/v1")
    rows = llmbatch.create_chat_completions_batch(
        chats(2), "anthropic/claude-sonnet-4-5", api_base=base, transport="direct"
    )
    assert rows.texts == ["hello", "hello"]
    assert sum("anthropic requests go through LiteLLM" in line for line in log) == 1


def test_a_checkpoint_is_resumed_with_the_other_transport(server: Server, tmp_path: Path) -> None:
    """Nothing is sent twice."""
    for transport in ("direct", "litellm", "direct"):
        rows_by(transport, server, MODELS[0], ["a", "b"], checkpoint=tmp_path / "run.jsonl")
    assert len(server.requests) == 2


def test_direct_retries_and_learns_limits_as_litellm_does(server: Server, quick_backoff: None) -> None:
    """A 429 with a Retry-After and a 500 are sent again."""
    server.enqueue(Response(429, {"retry-after": "0.05"}), Response(500), Response(reset=True))
    rows = rows_by("direct", server, MODELS[0], ["a", "b", "c"], retries=3)
    assert [row["choices"][0]["message"]["content"] is not None for row in rows] == [True] * 3
    assert sum(row["attempts"] for row in rows) == 6


def test_direct_keeps_an_explanation_that_the_sdk_drops(server: Server) -> None:
    """FastAPI's `detail` reaches the row (through LiteLLM on openai/ it does not)."""
    server.handler = lambda _: Response(422, body={"detail": [{"loc": ["a"], "msg": "b is missing"}]})
    (row,) = rows_by("direct", server, MODELS[0], ["a"])
    assert "b is missing" in row["error"]


def test_direct_prices_content_in_parts(server: Server) -> None:
    """LiteLLM cannot read such an answer, so that its row has no cost there."""
    server.handler = lambda _: said([{"type": "text", "text": "x"}])
    (through,), (direct,) = (rows_by(transport, server, MODELS[0], ["a"]) for transport in ("litellm", "direct"))
    assert direct == {**through, "cost": direct["cost"]}
    assert direct["cost"]


def test_direct_is_checked(server: Server) -> None:
    """Another word is misuse."""
    with pytest.raises(ValueError, match="transport must be one of litellm, direct"):
        rows_by("http2", server, MODELS[0], ["a"])


def test_pieces_of_a_stream_come_with_direct_too(server: Server) -> None:
    """Streams go through LiteLLM."""
    events = list(
        llmbatch.stream_chat_completions_batch(
            chats(1), MODELS[0], api_base=server.api_base, api_key="k", transport="direct"
        )
    )
    assert "".join(event.get("delta", "") for event in events)
