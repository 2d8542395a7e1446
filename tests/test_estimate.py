"""An estimate counts and prices what would be sent, and says what it leaves open."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

import llmbatch
from tests.replies import said
from tests.server import Response

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
        ([*ROWS, 7], {"model": "gpt-4o-mini"}, "1 rows cannot be sent"),
        ([*ROWS, ROWS[0]], {"model": "gpt-4o-mini"}, "are duplicates of an earlier one"),
        (ROWS * 120, {"model": "gpt-4o-mini"}, "scaled by length"),
    ],
)
def test_unknown_numbers_are_none_and_named_in_caveats(rows: list[Any], arguments: dict[str, Any], caveat: str) -> None:
    """In words, and as None instead of 0."""
    estimate = llmbatch.estimate_batch(rows, **arguments)
    assert any(caveat in text for text in estimate.caveats)
    if "max_tokens" in arguments:
        assert estimate.completion_tokens is None
        assert estimate.live_cost is None
    if "vllm" in arguments["model"]:
        assert estimate.live_cost is None
        assert estimate.job_cost is None


def test_lanes_are_priced_side_by_side() -> None:
    """Flex and the job at their own prices; the cheapest between the job's and the live one."""
    lanes = llmbatch.estimate_batch(ROWS, "gpt-5-mini", max_completion_tokens=100).lanes
    assert list(lanes) == ["live", "flex", "job", "cheapest"]
    prompts, answers = 10 * llmbatch.estimate_batch(ROWS[:1], "gpt-5-mini").prompt_tokens, 10 * 100
    assert lanes["live"].cost == pytest.approx(prompts * 0.25e-6 + answers * 2e-6)
    for name in ("flex", "job"):
        assert lanes[name].cost == pytest.approx(prompts * 0.125e-6 + answers * 1e-6)
        assert lanes[name].prompt_cost == pytest.approx(prompts * 0.125e-6)
    assert (lanes["cheapest"].prompt_cost, lanes["cheapest"].cost) == (lanes["job"].prompt_cost, lanes["live"].cost)
    assert not any(lane.missing for lane in lanes.values())


def test_missing_lane_says_why() -> None:
    """A model without a flex price, a provider without batch jobs; then the cheapest is the live one."""
    estimate = llmbatch.estimate_batch(ROWS, "anthropic/claude-sonnet-4-5", requests_per_minute=5)
    flex, job, cheapest = (estimate.lanes[name] for name in ("flex", "job", "cheapest"))
    assert (flex.missing, flex.cost, flex.risk) == (
        True, None, "no flex price is known for anthropic/claude-sonnet-4-5"
    )  # fmt: skip
    assert (job.missing, job.cost, estimate.job_cost, estimate.files) == (True, None, None, 0)
    assert job.risk == "anthropic has no batch support in llmbatch"
    assert cheapest.risk == f"all rows are sent live: {job.risk}"
    assert estimate.live_cost
    assert (cheapest.cost, cheapest.seconds) == (estimate.live_cost, 120)
    both = [*ROWS, {"prompt": "Hi", "model": "anthropic/claude-sonnet-4-5"}]
    assert llmbatch.estimate_batch(both, "gpt-5-mini").lanes["job"].missing
    own = {"input_cost_per_token": 1e-6, "output_cost_per_token": 1e-6}
    for unpriced in ({"model": "hosted_vllm/llama"}, {"model": "gpt-4o-mini", **own}):
        flex = llmbatch.estimate_batch(ROWS, **unpriced).lanes["flex"]
        assert (flex.missing, flex.cost) == (False, None), "nobody knows"


@pytest.mark.parametrize(
    ("stated", "seconds", "words"),
    [
        ({}, None, "unknown without limits and latency"),
        ({"max_workers": "auto", "latency": 3}, None, "unknown without limits and latency"),
        ({"requests_per_minute": 5}, 120, "at least 2 min"),
        ({"requests_per_minute": 6}, 100, "at least 100 s"),
        (
            {"tokens_per_minute": 1, "max_tokens": 10, "n": 2},
            60 * (200 + 150),
            "at least 5.8 h with answers at their limit",
        ),
        ({"tokens_per_minute": 1, "max_tokens": None, "latency": 1}, 60 * 150, "at least 2.5 h"),
        ({"latency": 0.8}, 0.8, "about 0.8 s"),
        ({"latency": 2, "max_workers": 4}, 6, "about 6 s"),
        ({"latency": 2, "requests_per_minute": 0.002}, 300_000, "about 3.5 days"),
    ],
)
def test_live_time_follows_from_limits_and_latency(stated: dict[str, Any], seconds: float | None, words: str) -> None:
    """Never from a guess; a job takes up to a day whatever the limits are."""
    lanes = llmbatch.estimate_batch(ROWS, "gpt-4o-mini", **stated).lanes
    assert lanes["live"].seconds == pytest.approx(seconds)
    assert lanes["live"].time == words
    assert (lanes["job"].seconds, lanes["job"].time) == (86_400, "up to 24 h")


def test_deadline_shows_late_lanes() -> None:
    """In the risk of each lane that may take longer; the cheapest keeps it."""
    lanes = llmbatch.estimate_batch(ROWS, "gpt-5-mini", deadline=6 * 3600, requests_per_minute=10).lanes
    late = {name for name, lane in lanes.items() if "those past the deadline fail" in lane.risk}
    assert late == {"flex", "job"}
    assert (lanes["cheapest"].seconds, lanes["cheapest"].time) == (21_600, "up to 6 h")


def test_estimate_prints_as_a_table() -> None:
    """A line for each lane, its columns one below the other."""
    shown = str(llmbatch.estimate_batch(ROWS, "gpt-4o-mini", requests_per_minute=60)).splitlines()
    head, live, flex, job, cheapest = shown[1:6]
    for column, cell in (
        ("cost", "$0.0000"),
        ("time", "at least 10 s"),
        ("risk", "rate limits that are not known yet"),
    ):
        assert live[head.index(column) :].startswith(cell)
    assert flex.split() == ["flex", "-", "-", *["no", "flex", "price", "is", "known", "for", "gpt-4o-mini"]]
    assert job[head.index("time") :].startswith("up to 24 h")
    assert cheapest.startswith("cheapest  $")


def test_estimate_with_misuse_raises() -> None:
    """As in the call itself."""
    for wrong in ({"latency": 0}, {"latency": float("nan")}, {"requests_per_minute": -1}, {"max_workers": 0}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            llmbatch.estimate_batch(ROWS, "gpt-4o-mini", **wrong)


def test_token_count_with_known_tokenizer_is_the_providers() -> None:
    """Within the tokens that OpenAI puts around messages."""
    (text,) = ["Hello world"]
    estimate = llmbatch.estimate_batch([[{"role": "user", "content": text}]], "gpt-4o-mini")
    assert estimate.prompt_tokens == 9


def test_estimate_sends_nothing(server: Server) -> None:
    """Not even a picture is fetched."""
    picture = {"type": "image_url", "image_url": {"url": f"{server.url}/picture.png"}}
    rows = [[{"role": "user", "content": [{"type": "text", "text": "What is it?"}, picture]}]]
    estimate = llmbatch.estimate_batch(rows, "openai/gpt-4o", api_base=server.api_base)
    assert not server.requests
    assert any("images" in caveat for caveat in estimate.caveats)


def costs_of_a_run(server: Server, model: str, prompts: list[str], tokens: list[int], **options: Any) -> float:
    """What a run of the prompts costs, whose answers have 10 tokens each."""
    for n in tokens:
        usage = {"prompt_tokens": n, "completion_tokens": 10, "total_tokens": n + 10}
        answer: Any = said("yes").body
        tier = options.get("service_tier", "default")
        server.enqueue(Response(body={**answer, "model": model, "usage": usage, "service_tier": tier}))
    results = llmbatch.create_chat_completions_batch(
        prompts, f"openai/{model}", max_tokens=10, max_workers=1, api_base=server.api_base, api_key="sk-test", **options
    )
    assert not results.failed
    assert results.cost is not None
    return results.cost


@pytest.mark.parametrize("options", [{}, {"service_tier": "priority"}, {"service_tier": "flex"}])
def test_estimate_is_what_a_run_costs(server: Server, options: dict[str, Any]) -> None:
    """Each row by its own length, above and below the price threshold, at the call's service tier."""
    prompts = ["word " * 10, "word " * 280_000]
    tokens = [llmbatch.estimate_batch([prompt], "gpt-5.4").prompt_tokens for prompt in prompts]
    assert tokens[1] > 272_000
    estimate = llmbatch.estimate_batch(prompts, "gpt-5.4", max_tokens=10, **options)
    assert estimate.live_cost == pytest.approx(costs_of_a_run(server, "gpt-5.4", prompts, tokens, **options), rel=0.01)


def test_estimate_of_a_long_list_of_short_prompts_has_no_long_prompt() -> None:
    """Their sum is above the threshold, and none of them is: a job costs half."""
    rows = ["word " * 1000] * 400
    one, all_rows = (llmbatch.estimate_batch(some, "gpt-5.4", max_tokens=10) for some in (rows[:1], rows))
    assert one.live_cost is not None
    assert one.job_cost == pytest.approx(one.live_cost / 2)
    assert all_rows.live_cost == pytest.approx(400 * one.live_cost)
    assert all_rows.job_cost == pytest.approx(200 * one.live_cost)


def test_estimate_says_that_cached_tokens_have_no_batch_price() -> None:
    """A job of gpt-4.1 pays the live price for them."""
    caveats = llmbatch.estimate_batch(["a"], "gpt-4.1").caveats
    assert any("cached prompt tokens have no batch price" in caveat for caveat in caveats)
    assert not any("cached" in caveat for caveat in llmbatch.estimate_batch(["a"], "gpt-5-mini").caveats)
