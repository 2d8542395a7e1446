"""What counts as an answer: one decision for live calls, streams, batch jobs, checkpoints and files."""

from __future__ import annotations

import gzip
import json
from typing import TYPE_CHECKING, Any

import litellm
import pytest
from hypothesis import given
from hypothesis import strategies as st

import llmbatch
from llmbatch._output.jsonl import row_from_line, written_row
from llmbatch._rows.finish_reasons import FINISH_REASON_SOURCES, FINISH_REASONS, FinishClass, answer_problem
from tests.replies import said
from tests.server import Response
from tests.talk import batch, chats, lines, place, streamed

if TYPE_CHECKING:
    from pathlib import Path

    from tests.server import Request, Server

HALF = '{"titles": ["par'
BROKEN = {
    "a gateway": ("error", {}),
    "an error next to the message": ("error", {"error": {"code": 502, "message": "upstream closed"}}),
    "DeepSeek": ("insufficient_system_resource", {}),
    "Z.AI": ("network_error", {}),
    "SGLang": ("abort", {}),
}

pytestmark = pytest.mark.both_transports


def finished(content: Any, reason: str | None, **choice: Any) -> Response:
    made = said(content, reason or "")
    made.body["choices"][0] |= {"finish_reason": reason, **choice}
    return made


def stream_of(*contents: str, finish: str | None = "stop", done: bool = True, usage: bool = True) -> str:
    def chunk(delta: dict[str, str], finish: str | None = None) -> dict[str, Any]:
        choices = [{"index": 0, "delta": delta, "finish_reason": finish}]
        return {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "m", "choices": choices}

    events: list[Any] = [chunk({"content": content}) for content in contents]
    events += [chunk({}, finish)] if finish else []
    counted = {"prompt_tokens": 9, "completion_tokens": 3, "total_tokens": 12}
    events += [{**chunk({}), "choices": [], "usage": counted}] if usage else []
    return "".join(f"data: {json.dumps(event)}\n\n" for event in events) + ("data: [DONE]\n\n" if done else "")


def event_stream(text: str, *, packed: bool = False) -> Response:
    headers = {"content-type": "text/event-stream", **({"content-encoding": "gzip"} if packed else {})}
    return Response(headers=headers, body=gzip.compress(text.encode()) if packed else text)


@pytest.mark.usefixtures("quick_backoff")
@pytest.mark.parametrize(("reason", "more"), BROKEN.values(), ids=BROKEN)
def test_broken_answer_is_retried(server: Server, reason: str, more: dict[str, Any]) -> None:
    """The provider failed while it answered: the next attempt counts, and both are paid for."""
    server.enqueue(finished(HALF, reason, **more))
    server.handler = lambda _: said("whole")
    (row,) = batch(server.api_base, chats(1))
    assert row["choices"][0]["message"]["content"] == "whole"
    assert row["attempts"] == 2
    assert row["usage"]["total_tokens"] == 24


@pytest.mark.usefixtures("quick_backoff")
def test_broken_answer_is_failed_row_that_keeps_its_text(server: Server) -> None:
    """Its type, the provider's word and explanation, and its text are there; it counts as failed everywhere."""
    server.handler = lambda _: finished(HALF, "error", error={"code": 502, "message": "upstream closed"})
    results = batch(server.api_base, chats(1), retries=1)
    (row,) = results
    assert row["error_details"]["type"] == "BrokenAnswer"
    assert row["error_details"]["retryable"]
    assert "finish_reason error" in row["error"]
    assert "upstream closed" in row["error"]
    assert row["choices"][0]["message"]["content"] == HALF
    assert results.texts == [None]
    assert row["usage"]["total_tokens"] == 24
    assert len(server.requests) == 2


@pytest.mark.usefixtures("quick_backoff")
def test_broken_answer_falls_back(server: Server) -> None:
    """Another model answers instead."""
    server.handler = lambda request: (
        finished(HALF, "error") if request.json["model"] == "gpt-4o-mini" else said("by the other")
    )
    (row,) = batch(server.api_base, chats(1), retries=0, fallbacks=["openai/gpt-4o"])
    assert row["choices"][0]["message"]["content"] == "by the other"
    assert row["fallback"]["error"].startswith("BrokenAnswer: ")


NOTHING = {
    "empty": finished("", "stop"),
    "null": finished(None, "stop"),
    "no choices": Response(body={**said("x").body, "choices": []}),
    "empty parts": finished([{"type": "text", "text": ""}], "stop"),
}


@pytest.mark.usefixtures("quick_backoff")
@pytest.mark.parametrize("nothing", NOTHING.values(), ids=NOTHING)
def test_empty_answer_is_retried_and_then_failed(server: Server, nothing: Response) -> None:
    """The answer of the second attempt counts; without one the row fails."""
    server.enqueue(nothing)
    (row,) = batch(server.api_base, chats(1))
    assert "error" not in row
    server.handler = lambda _: nothing
    (row,) = batch(server.api_base, chats(1), retries=1)
    assert (row["error_details"]["type"], row["choices"]) == ("EmptyAnswer", [])
    assert len(server.requests) == 4


SOMETHING = {
    "a tool call": {"tool_calls": [{"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}}]},
    "a refusal": {"refusal": "I can't help with that."},
    "reasoning": {"reasoning_content": "Let me think."},
}


@pytest.mark.parametrize("message", SOMETHING.values(), ids=SOMETHING)
def test_answer_without_text_counts_if_it_says_something(server: Server, message: dict[str, Any]) -> None:
    """Tool calls, refusals and reasoning are answers."""
    server.handler = lambda _: said(None, "stop", **message)
    (row,) = batch(server.api_base, chats(1))
    assert "error" not in row


@pytest.mark.parametrize("reason", ["length", "model_length", "max_tokens", "MAX_TOKENS"])
def test_token_limit_spent_on_reasoning_is_truncated(server: Server, reason: str) -> None:
    """No text, but the limit was reached: listed in `.truncated`, and re-asked with more room."""
    server.handler = lambda _: finished("", reason)
    results = batch(server.api_base, chats(1))
    assert results.truncated == list(results)
    assert "error" not in results[0]
    server.requests.clear()
    server.handler = lambda request: finished("", reason) if request.json["max_tokens"] == 10 else said("whole")
    (row,) = batch(server.api_base, chats(1), max_tokens=10, reask=1)
    assert row["choices"][0]["message"]["content"] == "whole"
    assert [request.json["max_tokens"] for request in server.requests] == [10, 20]


@pytest.mark.parametrize("reason", ["content_filter", "SAFETY", "RECITATION", "sensitive", "guardrail_intervened"])
def test_filtered_answer_is_listed_and_failed_without_text(server: Server, reason: str) -> None:
    """`.filtered`, the summary and the notebook's table have it; half a text stays an answer."""
    server.enqueue(finished("half", reason))
    server.handler = lambda _: finished("", reason)
    results = batch(server.api_base, chats(2), max_workers=1)
    assert results.filtered == list(results)
    assert results.texts == ["half", None]
    assert results[1]["error_details"]["type"] == "ContentFiltered"
    assert "2 stopped by a content filter" in results.summary()
    assert "[stopped by a content filter]" in results._repr_html_()
    assert len(server.requests) == 2, "a filtered answer is not retried"


def test_unknown_finish_reason_is_complete_and_reported_once(server: Server, log: list[str]) -> None:
    """The answer counts; the log and the summary name the reason once for all rows."""
    server.handler = lambda _: finished("hi", "brand_new")
    results = batch(server.api_base, chats(3))
    assert results.texts == ["hi"] * 3
    assert results.summary().count("brand_new") == 1
    assert sum("brand_new" in line for line in log) == 1


@given(reason=st.sampled_from(sorted(FINISH_REASONS)) | st.text(min_size=1), upper=st.booleans(), text=st.text())
def test_finish_reason_has_one_class_wherever_it_is_found(reason: str, upper: bool, text: str) -> None:
    """As LiteLLM's word, as the provider's next to LiteLLM's "stop", in a file, and after it was written again."""
    word = reason.upper() if upper else reason
    message = {"role": "assistant", "content": text}
    plain = {"choices": [{"index": 0, "finish_reason": word, "message": message}]}
    mapped = {"choices": [{"index": 0, "finish_reason": "stop", "message": message,
                           "provider_specific_fields": {"native_finish_reason": word}}]}  # fmt: skip
    found = FINISH_REASONS.get(word.lower(), FinishClass.COMPLETE)
    for body in (plain, mapped):
        problem = answer_problem(body)
        assert (problem is not None) == (found is FinishClass.BROKEN or (not text and found != FinishClass.TRUNCATED))
        line = {"custom_id": "a", "response": {"status_code": 200, "body": body}, "error": None}
        row = row_from_line(line)
        assert ("error" in row) == (problem is not None)
        again = row_from_line(json.loads(written_row(row)))
        assert again.get("error") == row.get("error")


def test_finish_reasons_have_provider_and_source() -> None:
    """Each entry of the table names who sends it, and the page that says so."""
    assert FINISH_REASON_SOURCES.keys() == FINISH_REASONS.keys()
    assert all(provider and "https://" in source for provider, source in FINISH_REASON_SOURCES.values())
    assert all(reason == reason.lower() for reason in FINISH_REASONS)


def test_checkpoint_with_empty_answer_is_sent_again(server: Server, tmp_path: Path) -> None:
    """What an earlier version kept as an answer is checked when it is read."""
    path = tmp_path / "run.jsonl"
    batch(server.api_base, chats(2), checkpoint=path)
    first, second = lines(path)
    first["response"]["body"]["choices"][0]["message"]["content"] = ""
    path.write_text("".join(json.dumps(line) + "\n" for line in (first, second)))
    results = batch(server.api_base, chats(2), checkpoint=path)
    assert len(server.requests) == 3
    assert not results.failed


@pytest.mark.parametrize("route", ["openai", "hosted_vllm"])
def test_stream_that_ends_with_done_is_complete(server: Server, route: str) -> None:
    """A whole text without a finish reason is an answer, paid for once."""
    server.handler = lambda _: event_stream(stream_of("All ", "of it.", finish=None))
    results = streamed(server.api_base, chats(1), model=f"{route}/gpt-4o-mini")
    assert results.texts == ["All of it."]
    assert results[0]["attempts"] == 1
    assert results[0]["usage"]["total_tokens"] == 12


@pytest.mark.parametrize("packed", [False, True], ids=["plain", "gzip"])
@pytest.mark.parametrize("route", ["openai", "hosted_vllm"])
@pytest.mark.parametrize("how", ["cut", "corrupt"])
def test_stream_that_is_cut_or_corrupt_fails(server: Server, how: str, route: str, packed: bool) -> None:
    """Compressed or not, a short text is never an answer."""
    text = stream_of("Hello", " world", finish=None, done=False, usage=False)
    if how == "corrupt":
        text = text.replace('world"}', "") + stream_of()
    server.handler = lambda _: event_stream(text, packed=packed)
    (row,) = streamed(server.api_base, chats(1), model=f"{route}/m", retries=0)
    assert "error" in row


@pytest.mark.parametrize("route", ["openai", "hosted_vllm", "deepseek"])
def test_plain_json_for_stream_is_read(server: Server, route: str) -> None:
    """A server that cannot stream: its deltas and its row hold the text, usage and finish reason."""
    server.handler = lambda _: finished("The capital is Paris.", "model_length")
    events = list(llmbatch.stream_chat_completions_batch(chats(1), **place(server.api_base, model=f"{route}/m")))
    assert [event["delta"] for event in events if "delta" in event] == ["The capital is Paris."]
    row = events[-1]["row"]
    assert row["choices"][0]["message"]["content"] == "The capital is Paris."
    assert row["usage"]["total_tokens"] == 12
    assert llmbatch.BatchResults([row]).truncated == [row]
    assert len(server.requests) == 1


def test_stream_is_watched_after_litellm_dropped_its_clients(server: Server) -> None:
    """LiteLLM drops clients when there are many: the next one reads streams as the first did."""
    server.handler = lambda _: finished("Paris.", "stop")
    for _ in range(2):
        assert streamed(server.api_base, chats(1), model="deepseek/m", retries=0).texts == ["Paris."]
        litellm.in_memory_llm_clients_cache.flush_cache()


@pytest.mark.usefixtures("quick_backoff")
@pytest.mark.parametrize("reason", ["error", "abort", "insufficient_system_resource", "network_error"])
def test_broken_stream_is_retried_and_keeps_its_text(server: Server, reason: str) -> None:
    """The same class as in a plain answer, whatever LiteLLM makes of the chunk."""
    server.handler = lambda _: event_stream(stream_of(HALF, finish=reason))
    (row,) = streamed(server.api_base, chats(1), retries=1)
    assert row["error_details"]["type"] == "BrokenAnswer"
    assert row["choices"][0]["message"]["content"] == HALF
    assert row["attempts"] == 2


def test_usage_that_was_not_sent_has_no_cost(server: Server) -> None:
    """LiteLLM's estimate is no bill: the cost is unknown, and `max_cost` holds the upper bound against it."""
    server.handler = lambda _: event_stream(stream_of("word " * 50, usage=False))
    prices = {"input_cost_per_token": 1e-9, "output_cost_per_token": 1e-6}
    results = streamed(server.api_base, chats(10), max_tokens=100, max_cost=350e-6, **prices)
    answered = [row for row in results if "error" not in row]
    assert [(row["cost"], row["usage"]["total_tokens"]) for row in answered] == [(None, 0)] * 3
    assert {row["error_details"]["type"] for row in results.failed} == {"BudgetExceeded"}


@pytest.mark.parametrize(
    ("choices", "usage"),
    [(2, (7, 7)), (1, (7, 0)), (1, (0, 7))],
    ids=["tokens of one of two choices", "no token of the answer", "no token of the prompt"],
)
def test_usage_that_cannot_be_true_has_no_cost(server: Server, choices: int, usage: tuple[int, int]) -> None:
    """It is left out of the row and of the money."""
    made = said("Paris is the capital of France.")
    made.body["choices"] = [{**made.body["choices"][0], "index": index} for index in range(choices)]
    made.body["usage"] = {"prompt_tokens": usage[0], "completion_tokens": usage[1], "total_tokens": sum(usage)}
    server.handler = lambda _: made
    (row,) = batch(server.api_base, chats(1), n=choices)
    assert (row["cost"], row["usage"]["total_tokens"]) == (None, 0)


@pytest.mark.parametrize("streams", [False, True], ids=["whole", "streamed"])
@pytest.mark.parametrize(
    "reported", [0.006256, {"request_cost": 0.006, "total_cost": 0.006256}], ids=["number", "object"]
)
def test_reported_cost_is_taken(server: Server, reported: Any, streams: bool) -> None:
    """A number or an object with a total, in a plain answer and in a stream."""

    def handler(_: Request) -> Response:
        usage = {"prompt_tokens": 7, "completion_tokens": 149, "total_tokens": 156, "cost": reported}
        if streams:
            usage_chunk = {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "m", "choices": []}
            text = stream_of("Paris", usage=False, done=False)
            return event_stream(f"{text}data: {json.dumps({**usage_chunk, 'usage': usage})}\n\ndata: [DONE]\n\n")
        made = said("Paris")
        made.body["usage"] = usage
        return made

    server.handler = handler
    rows = (streamed if streams else batch)(server.api_base, chats(1))
    assert rows.cost == pytest.approx(0.006256)


@pytest.mark.usefixtures("quick_backoff")
def test_row_at_deadline_says_what_its_last_attempt_failed_with(server: Server) -> None:
    """A broken answer that is retried until the deadline is not hidden by it."""
    server.handler = lambda _: finished(HALF, "error")
    (row,) = batch(server.api_base, chats(1), retries=10**6, deadline=1)
    assert row["error_details"]["type"] == "DeadlineExceeded"
    assert "the last attempt failed with BrokenAnswer: " in row["error"]
    assert row["usage"]["total_tokens"] in {12 * row["attempts"], 12 * (row["attempts"] - 1)}, "one may be in flight"
