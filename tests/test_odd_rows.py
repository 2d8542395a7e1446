"""Anything that a row may hold is at worst that row's own fault: the others are answered, in their places."""

from __future__ import annotations

import json
from collections import UserDict
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import llmbatch
from tests.batch_server import MODEL
from tests.effort import examples
from tests.replies import said
from tests.server import Request, Response, Server
from tests.talk import answered, batch, chats, place, question

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.batch_server import BatchProvider

RELAXED = {"deadline": None, "suppress_health_check": list(HealthCheck)}
SECRET = "what nobody may read"


class Hostile:
    """An object that raises whatever is done with it, and says what it holds when it does."""

    def __getattr__(self, name: str) -> Any:
        raise RuntimeError(SECRET)

    def __repr__(self) -> str:
        raise RuntimeError(SECRET)


class Torn(UserDict[str, Any]):
    """A mapping whose items cannot be read."""

    def __getitem__(self, key: str) -> Any:
        raise KeyError(SECRET)


class Cut(list[Any]):
    """A list that ends in an exception."""

    def __iter__(self) -> Any:
        raise ValueError(SECRET)


def deep(levels: int) -> Any:
    value: Any = "deep"
    for _ in range(levels):
        value = [value]
    return value


def user(content: Any, **more: Any) -> list[dict[Any, Any]]:
    return [{"role": "user", "content": content, **more}]


ODD: list[Any] = [
    None, 5, "text", b"bytes", {}, [], [[]], [None], ["a"], [5], {"role": "user"}, object(), Hostile(), [Hostile()],
    [{}], [{"role": None}], [{"role": ["user"], "content": "x"}], [{"role": SECRET, "content": object()}],
    [{"content": "x"}], [{"role": "user"}], [{"role": {}, "content": "x"}], [Torn(role="user", content="x")],
    [{"role": "user", "content": "x", 5: 6}], [{"role": "user", "content": "x", None: 1, "b": 2}], Cut([1]),
    [SimpleNamespace(role="user", content="x")], [{"role": "user", "content": Cut([1])}],
    [{"role": "assistant", "tool_calls": "x"}], [{"role": "assistant", "tool_calls": [5]}],
    [{"role": "assistant", "tool_calls": {"id": 1}}], [{"role": "assistant", "tool_calls": [{"function": []}]}],
    [{"role": "tool", "content": "x"}], [{"role": "assistant", "function_call": 7}],
    *map(user, [None, 5, 0, True, 1.5, float("nan"), float("inf"), 10**5000, 10**300, ["hello"], [None], [["a"]], [5],
                {"a": 1}, {1: 2, "a": 3}, {}, [], "", " ", "\ud83d", "\0", [{}], [{"type": 5}], [{"type": "text"}],
                [{"type": "text", "text": 5}], [{"type": "text", "text": None}], [{"type": "image_url"}],
                [{"type": "image_url", "image_url": "http://x/y.png"}], [{"type": "image_url", "image_url": 5}],
                [{"type": "input_audio", "input_audio": []}], [{"type": "file", "file": "x"}], [{"type": "nothing"}],
                deep(50), deep(5000), {"a"}, (x for x in "a"), object(), Hostile(), b"bytes", range(3)]),
    user("x", name=5), user("x", name=[]), user("x", cache_control=5), user("x", tool_calls=5), user("x", role=5),
]  # fmt: skip

JSON: Any = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=9), inner, max_size=4),
    max_leaves=12,
)
MESSAGE = st.fixed_dictionaries(
    {},
    optional={
        "role": st.sampled_from(["user", "assistant", "system", "tool"]) | JSON,
        "content": JSON | st.lists(st.fixed_dictionaries({"type": st.sampled_from(["text", "image_url"]) | JSON},
                                                         optional={"text": JSON, "image_url": JSON}), max_size=3),
        "tool_calls": JSON, "function_call": JSON, "name": JSON, "tool_call_id": JSON,
    },
)  # fmt: skip


def plain(request: Request) -> Response | None:
    """An answer to whatever is asked; questions get their own."""
    content = request.json["messages"][-1].get("content") if "messages" in request.json else "Question"
    return None if isinstance(content, str) and content.startswith("Question") else said("odd")


@pytest.fixture(scope="module")
def usual() -> Iterator[Server]:
    with Server() as server:
        server.handler = plain
        yield server


def check(server: Server, odd: list[Any], **options: Any) -> None:
    """Send odd rows between good ones, and look at all."""
    good = chats(len(odd) + 1)
    rows: list[Any] = [*good, *odd]
    rows[::2], rows[1::2] = good, odd
    results = batch(server.api_base, rows, retries=0, timeout=20.0, **options)
    assert len(results) == len(rows)
    assert all(answered(row, at) for at, row in enumerate(results[::2]))
    assert len({row["custom_id"] for row in results}) == len(rows)
    failed = [row for row in results[1::2] if "error" in row]
    assert SECRET not in json.dumps(failed)
    assert all(row["cost"] == 0 for row in failed if row["error_details"]["type"] == "InvalidRow")


def test_odd_rows_harm_nobody(usual: Server, tmp_path: Any) -> None:
    """In a plain batch, and with everything that looks at a row: checkpoint, budget, cache, fallbacks, limits."""
    check(usual, ODD)
    options = {"max_cost": 9.0, "warm_prompt_cache": True, "fallbacks": ["openai/gpt-4o"], "tokens_per_minute": 9e9}
    for _ in range(2):
        check(usual, ODD, checkpoint=tmp_path / "run.jsonl", **options)


def test_odd_rows_are_counted_and_rendered_as_what_they_are(batches: BatchProvider, place: dict[str, Any]) -> None:
    """Estimates, payloads and jobs take them as a live batch does: the good ones are there, and no odd one raises."""
    rows = [*chats(2), *ODD, *chats(1, 2)]
    estimate = llmbatch.estimate_batch(rows, model=MODEL)
    assert (estimate.rows, estimate.rows - estimate.invalid_rows >= 3) == (len(rows), True)
    job = llmbatch.submit_batch_job(rows, MODEL, **place)
    sent = [json.loads(line)["body"]["messages"] for line in batches.files["file-1"].content.splitlines()]
    assert all([{"role": "user", "content": question(at)}] in sent for at in range(3))
    assert len(job) == len(rows)
    assert len(job.state.invalid) + len(sent) == len(rows)
    assert len(job.state.invalid) == estimate.invalid_rows
    assert SECRET not in json.dumps(job.state.invalid)


@pytest.mark.more_at_night
@settings(max_examples=examples(30), **RELAXED)
@given(odd=st.lists(st.lists(MESSAGE, max_size=3) | JSON, min_size=1, max_size=8))
def test_any_json_as_messages_harms_nobody(usual: Server, odd: list[Any]) -> None:
    """As many rows as were given, in order, the good ones answered."""
    check(usual, odd, max_cost=9.0, warm_prompt_cache=True)


@pytest.mark.more_at_night
@settings(max_examples=examples(30), **RELAXED)
@given(odd=st.lists(JSON | st.sampled_from(ODD), min_size=1, max_size=8))
def test_any_json_as_texts_harms_nobody(usual: Server, odd: list[Any]) -> None:
    """Likewise for embeddings: what is no text fails alone."""
    results = llmbatch.create_embeddings_batch(
        ["first", *odd, "last"], **place(usual.api_base, model="openai/e"), progress=False
    )
    assert len(results) == len(odd) + 2
    assert "error" not in results[0]
    assert "error" not in results[-1]
    assert all(
        ("error" in row) != (isinstance(text, str) and bool(text)) for text, row in zip(odd, results[1:-1], strict=True)
    )
