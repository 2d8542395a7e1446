"""A budget is never exceeded, as the server's own count of tokens shows."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

import llmbatch
from llmbatch._litellm import load
from llmbatch._request.budget import Budget
from llmbatch._request.max_cost import CostUpperBound
from llmbatch._request.plans import plan_chat
from tests.replies import said
from tests.server import Response
from tests.talk import batch, chats, place

if TYPE_CHECKING:
    from pathlib import Path

    from tests.server import Server

PRICE_IN, PRICE_OUT = 0.15e-6, 0.60e-6  # of gpt-4o-mini, USD a token


@pytest.mark.parametrize("workers", [1, 16])
def test_budget_cap_is_never_exceeded(server: Server, workers: int) -> None:
    """Rows are sent while their upper bound fits; the others are not sent and cost nothing."""
    server.set(latency=0.005)
    cap = 0.001
    rows = batch(server.api_base, chats(200), max_cost=cap, max_tokens=50, max_workers=workers)
    assert 0 < rows.cost <= cap
    answered = [row for row in rows if "error" not in row]
    assert sum(row["cost"] for row in answered) <= cap
    counted = sum(
        r["usage"]["prompt_tokens"] * PRICE_IN + r["usage"]["completion_tokens"] * PRICE_OUT for r in answered
    )
    assert counted == pytest.approx(rows.cost)
    assert len(server.requests) == len(answered) < 200
    assert {row["error_details"]["type"] for row in rows.failed} == {"BudgetExceeded"}
    assert {(row["attempts"], row["cost"]) for row in rows.failed} == {(0, 0.0)}
    assert cap - rows.cost < 2 * (50 * PRICE_OUT + 100 * PRICE_IN), "less was left than one request's upper bound"


def test_budget_rows_wait_for_reservations_in_flight(server: Server) -> None:
    """A cap with room for fewer upper bounds than rows still answers all rows whose cost fits."""
    upper = 50 * PRICE_OUT + 100 * PRICE_IN
    rows = batch(server.api_base, chats(5), max_cost=upper * 4, max_tokens=50, max_workers=5)
    assert not rows.failed


@pytest.mark.usefixtures("quick_backoff")
def test_budget_lost_answer_counts_upper_bound(server: Server) -> None:
    """An attempt that may have been charged counts as charged."""
    server.handler = lambda request: Response(200, body=b'{"choices": [', cut=5)
    rows = batch(server.api_base, chats(20), max_cost=0.0002, max_tokens=50, max_workers=2)
    assert len(rows.failed) == 20
    assert len(server.requests) * 50 * PRICE_OUT <= 0.0002


@pytest.mark.parametrize("usage", [None, {}, {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0}], ids=str)
def test_budget_answer_without_usage_counts_upper_bound(server: Server, usage: Any) -> None:
    """An answer that does not say what it cost counts as the most that it can have cost."""
    body = said("ok").body
    assert isinstance(body, dict)
    server.handler = lambda request: Response(body={**body, "usage": usage} if usage is not None else _without(body))
    cap = 3.5 * upper_bound_of(chats(1)[0], max_tokens=500)
    rows = batch(server.api_base, chats(20), max_cost=cap, max_tokens=500, max_workers=4)
    assert len(server.requests) == len(rows.succeeded) == 3
    assert {row["error_details"]["type"] for row in rows.failed} == {"BudgetExceeded"}


def _without(body: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in body.items() if name != "usage"}


def test_budget_embeddings_hold_cap(server: Server) -> None:
    """The upper bound of each chunk is reserved."""
    given = place(server.api_base, model="openai/text-embedding-3-small")
    texts = [f"some text of number {i} " * 20 for i in range(200)]
    rows = llmbatch.create_embeddings_batch(texts, max_cost=0.0004, **given)
    assert 0 < rows.cost <= 0.0004
    assert {row["error_details"]["type"] for row in rows.failed} == {"BudgetExceeded"}
    assert server.stats.tokens * 0.02e-6 <= 0.0004


def test_budget_rerun_with_more_money_sends_rest(server: Server, tmp_path: Path) -> None:
    """With a checkpoint a second cap pays only for what is missing."""
    path = tmp_path / "run.jsonl"
    first = batch(server.api_base, chats(60), max_cost=0.0003, max_tokens=50, checkpoint=path)
    done = len(first.succeeded)
    assert 0 < done < 60
    server.reset()
    assert not batch(server.api_base, chats(60), max_cost=1.0, max_tokens=50, checkpoint=path).failed
    assert len(server.requests) == 60 - done


def upper_bound_of(request: Any, **options: Any) -> float:
    """Return the USD that a request of the tests' model costs at most."""
    plan = plan_chat("openai/gpt-4o-mini", **options)
    return CostUpperBound.for_plan(plan).of(plan.request(request))


def test_budget_request_that_just_fits_is_sent(server: Server) -> None:
    """The whole cap may be spent."""
    (chat,) = chats(1)
    exactly = upper_bound_of(chat, max_tokens=50)
    assert not batch(server.api_base, [chat], max_cost=exactly, max_tokens=50).failed


def test_budget_in_flight_stays_reserved(server: Server) -> None:
    """With room for two upper bounds there are never three requests at once."""
    server.set(latency=0.03, sigma=1.0)
    upper = upper_bound_of(chats(1)[0], max_tokens=500)
    rows = batch(server.api_base, chats(9), max_cost=2.5 * upper, max_tokens=500)
    assert not rows.failed
    assert server.stats.peak_in_flight == 2


def test_budget_released_money_is_spent(server: Server) -> None:
    """However sums are rounded; a request that never fits fails when all others have finished."""
    server.set(latency=0.01, sigma=1.0)
    rows = [f"{'some words ' * (7 * i % 31)}?" for i in range(40)]
    rows.append("a novel " * 100_000)
    last = batch(server.api_base, rows, max_cost=0.02, max_tokens=50, max_workers=41, deadline=60)[-1]
    assert last["error_details"]["type"] == "BudgetExceeded"


def test_budget_lost_answer_after_overrun_counts_more(server: Server) -> None:
    """After an answer of ten times its upper bound, each lost one counts ten times, too."""
    upper = upper_bound_of(chats(1)[0], max_tokens=50)
    usage = {"prompt_tokens": 1, "completion_tokens": round(10 * upper / PRICE_OUT)}
    expensive = said("ok").body | {"usage": {**usage, "total_tokens": 1 + usage["completion_tokens"]}}
    server.enqueue(Response(body=expensive))
    server.handler = lambda request: Response(200, body=b'{"choices": [', cut=5)
    rows = batch(server.api_base, chats(20), max_cost=35 * upper, max_tokens=50, max_workers=1, retries=0)
    assert len(rows.failed) == 19
    assert len(server.requests) == 1 + 2


@pytest.mark.contract
def test_budget_highest_price_of_all_tiers_is_reserved() -> None:
    """No length of prompt and no service tier in LiteLLM's price map costs more than reserved."""
    litellm = load()
    seen: set[str] = set()
    for model, entry in litellm.model_cost.items():
        provider = entry.get("litellm_provider")
        if provider not in {"openai", "anthropic", "xai", "dashscope"} or entry.get("mode") != "chat":
            continue
        plan = plan_chat(model if model.startswith(f"{provider}/") else f"{provider}/{model}", max_tokens=1000)
        request = plan.request([{"role": "user", "content": "x" * 300_000}])
        plain = 300_000 * (entry.get("input_cost_per_token") or 0)
        if not plain:
            continue
        try:
            reserved = CostUpperBound.for_plan(plan).of(request)
        except ValueError:  # nothing bounds what it searches by itself
            continue
        for tier in (None, "priority", "flex", "ultrafast"):
            given = {"prompt_tokens": 300_000, "completion_tokens": 1000, "service_tier": tier}
            cost = sum(litellm.cost_per_token(model=model, custom_llm_provider=provider, **given))
            assert cost <= reserved * (1 + 1e-9), (model, tier)
            seen |= {model} if cost > 1.5 * plain else set()
    assert len(seen) > 30, "some cost much more than their plain price"


def test_budget_settled_reservations_leave_no_residue() -> None:
    """Nobody waits for a residue of 1e-16 USD that no request has reserved."""

    async def reserved() -> bool:
        budget = Budget(1.0)
        for upper in (0.1, 0.2, 0.3):
            assert await budget.reserve(upper)
        for upper in (0.1, 0.2, 0.3):
            budget.settle(upper, 0.0)
        return await asyncio.wait_for(budget.reserve(2.0), 5)

    assert not asyncio.run(reserved())


def test_budget_without_cap_fits_anything() -> None:
    """And counts what was spent."""
    budget = Budget(None)
    assert asyncio.run(budget.reserve(1e9))
    budget.settle(1e9, 0.5)
    assert (budget.spent, budget.reserved) == (0.5, 0.0)
