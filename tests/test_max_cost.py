"""A cost upper bound is at least what LiteLLM says of any answer; what has no upper bound is rejected."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import pydantic
import pytest

import llmbatch
from llmbatch._litellm import load
from llmbatch._request.max_cost import CostUpperBound
from llmbatch._request.plans import plan_chat, plan_embeddings
from tests.server import Response
from tests.talk import KEY, answered, batch, chats, place

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.server import Server

MOST = 100  # tokens of an answer
IMAGE = 48_169  # tokens of OpenAI's largest image, for gpt-4o-mini
TIERS = ("priority", "flex", "fast", "ultrafast")
PICTURE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBORw0KGgo="}}
SOUND = {"type": "input_audio", "input_audio": {"data": "AAAA", "format": "wav"}}
FILE = {"type": "file", "file": {"file_id": "file-1"}}


def kinds_of_models() -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield one model of each provider for each set of prices in LiteLLM's map."""
    seen = set()
    for name, entry in load().model_cost.items():
        prices = tuple(sorted(key for key in entry if "cost" in key or "pricing" in key or "multiplier" in key))
        kind = (entry.get("litellm_provider"), entry.get("mode"), prices)
        asks_the_network = entry.get("litellm_provider") == "github_copilot"
        if entry.get("mode") in {"chat", "embedding"} and kind not in seen and not asks_the_network:
            seen.add(kind)
            yield name, entry


def usages(prompt: int, medium: str, tokens: int) -> Iterator[Any]:
    """Yield the most expensive usages of a prompt, some of it a medium's, with the longest answer."""
    from litellm.types.utils import CompletionTokensDetailsWrapper as Out
    from litellm.types.utils import PromptTokensDetailsWrapper as In
    from litellm.types.utils import Usage

    whole = prompt + tokens

    def usage(read: Any = None, written: Any = None, **more: Any) -> Any:
        return Usage(
            prompt_tokens=whole, completion_tokens=MOST, total_tokens=whole + MOST, prompt_tokens_details=read,
            completion_tokens_details=written, **more,
        )  # fmt: skip

    if medium:
        yield usage(In(**{f"{medium}_tokens": tokens, "text_tokens": prompt}))
        return
    yield usage(None, Out(audio_tokens=MOST, text_tokens=0))
    yield usage(In(cached_tokens=prompt), Out(reasoning_tokens=MOST, text_tokens=0))
    hour = {"ephemeral_1h_input_tokens": prompt, "ephemeral_5m_input_tokens": 0}
    written_once = In(cache_creation_tokens=prompt, cache_creation_token_details=hour)
    yield usage(written_once, inference_geo="us", speed="fast")


def costs(plan: Any, entry: dict[str, Any], usage: Any) -> Iterator[float]:
    """Yield what LiteLLM says that a usage costs, at each tier that the model has."""
    from litellm.types.utils import EmbeddingResponse, ModelResponse

    litellm, target = load(), plan.target
    for tier in (None, *(tier for tier in TIERS if any(name.endswith(f"_{tier}") for name in entry))):
        answer = (EmbeddingResponse if entry["mode"] == "embedding" else ModelResponse)(model=target.name, usage=usage)
        if tier:
            answer.service_tier = usage.service_tier = tier
        how: Any = {"model": target.name, "custom_llm_provider": target.provider, "service_tier": tier}
        try:
            yield litellm.completion_cost(answer, **how)
        except Exception as error:
            if "isn't mapped" not in str(error):  # the floor's price lookup misses a model that its map has
                raise


def test_cost_upper_bound_every_price_of_map_holds() -> None:
    """Whatever the tokens count as, in long and short prompts, at any service tier."""
    checked, unbounded = 0, []
    for name, entry in kinds_of_models():
        embeds, window = entry["mode"] == "embedding", entry.get("max_input_tokens")
        try:
            plan: Any = plan_embeddings(name) if embeds else plan_chat(name, None, MOST)
            upper_bound = CostUpperBound.for_plan(plan).of
        except ValueError:
            unbounded.append(name)
            continue
        asked = [(50, "", 0), *([(300_000, "", 0)] if any("_above_" in key for key in entry) else [])]
        if window and not embeds:
            asked += [(50, "image", min(IMAGE, window)), (50, "audio", window), (50, "video", window)]
        for prompt, medium, tokens in asked:
            content: Any = "x" * prompt
            if medium:
                content = [{"type": "text", "text": content}, PICTURE if medium == "image" else SOUND]
            most = upper_bound(
                plan.request(content) if embeds else plan.request([{"role": "user", "content": content}])
            )
            for usage in usages(prompt, medium, tokens):
                for cost in costs(plan, entry, usage):
                    assert cost <= most * (1 + 1e-9), (name, prompt, medium, usage)
                    checked += 1
    assert checked > 2000
    assert len(unbounded) < checked / 50, unbounded


UNBOUNDED: list[dict[str, Any]] = [
    {"web_search_options": {"search_context_size": "high"}},
    {"tools": [{"type": "web_search"}]},
    {"tools": [{"googleSearch": {}}]},
    {"tools": [{"type": "code_interpreter", "container": {"type": "auto"}}]},
    {"modalities": ["text", "image"]},
    {"search_parameters": {"mode": "on"}},
    {"extra_body": {"plugins": [{"id": "web"}]}},
    {"model": "openai/gpt-4o-search-preview"},
    {"model": "openai/no-such-model-in-the-map"},
    {
        "max_tokens": None,
        "input_cost_per_token": 1e-6,
        "output_cost_per_token": 1e-6,
        "model": "openai/nobody-knows-it",
    },
]


@pytest.mark.parametrize("given", UNBOUNDED, ids=str)
def test_max_cost_unbounded_arguments_raise(server: Server, given: dict[str, Any]) -> None:
    """Before anything is sent, with the remedy."""
    with pytest.raises(ValueError, match=r"(?i)leave (max_cost )?out|pass max_tokens="):
        batch(server.api_base, chats(2), max_cost=1.0, **given)
    assert not server.requests


def content(*parts: Any) -> list[dict[str, Any]]:
    return [{"role": "user", "content": [{"type": "text", "text": "What is it?"}, *parts]}]


def test_max_cost_media_count_at_most(server: Server) -> None:
    """An image counts as the largest one, other media as the whole context window; only such rows fail."""
    rows = batch(
        server.api_base, [content(PICTURE), *chats(1), content(SOUND), content(FILE)], max_cost=0.017, max_tokens=10
    )
    assert ["error" in row for row in rows] == [False, False, True, True]
    assert {row["error_details"]["type"] for row in rows.failed} == {"BudgetExceeded"}
    (row,) = batch(server.api_base, [content(PICTURE)], max_cost=IMAGE * 0.15e-6, max_tokens=10)
    assert "may cost up to" in row["error"]
    at = "https://example.org/a.{}"
    odd = [
        *({"type": "image_url", "image_url": url} for url in (at.format("png"), at.format("pdf"))),
        {"type": "image_url", "image_url": {"url": at.format("png"), "format": "application/pdf"}},
        {"type": "image_url", "image_url": {"url": at.format("png"), "detail": "high"}},
        {"type": "image_url"},
    ]
    rows = batch(server.api_base, [content(part) for part in odd], max_cost=0.017, max_tokens=10, max_workers=1)
    assert [row.get("error_details", {}).get("type") == "BudgetExceeded" for row in rows] == [
        False,
        True,
        True,
        False,
        True,
    ]
    own = {"input_cost_per_token": 1e-6, "output_cost_per_token": 1e-6, "model": "openai/nobody-knows-it"}
    rows = batch(server.api_base, [content(SOUND), *chats(1)], max_cost=1.0, max_tokens=10, **own)
    assert "no upper bound" in rows[0]["error"]
    assert "error" not in rows[1]


def test_cost_upper_bound_is_tight() -> None:
    """A token for each byte and the longest answer, and little more."""

    class Shape(pydantic.BaseModel):
        field: str = pydantic.Field(description="x" * 500)

    own: Any = {"input_cost_per_token": 1.0, "output_cost_per_token": 1000.0}
    plan = plan_chat("openai/nobody-knows-it", None, 10, **own)

    def most(messages: Any, **more: Any) -> float:
        return CostUpperBound.for_plan(plan).of({**plan.params, "messages": messages, **more}) - 10_000

    def said(text: Any) -> dict[str, Any]:
        return {"role": "user", "content": text}

    around = 60  # names, quotes and separators of a message as JSON
    assert 500 <= most([said("é" * 250)]) <= 500 + around
    assert 500 <= most([said([{"type": "text", "text": "x" * 500}])]) <= 500 + 2 * around
    assert 1000 <= most([said("x" * 500)] * 2) <= 2 * (500 + around)
    assert 2500 <= most([], response_format=Shape) <= 2500 + 200
    assert 2500 <= most([], tools=[{"name": "f", "input_schema": {}, "description": "x" * 500}]) <= 2500 + around
    assert most([], n=3) == 20_000
    assert most([], max_completion_tokens=30) == 20_000
    assert 500 * 1000 <= most([], prediction="x" * 500) <= 501 * 1000
    for strange in ("web_search", {"type": "custom", "name": "f"}, {"type": "bash", "input_schema": {}}):
        with pytest.raises(ValueError, match="not functions"):
            most([], tools=[strange])


def test_max_cost_embeddings_of_media_count_at_most(server: Server) -> None:
    """A text that is an address or a data URL may be read as a medium, as long as the context window."""
    given = place(server.api_base, model="openai/text-embedding-3-small", max_cost=0.0001)
    for text, fails in (("a text", False), ("data:image/png;base64,iVBORw0KGgo=", True), ("https://a/b.png", True)):
        (row,) = llmbatch.create_embeddings_batch([text], **given)
        assert ("error" in row) is fails


def test_max_cost_malformed_request_fails_alone(server: Server) -> None:
    """A malformed part of a message does not harm other rows."""
    odd = [{"role": "user", "content": [{"type": []}]}]
    rows = batch(server.api_base, [odd, *chats(1)], max_cost=9.0)
    assert ["error" in row for row in rows] == [True, False]


@pytest.mark.parametrize(
    "given",
    [
        {"response_format": {"type": "json_schema", "json_schema": {"name": "s", "schema": {"enum": ["x" * 70_000]}}}},
        {"tools": [{"type": "function", "function": {"name": "f", "description": "x" * 70_000}}]},
        {"functions": [{"name": "f", "description": "x" * 70_000}]},
        {"prediction": {"type": "content", "content": "x" * 20_000}},
        {"n": 128},
        {"extra_body": {"max_tokens": 15_000}},
        {"extra_body": {"messages": [{"role": "user", "content": "x" * 70_000}]}},
    ],
    ids=lambda given: next(iter(given)),
)
def test_cost_upper_bound_counts_all_arguments(server: Server, given: dict[str, Any]) -> None:
    """Schemas, tools, predictions, choices, and extra_body."""
    rows = batch(server.api_base, chats(1), max_cost=0.009, max_tokens=100, **given)
    assert rows[0]["error_details"]["type"] == "BudgetExceeded"
    assert not server.requests


@pytest.mark.parametrize(
    ("body", "why"),
    [
        ({"n": -5}, "with n="), ({"n": 0}, "with n="), ({"n": 0.5}, "with n="), ({"n": "3"}, "with n="),
        ({"max_tokens": True}, "with max_tokens="),
        ({"max_completion_tokens": [1]}, "with max_completion_tokens="), ({"model": "gpt-4"}, "a model in extra_body"),
        ({"modalities": 5}, "maximum cost of this request (TypeError)"),
        ({"messages": [5]}, "maximum cost of this request (AttributeError)"),
        (5, "maximum cost of this request (TypeError)"),
    ],
    ids=str,
)  # fmt: skip
def test_max_cost_malformed_extra_body_raises(server: Server, body: Any, why: str) -> None:
    """As an argument of the call; in a request it fails that row alone."""
    with pytest.raises(ValueError, match=re.escape(why)):
        batch(server.api_base, chats(1), max_cost=1.0, extra_body=body)
    requests = [{"prompt": "a", "extra_body": body}, *chats(1)]
    rows = batch(server.api_base, requests, max_cost=1.0)
    assert why in rows[0]["error"]
    assert answered(rows[1], 0)


def test_budget_overrun_raises_later_upper_bounds(server: Server) -> None:
    """A provider that answers with another model is found out by its first answer."""
    usage = {"prompt_tokens": 100_000, "completion_tokens": 5, "total_tokens": 100_005}
    choices = [{"index": 0, "message": {"role": "assistant", "content": "ok"}, "finish_reason": "stop"}]
    body = {"id": "x", "object": "chat.completion", "created": 1, "model": "gpt-4o-mini", "choices": choices}
    server.handler = lambda _: Response(body={**body, "usage": usage})
    rows = batch(server.api_base, chats(50), max_cost=0.05, max_tokens=10, max_workers=1)
    assert 0 < rows.cost <= 0.05
    assert rows.failed


def test_max_cost_job_is_checked_by_upper_bound(server: Server) -> None:
    """And not by an estimate; also if it is submitted by itself."""
    rows = [content(PICTURE)] * 3
    for submit in (
        lambda **given: llmbatch.create_chat_completions_batch(rows, batch_job=True, **given),
        lambda **given: llmbatch.submit_batch_job(rows, **given),
    ):
        with pytest.raises(ValueError, match=r"the job may cost \$0\.01\d+, more than max_cost=\$0\.0100"):
            submit(max_cost=0.01, max_tokens=10, **place(server.api_base))
    assert not server.requests


def test_custom_prices_apply_to_their_call_only(server: Server) -> None:
    """They price rows, upper bounds and estimates; LiteLLM and the provider never see them."""
    before = repr(load().model_cost["gpt-4o-mini"])
    plain = batch(server.api_base, chats(1))[0]["cost"]
    own = {"input_cost_per_token": 0.001, "output_cost_per_token": 0.002}
    (row,) = batch(server.api_base, chats(1), **own)
    usage = row["usage"]
    assert row["cost"] == pytest.approx(usage["prompt_tokens"] * 0.001 + usage["completion_tokens"] * 0.002)
    assert not any("cost" in str(request.json) for request in server.requests)
    assert batch(server.api_base, chats(1))[0]["cost"] == plain
    assert repr(load().model_cost["gpt-4o-mini"]) == before
    assert "error" in batch(server.api_base, chats(1), max_cost=0.1, **own)[0]
    server.handler = lambda request: Response(400) if request.json["model"] == "gpt-4o-mini" else None
    (row,) = batch(server.api_base, chats(1), fallbacks=["openai/gpt-4o"], **own)
    assert row["cost"] == pytest.approx(usage["prompt_tokens"] * 2.5e-6 + usage["completion_tokens"] * 1e-5)
    server.handler = None
    unknown = place(server.api_base, model="openai/nobody-knows-it", **own)
    estimate = llmbatch.estimate_batch(chats(1), **unknown)
    assert estimate.live_cost == pytest.approx(estimate.prompt_tokens * 0.001 + 200 * 0.002)
    assert estimate.job_cost == pytest.approx(estimate.live_cost / 2)
    vectors = llmbatch.create_embeddings_batch(
        ["a text"], **place(server.api_base, model="openai/text-embedding-3-small", input_cost_per_token=0.5)
    )
    assert vectors[0]["cost"] == pytest.approx(vectors[0]["usage"]["prompt_tokens"] * 0.5)


@pytest.mark.usefixtures("batches")
def test_custom_prices_of_job_are_kept(server: Server, tmp_path: Path) -> None:
    """In its state; a job costs half of them, as with every price that has none for batches."""
    own = {"input_cost_per_token": 0.001, "output_cost_per_token": 0.002}
    llmbatch.submit_batch_job(chats(1), state=tmp_path / "job.json", **place(server.api_base), **own)
    (row,) = llmbatch.BatchJob.load(tmp_path / "job.json", api_key=KEY).wait(poll=0.05, progress=False).results()
    usage = row["usage"]
    assert row["cost"] == pytest.approx(usage["prompt_tokens"] * 0.0005 + usage["completion_tokens"] * 0.001)
    with pytest.raises(ValueError, match="max_cost is not checked for payloads"):
        llmbatch.submit_batch_job(llmbatch.render_batch_requests(chats(1), "gpt-4o-mini"), "gpt-4o-mini", max_cost=1.0)


@pytest.mark.parametrize(
    "given",
    [
        {"input_cost_per_token": 1e-6},
        {"output_cost_per_token": 1e-6},
        {"input_cost_per_second": 1.0},
        {"input_cost_per_token": "cheap", "output_cost_per_token": 0.0},
        {"input_cost_per_token": -1.0, "output_cost_per_token": 0.0},
    ],
    ids=str,
)
def test_custom_prices_incomplete_raise(server: Server, given: dict[str, Any]) -> None:
    """It would price rows at 0."""
    with pytest.raises((ValueError, TypeError), match=r"USD|register_model"):
        batch(server.api_base, chats(1), **given)
