"""An estimate counts and prices what would be sent, and says what it leaves open."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

import llmbatch

if TYPE_CHECKING:
    from tests.server import Server

ROWS = [[{"role": "user", "content": f"What is {i} + 1?"}] for i in range(10)]


def test_rows_tokens_and_costs_add_up() -> None:
    """Live costs at most each answer at its limit; a batch job costs half."""
    one, ten = llmbatch.estimate_batch(ROWS[:1], "gpt-4o-mini"), llmbatch.estimate_batch(ROWS, "gpt-4o-mini")
    assert (ten.rows, ten.invalid_rows, ten.files) == (10, 0, 1)
    assert ten.prompt_tokens == 10 * one.prompt_tokens > 100
    assert ten.completion_tokens == 10 * 200
    assert ten.live_cost == pytest.approx(ten.prompt_tokens * 0.15e-6 + 2000 * 0.6e-6)
    assert ten.job_cost == pytest.approx(ten.live_cost / 2)
    assert ten.live_prompt_cost == pytest.approx(ten.prompt_tokens * 0.15e-6)
    assert json.loads(json.dumps(ten.to_dict()))["rows"] == 10
    assert "10 rows for gpt-4o-mini" in str(ten)


@pytest.mark.parametrize(
    ("rows", "arguments", "caveat"),
    [
        (ROWS, {"model": "gpt-4o-mini", "max_tokens": None}, "no upper bound"),
        (ROWS, {"model": "hosted_vllm/llama"}, "no price is known"),
        (ROWS, {"model": "anthropic/claude-sonnet-4-5"}, "does not support batch jobs"),
        ([*ROWS, 7], {"model": "gpt-4o-mini"}, "1 rows cannot be sent"),
        ([*ROWS, ROWS[0]], {"model": "gpt-4o-mini"}, "ask the very same"),
        (ROWS * 120, {"model": "gpt-4o-mini"}, "scaled by length"),
    ],
)
def test_what_is_unknown_is_said(rows: list[Any], arguments: dict[str, Any], caveat: str) -> None:
    """In words, and as None instead of 0."""
    estimate = llmbatch.estimate_batch(rows, **arguments)
    assert any(caveat in text for text in estimate.caveats)
    if "max_tokens" in arguments:
        assert estimate.completion_tokens is None
        assert estimate.live_cost is None
    if "vllm" in arguments["model"]:
        assert estimate.live_cost is None
        assert estimate.job_cost is None
    if "anthropic" in arguments["model"]:
        assert estimate.live_cost
        assert estimate.job_cost is None
        assert estimate.files == 0


def test_the_count_is_the_providers_where_the_tokenizer_is_known() -> None:
    """Within the tokens that OpenAI puts around messages."""
    (text,) = ["Hello world"]
    estimate = llmbatch.estimate_batch([[{"role": "user", "content": text}]], "gpt-4o-mini")
    assert estimate.prompt_tokens == 9


def test_estimating_sends_nothing(server: Server) -> None:
    """Not even a picture is fetched."""
    picture = {"type": "image_url", "image_url": {"url": f"{server.url}/picture.png"}}
    rows = [[{"role": "user", "content": [{"type": "text", "text": "What is it?"}, picture]}]]
    estimate = llmbatch.estimate_batch(rows, "openai/gpt-4o", api_base=server.api_base)
    assert not server.requests
    assert any("images" in caveat for caveat in estimate.caveats)
