"""Tables of any make: columns of answers for a table, and results as tables and files."""

from __future__ import annotations

import csv
import json
import sys
from datetime import UTC, date, datetime, time
from decimal import Decimal
from enum import Enum
from typing import TYPE_CHECKING, Any
from uuid import UUID

import pytest
from pydantic import BaseModel
from pydantic_core import to_jsonable_python

from llmbatch import create_chat_completions_batch, create_embeddings_batch
from llmbatch._output.jsonl import row_from_line
from llmbatch._rows.row import answer_row
from llmbatch.integrations.frames import complete_column, complete_frame, conversations
from llmbatch.integrations.ray import Completions
from llmbatch.results import BatchResults
from tests.replies import said
from tests.server import Request, Response, Server, answer_to, vector_for

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pd = pytest.importorskip("pandas")
pl = pytest.importorskip("polars")
pa = pytest.importorskip("pyarrow")
pytest.importorskip("narwhals")

ROWS = {"city": ["Rome", "Oslo", "Lima"], "nights": [2, 3, 4], "price": [10.5, 20.25, 30.0]}
COLUMNS = {pd.DataFrame: pd.Series, pl.DataFrame: pl.Series, pa.table: pa.ChunkedArray}


class Mood(Enum):
    """A type that no table has."""

    GOOD = "good"


class Stay(BaseModel):
    """Fields of every kind of column."""

    nights: int
    tags: list[str] = ["a", "b"]
    place: dict[str, int] = {"x": 1}
    mixed: int | str = 1
    price: Decimal = Decimal("1.50")
    mood: Mood = Mood.GOOD


class City(BaseModel):
    """Another shape in the same batch."""

    city: str


@pytest.fixture
def options(place: dict[str, Any]) -> dict[str, Any]:
    return {**place, "model": "openai/test-model", "progress": False}


@pytest.fixture(params=COLUMNS, ids=["pandas", "polars", "pyarrow"])
def make(request: pytest.FixtureRequest) -> Any:
    return request.param


def test_columns_and_frames_are_of_the_tables_make(server: Server, options: dict[str, Any], make: Any) -> None:
    """As many rows, in order; failed ones are missing, with a warning; the table is not changed."""
    server.handler = lambda request: Response(400) if "Oslo" in request.text else None
    table = make(ROWS)
    prompts = [f"{price:.1f}: {city}" for city, price in zip(ROWS["city"], ROWS["price"], strict=True)]
    expected = [answer_to(prompts[0]), None, answer_to(prompts[2])]
    with pytest.warns(UserWarning, match="1 of 3 rows failed"):
        column = complete_column(table, "{price:.1f}: {city}", retries=0, **options)
    assert isinstance(column, COLUMNS[make])
    assert [answer if isinstance(answer, str) else None for answer in pd.Series(column)] == expected
    made = complete_frame(table, "{price:.1f}: {city}", retries=0, **options)
    assert type(made) is type(table)
    assert list(getattr(made, "column_names", None) or made.columns)[:2] == ["custom_id", "text"]
    assert list(getattr(table, "column_names", None) or table.columns) == list(ROWS)


def test_what_a_template_cannot_be_filled_with_is_refused(server: Server, options: dict[str, Any], make: Any) -> None:
    """Nulls and NaN are missing values in every make, and are named by their rows; so are unknown columns."""
    table = make({"text": ["x", None, "z"], "price": [1.0, 2.0, float("nan")]})
    for template, message in (
        ("{text}", "column 'text', rows 1. Drop these rows"),
        ("{price} {text}", "column 'price', rows 2; column 'text', rows 1"),
        ("{txt}", "no column 'txt'. The table has 'text', 'price'"),
    ):
        with pytest.raises(ValueError, match=message):
            complete_frame(table, template, **options)
    assert not server.requests


@pytest.mark.parametrize("what", [pl.LazyFrame(ROWS), ROWS, [1]])
def test_what_is_no_table_in_memory_is_misuse(options: dict[str, Any], what: Any) -> None:
    """Lazy frames, which would be computed unasked, included."""
    with pytest.raises(TypeError, match=r"is not an in-memory table. Give a DataFrame .*\.collect\(\)"):
        complete_column(what, "{city}", **options)


def test_results_are_tables_and_files(server: Server, options: dict[str, Any], tmp_path: Path) -> None:
    """Polars, Arrow, Parquet, CSV and JSONL hold the same rows; types that a table has not are JSON."""

    def answer(request: Request) -> Response:
        nights = int(request.text)
        return said("no JSON" if nights == 1 else json.dumps({"nights": nights, "mixed": "x" if nights == 2 else 3}))

    server.handler = answer
    chats = [[{"role": "user", "content": str(nights)}] for nights in range(4)]
    results = create_chat_completions_batch(chats, response_format=Stay, **options)
    frame, table = results.to_pandas(), results.to_arrow()
    assert table.column_names == list(frame.columns)
    shown = table.select(["nights", "tags", "place", "mixed", "price", "mood", "total_tokens", "cost"]).to_pylist()
    assert shown[0] == {"nights": 0, "tags": ["a", "b"], "place": {"x": 1}, "mixed": "3", "price": Decimal("1.50"),
                        "mood": "good", "total_tokens": results[0]["usage"]["total_tokens"], "cost": None}  # fmt: skip
    assert shown[1]["nights"] is None
    assert shown[2]["mixed"] == "x"
    assert table["custom_id"].to_pylist() == [row["custom_id"] for row in results]

    polars = results.to_polars()
    assert isinstance(polars, pl.DataFrame)
    assert polars.select("nights", "text", "elapsed").rows() == [
        (None if "error" in row else at, text or "no JSON", row["elapsed"])
        for at, (row, text) in enumerate(zip(results, results.texts, strict=True))
    ]

    paths = {kind: tmp_path / f"out.{kind}" for kind in ("parquet", "csv", "jsonl")}
    for kind, path in paths.items():
        getattr(results, f"to_{kind}")(path)
    assert pd.read_parquet(paths["parquet"])["nights"].tolist()[::2] == [0, 2]
    with paths["csv"].open(encoding="utf-8", newline="") as file:
        read = list(csv.DictReader(file))
    assert [line["nights"] for line in read] == ["0", "", "2", "3"]
    assert json.loads(read[0]["tags"]) == ["a", "b"]
    assert read[1]["error"] == results[1]["error"]
    rows = [row_from_line(json.loads(line)) for line in paths["jsonl"].read_text().splitlines()]
    assert [row["choices"] for row in rows] == [row["choices"] for row in results]
    assert [row["elapsed"] for row in rows] == [row["elapsed"] for row in results]
    assert {path.name for path in tmp_path.iterdir()} == {path.name for path in paths.values()}


class Dataset:
    """Stands for one of Hugging Face: sized, iterated by rows, no Sequence."""

    def __init__(self, rows: list[dict[str, Any]]) -> None:
        self._rows = rows

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, at: int) -> dict[str, Any]:
        return self._rows[at]

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return iter(self._rows)


def test_a_dataset_is_a_list_of_requests(options: dict[str, Any]) -> None:
    """Its rows' messages are asked, keys that Arrow filled with None included; its metadata come back as columns."""
    messages = [[{"role": "user", "content": text, "tool_calls": None}] for text in ("one", "two")]
    rows = [{"messages": asked, "metadata": {"label": at}} for at, asked in enumerate(messages)]
    results = create_chat_completions_batch(Dataset(rows), **options)
    assert results.to_arrow().select(["text", "label"]).to_pylist() == [
        {"text": answer_to("one"), "label": 0}, {"text": answer_to("two"), "label": 1}
    ]  # fmt: skip


def test_fields_of_requests_with_formats_of_their_own_are_columns(server: Server, options: dict[str, Any]) -> None:
    """Each row's are read by its own; where a row has no such field, it is missing."""
    server.handler = lambda request: said('{"nights": 2}' if request.text == "stay" else '{"city": "Rome"}')
    requests = [{"prompt": "stay", "response_format": Stay}, {"prompt": "city", "response_format": City}, "plain"]
    table = create_chat_completions_batch(requests, **options).to_arrow()
    assert table.select(["nights", "city"]).to_pylist() == [
        {"nights": 2, "city": None}, {"nights": None, "city": "Rome"}, {"nights": None, "city": None}
    ]  # fmt: skip


def test_vectors_and_empty_batches_are_tables_too(options: dict[str, Any], tmp_path: Path) -> None:
    """A refused text has no vector; no rows make no columns of another type."""
    results = create_embeddings_batch(["one", "", "two"], **options)
    assert results.to_polars()["embedding"].to_list() == [vector_for("one"), None, vector_for("two")]
    results.to_csv(tmp_path / "vectors.csv")
    assert json.loads(pd.read_csv(tmp_path / "vectors.csv")["embedding"][0]) == vector_for("one")
    full = create_chat_completions_batch([[{"role": "user", "content": "x"}]], **options).to_arrow()
    assert BatchResults([]).to_arrow().schema == full.schema
    assert len(complete_frame(pl.DataFrame({"text": []}, schema={"text": pl.String}), "{text}", **options)) == 0


@pytest.mark.parametrize("package", ["narwhals", "polars", "pyarrow"])
def test_what_is_not_installed_is_named_with_its_extra(monkeypatch: pytest.MonkeyPatch, package: str) -> None:
    """Everything else works without it."""
    monkeypatch.setitem(sys.modules, package, None)
    calls = {"narwhals": lambda: complete_column(ROWS, "{city}"), "polars": BatchResults([]).to_polars,
             "pyarrow": BatchResults([]).to_arrow}  # fmt: skip
    with pytest.raises(ImportError, match=r"llmbatch\[(frames|polars)\]"):
        calls[package]()


def test_template_list_column_fills_whole_list(server: Server, options: dict[str, Any], tmp_path: Path) -> None:
    """Lists, arrays and Series are lists in the prompt, however long; a missing list is named as missing."""
    numbers = {"name": ["a", "b"], "tags": [list(range(1500)), [7]], "nested": [{"x": [1]}, {"x": [2]}]}
    pd.DataFrame(numbers).to_parquet(tmp_path / "rows.parquet")
    for table in (pd.read_parquet(tmp_path / "rows.parquet"), pl.DataFrame(numbers), pa.table(numbers)):
        made = conversations(table, "{name}: {tags} {nested}")
        assert made[0][0]["content"] == f"a: {list(range(1500))} {{'x': [1]}}"
    with pytest.raises(ValueError, match="column 'tags', rows 1"):
        conversations(pl.DataFrame({"tags": [["x", "y"], None]}), "{tags}")
    Completions("{tags}", **options)(pd.read_parquet(tmp_path / "rows.parquet"))
    assert {request.text for request in server.requests} == {str(list(range(1500))), "[7]"}


@pytest.mark.parametrize(
    "values",
    [
        [{}, {}],
        [{"deep": {}}, {"deep": {}}],
        [[{}], [{}]],
        [datetime(2024, 1, 1, 10), datetime(2024, 1, 1, 10, tzinfo=UTC)],  # noqa: DTZ001 - models write both
        [datetime(2024, 1, 1, 10, tzinfo=UTC), datetime(2024, 1, 1, 10)],  # noqa: DTZ001 - likewise
        [time(10), time(10, tzinfo=UTC)],
        [date(2024, 1, 1), datetime(2024, 1, 1, 10)],  # noqa: DTZ001 - likewise
        [UUID(int=1), UUID(int=2)],
        [Decimal("1." + "1" * 50), Decimal(2)],
        [2**60 + 1, 0.5],
    ],
    ids=str,
)
def test_table_value_without_common_type_is_text(values: list[Any], tmp_path: Path) -> None:
    """No table format changes it or fails: it is JSON, in Arrow, Parquet and polars alike."""
    rows = [answer_row({"choices": []}, custom_id=str(at), cost=None) for at in range(2)]
    for row, value in zip(rows, values, strict=True):
        row["metadata"] = {"value": value}
    results = BatchResults(rows)
    expected = [_text(value) for value in values]
    results.to_parquet(tmp_path / "out.parquet")
    for found in (results.to_arrow()["value"].to_pylist(), results.to_polars()["value"].to_list(),
                  pl.read_parquet(tmp_path / "out.parquet")["value"].to_list()):  # fmt: skip
        assert [text.replace(" ", "") for text in found] == [text.replace(" ", "") for text in expected]


def _text(value: Any) -> str:
    plain = to_jsonable_python(value)
    return plain if isinstance(plain, str) else json.dumps(plain)
