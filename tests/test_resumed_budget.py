"""max_cost counts what earlier runs have spent by the checkpoint; the summary says first why a run ended early."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

import llmbatch
from tests.replies import said
from tests.server import Response

if TYPE_CHECKING:
    from pathlib import Path

    from tests.batch_server import BatchProvider
    from tests.server import Server

MODEL = "openai/gpt-4o-mini"
PROMPTS = [f"prompt {i}" for i in range(20)]
# USD per token: an answer of 12 tokens costs 0.12, and a request at most 0.01 for each byte around it, and 200 tokens.
PRICES = {"input_cost_per_token": 0.0, "output_cost_per_token": 0.01}


@pytest.fixture
def options(server: Server, tmp_path: Path) -> dict[str, Any]:
    return {
        "api_base": server.api_base, "api_key": "sk-test", "progress": False, "checkpoint": tmp_path / "run.jsonl",
        "max_workers": 1, "max_tokens": 10, **PRICES,
    }  # fmt: skip


def test_max_cost_counts_what_earlier_runs_have_spent(server: Server, options: dict[str, Any]) -> None:
    """However often the call is repeated, all runs together stay within it; a higher one goes on."""
    runs = [llmbatch.create_chat_completions_batch(PROMPTS, MODEL, max_cost=0.5, **options) for _ in range(3)]
    answered = [len(run.succeeded) for run in runs]
    assert 0 < answered[0] < len(PROMPTS)
    assert answered == [answered[0]] * 3
    assert len(server.requests) == answered[0]
    costs = [run.cost for run in runs]
    assert costs[0] is not None
    assert 0 < costs[0] <= 0.5
    assert costs == [costs[0]] * 3
    more = llmbatch.create_chat_completions_batch(PROMPTS, MODEL, max_cost=50, **options)
    assert not more.failed


def test_failed_rows_that_cost_something_count_too(server: Server, options: dict[str, Any]) -> None:
    """They are sent again, and stay in the file for what they have cost, however often it is opened."""
    options["response_format"] = {"type": "json_object"}
    answer: Any = said("this is not JSON").body
    usage = {"prompt_tokens": 1, "completion_tokens": 10, "total_tokens": 11}
    path, spent = options["checkpoint"], 0.0
    for run in range(3):
        server.enqueue(Response(body={**answer, "usage": usage}))
        (row,) = llmbatch.create_chat_completions_batch(["a"], MODEL, max_cost=0.35, **options)
        assert row["error_details"]["type"] == "ValidationError", run
        spent += 0.1
        kept = [json.loads(line)["llmbatch"]["cost"] for line in path.read_text().splitlines()]
        assert sum(kept) == pytest.approx(spent)
    (row,) = llmbatch.create_chat_completions_batch(["a"], MODEL, max_cost=0.35, **options)
    assert row["error_details"]["type"] == "BudgetExceeded"
    assert len(server.requests) == 3
    server.enqueue(Response(body={**answer, "choices": said("{}").body["choices"], "usage": usage}))  # type: ignore[index,call-overload]
    (row,) = llmbatch.create_chat_completions_batch(["a"], MODEL, max_cost=5, **options)
    assert "error" not in row
    (row,) = llmbatch.create_chat_completions_batch(["a"], MODEL, max_cost=5, **options)
    assert row.get("resumed")


def test_job_counts_what_earlier_runs_have_spent(batches: BatchProvider, options: dict[str, Any]) -> None:
    """Its upper bound must fit into what is left."""
    del options["max_workers"]
    assert not llmbatch.create_chat_completions_batch(["a", "b"], MODEL, max_cost=0.5, **options).failed
    rows = ["a", "b", *map(str, range(8))]  # eight answers of ten tokens at half the price: $0.40
    with pytest.raises(ValueError, match=r"more than max_cost=\$0\.4010 less \$0\.\d+ that earlier runs have spent"):
        llmbatch.create_chat_completions_batch(rows, MODEL, lane="job", max_cost=0.401, **options)


@pytest.mark.parametrize(
    ("ending", "first"),
    [
        ({"max_cost": 0.000001}, "Ended early: 20 rows were not sent, since max_cost does not allow for more. Raise "),
        ({"deadline": 0.000001}, "Ended early: 20 rows were not done when the deadline passed. Run again"),
    ],
)
def test_summary_says_first_why_a_run_ended_early(
    server: Server, options: dict[str, Any], ending: dict[str, Any], first: str
) -> None:
    """And how to continue; a run that went to its end says nothing of the kind."""
    results = llmbatch.create_chat_completions_batch(PROMPTS, MODEL, **options, **ending)
    line = results.summary().splitlines()[0]
    assert line.startswith(first)
    assert line.endswith("with checkpoint= only the missing rows are sent.")
    assert not server.requests
    assert "Ended early" not in llmbatch.create_chat_completions_batch(PROMPTS, MODEL, **options).summary()


def test_summary_says_first_that_the_circuit_breaker_opened(server: Server, options: dict[str, Any]) -> None:
    """Rows that were not sent since all failed alike; the cause is in the lines below."""
    refusal = {"error": {"message": "Incorrect API key", "code": "invalid_api_key"}}
    for _ in PROMPTS:
        server.enqueue(Response(401, body=refusal))
    results = llmbatch.create_chat_completions_batch(PROMPTS, MODEL, **options)
    first, *others = results.summary().splitlines()
    assert first.startswith("Ended early: ")
    assert "not sent, since earlier rows failed for a reason that affects every row. Fix it and run again" in first
    assert "Incorrect API key" in "".join(others)
