"""A budget is never passed, as the server's own count of tokens shows."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

import llmbatch
from llmbatch._litellm import load
from llmbatch._request.budget import Budget
from llmbatch._request.max_cost import cost_upper_bound
from llmbatch._request.plans import plan_chat
from tests.replies import said
from tests.server import Response
from tests.talk import batch, chats, place

if TYPE_CHECKING:
    from pathlib import Path

    from tests.server import Server

PRICE_IN, PRICE_OUT = 0.15e-6, 0.60e-6  # of gpt-4o-mini, USD a token


@pytest.mark.parametrize("workers", [1, 16])
def test_the_cap_is_never_passed(server: Server, workers: int) -> None:
    """Rows are sent while their worst case fits; the others say that they were not sent and cost nothing."""
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
    assert cap - rows.cost < 2 * (50 * PRICE_OUT + 100 * PRICE_IN), (
        "what was left was less than one request's worst case"
    )


def test_rows_wait_for_reservations_in_flight(server: Server) -> None:
    """A cap with room for fewer worst cases than rows still answers all rows whose real price fits."""
    worst = 50 * PRICE_OUT + 100 * PRICE_IN
    rows = batch(server.api_base, chats(5), max_cost=worst * 4, max_tokens=50, max_workers=5)
    assert not rows.failed


@pytest.mark.usefixtures("quick_backoff")
def test_a_lost_answer_counts_as_its_worst_case(server: Server) -> None:
    """Whoever does not know whether an attempt was charged must take it as charged."""
    server.handler = lambda request: Response(200, body=b'{"choices": [', cut=5)
    rows = batch(server.api_base, chats(20), max_cost=0.0002, max_tokens=50, max_workers=2)
    assert len(rows.failed) == 20
    assert len(server.requests) * 50 * PRICE_OUT <= 0.0002


def test_embeddings_hold_the_cap(server: Server) -> None:
    """Each chunk's worst case is reserved too."""
    given = place(server.api_base, model="openai/text-embedding-3-small")
    texts = [f"some text of number {i} " * 20 for i in range(200)]
    rows = llmbatch.create_embeddings_batch(texts, max_cost=0.0004, **given)
    assert 0 < rows.cost <= 0.0004
    assert {row["error_details"]["type"] for row in rows.failed} == {"BudgetExceeded"}
    assert server.stats.tokens * 0.02e-6 <= 0.0004


def test_the_rerun_with_more_money_sends_the_rest(server: Server, tmp_path: Path) -> None:
    """With a checkpoint a second cap pays only for what is missing."""
    path = tmp_path / "run.jsonl"
    first = batch(server.api_base, chats(60), max_cost=0.0003, max_tokens=50, checkpoint=path)
    done = len(first.succeeded)
    assert 0 < done < 60
    server.reset()
    assert not batch(server.api_base, chats(60), max_cost=1.0, max_tokens=50, checkpoint=path).failed
    assert len(server.requests) == 60 - done


def its_worst_case(request: Any, **options: Any) -> float:
    """USD that a request of the tests' model may cost."""
    plan = plan_chat("openai/gpt-4o-mini", **options)
    return cost_upper_bound(plan)(plan.request(request))


def test_a_request_that_just_fits_is_sent(server: Server) -> None:
    """The whole cap may be spent."""
    (chat,) = chats(1)
    exactly = its_worst_case(chat, max_tokens=50)
    assert not batch(server.api_base, [chat], max_cost=exactly, max_tokens=50).failed


def test_what_is_in_flight_stays_reserved(server: Server) -> None:
    """With room for two worst cases there are never three requests at once, whoever has been answered meanwhile."""
    server.set(latency=0.03, sigma=1.0)
    worst = its_worst_case(chats(1)[0], max_tokens=500)
    rows = batch(server.api_base, chats(9), max_cost=2.5 * worst, max_tokens=500)
    assert not rows.failed
    assert server.stats.peak_in_flight == 2


def test_what_came_back_is_there_for_the_next(server: Server) -> None:
    """However sums of dollars are rounded: what never fits is told so when all others have settled."""
    server.set(latency=0.01, sigma=1.0)
    rows = [f"{'some words ' * (7 * i % 31)}?" for i in range(40)]
    rows.append("a novel " * 100_000)
    last = batch(server.api_base, rows, max_cost=0.02, max_tokens=50, max_workers=41, deadline=60)[-1]
    assert last["error_details"]["type"] == "BudgetExceeded"


def test_a_lost_answer_counts_as_dear_as_the_others_were(server: Server) -> None:
    """After an answer of ten times its worst case each lost one counts ten times, too."""
    worst = its_worst_case(chats(1)[0], max_tokens=50)
    usage = {"prompt_tokens": 0, "completion_tokens": round(10 * worst / PRICE_OUT)}
    dear = said("ok").body | {"usage": {**usage, "total_tokens": usage["completion_tokens"]}}
    server.enqueue(Response(body=dear))
    server.handler = lambda request: Response(200, body=b'{"choices": [', cut=5)
    rows = batch(server.api_base, chats(20), max_cost=35 * worst, max_tokens=50, max_workers=1, retries=0)
    assert len(rows.failed) == 19
    assert len(server.requests) == 1 + 2


@pytest.mark.contract
def test_the_dearest_of_all_prices_is_reserved() -> None:
    """A hold on the names in LiteLLM's price map: no length of prompt and no service tier costs more than reserved."""
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
            reserved = cost_upper_bound(plan)(request)
        except ValueError:  # nothing bounds what it searches by itself
            continue
        for tier in (None, "priority", "flex", "ultrafast"):
            given = {"prompt_tokens": 300_000, "completion_tokens": 1000, "service_tier": tier}
            cost = sum(litellm.cost_per_token(model=model, custom_llm_provider=provider, **given))
            assert cost <= reserved * (1 + 1e-9), (model, tier)
            seen |= {model} if cost > 1.5 * plain else set()
    assert len(seen) > 30, "some are much dearer than their plain price"


def test_what_has_come_back_leaves_no_trace() -> None:
    """Sums of floats do: nobody waits for a reservation of 1e-16 USD that no request holds."""

    async def reserved() -> bool:
        budget = Budget(1.0)
        for worst in (0.1, 0.2, 0.3):
            assert await budget.reserve(worst)
        for worst in (0.1, 0.2, 0.3):
            budget.settle(worst, 0.0)
        return await asyncio.wait_for(budget.reserve(2.0), 5)

    assert not asyncio.run(reserved())


def test_without_a_cap_anything_fits() -> None:
    """And what was spent is counted."""
    budget = Budget(None)
    assert asyncio.run(budget.reserve(1e9))
    budget.settle(1e9, 0.5)
    assert (budget.spent, budget.reserved) == (0.5, 0.0)
