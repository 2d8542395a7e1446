"""LiteLLM's internals are as the short cuts expect; where they are not, those have switched off and this says so."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

import llmbatch
from llmbatch._litellm import linear, load, quiet
from llmbatch._sync import in_background
from tests.record_cassettes import TOOL
from tests.replies import reply
from tests.server import Request, Response
from tests.talk import batch, chats

if TYPE_CHECKING:
    from tests.server import Server

PARAMETERS: list[dict[str, Any]] = [
    {},
    {"temperature": None, "max_tokens": None},
    {"top_p": 0.5, "stop": ["END"], "n": 2, "seed": 1, "logit_bias": {"50256": -100}, "user": "me"},
    {"tools": [TOOL], "tool_choice": "auto"},
    {"extra_body": {"min_p": 0.1, "seed": 3}, "response_format": {"type": "json_object"}},
]
USAGES: dict[str, dict[str, Any]] = {
    "plain": {"prompt_tokens": 11, "completion_tokens": 7, "total_tokens": 18},
    "reasoning": {
        "prompt_tokens": 1000, "completion_tokens": 700, "total_tokens": 1700,
        "completion_tokens_details": {"reasoning_tokens": 600}, "prompt_tokens_details": {"cached_tokens": 0},
    },
    "cached": {
        "prompt_tokens": 2000, "completion_tokens": 10, "total_tokens": 2010,
        "prompt_tokens_details": {"cached_tokens": 1800},
    },
    "audio": {
        "prompt_tokens": 100, "completion_tokens": 10, "total_tokens": 110,
        "prompt_tokens_details": {"audio_tokens": 90},
    },
    "long": {"prompt_tokens": 250_000, "completion_tokens": 10, "total_tokens": 250_010},
    "costed by the provider": {"prompt_tokens": 5, "completion_tokens": 5, "total_tokens": 10, "cost": 0.25},
}  # fmt: skip
MODELS = [
    "openai/gpt-4o-mini", "openai/gpt-4.1", "openai/gpt-5", "openai/gpt-4o-audio-preview", "openai/o3",
    "cerebras/llama3.1-8b", "mistral/mistral-small-latest", "deepseek/deepseek-chat", "xai/grok-4",
    "openrouter/openai/gpt-4o", "together_ai/meta-llama/Llama-3.3-70B-Instruct-Turbo", "hosted_vllm/unpriced",
    "perplexity/sonar",
]  # fmt: skip


def test_no_payloads_are_built_for_callbacks_that_nobody_registered(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each row's call gets the quiet logging object."""
    silent: list[Any] = []
    logging = quiet.logging_arguments

    def seen_logging(request: Any) -> Any:
        silent.append(logging(request))
        return silent[-1]

    monkeypatch.setattr(quiet, "logging_arguments", seen_logging)
    assert not batch(server.api_base, chats(4)).failed
    assert [list(given) for given in silent] == [["litellm_logging_obj"]] * 4


@pytest.mark.parametrize("parameters", PARAMETERS)
def test_a_row_sends_the_very_bytes_that_a_bare_call_sends(
    server: Server, place: dict[str, Any], parameters: dict[str, Any]
) -> None:
    """What saves CPU does not show on the wire."""
    messages = [
        {"role": "system", "content": "Be brièf."},
        {"role": "user", "content": [{"type": "text", "text": "☃"}, {"type": "image_url", "image_url": {"url": "x"}}]},
        {"role": "assistant", "content": None, "refusal": "no", "name": "me"},
        {"role": "user", "content": "Go on."},
    ]
    given = {"temperature": 0.3, "max_tokens": 200, **parameters, **place}
    bare_call = load().acompletion("openai/gpt-4o-mini", messages, **{k: v for k, v in given.items() if v is not None})
    in_background(bare_call)
    assert not llmbatch.create_chat_completions_batch([messages], "openai/gpt-4o-mini", **given).failed
    bare, ours = server.requests
    assert ours.body == bare.body


@pytest.mark.parametrize("model", MODELS)
def test_a_row_costs_what_litellm_says(server: Server, place: dict[str, Any], model: str) -> None:
    """To the last digit, whatever there is to price besides plain tokens."""

    def answer(request: Request) -> Response:
        usage, _, tier = request.text.partition(" at ")
        body = {**reply(request).body, "usage": USAGES[usage], **({"service_tier": tier} if tier else {})}
        return Response(body=body)

    server.handler = answer
    texts = [f"{usage}{tier}" for usage in USAGES for tier in ("", " at default", " at priority", " at flex")] * 2
    asked = [[{"role": "user", "content": text}] for text in texts]
    rows = batch(server.api_base, asked, model=model, max_workers=1)

    async def bare() -> list[float | None]:
        given = {"max_tokens": 200, **place}
        answers = [await load().acompletion(model, messages, **given) for messages in asked[: len(asked) // 2]]
        return [answer._hidden_params.get("response_cost") for answer in answers] * 2

    expected = in_background(bare())
    for text, row, cost in zip(texts, rows, expected, strict=True):
        assert row["cost"] == (pytest.approx(cost, rel=1e-12) if cost is not None else None), text


def test_plain_tokens_are_priced_without_litellms_calculation_once_it_has_agreed(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It runs for the first answer only, and once more when the price has changed."""
    litellm = load()
    calculated: list[Any] = []
    calculate = litellm.response_cost_calculator
    monkeypatch.setattr(litellm, "response_cost_calculator", lambda **given: calculated.append(0) or calculate(**given))

    def cost(price: float) -> float | None:
        entry = {"input_cost_per_token": price, "output_cost_per_token": 2 * price}
        litellm.register_model({"my-priced-model": {**entry, "litellm_provider": "openai", "mode": "chat"}})
        return batch(server.api_base, chats(5), model="openai/my-priced-model", max_workers=1).cost

    first, second = cost(1.0), cost(2.0)
    assert len(calculated) == 2
    assert first
    assert second == pytest.approx(2 * first)


def test_prices_of_the_callers_own_count(server: Server) -> None:
    """LiteLLM's arguments for a price hold for a model that has none."""
    own = {"input_cost_per_token": 1.0, "output_cost_per_token": 2.0}
    results = batch(server.api_base, chats(3), model="openai/my-unpriced-model", **own)
    usage = results.usage
    assert results.cost == pytest.approx(usage["prompt_tokens"] + 2 * usage["completion_tokens"])


def test_another_litellm_is_left_to_itself(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without what the short cuts build on, rows are answered and priced all the same."""
    monkeypatch.setattr(quiet, "_USED", ("no_such_method",))
    quiet._quiet_logging.cache_clear()
    monkeypatch.setattr(linear.LinearPrices, "_key", lambda *_: None)
    try:
        results = batch(server.api_base, chats(3))
        assert quiet.logging_arguments({"model": "m", "messages": []}) == {}
    finally:
        quiet._quiet_logging.cache_clear()
    assert not results.failed
    assert results.cost
