"""DataFrames: results as a frame, and columns of answers for a frame."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Any

import pytest
from pydantic import BaseModel

from llmbatch import create_chat_completions_batch, create_embeddings_batch
from llmbatch.integrations.pandas import complete_column, complete_frame, results_frame
from llmbatch.results import BatchResults
from tests.replies import said
from tests.server import Request, Response, Server, answer_to, vector_for

if TYPE_CHECKING:
    from pathlib import Path

pd = pytest.importorskip("pandas")

OWN = ["custom_id", "text", "error", "finish_reason", "model", "prompt_tokens", "completion_tokens", "total_tokens",
       "cost", "attempts", "elapsed", "waited"]  # fmt: skip


class Person(BaseModel):
    """What the scripted answers hold; `model` is also the name of a column."""

    name: str
    age: int
    tags: list[str] = []
    model: str = "human"


@pytest.fixture
def options(place: dict[str, Any]) -> dict[str, Any]:
    return {**place, "model": "openai/test-model", "progress": False}


def chats(*texts: str) -> list[list[dict[str, str]]]:
    return [[{"role": "user", "content": text}] for text in texts]


def test_results_become_a_frame_with_a_row_for_each_request(server: Server, options: dict[str, Any]) -> None:
    """Order, failures, tokens and cost are kept; what is unknown is missing, never 0 or an empty text."""
    server.handler = lambda request: Response(400) if request.text == "bad" else None
    results = create_chat_completions_batch(chats("one", "bad", "two"), retries=0, **options)
    frame = results.to_pandas()
    assert list(frame.columns) == OWN
    assert frame["text"].isna().tolist() == [False, True, False]
    assert frame["text"][2] == answer_to("two")
    assert frame["error"].isna().tolist() == [True, False, True]
    assert frame["error"][1].startswith("BadRequestError: ")
    assert frame["custom_id"].tolist() == [row["custom_id"] for row in results]
    assert frame["total_tokens"].sum() == results.usage["total_tokens"]
    assert frame["cost"].isna().tolist() == [True, False, True], "no known price, and one that was refused for free"
    assert frame["attempts"].tolist() == [1, 1, 1]
    assert frame["finish_reason"].tolist()[::2] == ["stop", "stop"]
    assert frame["finish_reason"].isna().tolist() == [False, True, False]
    assert frame["elapsed"].tolist() == [row["elapsed"] for row in results]
    assert frame["waited"].tolist() == [row["waited"] for row in results]


def test_parsed_fields_are_columns(server: Server, options: dict[str, Any]) -> None:
    """A pydantic model's fields are columns of their own types next to failed rows; a taken name is prefixed."""

    def answer(request: Request) -> Response:
        return said("no JSON" if request.text == "bad" else json.dumps({"name": request.text, "age": 7}))

    server.handler = answer
    frame = create_chat_completions_batch(chats("Ann", "bad", "Bob"), response_format=Person, **options).to_pandas()
    assert list(frame.columns) == ["custom_id", "text", "name", "age", "tags", "parsed_model", *OWN[2:]]
    assert frame["age"].tolist()[::2] == [7, 7]
    assert frame["age"].dtype == "Int64"
    assert frame["age"].isna().tolist() == [False, True, False]
    assert frame["name"].tolist()[::2] == ["Ann", "Bob"]
    assert frame["tags"].tolist()[0] == []
    assert frame["parsed_model"][0] == "human"
    assert frame["error"][1].startswith("ValidationError: ")


def test_embeddings_are_a_column_of_vectors(options: dict[str, Any]) -> None:
    """Each text has its vector; a refused one has none."""
    frame = create_embeddings_batch(["one", "", "two"], **options).to_pandas()
    assert frame["embedding"].tolist() == [vector_for("one"), None, vector_for("two")]
    assert "text" not in frame.columns
    assert frame["error"].isna().tolist() == [True, False, True]


def test_an_empty_batch_has_the_same_columns_and_types(options: dict[str, Any]) -> None:
    """Frames of any length can be put together."""
    empty, full = (
        results_frame(BatchResults([])),
        create_chat_completions_batch(chats("x"), **options).to_pandas(),
    )
    assert len(empty) == 0
    assert empty.dtypes.to_dict() == full.dtypes.to_dict()


def test_a_column_of_answers_keeps_the_index(server: Server, options: dict[str, Any]) -> None:
    """The template is filled from the columns, whatever their names, and the answers align with the frame's index."""
    frame = pd.DataFrame({"a text": ["x", "y"], "n": [1.5, 2.25]}, index=["second", "first"])
    frame["answer"] = complete_column(frame, "{n:.1f}: {a text} {{}}", system="Be brief.", **options)
    assert frame["answer"].to_dict() == {"second": answer_to("1.5: x {}"), "first": answer_to("2.2: y {}")}
    assert server.requests[0].json["messages"][0] == {"role": "system", "content": "Be brief."}


def test_failed_rows_are_missing_with_a_warning(server: Server, options: dict[str, Any]) -> None:
    """A failure loses no other answer, and is not silent."""
    server.handler = lambda request: Response(400) if request.text == "b" else None
    frame = pd.DataFrame({"text": ["a", "b"]})
    with pytest.warns(UserWarning, match="1 of 2 rows failed and have no answer.*complete_frame"):
        column = complete_column(frame, "{text}", retries=0, **options)
    assert column.isna().tolist() == [False, True]
    joined = frame.join(complete_frame(frame, "{text}", retries=0, **options)[["error", "attempts"]])
    assert joined["error"].isna().tolist() == [True, False]


def test_a_frame_of_answers_has_the_frames_index(options: dict[str, Any]) -> None:
    """It can be joined to the frame it was made from, duplicate labels included."""
    frame = pd.DataFrame({"text": ["a", "b", "c"]}, index=[5, 5, 1])
    made = complete_frame(frame, "{text}", **options)
    assert made.index.tolist() == [5, 5, 1]
    assert made["text"].tolist() == [answer_to(text) for text in "abc"]
    assert len(complete_frame(frame.iloc[:0], "{text}", **options)) == 0


def test_a_function_of_a_row_gives_its_request(server: Server, options: dict[str, Any]) -> None:
    """With a model and parameters from the table; its metadata are columns."""
    frame = pd.DataFrame({"q": ["a", "b"], "model": ["openai/one", "openai/two"], "seed": [1, 2]}, index=[7, 8])

    def asked(row: Any) -> dict[str, Any]:
        return {"prompt": row["q"], "model": row["model"], "seed": row["seed"], "metadata": {"half": row["seed"] / 2}}

    assert complete_column(frame, asked, **options).tolist() == [answer_to("a"), answer_to("b")]
    assert {(r.text, r.json["model"], r.json["seed"]) for r in server.requests} == {("a", "one", 1), ("b", "two", 2)}
    assert complete_frame(frame, asked, **options)["half"].to_dict() == {7: 0.5, 8: 1.0}
    server.reset()
    assert complete_column(frame, asked, system="Be brief.", **options).tolist() == [answer_to("a"), answer_to("b")]
    assert all(r.json["messages"][0] == {"role": "system", "content": "Be brief."} for r in server.requests)


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("{txt}", r"no column 'txt'. The table has 'text', 'note'"),
        ("{text} {note}", r"missing values in column 'note', rows b, c.*dropna"),
        ("no columns", "must name its columns"),
        ("{}", "must name its columns"),
        ("{text", "not well formed"),
        ('{"a": 1} {text}', r"{{ and }} for braces"),
        ("{}", r"{{ and }} for braces"),
    ],
)
def test_a_template_that_does_not_fit_is_refused_before_sending(
    server: Server, options: dict[str, Any], template: str, message: str
) -> None:
    """Unknown columns and missing values are named with their rows."""
    frame = pd.DataFrame({"text": ["x", "y", "z"], "note": ["n", None, float("nan")]}, index=["a", "b", "c"])
    with pytest.raises(ValueError, match=message):
        complete_column(frame, template, **options)
    assert not server.requests


def test_many_missing_values_are_counted(options: dict[str, Any]) -> None:
    """A long list of rows is cut."""
    with pytest.raises(ValueError, match="rows 0, 1, 2, 3, 4 and 95 more"):
        complete_column(pd.DataFrame({"text": [None] * 100}), "{text}", **options)


def test_a_rerun_takes_answers_from_the_checkpoint(server: Server, options: dict[str, Any], tmp_path: Path) -> None:
    """The options of batches work as everywhere: a longer frame sends only its new rows."""
    path = tmp_path / "answers.jsonl"
    complete_column(pd.DataFrame({"text": ["a", "b"]}), "{text}", checkpoint=path, **options)
    server.reset()
    column = complete_column(pd.DataFrame({"text": ["a", "b", "c"]}), "{text}", checkpoint=path, **options)
    assert column.tolist() == [answer_to(text) for text in "abc"]
    assert [request.text for request in server.requests] == ["c"]


def test_without_pandas_the_error_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    """Everything else of llmbatch works without pandas."""
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(ImportError, match=r"llmbatch\[pandas\]"):
        BatchResults([]).to_pandas()
