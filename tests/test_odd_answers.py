"""Any field of an answer may be anything: a row is a row still, and what is made of rows is made."""

from __future__ import annotations

import copy
import json
import logging
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import llmbatch
from tests.effort import examples
from tests.replies import reply, said, vector_for
from tests.server import Request, Response, Server
from tests.talk import answered, batch, chats, lines, place

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = [pytest.mark.contract, pytest.mark.both_transports]

ODD: list[Any] = [
    None, True, 0, -1, 1.5, 10**30, -(10**25), 1e308, float("nan"), float("inf"), "", "x", "\ud800", "9" * 5000,
    [], {}, [None], [[]], [{}], {"a": 1}, [1, 2], {"type": "text", "text": "hi"},
]  # fmt: skip
ADDED = [
    "data",
    "choices",
    "error",
    "usage",
    "model",
    "embedding",
    "custom_id",
    "provider_specific_fields",
    "tool_calls",
]
CHANGES = st.lists(
    st.tuples(
        st.integers(0, 200), st.sampled_from(["set", "leave out", "add"]), st.sampled_from(ADDED), st.sampled_from(ODD)
    ),
    min_size=1,
    max_size=3,
)


def places(value: Any, above: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The paths to all that is in it."""
    for key, inner in value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ():
        yield (*above, key)
        yield from places(inner, (*above, key))


def changed(body: Any, changes: list[tuple[int, str, str, Any]]) -> Any:
    body = copy.deepcopy(body)
    for at, how, name, value in changes:
        paths = list(places(body))
        if not paths:
            break
        *above, last = paths[at % len(paths)]
        holder = body
        for key in above:
            holder = holder[key]
        if how == "set":
            holder[last] = copy.deepcopy(value)
        elif how == "leave out":
            del holder[last]
        elif isinstance(holder[last], dict):
            holder[last][name] = copy.deepcopy(value)
        else:
            holder[last] = [holder[last]]
    return body


@pytest.fixture(scope="module")
def odd() -> Iterator[Server]:
    logging.disable(logging.CRITICAL)  # LiteLLM quotes what no report can hold: half a surrogate pair
    with Server() as server:
        yield server
    logging.disable(logging.NOTSET)


def use(rows: llmbatch.BatchResults) -> None:
    """All that is made of rows."""
    json.dumps(rows, allow_nan=False, ensure_ascii=False).encode()
    assert all(text is None or isinstance(text, str) for text in rows.texts)
    assert rows.usage["total_tokens"] >= 0
    assert rows.cost is None or rows.cost >= 0
    assert "llmbatch" in rows._repr_html_()
    rows.summary(), rows.by("model"), rows.latency, rows.truncated, rows.embeddings
    assert len(rows.to_pandas()) == rows.to_arrow().num_rows == len(rows)


@pytest.mark.more_at_night
@settings(max_examples=examples(40), deadline=None, suppress_health_check=list(HealthCheck))
@given(changes=CHANGES, embeds=st.booleans())
def test_whatever_an_answer_holds_each_row_is_a_row(odd: Server, changes: Any, embeds: bool) -> None:
    """And the rows beside it are good."""

    def handler(request: Request) -> Response | None:
        if not embeds and "number 1?" not in request.text:
            return None
        body = json.dumps(changed(reply(request).body, changes)).encode("utf-8", "surrogatepass")
        return Response(200, {"content-type": "application/json"}, body=body)

    odd.handler = handler
    options = {
        "model": f"openai/{id(handler)}",
        "retries": 0,
        "input_cost_per_token": 1e-6,
        "output_cost_per_token": 1e-6,
    }
    if embeds:
        rows = llmbatch.create_embeddings_batch(["a", "b", "c"], **place(odd.api_base, **options))
    else:
        rows = batch(odd.api_base, chats(3), **options)
        assert answered(rows[0], 0)
        assert answered(rows[2], 2)
    assert len(rows) == 3
    use(rows)


def test_a_usage_that_is_none_has_no_price(server: Server, tmp_path: Path) -> None:
    """Nothing is known of its tokens, so nothing of its cost; the answer stays, and no other request waits for it."""
    bodies = {}
    for number, tokens in enumerate([-5, "many", float("nan"), [], 10**30]):
        body = bodies[f"Question number {number}?"] = said("hi")
        body.body["usage"] = {"prompt_tokens": tokens, "completion_tokens": tokens, "total_tokens": tokens}
    server.handler = lambda request: bodies.get(request.text)
    prices = {"input_cost_per_token": 1e-6, "output_cost_per_token": 1e-6}
    path = tmp_path / "run.jsonl"
    rows = batch(server.api_base, chats(20), tokens_per_minute=1e6, deadline=20, checkpoint=path, **prices)
    assert rows.texts[:5] == ["hi"] * 5
    assert [row["cost"] for row in rows[:4]] == [None] * 4
    assert all(answered(row, number) for number, row in enumerate(rows) if number > 4)
    assert [row["usage"]["total_tokens"] for row in rows[:5]] == [0, 0, 0, 0, 10**30]
    assert len(lines(path)) == 20


def test_a_vector_that_is_none_fails_its_text_alone(server: Server) -> None:
    """Where it is no list, where one of its numbers is none, and in a wire form that cannot be read."""

    def handler(request: Request) -> Response:
        made = reply(request)
        for item, vector in zip(made.body["data"], [[1.0, None], [float("nan")], "&", 5, {"a": 1}], strict=False):
            item["embedding"] = vector
        made.body["data"][5] = None
        made.body["data"][8]["embedding"], made.body["data"][9]["embedding"] = [[1.0, 2], [3]], [[1.0], 2.0]
        return made

    server.handler = handler
    rows = llmbatch.create_embeddings_batch([f"t{number}" for number in range(10)], **place(server.api_base))
    assert [row["error_details"]["type"] for row in rows.failed] == ["EmptyAnswer"] * 7
    assert rows.embeddings[6:8] == [pytest.approx(vector_for("t6")), pytest.approx(vector_for("t7"))]
    assert rows.embeddings[8:] == [[[1.0, 2], [3]], None], "many vectors for one text are an answer"


def test_a_cap_on_money_counts_an_answer_without_usage_as_its_worst_case(server: Server) -> None:
    """It has no known cost, and the provider may have charged for it."""
    bare = said("hi")
    del bare.body["usage"]
    server.handler = lambda _: bare
    prices = {"input_cost_per_token": 1e-9, "output_cost_per_token": 1e-6}
    rows = batch(server.api_base, chats(10), max_tokens=100, max_cost=350e-6, **prices)
    assert [row["cost"] for row in rows if "error" not in row] == [None] * 3
    assert {row["error_details"]["type"] for row in rows.failed} == {"BudgetExceeded"}
    assert len(server.requests) == 3


@pytest.mark.parametrize(
    "headers",
    [
        {"x-model": "\u901a\u4e49", "x-note": "caf\u00e9"},
        {"x-ratelimit-limit-requests": "nan", "x-ratelimit-remaining-requests": "nan"},
        {"x-ratelimit-limit-requests": "inf", "x-ratelimit-remaining-requests": "1e999"},
        {
            "x-ratelimit-limit-requests": "100",
            "x-ratelimit-remaining-requests": "90",
            "x-ratelimit-reset-requests": "inf",
        },
        {"ratelimit": f"r={'9' * 5000}", "ratelimit-policy": f"q={'9' * 5000};w=1"},
        {"ratelimit": "limit; r=7", "ratelimit-policy": f"q=5;w={'9' * 5000}"},
    ],
    ids=["not ASCII", "nan", "inf", "reset", "too long", "a long window"],
)
def test_odd_headers_hold_nobody_up(server: Server, headers: dict[str, str]) -> None:
    """Each answer is taken, once."""

    def handler(request: Request) -> Response:
        made = reply(request)
        made.headers |= headers
        return made

    server.handler = handler
    rows = batch(server.api_base, chats(20), deadline=20, model=f"openai/{id(headers)}")
    assert all(answered(row, number) for number, row in enumerate(rows))
    assert len(server.requests) == 20
