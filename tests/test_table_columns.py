"""Columns of tables are lists of requests; whole tables are not, and say what to pass instead."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

import llmbatch
from llmbatch._request.messages import checked_messages
from llmbatch._util.plain_values import is_missing, plain
from tests.replies import answer_to

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.server import Server

np = pytest.importorskip("numpy")
pd = pytest.importorskip("pandas")
pa = pytest.importorskip("pyarrow")
pl = pytest.importorskip("polars")

MODEL = "openai/gpt-4o-mini"
PICTURE = {"type": "image_url", "image_url": {"url": "https://example.com/a.png"}}
# Structs of a table have all fields: those that a message or part has not are null there.
CHATS: list[list[dict[str, Any]]] = [
    [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "one", "name": "ann"}],
    [{"role": "user", "content": "two"}],
]
PARTS: list[list[dict[str, Any]]] = [[{"role": "user", "content": [{"type": "text", "text": "What?"}, PICTURE]}]]


def by_parquet(path: Path, chats: list[Any]) -> Any:
    pd.DataFrame({"messages": chats}).to_parquet(path)
    return pd.read_parquet(path)["messages"]


def by_records(path: Path, chats: list[Any]) -> Any:
    frame = pd.DataFrame({"messages": by_parquet(path, chats), "temperature": 0.0, "seed": np.array([1] * len(chats))})
    return frame.assign(top_p=[None] * len(chats)).to_dict("records")


COLUMNS: dict[str, Callable[[Path, list[Any]], Any]] = {
    "pandas": by_parquet,
    "pandas list": lambda path, chats: by_parquet(path, chats).tolist(),
    "pandas records": by_records,
    "numpy": lambda path, chats: by_parquet(path, chats).to_numpy(),
    "arrow": lambda _, chats: pa.table({"messages": chats})["messages"],
    "arrow array": lambda _, chats: pa.array(chats),
    "polars": lambda _, chats: pl.DataFrame(pa.table({"messages": chats}))["messages"],
    "polars rows": lambda _, chats: pl.DataFrame(pa.table({"messages": chats})).to_dicts(),
}


@pytest.fixture
def options(server: Server) -> dict[str, Any]:
    return {"api_base": server.api_base, "api_key": "sk-test", "progress": False}


@pytest.mark.parametrize("kind", COLUMNS)
@pytest.mark.parametrize("chats", [CHATS, PARTS], ids=["text", "parts"])
def test_chats_of_tables_are_sent_as_they_are_meant(
    server: Server, options: dict[str, Any], tmp_path: Path, kind: str, chats: list[Any]
) -> None:
    """Arrays, Series and structs are lists and dicts; their null fields are not sent, nor are missing parameters."""
    results = llmbatch.create_chat_completions_batch(COLUMNS[kind](tmp_path / "chats.parquet", chats), MODEL, **options)
    assert [row.get("error") for row in results] == [None] * len(chats)
    sent = sorted((request.json["messages"] for request in server.requests), key=len, reverse=True)
    assert sent == chats
    if kind == "pandas records":
        assert {"seed": 1, "temperature": 0.0}.items() <= server.requests[0].json.items()
        assert "top_p" not in server.requests[0].json


def test_prompts_of_tables_are_prompts(server: Server, options: dict[str, Any]) -> None:
    """Of any column of text; a missing one is an error row that says so."""
    values = ["one", None]
    columns = [
        pd.Series(values), pd.Series(values, dtype="string"), pd.Series(values).to_numpy(), pa.chunked_array([values]),
        pl.Series(values), [np.str_("one"), float("nan")], [{"prompt": "one"}, {"prompt": pd.NA}], ["one", pd.NaT],
    ]  # fmt: skip
    for column in columns:
        rows = llmbatch.create_chat_completions_batch(column, MODEL, **options)
        assert rows.texts == [answer_to("one"), None]
        assert rows[1]["error"] == "InvalidRow: prompt is missing", type(column)
    rows = llmbatch.create_embeddings_batch(pd.Series(values), "openai/text-embedding-3-small", **options)
    assert [row.get("error") for row in rows] == [None, "InvalidRow: text is missing"]
    rows = llmbatch.create_embeddings_batch(pa.array(["one"]), "openai/text-embedding-3-small", **options)
    assert not rows.failed


TABLES: dict[str, Any] = {
    "pandas DataFrame": pd.DataFrame({"prompt": ["one"], "label": ["a"]}),
    "polars DataFrame": pl.DataFrame({"prompt": ["one"]}),
    "polars LazyFrame": pl.LazyFrame({"prompt": ["one"]}),
    "pyarrow Table": pa.table({"prompt": ["one"]}),
    "pyarrow RecordBatch": pa.record_batch({"prompt": ["one"]}),
}


@pytest.mark.parametrize("kind", TABLES)
def test_table_in_place_of_list_raises(server: Server, options: dict[str, Any], kind: str) -> None:
    """Before anything is sent, and for each function that takes a list."""
    for run, name in (
        (llmbatch.create_chat_completions_batch, "complete_frame"),
        (llmbatch.as_completed, "complete_frame"),
        (llmbatch.submit_batch_job, "complete_frame"),
        (llmbatch.create_embeddings_batch, "one of its columns"),
    ):
        with pytest.raises(TypeError, match=rf"not a {kind}\. .*{name}"):
            run(TABLES[kind], MODEL, **options)  # type: ignore[operator]
    for offline in (llmbatch.estimate_batch, llmbatch.render_batch_requests):
        with pytest.raises(TypeError, match=f"not a {kind}"):
            offline(TABLES[kind], MODEL)
    assert not server.requests


def test_dataset_is_a_list_if_it_has_prompts(server: Server, options: dict[str, Any]) -> None:
    """Its rows are requests then; without prompts, and as a DatasetDict, it raises."""
    datasets = pytest.importorskip("datasets")
    prompts = datasets.Dataset.from_dict({"prompt": ["one"], "seed": [3]})
    assert llmbatch.create_chat_completions_batch(prompts, MODEL, **options).texts == [answer_to("one")]
    assert server.requests[0].json["seed"] == 3
    for column in (prompts["prompt"], prompts.with_format("numpy")["prompt"], prompts.with_format("arrow")["prompt"]):
        assert llmbatch.create_chat_completions_batch(column, MODEL, **options).texts == [answer_to("one")]
    with pytest.raises(TypeError, match="not a datasets Dataset"):
        llmbatch.create_chat_completions_batch(datasets.Dataset.from_dict({"text": ["one"]}), MODEL, **options)
    with pytest.raises(TypeError, match="must be a list, not DatasetDict"):
        llmbatch.create_chat_completions_batch(datasets.DatasetDict(train=prompts), MODEL, **options)


def test_single_completion_takes_what_a_list_takes(server: Server, options: dict[str, Any]) -> None:
    """A prompt, a dict with parameters, a conversation of a table; what is wrong with it raises ValueError."""
    for request in ("hi", {"prompt": "hi", "seed": 3}, pa.array([[{"role": "user", "content": "hi"}]])[0]):
        row = llmbatch.create_chat_completion(request, MODEL, **options)  # type: ignore[arg-type]
        assert row["choices"][0]["message"]["content"] == answer_to("hi")
    assert [request.json.get("seed") for request in server.requests] == [None, 3, None]
    for wrong, why in ((None, "prompt is missing"), ({}, "exactly one of"), ({"prompt": "a", "seeds": 1}, "seed=")):
        with pytest.raises(ValueError, match=why):
            llmbatch.create_chat_completion(wrong, MODEL, **options)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="max_workers= is for lists"):
        llmbatch.create_chat_completion("hi", MODEL, max_workers=3, **options)


def test_nulls_with_a_meaning_stay() -> None:
    """The content of a message with tool calls, and what a tool is called with."""
    call = {"id": "1", "type": "function", "function": {"name": "f", "arguments": '{"a": null}'}, "index": None}
    (message,) = checked_messages(
        [{"role": "assistant", "content": None, "tool_calls": np.array([call]), "name": None}]
    )
    kept = {name: value for name, value in call.items() if name != "index"}
    assert message == {"role": "assistant", "content": None, "tool_calls": [kept]}
    part = {"type": "tool_use", "id": "1", "name": "f", "input": {"a": None}}
    (message,) = checked_messages([{"role": "assistant", "content": [part]}])
    assert message["content"] == [part]
    with pytest.raises(ValueError, match=r"message 0 \(user\) has no content"):
        checked_messages([{"role": "user", "content": float("nan")}])


def test_plain_values_are_pythons_own() -> None:
    """Scalars and arrays of numpy and Arrow, nested in each other."""
    value = {"a": np.float32(1.5), "b": np.array([[1, 2]]), "c": pa.scalar([1, None]), "d": (pl.Series([1]), "x")}
    assert plain(value) == {"a": 1.5, "b": [[1, 2]], "c": [1, None], "d": [[1], "x"]}
    assert type(plain(np.int64(3))) is int
    assert [is_missing(item) for item in (None, float("nan"), pd.NA, pd.NaT, 0, "", [])] == [True] * 4 + [False] * 3
