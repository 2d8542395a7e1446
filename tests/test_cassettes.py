"""The recordings in `cassettes/`: they replay without a server, hold no keys and stay small."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from llmbatch._util.cassettes import KEY_SHAPE
from llmbatch.testing import cassette
from tests.record_cassettes import CASSETTES, SCENARIOS, Place

if TYPE_CHECKING:
    from pathlib import Path

    from llmbatch import BatchResults

pytestmark = pytest.mark.cassettes

FILES = sorted(CASSETTES.glob("*.yaml"))


def replay(name: str) -> BatchResults:
    """Run a scenario against its recording; every recorded answer must be used."""
    scenario = SCENARIOS[name]
    with cassette(CASSETTES / f"{name}.yaml", record=False) as tape:
        results = scenario.run(**scenario.target)
    assert tape.all_played
    return results


def test_every_cassette_has_a_scenario_and_the_reverse() -> None:
    """No recording is left over, none is missing."""
    assert [path.stem for path in FILES] == sorted(SCENARIOS)


def test_a_chat_batch_is_answered_by_the_local_model() -> None:
    """Answers come back in the order of the questions."""
    results = replay("questions").raise_for_errors()
    assert "Bell" in (results.texts[1] or "")
    assert "light" in (results.texts[2] or "").lower()
    assert results.usage["total_tokens"] == results.usage["prompt_tokens"] + results.usage["completion_tokens"]


def test_a_refused_row_fails_alone() -> None:
    """The server's 400 is that row's error, in place, after one attempt."""
    results = replay("refused-row")
    assert ["error" in row for row in results] == [False, True, False]
    details = results[1]["error_details"]
    assert (details["status_code"], details["retryable"], details["attempts"]) == (400, False, 1)


def test_structured_answers_are_instances() -> None:
    """A pydantic `response_format` gives validated instances."""
    assert all(isinstance(place, Place) for place in replay("structured").raise_for_errors().parsed)


def test_embeddings_are_vectors_in_order() -> None:
    """Related texts are nearer than unrelated ones."""
    cat, dog, physics = replay("embeddings").raise_for_errors().embeddings
    assert cat is not None
    assert len(cat) == 576
    assert sum(map(float.__mul__, cat, dog or [])) > sum(map(float.__mul__, cat, physics or []))


def test_tool_calls_pass_through_whole() -> None:
    """Each row holds the call with its arguments."""
    for row in replay("tools").raise_for_errors():
        (call,) = row["choices"][0]["message"]["tool_calls"]
        assert call["function"]["name"] == "get_weather"
        assert "city" in json.loads(call["function"]["arguments"])


def test_re_asked_answers_are_played_in_their_order() -> None:
    """The example notebook's batch: what was cut off was asked for again, with what it had said."""
    results = replay("which-model")
    assert {row["asks"] for row in results} == {1, 2, 3}
    assert {row["error_details"]["type"] for row in results.failed} == {"ValidationError"}
    assert len(results) == 120


def test_several_choices_pass_through_whole() -> None:
    """`n=2` gives two choices a row."""
    assert [len(row["choices"]) for row in replay("several-choices").raise_for_errors()] == [2, 2]


def test_a_batch_job_replays_whole() -> None:
    """Upload, creation, polls and download; the job's id is another one at each run."""
    results = replay("batch-job").raise_for_errors()
    assert all(results.texts)
    assert results.cost


def test_a_rate_limited_row_is_sent_again_and_answered() -> None:
    """Two recorded 429s are waited out; the attempts are on the rows."""
    results = replay("rate-limited").raise_for_errors()
    assert sum(row["attempts"] for row in results) == 5


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_a_cassette_holds_no_key_and_no_place(path: Path) -> None:
    """No header that may carry a key, nothing shaped like one, and no path or port of the machine it was made on."""
    content = path.read_bytes()
    assert not KEY_SHAPE.search(content)
    for word in (b"authorization", b"api-key", b"cookie", b"organization", b"made-up", b"127.0.0.1", b"site-packages"):
        assert word not in content.lower()
    assert len(content) < 250_000
