"""The main job: a list of chats in, a list of rows out, over real sockets."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

import llmbatch
from tests.replies import said
from tests.server import Response, answer_to
from tests.talk import answered, batch, chats, place, question

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.server import Server


def test_rows_come_back_in_order_with_usage_and_cost(server: Server) -> None:
    """One row for each conversation, in order, with LiteLLM's answer and llmbatch's own keys."""
    results = batch(server.api_base, chats(25))
    assert results.texts == [answer_to(question(i)) for i in range(25)]
    assert not results.failed
    row = results[3]
    assert row["attempts"] == 1
    assert row["cost"] > 0
    assert row["custom_id"].startswith("req-")
    assert json.loads(json.dumps(results)) == results
    assert results.usage["total_tokens"] == sum(r["usage"]["total_tokens"] for r in results) > 0
    assert results.cost == pytest.approx(sum(r["cost"] for r in results))
    assert "25/25 rows succeeded" in results.summary()


def test_default_parameters_are_sent(server: Server) -> None:
    """temperature=0.3 and max_tokens=200 are on the wire unless changed; None leaves them out."""
    batch(server.api_base, chats(1))
    batch(server.api_base, chats(1), temperature=None, max_tokens=None, seed=3, top_p=0.5)
    first, second = (request.json for request in server.requests)
    assert (first["temperature"], first["max_tokens"]) == (0.3, 200)
    assert "temperature" not in second
    assert "max_tokens" not in second
    assert (second["seed"], second["top_p"]) == (3, 0.5)


@pytest.mark.parametrize("model", ["openai/o3-mini", "openai/gpt-5", "openai/o1", "openai/gpt-5-mini"])
def test_defaults_never_break_a_reasoning_model(server: Server, model: str) -> None:
    """The defaults are left out for models that refuse them; the row is an answer."""
    (row,) = batch(server.api_base, chats(1), model=model)
    assert "error" not in row
    sent = server.requests[0].json
    assert sent.get("temperature") in {None, 1}
    assert "max_tokens" not in sent


def test_parameter_that_the_model_rejects_is_a_row_error(server: Server) -> None:
    """What the caller chose is not dropped silently."""
    (row,) = batch(server.api_base, chats(1), model="openai/o3-mini", temperature=0.3000001)
    assert row["error_details"]["type"] == "UnsupportedParamsError"
    assert not server.requests


def test_model_comes_from_the_environment(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """The argument, else MODEL_CHOICE, else gpt-4o-mini."""
    batch(server.api_base, chats(1), model=None)
    monkeypatch.setenv("MODEL_CHOICE", "openai/gpt-4o")
    batch(server.api_base, chats(1), model=None)
    batch(server.api_base, chats(1), model="openai/gpt-4.1")
    assert [request.json["model"] for request in server.requests] == ["gpt-4o-mini", "gpt-4o", "gpt-4.1"]


def test_bare_model_with_api_base_is_openai_compatible(server: Server) -> None:
    """Local servers work by their model's own name."""
    (row,) = batch(server.api_base, chats(1), model="my-local-model")
    assert row["model"] == "my-local-model"
    assert row["cost"] is None
    assert batch(server.api_base, chats(2), model="my-local-model").cost is None


def test_empty_list_gives_empty_results(server: Server) -> None:
    """Nothing in, nothing out."""
    results = batch(server.api_base, [])
    assert results == []
    assert results.cost == 0.0
    assert results.texts == []


def test_invalid_rows_among_valid_ones_are_error_rows(server: Server) -> None:
    """Empty, role-less and unserialisable rows are error rows; the rows around them are answered."""
    bad: list[Any] = [[], [{"content": "x"}], [{"role": "user", "content": object()}], b"text", None, 7]
    results = batch(server.api_base, [row for pair in zip(chats(6), bad, strict=True) for row in pair])
    assert results.texts == [text for i in range(6) for text in (answer_to(question(i)), None)]
    assert len(server.requests) == 6
    assert all(row["error_details"]["type"] == "InvalidRow" and row["choices"] == [] for row in results.failed)


def test_failures_are_rows_among_answers(server: Server) -> None:
    """A provider's refusal of one request is that row's error, with its status."""
    server.handler = lambda r: Response(400) if r.text == question(2) else None
    results = batch(server.api_base, chats(4))
    assert [i for i, row in enumerate(results) if "error" in row] == [2]
    details = results[2]["error_details"]
    assert details == {
        "type": "BadRequestError", "status_code": 400, "provider": "openai", "retryable": False, "attempts": 1,
        "index": 2,
    }  # fmt: skip
    assert results[2]["usage"] == {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0}
    assert results.texts[2] is None
    with pytest.raises(llmbatch.BatchFailedError, match=r"^1 of 4 rows failed: 1 BadRequestError \(row 2\): "):
        results.raise_for_errors()


@pytest.mark.usefixtures("quick_backoff")
def test_hundreds_of_rows_survive_transient_errors(provider: Callable[..., Server]) -> None:
    """200 rows at 64 workers through 6 % of 5xx and 6 % of connection resets: 200 good rows in order."""
    server = provider(error_rate=0.06, reset_rate=0.06, log=False)
    results = batch(server.api_base, chats(200), max_workers=64)
    assert results.texts == [answer_to(question(i)) for i in range(200)]
    assert server.stats.resets > 5
    assert server.stats.errors > 5
    assert sum(row["attempts"] for row in results) == 200 + server.stats.resets + server.stats.errors


def test_generator_is_read_as_rows_are_sent(provider: Callable[..., Server]) -> None:
    """Rows of a generator are taken when they have a slot, not all at once."""
    server = provider(latency=0.01)
    taken = 0

    def generated() -> Any:
        nonlocal taken
        for conversation in chats(500):
            taken += 1
            yield conversation

    for number, _ in enumerate(llmbatch.as_completed(generated(), **place(server.api_base), max_workers=4)):
        if number == 20:
            assert taken <= 21 + 4
            break


def test_single_completion_is_a_row_or_raises(server: Server) -> None:
    """create_chat_completion gives one row and raises with the fields of its error."""
    assert answered(llmbatch.create_chat_completion(chats(1)[0], **place(server.api_base)), 0)
    server.enqueue(Response(404))
    with pytest.raises(llmbatch.RequestFailedError) as caught:
        llmbatch.create_chat_completion(chats(1)[0], **place(server.api_base))
    assert (caught.value.status_code, caught.value.type, caught.value.attempts) == (404, "NotFoundError", 1)


def test_tools_and_several_choices_pass_through_whole(server: Server) -> None:
    """n=3 gives three choices; an answer of tool calls has them, and no text."""
    (row,) = batch(server.api_base, chats(1), n=3)
    assert len(row["choices"]) == 3
    call = {"id": "c1", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Paris"}'}}
    server.enqueue(said(None, "tool_calls", tool_calls=[call]))

    def weather(city: str) -> str:
        """Tell the weather.

        Args:
            city: where.
        """
        return city

    results = batch(server.api_base, chats(1), tools=[weather])
    assert results[0]["choices"][0]["message"]["tool_calls"][0]["function"]["name"] == "weather"
    assert results.texts == [None]
    assert server.requests[-1].json["tools"][0]["function"]["parameters"]["required"] == ["city"]


def test_lost_attempt_leaves_the_cost_of_the_answer_known(server: Server) -> None:
    """A row that was answered after a reset has its answer's cost; one that was never answered has none."""
    server.enqueue(Response(reset=True))
    (row,) = batch(server.api_base, chats(1))
    assert row["attempts"] == 2
    assert row["cost"] > 0
    server.enqueue(Response(reset=True), Response(reset=True))
    (lost,) = batch(server.api_base, chats(1), retries=1)
    assert lost["cost"] is None
