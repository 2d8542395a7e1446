"""Answers that came back wrong are asked for again; the same question is sent once."""

from __future__ import annotations

import json
import threading
from collections import Counter
from typing import TYPE_CHECKING, Any

import pytest
from pydantic import BaseModel

import llmbatch
from tests.replies import said
from tests.server import Response, answer_to
from tests.talk import lines

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.batch_server import BatchProvider
    from tests.server import Request, Server

MODEL = "openai/gpt-4o-mini"


class City(BaseModel):
    """What is asked for."""

    name: str
    size: int


class Learner:
    """Answers wrong until it has been told as often as the prompt says ("2 Rome"), and keeps the bill."""

    def __init__(self, server: Server, wrong: str = '{"name": "Rome"}', finish_reason: str = "stop") -> None:
        self.wrong, self.finish_reason = wrong, finish_reason
        self.tokens: Counter[str] = Counter()
        self.sent: list[dict[str, Any]] = []
        self._lock = threading.Lock()
        server.handler = self

    def __call__(self, request: Request) -> Response:
        body = request.json
        prompt = body["messages"][0]["content"]
        with self._lock:
            before = sum(other["messages"][0]["content"] == prompt for other in self.sent)
            self.sent.append(body)
            self.tokens.update(prompt_tokens=7, completion_tokens=5)
        number, _, name = prompt.partition(" ")
        if before < int(number):
            return said(self.wrong, self.finish_reason)
        return said(json.dumps({"name": name, "size": 3}))


def batch(place: dict[str, Any], prompts: list[Any], **options: Any) -> Any:
    return llmbatch.create_chat_completions_batch(prompts, MODEL, **{"response_format": City, **place, **options})


def test_what_does_not_fit_is_asked_again_and_the_bill_is_the_servers(server: Server, place: dict[str, Any]) -> None:
    """The model hears in its conversation what was wrong; tokens, cost and attempts of all asks are in the row."""
    learner = Learner(server)
    rows = batch(place, [f"{i % 4} City{i}" for i in range(12)], reask=2)
    assert [row["asks"] for row in rows] == [min(i % 4, 2) + 1 for i in range(12)]
    assert [row["attempts"] for row in rows] == [row["asks"] for row in rows]
    assert ["error" in row for row in rows] == [i % 4 == 3 for i in range(12)]
    assert rows.parsed[2] == City(name="City2", size=3)
    assert len(learner.sent) == sum(row["asks"] for row in rows)
    assert {name: rows.usage[name] for name in learner.tokens} == dict(learner.tokens)
    one = batch(place, ["0 One"])
    assert rows.cost == pytest.approx(one.cost * (len(learner.sent) - 1))
    second = next(body for body in learner.sent if len(body["messages"]) == 3)["messages"]
    assert second[1] == {"role": "assistant", "content": learner.wrong}
    assert "size: Field required" in second[2]["content"]
    assert rows[3]["error"].startswith("ValidationError: ")
    assert rows[3]["error_details"]["attempts"] == 3
    assert rows[3]["choices"][0]["message"]["content"] == learner.wrong


def test_json_without_a_class_is_asked_again_too(server: Server, place: dict[str, Any]) -> None:
    """Prose is told that it is not JSON; JSON in a fence is good enough."""
    learner = Learner(server, wrong="Rome, of course")
    given = {"response_format": {"type": "json_object"}, "reask": 2}
    rows = batch(place, ["1 Rome"], **given)
    assert (rows.parsed, rows[0]["asks"]) == ([{"name": "Rome", "size": 3}], 2)
    assert "it is not JSON" in learner.sent[1]["messages"][-1]["content"]
    Learner(server, wrong='```json\n{"name": "Rome"}\n```')
    rows = batch(place, ["1 Rome"], **given)
    assert (rows.parsed, rows[0]["asks"]) == ([{"name": "Rome"}], 1)


def test_nothing_is_asked_again_unless_told(server: Server, place: dict[str, Any]) -> None:
    """Off by default, and rows then say nothing of asks."""
    learner = Learner(server)
    rows = batch(place, ["1 Rome"])
    assert rows.failed
    assert "asks" not in rows[0]
    assert len(learner.sent) == 1


def test_what_was_cut_off_is_asked_again_with_twice_the_tokens(server: Server, place: dict[str, Any]) -> None:
    """The same conversation; an answer that stays cut off is what it is without asking again."""
    learner = Learner(server, '{"name": "Ro', "length")
    rows = batch(place, ["2 Rome"], reask=2, max_tokens=50)
    assert rows.parsed == [City(name="Rome", size=3)]
    assert [body["max_tokens"] for body in learner.sent] == [50, 100, 200]
    assert {len(body["messages"]) for body in learner.sent} == {1}
    learner = Learner(server, "A long st", "length")
    rows = batch(place, ["9 Rome"], reask=1, response_format=None, max_completion_tokens=10)
    assert rows.texts == ["A long st"]
    assert rows[0]["asks"] == 2
    assert [body["max_completion_tokens"] for body in learner.sent] == [10, 20]
    learner.sent.clear()
    rows = batch(place, ["9 Rome"], reask=1, response_format=None, max_tokens=None)
    assert (rows[0]["asks"], len(learner.sent)) == (1, 1)  # nothing of ours cut it off


def test_a_function_of_the_callers_judges_alike(server: Server, place: dict[str, Any]) -> None:
    """What it returns is what the model is told, and in the end the row's error; one that raises fails its row only."""
    learner = Learner(server)

    def validate(row: llmbatch.Row) -> str | None:
        if row["metadata"] == "broken":
            raise KeyError(row["custom_id"])
        return None if "size" in row["choices"][0]["message"]["content"] else "Say its size too."

    asked = [
        {"prompt": f"{i} Rome{i}", "metadata": m, "custom_id": f"id-{m}"}
        for i, m in ((1, "a"), (2, "b"), (0, "broken"))
    ]
    rows = batch(place, asked, reask=1, validate=validate, response_format=None)
    assert [row.get("error") for row in rows] == [
        None,
        "ValidationError: validate rejected the answer: Say its size too.",
        "ValidationError: validate raised KeyError: 'id-broken'",
    ]
    assert [row["metadata"] for row in rows] == ["a", "b", "broken"]
    assert [row["asks"] for row in rows] == [2, 2, 1]
    assert rows[1]["choices"][0]["message"]["content"] == learner.wrong
    told = [body["messages"][-1]["content"] for body in learner.sent if len(body["messages"]) == 3]
    assert told == ["Say its size too."] * 2


def test_a_wrong_tool_call_is_answered_as_one(server: Server, place: dict[str, Any]) -> None:
    """Each call gets its answer, as providers want it."""
    call = {"id": "call-1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    server.enqueue(said(None, "tool_calls", tool_calls=[call]))
    rows = batch(
        place, ["hi"], reask=1, response_format=None,
        validate=lambda row: "f needs x." if row["choices"][0]["message"].get("tool_calls") else None,
    )  # fmt: skip
    assert rows[0]["asks"] == 2
    assert server.requests[-1].json["messages"][-1] == {
        "role": "tool",
        "tool_call_id": "call-1",
        "content": "f needs x.",
    }


def test_whatever_validate_does_is_its_rows_alone(server: Server, place: dict[str, Any]) -> None:
    """It may spoil what it is given, and return what is not text: nothing of that is sent, and other rows are whole."""

    def validate(row: llmbatch.Row) -> Any:
        said = {"a": True, "b": {"no": "words"}, "c": ""}.get(row["custom_id"])
        row.clear()  # type: ignore[attr-defined]
        return said

    asked = [{"prompt": name, "custom_id": name} for name in "abcd"]
    rows = batch(place, asked, reask=1, validate=validate, response_format=None)
    said, judged = "return None for a good answer, or text that says what is wrong", "ValidationError: validate"
    assert [row.get("error") for row in rows] == [
        f"{judged} raised TypeError: it returned bool; {said}",
        f"{judged} raised TypeError: it returned dict; {said}",
        f"{judged} rejected the answer: The answer was rejected.",
        None,
    ]
    assert [row["asks"] for row in rows] == [1, 1, 2, 1]
    assert rows.texts[3] == answer_to("d")
    assert len(server.requests) == 5
    secret = "my very private prompt of today"
    (row,) = batch(place, [secret], validate=lambda row: f"It says {row['choices']}", response_format=None)
    assert secret not in row["error"]


def test_limits_of_the_batch_hold_for_each_ask(server: Server, place: dict[str, Any], tmp_path: Path) -> None:
    """max_cost, deadline, fallbacks and the checkpoint; an answer that was paid for is kept when asking again fails."""
    learner = Learner(server)
    price = batch(place, ["0 One"]).cost
    rows = batch(place, [f"9 City{i}" for i in range(100)], reask=5, max_cost=0.0012)
    assert price * len(learner.sent) == pytest.approx(rows.cost + price)
    assert rows.cost <= 0.0012
    assert any(row["choices"] and row["asks"] < 6 for row in rows)
    assert {row["error_details"]["type"] for row in rows} == {"ValidationError", "BudgetExceeded"}

    server.handler = lambda request: (
        said('{"name": 1}') if request.json["model"] == "gpt-4o-mini" else said('{"name": "x", "size": 1}')
    )
    path = tmp_path / "run.jsonl"
    rows = batch(place, ["hi"], reask=2, fallbacks=["openai/gpt-4o"], checkpoint=path)
    assert (rows[0]["attempts"], rows[0]["usage"]["total_tokens"]) == (4, 48)
    assert rows[0]["fallback"]["instead_of"] == MODEL
    server.reset()
    again = batch(place, ["hi"], checkpoint=path)
    assert again[0]["attempts"] == 4
    assert not server.requests


def test_an_answer_in_hand_outlives_the_deadline(server: Server, place: dict[str, Any], jump: Any) -> None:
    """A row that is being asked again then keeps what it has."""
    server.set(latency=300)
    server.enqueue(said("A long st", "length"))
    jump(60, lambda: len(server.requests) == 2)
    rows = batch(place, ["hi"], reask=1, deadline=60, response_format=None)
    assert rows.texts == ["A long st"]
    assert rows[0]["cost"] is None  # the second ask may be charged
    assert rows[0]["attempts"] == 2

    server.reset()
    server.set(latency=0)
    server.handler = lambda request: (
        Response(delay=300)
        if request.json["model"] == "gpt-4o" and len(request.json["messages"]) > 1
        else said('{"name": 1}')
    )
    jump(60, lambda: len(server.requests) == 4)
    rows = batch(place, ["hi"], reask=1, deadline=60, fallbacks=["openai/gpt-4o"])
    assert rows[0]["error_details"]["type"] == "ValidationError"
    assert (rows[0]["attempts"], rows[0]["error_details"]["attempts"], len(server.requests)) == (4, 4, 4)
    assert rows[0]["usage"]["total_tokens"] == 36  # three answers, of two models


def test_a_job_refuses_what_only_live_requests_do(batches: BatchProvider, place: dict[str, Any]) -> None:
    """Before anything is sent; after it, `run_failed_live` takes them."""
    with pytest.raises(ValueError, match="reask is for live requests"):
        llmbatch.submit_batch_job(["hi"], MODEL, reask=1, **place)
    with pytest.raises(ValueError, match="dedupe is for live requests"):
        llmbatch.submit_batch_job(["hi"], MODEL, dedupe=True, **place)
    assert not batches.files


def test_the_same_question_is_sent_once(server: Server, place: dict[str, Any], tmp_path: Path) -> None:
    """Each row has its answer under its own id and metadata; copies say whose they are and cost nothing."""
    path = tmp_path / "run.jsonl"

    def asked(run: int) -> list[Any]:
        return [{"prompt": f"q{i % 3}", "custom_id": f"{i}", "metadata": {"run": run, "i": i}} for i in range(12)]

    rows = batch(place, [*asked(1), {"prompt": "q1", "seed": 5}], dedupe=True, response_format=None, checkpoint=path)
    assert Counter(request.text for request in server.requests) == {"q0": 1, "q1": 2, "q2": 1}
    assert rows.texts == [answer_to(f"q{i % 3}") for i in range(12)] + [answer_to("q1")]
    assert [row.get("same_as") for row in rows] == [None] * 3 + [i % 3 for i in range(3, 12)] + [None]
    assert [row["custom_id"] for row in rows[:12]] == [f"{i}" for i in range(12)]
    assert [row["metadata"] for row in rows[:12]] == [{"run": 1, "i": i} for i in range(12)]
    assert [row["cost"] for row in rows[3:12]] == [0] * 9
    assert rows.usage["total_tokens"] == server.stats.tokens
    rows[0]["choices"].clear()
    assert rows.texts[3]
    assert len(lines(path)) == 13
    server.reset()
    again = batch(place, [*asked(2), "q0"][::-1], dedupe=True, response_format=None, checkpoint=path)
    assert not server.requests
    assert again.texts[1:] == [answer_to(f"q{i % 3}") for i in range(12)][::-1]
    assert [row["metadata"]["run"] for row in again[1:]] == [2] * 12
    plain = batch(place, asked(3), response_format=None, checkpoint=path)
    assert not any("same_as" in row for row in plain)  # the other run's places are not this one's
    assert not server.requests


def test_the_same_question_fails_once(server: Server, provider: Callable[..., Server], place: dict[str, Any]) -> None:
    """Its failure is every row's; what goes to another model or server is another question."""
    elsewhere = provider()
    server.handler = lambda request: Response(400) if request.text == "bad" else None
    other = [
        {"prompt": "bad", "api_base": elsewhere.api_base, "api_key": "k"},
        {"prompt": "bad", "model": "openai/gpt-4o"},
    ]
    rows = batch(place, ["bad", "bad", *other, "good"], dedupe=True, response_format=None)
    assert ["error" in row for row in rows] == [True, True, False, True, False]
    assert [row.get("same_as") for row in rows] == [None, 0, None, None, None]
    assert rows[1]["error"] == rows[0]["error"]
    assert len(server.requests) == 3
