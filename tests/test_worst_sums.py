"""The worst case of a request, added up by hand from prices that are made up."""

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
    """`bound(job=…, **prices)` is the worst case of requests to a model of these prices."""

    def with_prices(*, job: bool = False, chat: bool = True, keeps: bool = True, **prices: Any) -> Any:
        monkeypatch.setattr(max_cost, "price_entry", lambda target: {**PRICES, **prices})
        monkeypatch.setattr(max_cost, "_keeps_limits", lambda *whose: keeps and whose == ("m", "p"))
        plan = SimpleNamespace(target=Target("p/m", "m", "p"), params={"max_tokens": 1})
        if chat:
            plan.response_format = None
        return max_cost.cost_upper_bound(plan, job=job)

    return with_prices


def chat(*contents: Any, **given: Any) -> dict[str, Any]:
    """A request of these contents; the answer has a token at most."""
    return {"messages": [{"role": "user", "content": content} for content in contents], "max_tokens": 1, **given}


def size(content: Any) -> int:
    """What a message takes at most."""
    return len(json.dumps({"role": "user", "content": content})) + 16


def test_a_chat_is_the_sum_of_its_parts(bound: Any) -> None:
    """Its texts, a price for each request, and all its answers as long as they may be."""
    of = bound()
    text = TEXT * (size(["hello"]) + size([WORDS]))
    assert of(chat("hello", [WORDS])) == text + ONCE + ANSWER
    assert of(chat("hello", [WORDS], max_tokens=7, n=3)) == text + ONCE + ANSWER * 21
    assert of(chat("hello", [WORDS], max_completion_tokens=9)) == text + ONCE + ANSWER * 9
    assert of(chat("hello", [WORDS], prediction="abcd")) == text + ONCE + ANSWER * 5
    assert of(chat("hello", [WORDS], extra_body={"n": 2})) == text + ONCE + ANSWER * 2


def test_images_and_media_add_up_over_all_messages(bound: Any) -> None:
    """An image takes its price and 50,000 tokens; any other medium whatever the window has room for."""
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


def test_schemas_and_other_objects_count_as_they_are_written(bound: Any) -> None:
    """Each object by what it says of itself."""

    class Long:
        def __str__(self) -> str:
            return "x" * 500

    of = bound()
    assert of(chat("a", response_format=Long())) == of(chat("a")) + TEXT * (2000 + 502)


def test_embeddings_have_texts_and_no_answer(bound: Any) -> None:
    """One text is one, however it is given."""
    of = bound(chat=False, mode="embedding")
    assert of({"input": ["abc", "de"]}) == 5 * TEXT + 2 * (ONCE + PICTURE)
    assert of({"input": "abc"}) == of({"input": ["abc"]}) == 3 * TEXT + ONCE + PICTURE
    assert of({"input": ["gs://bucket/film"]}) == 16 * TEXT + WINDOW * MEDIUM + ONCE + PICTURE


def test_an_answer_that_nothing_bounds_is_the_models_longest(bound: Any) -> None:
    """Also where LiteLLM would leave the bound out, for a model that does not take it."""
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
    with pytest.raises(ValueError, match="needs a bound on the answers of 'p/m': pass max_tokens="):
        of(chat("a", max_tokens=None))


def test_multipliers_multiply(bound: Any) -> None:
    """All of them, those of a provider's regions and speeds too; none makes it cheaper."""
    plain = bound()(chat("a"))
    dear = bound(regional_multiplier=1.5, other_multiplier=0.5, provider_specific_entry={"us": 1.1, "fast": 6.0})
    assert dear(chat("a")) == pytest.approx(plain * 1.5 * 1.1 * 6.0)


def test_a_job_costs_half_unless_it_has_prices_of_its_own(bound: Any) -> None:
    """Nor does it halve what was cached, and it is served at no dearer tier."""
    live, job = bound()(chat("a")), bound(job=True)(chat("a"))
    assert job == live / 2
    assert bound(job=True, input_cost_per_token_batches=0.7)(chat("a")) == job + 0.2 * size(["a"])
    assert bound(job=True, cache_read_input_token_cost=0.7)(chat("a")) == job + 0.2 * size(["a"])
    assert bound(job=True, input_cost_per_token_priority=9.0)(chat("a")) == job
    assert bound(input_cost_per_token_priority=9.0)(chat("a")) == live + 8 * size(["a"])


@pytest.mark.parametrize(
    ("prices", "why"),
    [
        ({"input_cost_per_second": 1.0}, "it has a price by input_cost_per_second"),
        ({"mode": "image_generation"}, "it searches or makes media by itself"),
    ],
)
def test_models_that_nothing_bounds(bound: Any, prices: dict[str, Any], why: str) -> None:
    """Are told as what they are."""
    with pytest.raises(ValueError, match=why):
        bound(**prices)


def test_arguments_that_nothing_bounds(bound: Any) -> None:
    """Are named; tools by whose they are."""
    of = bound()
    with pytest.raises(ValueError, match="cannot hold with plugins=: nothing bounds"):
        of(chat("a", plugins=["web"]))
    with pytest.raises(ValueError, match="cannot hold with tools= of the provider's own"):
        of(chat("a", tools=[{"type": "web_search"}]))


def test_whether_a_models_limits_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """As LiteLLM says of model and provider; kept where it does not know."""
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
    assert [max_cost._keeps_limits(model, "p") for model in known] == [True, True, False, True]
