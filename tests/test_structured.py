"""Structured output: answers become instances, and those that do not fit are error rows."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

import pytest
from pydantic import BaseModel

from tests.replies import event_stream, said
from tests.server import Response
from tests.talk import batch, chats, question, streamed

if TYPE_CHECKING:
    import llmbatch
    from tests.server import Server


class City(BaseModel):
    name: str
    people: int


def ask(server: Server, *contents: str, finish: str = "stop") -> llmbatch.BatchResults:
    answers = dict(zip(map(question, range(len(contents))), contents, strict=True))
    server.handler = lambda request: said(answers[request.text], finish)
    return batch(server.api_base, chats(len(contents)), response_format=City)


def test_answers_become_instances(server: Server) -> None:
    """`.parsed` holds validated instances in order, and the schema was sent."""
    results = ask(server, '{"name": "Paris", "people": 2}', '{"name": "Rome", "people": 3}')
    assert results.parsed == [City(name="Paris", people=2), City(name="Rome", people=3)]
    assert server.requests[0].json["response_format"]["json_schema"]["strict"] is True
    assert json.dumps(results)


def test_an_answer_that_does_not_validate_is_an_error_row_that_keeps_it(server: Server) -> None:
    """The row says what is wrong, keeps the raw answer, and counts its tokens and cost."""
    results = ask(server, '{"name": "Paris"}', '{"name": "Rome", "people": 3}', "no JSON")
    assert ["error" in row for row in results] == [True, False, True]
    assert results[0]["error"] == "ValidationError: the answer does not match City: people: Field required"
    assert results[0]["choices"][0]["message"]["content"] == '{"name": "Paris"}'
    assert results[0]["usage"]["total_tokens"] == 12
    assert results[0]["cost"] > 0
    assert results.parsed == [None, City(name="Rome", people=3), None]
    assert results.usage["total_tokens"] == 36


def test_an_answer_that_was_cut_off_says_so(server: Server) -> None:
    """A truncated answer's error names max_tokens."""
    results = ask(server, '{"name": "Par', finish="length")
    assert "raise max_tokens" in results[0]["error"]


WRAPPED = {
    "a fence": '```json\n{"name": "Paris", "people": 2}\n```',
    "a fence with prose": 'Here you are [1]:\n```\n{"name": "Paris", "people": 2}\n```\nAnything else?',
    "prose": 'Of {cities} I take {"name": "Paris", "people": 2}, a {nice} one.',
    "thinking": '<think>{"name": 1} is wrong</think>{"name": "Paris", "people": 2}',
    "blanks": '\n\n {"name": "Paris", "people": 2} \n',
}


def test_json_within_other_text_is_found(server: Server) -> None:
    """A fence or prose around it does not fail the row, which keeps the text as it came."""
    results = ask(server, *WRAPPED.values())
    assert not results.failed
    assert results.parsed == [City(name="Paris", people=2)] * len(WRAPPED)
    assert results.texts[:3] == list(WRAPPED.values())[:3]


@pytest.mark.parametrize("text", ["[" * 100_000, '{"a":' * 100_000, "{" * 200_000, "[1] " * 50_000, "\ud800{"])
def test_text_that_is_hard_to_read_is_only_a_failed_row(server: Server, text: str) -> None:
    """Nesting without end and a hundred thousand beginnings neither raise nor hold up the loop."""
    (row,) = ask(server, text)
    assert row["error_details"]["type"] == "ValidationError"
    assert row["error_details"]["attempts"] == row["attempts"] == 1
    assert len(row["error"]) <= 520


@pytest.mark.parametrize(
    "asked",
    [
        {"type": "json_object"},
        {"type": "json_schema", "json_schema": {"name": "city", "schema": {"type": "object", "properties": {}}}},
    ],
    ids=["json_object", "json_schema"],
)
def test_json_asked_for_by_a_dict_comes_as_dicts(server: Server, asked: dict[str, Any]) -> None:
    """`.parsed` holds plain JSON; a text that is none fails its row, which keeps it."""
    texts = ['{"name": "Paris"}', '```json\n{"name": "Rome"}\n```', "I cannot."]
    answers = dict(zip(map(question, range(3)), texts, strict=True))
    server.handler = lambda request: said(answers[request.text])
    results = batch(server.api_base, chats(3), response_format=asked)
    assert results.parsed == [{"name": "Paris"}, {"name": "Rome"}, None]
    assert results[2]["error"].startswith("ValidationError: the answer does not match JSON: Invalid JSON")
    assert results[2]["choices"][0]["message"]["content"] == "I cannot."
    assert server.requests[0].json["response_format"] == asked


def test_the_table_shows_the_text_beside_its_error(server: Server) -> None:
    """`to_pandas()` has what the model said where it is no answer; `.texts` has not."""
    results = ask(server, "I cannot.", '{"name": "Rome", "people": 3}')
    frame = results.to_pandas()
    assert frame["text"].tolist() == ["I cannot.", '{"name": "Rome", "people": 3}']
    assert frame["error"].notna().tolist() == [True, False]
    assert results.texts[0] is None


@pytest.mark.parametrize(
    ("asked", "error", "mend"),
    [
        (dict, TypeError, "a pydantic model class"),
        (list[City], TypeError, "a model with one field"),
        ("json", TypeError, '{"type": "json_object"}'),
        (City(name="Paris", people=2), TypeError, "pass the class itself"),
        (City.model_json_schema(), ValueError, '"json_schema": {"name"'),
        ({}, ValueError, '"json_schema": {"name"'),
    ],
)
def test_what_is_no_response_format_is_refused(server: Server, asked: Any, error: type, mend: str) -> None:
    """Misuse raises before anything is sent, and says what to pass."""
    with pytest.raises(error, match=re.escape(mend)):
        batch(server.api_base, chats(1), response_format=asked)
    assert not server.requests


def test_parsed_needs_a_format(server: Server) -> None:
    """Where no JSON was asked for, `.parsed` says what to pass."""
    results = batch(server.api_base, chats(1))
    with pytest.raises(ValueError, match="response_format=YourModel"):
        _ = results.parsed


def test_what_an_error_row_of_an_answer_says(server: Server) -> None:
    """Its id, status 200, the provider, whether a retry may help, and where the answer does not fit."""

    class Fact(BaseModel):
        year: int

    empty = said("x").body | {"choices": []}
    words = ['{"year": "no"}', "no JSON", ""]
    server.enqueue(*(Response(200, body=said(text).body) for text in words), Response(200, body=empty))
    ids = [f"row-{i}" for i in range(4)]
    rows = batch(server.api_base, chats(4), response_format=Fact, max_workers=1, custom_ids=ids, retries=0)
    assert [row["custom_id"] for row in rows] == ids
    details = [row["error_details"] for row in rows]
    assert [(found["status_code"], found["provider"]) for found in details] == [(200, "openai")] * 4
    assert [found["retryable"] for found in details] == [False, False, True, True]
    assert [found["type"] for found in details] == ["ValidationError"] * 2 + ["EmptyAnswer"] * 2
    assert "the answer does not match Fact: year: Input should be a valid integer" in rows[0]["error"]
    assert "the answer does not match Fact: Invalid JSON" in rows[1]["error"]
    assert "without any choice" in rows[3]["error"]


FINAL, DRAFT = '{"name": "Rome", "people": 3}', '{"name": "Paris, the city of light", "people": 2}'
SCHEMA = json.dumps(City.model_json_schema())
DRAFTED = {
    "thinking": f"<think>\nFirst guess: {DRAFT}. But no.\n</think>\n{FINAL}",
    "a closing tag only": f"First guess: {DRAFT}. But no.\n</think>\n\n```json\n{FINAL}\n```",
    "Magistral's thinking": f"[THINK]Perhaps {DRAFT}[/THINK]{FINAL}",
    "two blocks": f"<think>{DRAFT}</think>{DRAFT}<think>wait</think>{FINAL}",
    "the schema first": f"The schema is {SCHEMA}\nMy answer:\n{FINAL}",
    "examples first": f'Examples: ["a city that is well known", "another one"]\n{FINAL}',
    "braces in prose": f"{{x}} and {{y}}: {FINAL} Note: {{}}",
}


@pytest.mark.parametrize("streams", [False, True], ids=["whole", "streamed"])
@pytest.mark.parametrize("response_format", [City, {"type": "json_object"}], ids=["class", "json_object"])
@pytest.mark.parametrize("text", DRAFTED.values(), ids=DRAFTED)
def test_parsed_is_what_was_answered_not_its_draft(
    server: Server, text: str, response_format: Any, streams: bool
) -> None:
    """Reasoning is ignored, and the last value that fits counts, however long another is."""
    server.handler = lambda _: (
        event_stream([json.dumps(chunk(text)), json.dumps(chunk("", "stop")), "[DONE]"]) if streams else said(text)
    )
    options = {"response_format": response_format}
    results = (streamed if streams else batch)(server.api_base, chats(1), **options)
    results.response_format = response_format
    (found,) = results.parsed
    assert (found if isinstance(found, dict) else found.model_dump()) == json.loads(FINAL)


def test_draft_is_no_answer_if_thinking_was_cut_off(server: Server) -> None:
    """Without a closing tag, or without anything after it, the draft does not count."""
    results = ask(server, f"<think>{DRAFT} but", f"{DRAFT}</think>", finish="length")
    assert results.parsed == [None, None]
    assert all("raise max_tokens" in row["error"] for row in results)


def test_value_that_fits_json_schema_is_preferred(server: Server) -> None:
    """Of a schema that is a dict the required keys and the type decide."""
    schema = {"type": "json_schema", "json_schema": {"name": "city", "schema": City.model_json_schema()}}
    server.handler = lambda _: said(f'{FINAL} (as in {{"source": "an atlas of the whole world, volume 3"}})')
    assert batch(server.api_base, chats(1), response_format=schema).parsed == [json.loads(FINAL)]


def chunk(text: str, finish: str | None = None) -> dict[str, Any]:
    choices = [{"index": 0, "delta": {"content": text}, "finish_reason": finish}]
    return {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "m", "choices": choices}
