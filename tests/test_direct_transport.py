"""`transport="direct"`: the same rows as through LiteLLM, sent past its pipeline."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

import llmbatch
from llmbatch._litellm import load
from llmbatch.providers import registry
from tests.record_cassettes import TOOL
from tests.replies import event_stream, said
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


ODD_ANSWERS: dict[str, Response] = {
    "a choice without a message": answer(choices=[{"index": 0, "finish_reason": "stop"}]),
    "a message that is none": answer(choice={"message": "hi"}),
    "a number as text": said(7),
    "an error next to choices": answer(error={"message": "partial"}),
}


@pytest.mark.parametrize("name", ODD_ANSWERS)
def test_direct_fails_as_litellm_does_for_answers_that_are_none(server: Server, name: str) -> None:
    """The type is a documented one, and the words are those of the server."""
    server.handler = lambda _: ODD_ANSWERS[name]
    expected, found = (rows_by(transport, server, MODELS[0], ["a"]) for transport in ("litellm", "direct"))
    assert found == expected


def test_direct_stream_ends_at_its_end(server: Server) -> None:
    """What a server sends after `[DONE]` is part of no answer."""
    events = [_stream_events({"content": text}, finish="stop") for text in ("a", "more")]
    server.handler = lambda _: event_stream([*events[0], *events[1]])
    assert streamed_by("direct", server, MODELS[0], "x")[0] == "a"
    assert streamed_by("litellm", server, MODELS[0], "x")[0] == "a"


def test_direct_reads_answers_of_odd_shape(server: Server) -> None:
    """Such an answer is kept if LiteLLM keeps it, and fails with a documented type if a stream cannot be read."""
    server.handler = lambda _: answer(usage={"cost": [1]})
    (row,) = rows_by("direct", server, MODELS[0], ["a"])
    assert row["choices"][0]["message"]["content"] == "yes"
    server.handler = lambda _: stream_of("text")  # type: ignore[arg-type]
    _, row = streamed_by("direct", server, MODELS[0], "a")
    assert row["error_details"]["type"] == "StreamError"


def test_direct_takes_a_redirect_to_nowhere_for_an_error(server: Server) -> None:
    """A redirect without a Location is no answer; it fails once, as through LiteLLM."""
    server.handler = lambda _: Response(302, body=b"")
    (row,) = rows_by("direct", server, MODELS[0], ["a"], retries=3)
    assert row["error_details"]["type"] == "APIError"
    assert len(server.requests) == 1


def test_direct_is_checked(server: Server) -> None:
    """Another word is misuse."""
    with pytest.raises(ValueError, match="transport must be one of litellm, direct"):
        rows_by("http2", server, MODELS[0], ["a"])


def streamed_by(transport: Any, server: Server, model: str, prompt: str) -> tuple[str, llmbatch.Row]:
    """The deltas and the row of one streamed request."""
    *deltas, last = llmbatch.stream_chat_completions_batch(
        [prompt], model, api_base=server.api_base, api_key="k", transport=transport, retries=0
    )
    row = {name: value for name, value in last["row"].items() if name not in NOT_COMPARED}
    return "".join(event["delta"] for event in deltas), row  # type: ignore[return-value]


def _stream_events(*deltas: dict[str, Any], finish: str | None, usage: dict[str, Any] | None = None) -> list[str]:
    head = {"id": "x", "object": "chat.completion.chunk", "created": 1, "model": "m"}
    chunks: list[dict[str, Any]] = [{**head, "choices": [{"index": 0, "delta": delta}]} for delta in deltas]
    if finish:
        chunks.append({**head, "choices": [{"index": 0, "delta": {}, "finish_reason": finish}]})
    if usage:
        chunks.append({**head, "choices": [], "usage": usage})
    return [*map(json.dumps, chunks), *(["[DONE]"] if finish else [])]


def stream_of(*deltas: dict[str, Any], finish: str | None = "stop", usage: dict[str, Any] | None = None) -> Response:
    """An event stream of these deltas."""
    return event_stream(_stream_events(*deltas, finish=finish, usage=usage))


USAGE = {"prompt_tokens": 7, "completion_tokens": 5, "total_tokens": 12}
STREAMS: dict[str, Response] = {
    "plain": stream_of({"role": "assistant", "content": "a"}, {"content": "b"}, usage=USAGE),
    "no usage": stream_of({"content": "a"}),
    "details": stream_of({"content": "a"}, usage={**USAGE, **DETAILS}),
    "cost": stream_of({"content": "a"}, usage={**USAGE, "cost": 0.25}),
    "tool calls": stream_of(
        {"tool_calls": [{"index": 0, "id": "t", "type": "function", "function": {"name": "f", "arguments": ""}}]},
        {"tool_calls": [{"index": 0, "function": {"arguments": "{}"}}]},
        finish="tool_calls", usage=USAGE,
    ),
    "reasoning": stream_of({"reasoning_content": "r"}, {"content": "b"}, usage=USAGE),
    "a finish reason of the server's own": stream_of({"content": "a"}, finish="eos", usage=USAGE),
    "cut": stream_of({"content": "a"}, finish=None),
    "nothing": stream_of(finish="stop"),
    "an error first": event_stream([json.dumps({"error": {"message": "busy", "type": "rate_limit_error"}})]),
    "a usage of another type": stream_of({"content": "a"}, usage="many"),  # type: ignore[arg-type]
    "plain JSON": said("whole"),
    "a status": failed(503),
}  # fmt: skip


def test_streams_are_equal(server: Server) -> None:
    """Deltas and rows, of answers and of errors of every kind."""
    server.handler = lambda request: STREAMS[request.text]
    for name in STREAMS:
        model = MODELS[0] if "error" in name else "hosted_vllm/m"  # whose route in LiteLLM drops an error's type
        assert streamed_by("direct", server, model, name) == streamed_by("litellm", server, model, name), name


def test_streamed_row_names_the_model_that_answered(server: Server) -> None:
    """As an answer that is not streamed does; LiteLLM's names the one that was asked for, on the SDK's route."""
    server.handler = lambda _: STREAMS["plain"]
    (deltas, direct), (same, through) = (
        streamed_by(transport, server, MODELS[0], "plain") for transport in ("direct", "litellm")
    )
    assert (deltas, through["model"]) == (same, "gpt-4o-mini")
    assert direct == {**through, "model": "m"}
    sent, other = (request.json for request in server.requests)
    assert sent == other


def test_stream_does_not_call_acompletion(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """Several choices come whole, and directly too."""
    monkeypatch.setattr(load(), "acompletion", None)
    events = list(
        llmbatch.stream_chat_completions_batch(
            [*chats(2), {"prompt": "x", "n": 2}], MODELS[0], api_base=server.api_base, api_key="k", transport="direct"
        )
    )
    assert [event["row"].get("error") for event in events if "row" in event] == [None] * 3


def test_a_request_names_its_transport(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """It overrides the call's, both ways; its id and what is sent stay the same."""
    acompletion = load().acompletion
    through: list[str] = []

    async def noted(**request: Any) -> Any:
        through.append(request["messages"][-1]["content"])
        return await acompletion(**request)

    monkeypatch.setattr("llmbatch._batch.transport.traced_calls", lambda: None)
    monkeypatch.setattr(load(), "acompletion", noted)
    prompts: list[Any] = [
        {"prompt": "a"},
        {"prompt": "b", "transport": "direct"},
        {"prompt": "c", "transport": "litellm"},
    ]
    by_default = rows_by("litellm", server, MODELS[0], prompts)
    assert sorted(through) == ["a", "c"]
    through.clear()
    direct = rows_by("direct", server, MODELS[0], prompts)
    assert through == ["c"]
    assert direct == by_default
    (row,) = rows_by("direct", server, MODELS[0], [{"prompt": "a", "transport": "http2"}])
    assert "transport must be one of litellm, direct" in row["error"]


def test_keys_that_change_between_batches_are_used(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the environment, and of LiteLLM's settings."""
    for number, place in enumerate(("environment", "environment", "litellm")):
        if place == "litellm":
            monkeypatch.delenv("OPENAI_API_KEY")
            monkeypatch.setattr(load(), "api_key", "sk-2")
        else:
            monkeypatch.setenv("OPENAI_API_KEY", f"sk-{number}")
        rows_by("direct", server, MODELS[0], ["a"], api_key=None)
    assert [request.headers["authorization"] for request in server.requests] == [f"Bearer sk-{n}" for n in range(3)]


def test_first_requests_keep_to_a_limit(server: Server) -> None:
    """What is found out about the requests is found out before the first of them waits for its turn."""
    rows_by("direct", server, "openai/limited", [str(n) for n in range(12)], requests_per_minute=600, seed=9)
    times = [request.at for request in server.requests]
    assert max(times) - min(times) >= 11 / 10 - 0.1


def test_registered_providers_are_sent_to_directly(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """A provider of the user's own, with OpenAI's lines."""
    monkeypatch.setattr("llmbatch.providers.registry._providers", dict(registry._providers))
    llmbatch.register_provider(type("Mine", (registry.OpenAI,), {"name": "deepinfra"}))
    monkeypatch.setattr(load(), "acompletion", None)
    monkeypatch.setattr("llmbatch._batch.transport.traced_calls", lambda: None)
    (row,) = rows_by("direct", server, "deepinfra/some/model", ["a"])
    assert "error" not in row


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"mock_response": "hi"}, "mock_response= is LiteLLM's"),
        (
            {"reasoning_effort": "low", "tools": [TOOL], "model": "openai/gpt-5.4", "temperature": None},
            "does not send model",
        ),
    ],
)
def test_requests_that_need_litellm_go_there(
    server: Server, log: list[str], options: dict[str, Any], reason: str
) -> None:
    """The log says once why."""
    rows_by("direct", server, options.pop("model", MODELS[0]), ["a", "b", "c"], **options)
    assert sum(reason in line for line in log) == 1
