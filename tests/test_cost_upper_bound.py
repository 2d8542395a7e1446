"""The cost upper bound of a request, added up by hand from made-up prices."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any

import pytest

from llmbatch._litellm import Target
from llmbatch._request import max_cost

TEXT, MEDIUM, ANSWER, ONCE, PICTURE = 1.0, 3.0, 10.0, 1e6, 1e9
WINDOW, LONGEST = 10_000_000, 50
PRICES = {
    "mode": "chat",
    "input_cost_per_token": TEXT,
    "input_cost_per_audio_token": MEDIUM,
    "output_cost_per_token": ANSWER,
    "input_cost_per_request": ONCE,
    "input_cost_per_image": PICTURE,
    "max_input_tokens": WINDOW,
    "max_output_tokens": LONGEST,
}
IMAGE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}
SOUND = {"type": "input_audio", "input_audio": {"data": "AAAA", "format": "wav"}}
WORDS = {"type": "text", "text": "some words"}


@pytest.fixture
def bound(monkeypatch: pytest.MonkeyPatch) -> Any:
    """`bound(job=…, **prices)` is the upper bound for a model with these prices."""

    def with_prices(*, job: bool = False, chat: bool = True, keeps: bool = True, **prices: Any) -> Any:
        monkeypatch.setattr(max_cost, "price_entry", lambda target: {**PRICES, **prices})
        monkeypatch.setattr(max_cost, "_keeps_max_tokens", lambda *whose: keeps and whose == ("m", "p"))
        plan = SimpleNamespace(target=Target("p/m", "m", "p"), params={"max_tokens": 1})
        if chat:
            plan.response_format = None
        return max_cost.CostUpperBound.for_plan(plan, job=job).of

    return with_prices


def chat(*contents: Any, **given: Any) -> dict[str, Any]:
    """Return a request of these contents; the answer has one token at most."""
    return {"messages": [{"role": "user", "content": content} for content in contents], "max_tokens": 1, **given}


def size(content: Any) -> int:
    """Return the most tokens of a message."""
    return len(json.dumps({"role": "user", "content": content})) + 16


def test_cost_upper_bound_chat_is_sum_of_parts(bound: Any) -> None:
    """Texts, the price of a request, and all answers at their longest."""
    of = bound()
    text = TEXT * (size(["hello"]) + size([WORDS]))
    assert of(chat("hello", [WORDS])) == text + ONCE + ANSWER
    assert of(chat("hello", [WORDS], max_tokens=7, n=3)) == text + ONCE + ANSWER * 21
    assert of(chat("hello", [WORDS], max_completion_tokens=9)) == text + ONCE + ANSWER * 9
    assert of(chat("hello", [WORDS], prediction="abcd")) == text + ONCE + ANSWER * 5
    assert of(chat("hello", [WORDS], extra_body={"n": 2})) == text + ONCE + ANSWER * 2


def test_cost_upper_bound_images_and_media_add_up(bound: Any) -> None:
    """An image costs its price and 50,000 tokens, any other medium the context window."""
    of = bound()
    plain = of(chat([WORDS], [WORDS]))
    assert of(chat([WORDS, IMAGE], [WORDS])) == plain + PICTURE + 50_000 * MEDIUM
    assert of(chat([IMAGE, WORDS, IMAGE], [IMAGE, WORDS])) == plain + 3 * PICTURE + 150_000 * MEDIUM
    for odd in ([WORDS, SOUND], [WORDS, {**IMAGE, "type": "video_url"}]):
        assert of(chat(odd, [WORDS])) == of(chat([WORDS], odd)) == plain + WINDOW * MEDIUM
    assert of(chat([WORDS, SOUND, IMAGE], [WORDS])) == plain + WINDOW * MEDIUM + PICTURE
    strange = chat([WORDS], [WORDS])
    strange["messages"][0]["video"] = "x"
    assert of(strange) == plain + WINDOW * MEDIUM + TEXT * len(', "video": "x"')
    strange["messages"][0]["content"] = [WORDS, SOUND]
    assert of(strange) == plain + WINDOW * MEDIUM + TEXT * len(', "video": "x"')
    small = bound(max_input_tokens=100)
    assert small(chat([WORDS, IMAGE])) == small(chat([WORDS])) + PICTURE + 100 * MEDIUM


def test_cost_upper_bound_objects_count_as_sent(bound: Any) -> None:
    """An object counts as its text."""

    class Long:
        def __str__(self) -> str:
            return "x" * 500

    of = bound()
    assert of(chat("a", response_format=Long())) == of(chat("a")) + TEXT * (2000 + 502)


def test_cost_upper_bound_embeddings_have_no_answer(bound: Any) -> None:
    """One text may come as a string or a list."""
    of = bound(chat=False, mode="embedding")
    assert of({"input": ["abc", "de"]}) == 5 * TEXT + 2 * (ONCE + PICTURE)
    assert of({"input": "abc"}) == of({"input": ["abc"]}) == 3 * TEXT + ONCE + PICTURE
    assert of({"input": ["gs://bucket/film"]}) == 16 * TEXT + WINDOW * MEDIUM + ONCE + PICTURE


def test_cost_upper_bound_without_max_tokens_is_longest_answer(bound: Any) -> None:
    """Also if LiteLLM may drop max_tokens for a model that does not support it."""
    within, without = ANSWER * 1, ANSWER * LONGEST
    for keeps, given, expected in (
        (True, {}, within),
        (True, {"drop_params": True}, within),
        (False, {}, within),
        (False, {"drop_params": True}, without),
        (True, {"max_tokens": None}, without),
    ):
        of = bound(keeps=keeps)
        assert of(chat("a", **given)) - TEXT * size(["a"]) - ONCE == expected
    of = bound(max_output_tokens=None)
    with pytest.raises(ValueError, match="upper bound for the answers of 'p/m', and none is known"):
        of(chat("a", max_tokens=None))


def test_cost_upper_bound_multipliers_multiply(bound: Any) -> None:
    """Those of regions and speeds, too; none lowers the bound."""
    plain = bound()(chat("a"))
    raised = bound(regional_multiplier=1.5, other_multiplier=0.5, provider_specific_entry={"us": 1.1, "fast": 6.0})
    assert raised(chat("a")) == pytest.approx(plain * 1.5 * 1.1 * 6.0)


def test_cost_upper_bound_job_is_half_without_batch_prices(bound: Any) -> None:
    """Cached tokens are not halved, and live tiers do not count."""
    live, job = bound()(chat("a")), bound(job=True)(chat("a"))
    assert job == live / 2
    assert bound(job=True, input_cost_per_token_batches=0.7)(chat("a")) == job + 0.2 * size(["a"])
    assert bound(job=True, cache_read_input_token_cost=0.7)(chat("a")) == job + 0.2 * size(["a"])
    assert bound(job=True, input_cost_per_token_priority=9.0)(chat("a")) == job
    assert bound(input_cost_per_token_priority=9.0)(chat("a")) == live + 8 * size(["a"])


@pytest.mark.parametrize(
    ("prices", "why"),
    [
        ({"input_cost_per_second": 1.0}, "it charges by input_cost_per_second, which has no upper bound"),
        ({"mode": "image_generation"}, "it searches or makes media by itself"),
    ],
)
def test_cost_upper_bound_unbounded_model_raises(bound: Any, prices: dict[str, Any], why: str) -> None:
    """The message names the reason."""
    with pytest.raises(ValueError, match=why):
        bound(**prices)


def test_cost_upper_bound_unbounded_argument_raises(bound: Any) -> None:
    """The message names the argument."""
    of = bound()
    with pytest.raises(ValueError, match="cannot be enforced with plugins=: its cost has no upper bound"):
        of(chat("a", plugins=["web"]))
    with pytest.raises(ValueError, match="cannot be enforced with tools= that the provider runs"):
        of(chat("a", tools=[{"type": "web_search"}]))


def test_keeps_max_tokens_follows_litellm(monkeypatch: pytest.MonkeyPatch) -> None:
    """A model that LiteLLM does not know keeps them."""
    known: dict[str, list[str] | None] = {
        "a": ["max_tokens", "n"],
        "b": ["max_completion_tokens"],
        "c": ["n"],
        "d": None,
    }

    def supported(model: str, custom_llm_provider: str) -> list[str] | None:
        assert custom_llm_provider == "p"
        return known[model]

    monkeypatch.setattr(max_cost, "load", lambda: SimpleNamespace(get_supported_openai_params=supported))
    assert [max_cost._keeps_max_tokens(model, "p") for model in known] == [True, True, False, True]
