"""Structured output: answers become instances, and those that do not fit are error rows."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
from pydantic import BaseModel

from tests.replies import said
from tests.talk import batch, chats, question

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
    assert results[0]["error"] == "ValidationError: the answer is no City: people: Field required"
    assert results[0]["choices"][0]["message"]["content"] == '{"name": "Paris"}'
    assert results[0]["usage"]["total_tokens"] == 12
    assert results[0]["cost"] > 0
    assert results.parsed == [None, City(name="Rome", people=3), None]
    assert results.usage["total_tokens"] == 36


def test_an_answer_that_was_cut_off_says_so(server: Server) -> None:
    """A truncated answer's error names max_tokens."""
    results = ask(server, '{"name": "Par', finish="length")
    assert "raise max_tokens" in results[0]["error"]


def test_parsed_needs_a_model(server: Server) -> None:
    """Without a pydantic model, `.parsed` says what to pass."""
    results = batch(server.api_base, chats(1))
    with pytest.raises(ValueError, match="response_format=YourModel"):
        _ = results.parsed
