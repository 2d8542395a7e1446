"""What follows a batch: prompts of failed rows, failed rows once more, the next turn, and a Dataset."""

from __future__ import annotations

import asyncio
import itertools
import pickle
from typing import TYPE_CHECKING, Any

import pytest
from pydantic import BaseModel

from llmbatch import create_chat_completions_batch, create_embeddings_batch
from llmbatch.results import BatchResults
from tests.replies import said
from tests.server import Request, Response, Server, answer_to
from tests.talk import place

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

PROMPTS: list[Any] = [
    "one",
    [{"role": "system", "content": "Brief."}, {"role": "user", "content": "bad two"}],
    {"prompt": "three", "seed": 3, "model": "openai/own", "metadata": {"k": 1}},
    {"prompt": "bad four", "model": "openai/own"},
]


class City(BaseModel):
    """A shape of answers."""

    city: str


@pytest.fixture
def options(place: dict[str, Any]) -> dict[str, Any]:
    return {**place, "model": "openai/test-model", "progress": False, "retries": 0}


@pytest.fixture
def results(server: Server, options: dict[str, Any]) -> BatchResults:
    server.handler = lambda request: Response(400) if "bad" in request.text else None
    return create_chat_completions_batch(PROMPTS, **options)


def test_prompt_of_failed_row_is_the_request_as_it_was_given(results: BatchResults) -> None:
    """While the list is there; a generator's requests and a slice's are not kept."""
    assert [results.prompt_of(row) for row in results.failed] == [PROMPTS[1], PROMPTS[3]]
    with pytest.raises(ValueError, match="not one of these results"):
        results.prompt_of(dict(results[0]))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="pass prompts=your_list"):
        results[1:].prompt_of(results[1])


def test_follow_up_continues_each_conversation_in_order(
    server: Server, options: dict[str, Any], results: BatchResults
) -> None:
    """With the answer and what is said next; parameters and metadata stay, failed rows keep their place."""
    requests = results.follow_up("In one word.")
    said_next = {"role": "user", "content": "In one word."}
    first = [{"role": "user", "content": "one"}, {"role": "assistant", "content": answer_to("one")}, said_next]
    assert requests[0] == first
    assert requests[1] is requests[3] is None
    assert {name: requests[2][name] for name in ("seed", "model", "metadata")} == {
        "seed": 3, "model": "openai/own", "metadata": {"k": 1},
    }  # fmt: skip
    assert requests[2]["messages"][1]["content"] == answer_to("three")
    server.reset()
    second = create_chat_completions_batch(requests, **options)
    assert ["error" in row for row in second] == [False, True, False, True]
    assert len(server.requests) == 2
    third = second.follow_up(lambda row: None if row.get("metadata") else f"{row['custom_id']}?")
    assert third[0][-1]["content"] == f"{second[0]['custom_id']}?"
    assert third[1:] == [None, None, None]
    assert results[:1].follow_up("x", prompts=PROMPTS[:1])[0][:2] == first[:2]


def test_follow_up_answers_tool_calls(server: Server, options: dict[str, Any]) -> None:
    """A function of the row returns the tools' messages, which follow the calls."""
    call = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    server.handler = lambda _: said(None, "tool_calls", tool_calls=[call])
    results = create_chat_completions_batch(["x"], **options)
    answer = {"role": "tool", "tool_call_id": "c1", "content": "4"}
    ((_, assistant, tool),) = results.follow_up(lambda _: [answer])
    assert assistant["tool_calls"][0]["id"] == "c1"
    assert tool == answer


def test_retry_failed_replaces_failed_rows_in_place(server: Server, results: BatchResults) -> None:
    """By another model, with the call's other options; ids stay, attempts add up, answered rows are not sent."""
    before = [row["custom_id"] for row in results]
    server.reset()
    again = results.retry_failed()
    assert len(server.requests) == 2
    assert [row["error_details"]["index"] for row in again.failed] == [1, 3]
    assert [row["attempts"] for row in again] == [1, 2, 1, 2]
    server.reset()
    server.handler = None
    seen: list[int] = []
    done = again.retry_failed(model="openai/better", temperature=1.0, on_result=lambda index, _: seen.append(index))
    assert {(request.json["model"], request.json["temperature"]) for request in server.requests} == {("better", 1.0)}
    assert sorted(seen) == [1, 3]
    assert done.texts == [answer_to(text) for text in ("one", "bad two", "three", "bad four")]
    assert [row["custom_id"] for row in done] == before
    assert [row["attempts"] for row in done] == [1, 3, 1, 3]
    assert done.retry_failed() is done
    assert results[0] is done[0]
    assert asyncio.run(results.aretry_failed()).failed == []


def test_retry_failed_keeps_formats_ids_and_checkpoint(server: Server, options: dict[str, Any], tmp_path: Path) -> None:
    """Those of the call and of single requests, and the caller's ids."""
    server.handler = lambda request: Response(400) if len(server.requests) <= 2 else said('{"city": "Rome"}')
    requests = [{"prompt": "a", "response_format": City}, "b"]
    path = tmp_path / "run.jsonl"
    results = create_chat_completions_batch(requests, custom_ids=["x", "y"], checkpoint=path, max_workers=1, **options)
    assert len(results.failed) == 2
    done = results.retry_failed()
    assert done.parsed[0] == City(city="Rome")
    assert [row["custom_id"] for row in done] == ["x", "y"]
    assert path.read_bytes().count(b'"error":null') == 2


def test_results_without_their_call_say_what_is_missing(options: dict[str, Any], results: BatchResults) -> None:
    """Those of another process, of embeddings, and a generator's; no key is pickled or shown."""
    copied = pickle.loads(pickle.dumps(results))  # noqa: S301 - our own
    assert options["api_key"].encode() not in pickle.dumps(results)
    assert options["api_key"] not in repr(vars(results))
    assert (copied, copied.elapsed) == (results, results.elapsed)
    vectors = create_embeddings_batch(["a"], **options)
    for made in (copied, vectors, BatchResults(list(results))):
        with pytest.raises(ValueError, match="not of a batch of chats in this process"):
            made.retry_failed()
    made = create_chat_completions_batch((prompt for prompt in PROMPTS), **options)
    with pytest.raises(ValueError, match="pass prompts=your_list"):
        made.follow_up("x")
    with pytest.raises(ValueError, match="1 prompts for 4 rows"):
        made.retry_failed(prompts=["x"])
    assert len(made.retry_failed(prompts=PROMPTS)) == 4


def test_to_dataset_has_the_columns_of_to_arrow(results: BatchResults) -> None:
    """As a Dataset of Hugging Face."""
    datasets = pytest.importorskip("datasets")
    made = results.to_dataset()
    assert isinstance(made, datasets.Dataset)
    assert made.column_names == results.to_arrow().column_names
    assert made["text"][:] == results.texts


def test_retry_failed_stays_within_the_cap_of_the_call(server: Server, options: dict[str, Any]) -> None:
    """Rows and their retry together cost no more than max_cost, unless the retry has its own."""
    expensive = said("yes")
    expensive.body["usage"] = {"prompt_tokens": 10, "completion_tokens": 200, "total_tokens": 210}
    server.handler = lambda _: expensive
    prices = {"input_cost_per_token": 1e-6, "output_cost_per_token": 1e-6}
    given = {**options, **prices, "max_cost": 0.0005}
    results = create_chat_completions_batch([f"row {n}" for n in range(6)], **given)
    assert results.failed
    again = results.retry_failed()
    assert again.cost is not None
    assert again.cost <= 0.0005
    assert not results.retry_failed(max_cost=1.0).failed


def test_retry_failed_as_a_dry_run_sends_nothing(server: Server, results: BatchResults) -> None:
    """With dry_run=True the payloads of the failed rows are returned."""
    sent = len(server.requests)
    dry: Any = results.retry_failed(dry_run=True)
    assert len(dry.payloads) == len(results.failed)
    assert len(server.requests) == sent


def failing_second() -> Callable[[Request], Response | None]:
    """Reject the second request alone."""
    numbers = itertools.count(1)
    return lambda _: Response(400, body={"error": {"message": "no"}}) if next(numbers) == 2 else None


def test_retry_failed_among_equal_requests_keeps_each_answer(server: Server, tmp_path: Path) -> None:
    """With a checkpoint the row itself is sent again and no equal one; a rerun has nothing left to send."""
    server.handler = failing_second()
    options = {**place(server.api_base), "checkpoint": tmp_path / "run.jsonl", "max_workers": 1, "progress": False}
    results = create_chat_completions_batch(["hi"] * 3, **options)
    assert len(results.failed) == 1
    fixed = results.retry_failed()
    assert len(server.requests) == 4
    assert not fixed.failed
    assert [row["custom_id"] for row in fixed] == [row["custom_id"] for row in results]
    again = create_chat_completions_batch(["hi"] * 3, **options)
    assert len(again.resumed) == 3
    assert len(server.requests) == 4


def test_retry_failed_with_system_sends_only_failed_row(server: Server, tmp_path: Path) -> None:
    """A message that changes the requests sends none of the answered rows again, however equal."""
    server.handler = failing_second()
    options = {**place(server.api_base), "checkpoint": tmp_path / "run.jsonl", "max_workers": 1, "progress": False}
    results = create_chat_completions_batch(["hi"] * 3, **options)
    assert not results.retry_failed(system="Be brief.").failed
    assert len(server.requests) == 4
