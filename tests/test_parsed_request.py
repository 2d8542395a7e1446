"""A request is a prompt, a list of messages, or a dict with what stands for it alone, in every way of running."""

from __future__ import annotations

import json
from collections import Counter
from typing import TYPE_CHECKING, Any

import pytest
from pydantic import BaseModel

import llmbatch
from tests.replies import said
from tests.server import Response, answer_to

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.batch_server import BatchProvider
    from tests.server import Server

MODEL = "openai/gpt-4o-mini"


def user(text: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": text}]


def batch_line(custom_id: str, text: str, **params: Any) -> dict[str, Any]:
    body = {"model": "gpt-4o-mini", "messages": user(text), **params}
    return {"custom_id": custom_id, "method": "POST", "url": "/v1/chat/completions", "body": body}


FORMS: list[Any] = [
    "one",
    user("two"),
    {"prompt": "three", "temperature": 0, "seed": 5, "custom_id": "third"},
    {"messages": user("four"), "model": "openai/gpt-4o", "max_tokens": None, "metadata": {"topic": "x"}},
    batch_line("fifth", "five", top_p=0.5),
]
BODIES = {
    "one": {"model": "gpt-4o-mini", "temperature": 0.3, "max_tokens": 200},
    "two": {"model": "gpt-4o-mini", "temperature": 0.3, "max_tokens": 200},
    "three": {"model": "gpt-4o-mini", "temperature": 0, "max_tokens": 200, "seed": 5},
    "four": {"model": "gpt-4o", "temperature": 0.3},
    "five": {"model": "gpt-4o-mini", "top_p": 0.5},
}


def bodies(sent: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """What was sent, by the prompt."""
    return {body["messages"][-1]["content"]: {k: v for k, v in body.items() if k != "messages"} for body in sent}


def live(requests: list[Any], place: dict[str, Any]) -> list[Any]:
    return llmbatch.create_chat_completions_batch(requests, MODEL, **place)


def by_generator(requests: list[Any], place: dict[str, Any]) -> list[Any]:
    rows = dict(llmbatch.as_completed(iter(requests), MODEL, **place))
    return [rows[index] for index in range(len(requests))]


def streamed(requests: list[Any], place: dict[str, Any]) -> list[Any]:
    events = llmbatch.stream_chat_completions_batch(requests, MODEL, **place)
    rows = {event["index"]: event["row"] for event in events if "row" in event}
    return [rows[index] for index in range(len(requests))]


@pytest.mark.parametrize("run", [live, by_generator, streamed])
def test_each_form_sent_live_gets_its_row(server: Server, place: dict[str, Any], run: Callable[..., list[Any]]) -> None:
    """In one batch, with what it says itself before what the call says; ids and metadata come back in its row."""
    rows = run(FORMS, place)
    said = bodies([request.json for request in server.requests])
    ours = ("stream", "stream_options")
    assert {text: {k: v for k, v in body.items() if k not in ours} for text, body in said.items()} == BODIES
    assert [row["choices"][0]["message"]["content"] for row in rows] == [answer_to(text) for text in BODIES]
    assert [rows[2]["custom_id"], rows[4]["custom_id"]] == ["third", "fifth"]
    assert [row.get("metadata") for row in rows] == [None, None, None, {"topic": "x"}, None]
    assert [row["request_model"] for row in rows] == [MODEL, MODEL, MODEL, "openai/gpt-4o", "gpt-4o-mini"]


def test_each_form_rendered_and_estimated_is_what_is_sent(place: dict[str, Any]) -> None:
    """The bodies are those of the live calls; an estimate names the models and adds up their rows."""
    payloads = llmbatch.render_batch_requests(FORMS, MODEL, **place)
    assert bodies([payload["body"] for payload in payloads]) == BODIES
    assert [payload["custom_id"] for payload in payloads][2::2] == ["third", "fifth"]
    estimate = llmbatch.estimate_batch([*FORMS, 3], "gpt-4o-mini")
    assert (estimate.rows, estimate.invalid_rows) == (6, 1)
    assert estimate.model == "gpt-4o-mini, openai/gpt-4o"
    assert estimate.live_cost is None  # one has no limit
    cheap = llmbatch.estimate_batch(["one"] * 2, "gpt-4o-mini").live_cost
    both = llmbatch.estimate_batch(["one", {"prompt": "one", "model": "gpt-4o"}], "gpt-4o-mini").live_cost
    assert both > cheap > 0


def test_job_of_each_form_has_a_file_for_each_model(
    batches: BatchProvider, place: dict[str, Any], tmp_path: Path
) -> None:
    """Rows come back in order with their metadata, here and from the state file; the bill is each model's."""
    state = tmp_path / "job.json"
    forms = [*FORMS[:2], {"prompt": "three", "model": "openai/gpt-4o", "metadata": [1]}, "four"]
    job = llmbatch.submit_batch_job(forms, MODEL, state=state, **place)
    assert [file.model for file in job.state.input_files] == ["gpt-4o-mini", "gpt-4o"]
    rows = job.wait(0.01).results()
    again = llmbatch.BatchJob.load(state, api_key=place["api_key"]).results()
    for found in (rows, again):
        assert found.texts == [answer_to(text) for text in ("one", "two", "three", "four")]
        assert [row.get("metadata") for row in found] == [None, None, [1], None]
        assert [row["request_model"] for row in found] == [MODEL, MODEL, "openai/gpt-4o", MODEL]
    assert rows[2]["cost"] > rows[0]["cost"]


def test_failed_rows_of_job_keep_their_model(batches: BatchProvider, place: dict[str, Any]) -> None:
    """Whether they are submitted again or sent live."""
    forms = ["one", {"prompt": "two", "model": "openai/gpt-4o", "metadata": "m"}, {"prompt": "three", "seed": 1}]
    job = llmbatch.submit_batch_job(forms, MODEL, **place)
    batches.fates = dict.fromkeys(job.state.custom_ids, "failed")
    assert len(job.wait(0.01).results().failed) == 3
    batches.fates = {}
    rows = job.run_failed_live()
    assert rows.texts == [answer_to(text) for text in ("one", "two", "three")]
    assert [row["model"] for row in rows] == ["gpt-4o-mini", "gpt-4o", "gpt-4o-mini"]
    assert rows[1]["metadata"] == "m"
    again = job.resubmit_failed().wait(0.01).results()
    assert again.texts == rows.texts
    assert [file.model for file in job.state.input_files] == ["gpt-4o-mini", "gpt-4o"] * 2


def test_rows_of_job_with_invalid_parameters_are_error_rows(batches: BatchProvider, place: dict[str, Any]) -> None:
    """The others are submitted, and an estimate counts them as what cannot be sent."""
    odd = [
        {"prompt": "a", "logit_bias": float("inf")},
        {"prompt": "b", "temperature": "hot"},
        {"prompt": "c", "thinking": 1},
    ]
    rows = llmbatch.submit_batch_job(["one", *odd], MODEL, **place).wait(0.01).results()
    assert [(row.get("error_details") or {}).get("type") for row in rows] == [None, *["InvalidRow"] * 3]
    assert llmbatch.estimate_batch(["one", *odd], "gpt-4o-mini").invalid_rows == 3
    with pytest.raises(ValueError, match="row 1"):
        llmbatch.render_batch_requests(["one", odd[0]], MODEL)


@pytest.mark.parametrize(
    ("own", "why"),
    [
        ({"model": "mistral/mistral-small-latest"}, "not at openai"),
        ({"api_base": "http://127.0.0.1:9/v1"}, "not at openai"),
        ({"extra_headers": {"X-Team": "b"}}, "each account"),
        ({"response_format": BaseModel}, "another response_format"),
        ({"custom_id": "first"}, "duplicate custom_id"),
    ],
)
def test_request_that_cannot_join_a_job_raises(
    server: Server, batches: BatchProvider, place: dict[str, Any], own: dict[str, Any], why: str
) -> None:
    """Before anything is sent, with the row's number and what to do instead."""
    with pytest.raises(ValueError, match=f"row 1.*{why}"):
        llmbatch.submit_batch_job([{"prompt": "a", "custom_id": "first"}, {"prompt": "b", **own}], MODEL, **place)
    assert not server.requests


@pytest.mark.parametrize(
    ("item", "why"),
    [
        ({"prompt": "a", "retries": 3}, "retries is an option of the whole batch"),
        ({"prompt": "a", "checkpoint": "x"}, "checkpoint is an option of the whole batch"),
        ({"prompt": "a", "stream": True}, "stream is an option of the whole batch"),
        ({"prompt": "a", "max_worker": 3}, "Did you mean max_workers"),
        ({"prompt": "a", "temperature": "hot"}, "temperature must be a number"),
        ({"prompt": "a", "model": "no-such-model", "api_base": ""}, "openai/no-such-model"),
        ({"prompt": "a", "metadata": {1, 2}}, "metadata cannot be sent as JSON"),
        ({"prompt": "a", "custom_id": 7}, "custom_id must be a non-empty string"),
        ({"prompt": "a", "custom_id": "mine"}, "duplicate custom_id 'mine'"),
        ({"prompt": "a", "messages": user("b")}, "needs exactly one of messages and prompt"),
        ({"role": "user", "content": "a"}, "needs exactly one of messages and prompt; this one has role, content"),
        ({"prompt": 3}, "prompt must be a string"),
        ({"prompt": "a", 3: 4}, "must be strings"),
        ({"custom_id": "e", "url": "/v1/embeddings", "body": {"input": "a"}}, "not a chat batch line"),
    ],
)
def test_request_that_cannot_be_sent_is_an_error_row(
    server: Server, place: dict[str, Any], item: Any, why: str
) -> None:
    """The others are answered; the row says what to fix."""
    rows = live([{"prompt": "b", "custom_id": "mine"}, item, "c"], place)
    assert ["error" in row for row in rows] == [False, True, False]
    assert rows[1]["error"].startswith("InvalidRow: ")
    assert why in rows[1]["error"]
    assert len(server.requests) == 2


def test_id_of_request_overrides_id_of_call(server: Server, place: dict[str, Any]) -> None:
    """A request's own id stands before the call's, and may be no other row's."""
    asked = [
        "a",
        {"prompt": "b", "custom_id": "x"},
        {"prompt": "c", "custom_id": "z"},
        {"prompt": "d", "custom_id": "e"},
    ]
    rows = live(asked, {**place, "custom_ids": ["x", "y", "z", "w"]})
    assert [row["custom_id"] for row in rows] == ["x", "y", "z", "e"]
    assert [row.get("error") for row in rows] == [
        None, "InvalidRow: duplicate custom_id 'x'; give each request its own", None, None
    ]  # fmt: skip
    assert len(server.requests) == 3


def test_key_and_address_go_to_no_other_provider(
    server: Server, provider: Callable[..., Server], place: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A request for another provider or address meets neither the call's key nor its headers."""
    monkeypatch.setenv("OPENAI_API_KEY", "sk-of-the-environment")
    monkeypatch.setenv("GROQ_API_KEY", "gsk-of-the-environment")
    elsewhere, groq = provider(), provider()
    monkeypatch.setenv("GROQ_API_BASE", groq.api_base)
    own = [
        {"prompt": "a", "api_base": elsewhere.api_base},
        {"prompt": "b", "model": "groq/llama-3.1-8b-instant"},
        {"prompt": "c", "extra_headers": {"X-Mine": "yes"}},
    ]
    rows = llmbatch.create_chat_completions_batch(own, MODEL, extra_headers={"X-Team": "blue"}, **place)
    assert not [row["error"] for row in rows if "error" in row]
    sent = {request.text: request.headers for request in (*server.requests, *elsewhere.requests, *groq.requests)}
    assert [sent[text]["authorization"] for text in "abc"] == [
        "Bearer sk-of-the-environment", "Bearer gsk-of-the-environment", f"Bearer {place['api_key']}",
    ]  # fmt: skip
    assert [("x-team" in sent[text], "x-mine" in sent[text]) for text in "abc"] == [
        (False, False), (False, False), (False, True),
    ]  # fmt: skip


def test_key_of_request_goes_to_the_address_of_the_call(
    server: Server, place: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A gateway's key for one tenant is nobody else's; an organization needs no key of its own."""
    monkeypatch.setenv("OPENAI_API_KEY", "sk-of-the-environment")
    own = [{"prompt": "a", "api_key": "tenant-key-1"}, {"prompt": "b", "organization": "org-1"}, "c"]
    rows = llmbatch.create_chat_completions_batch(own, MODEL, **place)
    assert not [row["error"] for row in rows if "error" in row]
    sent = {request.text: request.headers for request in server.requests}
    assert [(sent[text]["authorization"], sent[text].get("openai-organization")) for text in "abc"] == [
        ("Bearer tenant-key-1", None), (f"Bearer {place['api_key']}", "org-1"), (f"Bearer {place['api_key']}", None),
    ]  # fmt: skip


def test_models_share_one_budget_and_have_their_own_circuit_breaker(server: Server, place: dict[str, Any]) -> None:
    """The one max_cost holds over all models; a model that does not exist stops its own rows only."""
    server.handler = lambda request: (
        Response(404, {}, {"error": {"message": "no such model"}}) if request.json["model"] == "gpt-4" else None
    )
    mixed = [{"prompt": f"q{i}", "model": "openai/gpt-4"} if i % 2 else f"q{i}" for i in range(60)]
    rows = llmbatch.create_chat_completions_batch(mixed, MODEL, max_workers=1, **place)
    kinds = {
        model: Counter(row["error_details"]["type"] for row in group.failed)
        for model, group in rows.by("model").items()
    }
    assert kinds == {MODEL: Counter(), "openai/gpt-4": Counter(NotFoundError=8, NotSent=22)}
    server.handler = None
    dear = [{"prompt": f"q{i}", "model": "openai/gpt-4o"} if i % 2 else f"q{i}" for i in range(40)]
    rows = llmbatch.create_chat_completions_batch(dear, MODEL, max_cost=0.003, **place)
    assert 0 < rows.cost <= 0.003
    groups = rows.by("model")
    assert all(group.succeeded and group.failed for group in groups.values()) or groups[MODEL].succeeded
    assert {row["error_details"]["type"] for row in rows.failed} == {"BudgetExceeded"}


def test_more_sets_of_parameters_than_are_cached_are_sent(
    server: Server, place: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each row with its own; a rerun finds all in the checkpoint, with the metadata that it now has."""
    monkeypatch.setattr("llmbatch._request.parsed_request._MAX_CACHED_PLANS", 50)
    path, count = tmp_path / "run.jsonl", 120

    def asked(run: int) -> list[Any]:
        return [{"prompt": f"q{i % 3}", "seed": i, "metadata": {"run": run, "i": i}} for i in range(count)]

    first = llmbatch.create_chat_completions_batch(asked(1), MODEL, checkpoint=path, max_workers=32, **place)
    assert Counter(request.json["seed"] for request in server.requests) == Counter(range(count))
    assert [row["metadata"] for row in first] == [{"run": 1, "i": i} for i in range(count)]
    server.reset()
    again = llmbatch.create_chat_completions_batch(asked(2), MODEL, checkpoint=path, **place)
    assert not server.requests
    assert [row["metadata"] for row in again] == [{"run": 2, "i": i} for i in range(count)]
    assert json.loads(path.read_text().splitlines()[-1])["llmbatch"]["metadata"]["run"] == 2


class Size(BaseModel):
    """An answer of a kind of its own."""

    size: int


class Colour(BaseModel):
    """Another."""

    colour: str


def test_request_with_its_own_response_format_is_parsed_by_it(server: Server, place: dict[str, Any]) -> None:
    """`parsed` validates each answer by its own request's pydantic model; a request may also want none."""
    answers = {"a": '{"size": 3}', "b": '{"colour": "red"}', "c": "free text"}
    server.handler = lambda request: said(answers[request.text])
    asked = ["a", {"prompt": "b", "response_format": Colour}, {"prompt": "c", "response_format": None}]
    rows = llmbatch.create_chat_completions_batch(asked, MODEL, response_format=Size, **place)
    assert rows.parsed == [Size(size=3), Colour(colour="red"), None]
    assert rows.texts[2] == "free text"


def test_groups_have_their_own_totals(server: Server, place: dict[str, Any]) -> None:
    """`by` a model, a metadata key or a function; groups add up to the whole, and an unknown key is told."""
    asked = [
        {"prompt": f"q{i}", "model": model, "metadata": {"topic": ["x", "y"][i % 2], "n": i}}
        for model in ("openai/gpt-4o-mini", "openai/gpt-4o")
        for i in range(4)
    ]
    server.handler = lambda request: Response(400) if request.text == "q3" else None
    rows = llmbatch.create_chat_completions_batch([*asked, {"prompt": "z"}], MODEL, **place)
    groups = rows.by("model")
    assert {name: (len(group), len(group.failed)) for name, group in groups.items()} == {
        "openai/gpt-4o-mini": (5, 1), "openai/gpt-4o": (4, 1),
    }  # fmt: skip
    assert groups["openai/gpt-4o"].cost > groups["openai/gpt-4o-mini"].cost > 0
    assert sum(group.cost for group in groups.values()) == pytest.approx(rows.cost)
    assert "3/4 rows" in groups["openai/gpt-4o"].summary()
    assert {topic: len(group) for topic, group in rows.by("topic").items()} == {"x": 4, "y": 4, None: 1}
    assert [len(group) for group in rows.by(lambda row: "error" in row).values()] == [7, 2]
    with pytest.raises(ValueError, match="topics"):
        rows.by("topics")
    pytest.importorskip("pandas")
    frame = rows.to_pandas()
    assert list(frame["topic"][:3]) == ["x", "y", "x"]
    assert list(frame["n"][:3]) == [0, 1, 2]


@pytest.mark.parametrize("given", [{"one", "two"}, frozenset({"one"})], ids=["set", "frozenset"])
def test_set_of_prompts_raises(given: Any) -> None:
    """It has no order, so nobody could tell which row is whose."""
    with pytest.raises(TypeError, match="which has no order"):
        llmbatch.create_chat_completions_batch(given, "openai/m")
