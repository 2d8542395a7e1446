"""Each private API of LiteLLM that llmbatch uses (`llmbatch/_litellm/private_api.py`) is there and does what it should.

Tests are named after their entry, so that the first failure says what an update has moved. Some are in other files:
`render_body` in `test_render.py`, `http_session` and `finish_reason` in `test_hostile_server.py`, `warning_filter` in
`test_quiet.py`, and what is known of LiteLLM's exceptions in `test_classify_recorded.py`.
"""

from __future__ import annotations

import inspect
import re
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import pytest

import llmbatch
from llmbatch._litellm import fast_prices, load, quiet_logging, resolve, unknown_parameters
from llmbatch._litellm.calls import chat
from llmbatch._litellm.loading import internal
from llmbatch._litellm.prices import batch_cost, standard_cost
from llmbatch._litellm.private_api import PRIVATE_APIS, is_available
from llmbatch._util.background_loop import in_background
from tests.record_cassettes import TOOL
from tests.replies import reply
from tests.server import Request, Response
from tests.talk import batch, chats

if TYPE_CHECKING:
    from collections.abc import Coroutine

    from tests.server import Server

T = TypeVar("T")

pytestmark = pytest.mark.contract

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


def alone(calls: Coroutine[Any, Any, T]) -> T:
    """What LiteLLM's own calls give; the clients they made are closed, and warn no later test that they were not."""

    async def closing() -> T:
        try:
            return await calls
        finally:
            await load().close_litellm_async_clients()
            load().in_memory_llm_clients_cache.flush_cache()

    return in_background(closing())


@pytest.mark.parametrize("name", PRIVATE_APIS)
def test_private_api_exists(name: str) -> None:
    """Each is where it was."""
    assert is_available(name), (
        f"the private API {name!r} is gone: `llmbatch/_litellm/private_api.py` says what that means"
    )


def test_private_apis_used_are_listed() -> None:
    """LiteLLM's modules are imported by `loading` alone; the places asked for by name are the table's."""
    told = {place for needs in PRIVATE_APIS.values() for place in needs}
    for path in Path(quiet_logging.__file__).parent.glob("*.py"):
        text = path.read_text()
        assert path.stem == "loading" or not re.search(r"^\s*(from litellm|import litellm)", text, re.MULTILINE), path
        asked = set(re.findall(r'internal\(\s*f?"(?:\{LOGGING\}|(litellm[^"{]*))', text)) - {""}
        assert asked <= told, path


def test_quiet_logging_without_callbacks_builds_no_payloads(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each row's call gets the quiet logging object."""
    silent: list[Any] = []
    logging = quiet_logging.logging_arguments

    def seen_logging(request: Any) -> Any:
        silent.append(logging(request))
        return silent[-1]

    monkeypatch.setattr(quiet_logging, "logging_arguments", seen_logging)
    assert not batch(server.api_base, chats(4)).failed
    assert [list(given) for given in silent] == [["litellm_logging_obj"]] * 4


@pytest.mark.parametrize("parameters", PARAMETERS)
def test_quiet_logging_sends_same_bytes_as_bare_call(
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
    alone(bare_call)
    assert llmbatch.create_chat_completions_batch([messages], "openai/gpt-4o-mini", **given)[0]["choices"]
    bare, ours = server.requests
    assert ours.body == bare.body


@pytest.mark.parametrize("model", MODELS)
def test_fast_prices_equal_litellms(server: Server, place: dict[str, Any], model: str) -> None:
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

    expected = alone(bare())
    for text, row, cost in zip(texts, rows, expected, strict=True):
        assert row["cost"] == (pytest.approx(cost, rel=1e-12) if cost is not None else None), text


def test_fast_prices_after_agreement_skip_litellms_calculation(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
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


def test_fast_prices_callers_own_prices_count(server: Server) -> None:
    """LiteLLM's arguments for a price hold for a model that has none."""
    own = {"input_cost_per_token": 1.0, "output_cost_per_token": 2.0}
    results = batch(server.api_base, chats(3), model="openai/my-unpriced-model", **own)
    usage = results.usage
    assert results.cost == pytest.approx(usage["prompt_tokens"] + 2 * usage["completion_tokens"])


def test_private_api_missing_rows_answered_and_priced(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without what the short cuts build on, rows are answered and priced all the same."""
    monkeypatch.setitem(PRIVATE_APIS, "quiet_logging", ("litellm:no_such_name",))
    quiet_logging._quiet_logging.cache_clear()
    monkeypatch.setattr(fast_prices.LinearPrices, "_key", lambda *_: None)
    try:
        results = batch(server.api_base, chats(3))
        assert quiet_logging.logging_arguments({"model": "m", "messages": []}) == {}
    finally:
        quiet_logging._quiet_logging.cache_clear()
    assert not results.failed
    assert results.cost


def test_hidden_params_give_price_and_headers(server: Server) -> None:
    """On both routes: `cost` is there, and the stated limits are, under the names that the provider gave them."""
    server.handler = lambda request: Response(200, {"x-ratelimit-limit-requests": "7"}, body=reply(request).body)

    async def asked(model: str) -> Any:
        return await chat({"model": model, "messages": chats(1)[0], "api_base": server.api_base, "api_key": "k"})

    for model in ("openai/gpt-4o-mini", "hosted_vllm/gpt-4o-mini"):
        answer = in_background(asked(model))
        assert answer.headers["x-ratelimit-limit-requests"] == "7", model
        assert "content-type" in answer.headers
        assert (answer.cost is not None) == model.startswith("openai/")


def test_hidden_params_usage_has_known_shape(server: Server) -> None:
    """Reasoning, cached and audio tokens keep their places, whichever LiteLLM has read them."""
    server.handler = lambda request: Response(body={**reply(request).body, "usage": USAGES[request.text]})
    names = [name for name in USAGES if name != "costed by the provider"]
    rows = batch(server.api_base, [[{"role": "user", "content": name}] for name in names])
    for name, row in zip(names, rows, strict=True):
        for part, told in USAGES[name].items():
            got = row["usage"][part]
            assert (told.items() <= got.items()) if isinstance(told, dict) else got == told, (name, part)


def test_original_response_unread_by_litellm_is_kept(server: Server) -> None:
    """Content in parts: paid for, and asked once."""
    parts = [{"type": "text", "text": "in parts"}]

    def answer(request: Request) -> Response:
        body = reply(request).body
        body["choices"][0]["message"]["content"] = parts
        return Response(body=body)

    server.handler = answer
    (row,) = batch(server.api_base, chats(1))
    assert row["choices"][0]["message"]["content"] == parts
    assert len(server.requests) == 1


def test_supported_params_of_reasoning_model_known(server: Server) -> None:
    """A reasoning model gets no temperature of llmbatch's."""
    assert not batch(server.api_base, chats(1), model="openai/o3-mini").failed
    assert "temperature" not in server.requests[0].json


def test_batch_prices_are_half(server: Server) -> None:
    """Of what the live answers cost, where the map has no price of its own."""
    usage = {"prompt_tokens": 1000, "completion_tokens": 100, "total_tokens": 1100}
    target = resolve("openai/gpt-4o-mini")
    live = standard_cost(target, usage)
    assert live
    assert batch_cost(target, usage) == pytest.approx(live / 2)


def test_own_parameters_are_not_called_sent_as_is() -> None:
    """What LiteLLM keeps to itself, what it knows for all providers, and what it knows for this one."""
    names = ["metadata", "mock_response", "seed", "extra_body", "aws_region_name", "thinking", "top_k"]
    assert unknown_parameters(resolve("anthropic/claude-sonnet-4-5"), names) == ("top_k",)


def test_exit_flush_clients_of_loop_known() -> None:
    """They are closed with it, by LiteLLM's own names; `test_sync.py` shows that nothing is left."""
    litellm = load()
    assert inspect.iscoroutinefunction(litellm.close_litellm_async_clients)
    assert callable(litellm.in_memory_llm_clients_cache.flush_cache)
    assert inspect.iscoroutinefunction(internal(PRIVATE_APIS["exit_flush"][0]).flush)
    assert isinstance(internal(PRIVATE_APIS["exit_flush"][1]), list)
    assert callable(threading._register_atexit)  # type: ignore[attr-defined]
