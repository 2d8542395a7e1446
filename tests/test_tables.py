"""`complete_table` on tables in memory: the same kind of table, with typed columns of answers."""

from __future__ import annotations

import asyncio
import json
import warnings
from datetime import UTC, date, datetime
from decimal import Decimal
from enum import Enum
from typing import TYPE_CHECKING, Any
from uuid import UUID

import pytest
from pydantic import BaseModel, RootModel

import llmbatch
from llmbatch import acomplete_table, complete_table
from tests.replies import said
from tests.server import Response, Server, answer_to

if TYPE_CHECKING:
    from pathlib import Path

np = pytest.importorskip("numpy")
pd = pytest.importorskip("pandas")
pl = pytest.importorskip("polars")
pa = pytest.importorskip("pyarrow")
pytest.importorskip("narwhals")

PNG = b"\x89PNG\r\n\x1a\n"


def records(columns: dict[str, list[Any]]) -> list[dict[str, Any]]:
    return [dict(zip(columns, cells, strict=True)) for cells in zip(*columns.values(), strict=True)]


def dataset(columns: dict[str, list[Any]]) -> Any:
    return pytest.importorskip("datasets").Dataset.from_dict(columns)


def relation(columns: dict[str, list[Any]]) -> Any:
    cells = pa.table(columns)  # noqa: F841 - DuckDB finds it by its name
    return pytest.importorskip("duckdb").sql("SELECT * FROM cells")


# How to make each kind of table, and how to look at one: as an Arrow table.
KINDS: dict[str, tuple[Any, Any]] = {
    "pandas": (pd.DataFrame, pa.Table.from_pandas),
    "polars": (pl.DataFrame, lambda table: table.to_arrow()),
    "polars lazy": (lambda columns: pl.DataFrame(columns).lazy(), lambda table: table.collect().to_arrow()),
    "arrow": (pa.table, lambda table: table),
    "arrow batch": (pa.RecordBatch.from_pydict, lambda table: pa.Table.from_batches([table])),
    "dict of columns": (dict, pa.table),
    "list of dicts": (records, pa.Table.from_pylist),
    "datasets": (dataset, lambda table: table.data.table.combine_chunks()),
    "duckdb": (relation, lambda table: table.to_arrow_table()),
}


class Mood(Enum):
    """Names of moods."""

    GOOD = "good"
    BAD = "bad"


class Author(BaseModel):
    """A nested class."""

    name: str
    age: int | None = None


class Review(BaseModel):
    """A field for each kind of column."""

    positive: bool
    stars: int | None
    score: float
    mood: Mood
    reason: str
    tags: list[str]
    author: Author
    seen: datetime
    day: date
    price: Decimal
    free: dict[str, int]


REVIEW = {
    "positive": True, "stars": 4, "score": 1, "mood": "good", "reason": "It says so.", "tags": ["a", "b"],
    "author": {"name": "Ann"}, "seen": "2024-01-01T10:00:00Z", "day": "2024-02-03", "price": "1.50", "free": {"x": 1},
}  # fmt: skip
TYPES = {
    "positive": "bool", "stars": "int64", "score": "double", "mood": "string", "reason": "string",
    "tags": "list<item: string>", "author": "struct<name: string, age: int64>", "seen": "timestamp[us, tz=UTC]",
    "day": "date32[day]", "price": "decimal128(38, 2)", "free": "string",
}  # fmt: skip


@pytest.fixture
def options(place: dict[str, Any]) -> dict[str, Any]:
    return {**place, "model": "openai/test-model", "progress": False, "retries": 0}


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> tuple[Any, Any]:
    return KINDS[request.param]


def test_complete_table_any_kind_keeps_columns_and_adds_typed_ones(
    server: Server, options: dict[str, Any], kind: tuple[Any, Any]
) -> None:
    """The same kind, in order; a missing value is not sent, a failed row has no answer; taken names get a number."""
    make, as_arrow = kind
    server.handler = lambda request: Response(400) if "bad" in request.text else said(json.dumps(REVIEW))
    table = make({"text": ["good", "bad", None, "fine"], "stars": [1, 2, 3, 4]})
    with pytest.warns(UserWarning, match=r"not sent: 1 of 4 \('text': 1\)"):
        done = complete_table(table, "{text}", response_format=Review, details=["error", "cost", "asks"], **options)
    assert type(done) is type(table)
    assert sorted(request.text for request in server.requests) == ["bad", "fine", "good"]
    shown = as_arrow(done)
    given = as_arrow(table)
    assert shown.select(["text", "stars"]).to_pylist() == given.to_pylist()
    assert [shown.schema.field(name).type for name in given.schema.names] == list(given.schema.types)
    added = [name if name != "stars" else "stars_2" for name in TYPES]
    assert shown.column_names[2:] == [*added, "error", "cost", "asks"]
    rows = shown.to_pylist()
    assert [row["stars_2"] for row in rows] == [4, None, None, 4]
    assert [row["price"] for row in rows] == [Decimal("1.50"), None, None, Decimal("1.50")]
    assert rows[0]["tags"] == ["a", "b"]
    assert rows[0]["author"]["name"] == "Ann"
    assert rows[0]["seen"] == datetime(2024, 1, 1, 10, tzinfo=UTC)
    assert json.loads(rows[0]["free"]) == {"x": 1}
    assert [bool(row["error"]) for row in rows] == [False, True, False, False]
    assert [row["asks"] for row in rows] == [1, 1, None, 1]


def test_complete_table_types_do_not_depend_on_the_rows(server: Server, options: dict[str, Any]) -> None:
    """No row, failed rows and answered rows have the same types in every kind of table."""
    server.handler = lambda request: Response(400) if "bad" in request.text else said(json.dumps(REVIEW))
    for texts in ([], ["bad"], ["good", "bad"]):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            arrow = complete_table(
                pa.table({"text": pa.array(texts, "string")}), "{text}", response_format=Review, **options
            )
            frame = complete_table(
                pd.DataFrame({"text": texts}, dtype="object"), "{text}", response_format=Review, **options
            )
        kinds = {field.name: str(field.type) for field in arrow.schema if field.name not in {"text", "seen", "price"}}
        assert kinds == {name: kind for name, kind in TYPES.items() if name not in {"seen", "price"}}
        assert str(arrow.schema.field("seen").type).startswith("timestamp[us")
        assert str(arrow.schema.field("price").type).startswith("decimal128")
        assert [str(frame[name].dtype) for name in ("positive", "stars", "score", "reason", "tags")] == [
            "boolean", "Int64", "float64", "string", "object",
        ]  # fmt: skip


def test_complete_table_free_text_and_one_value_are_a_column_answer(server: Server, options: dict[str, Any]) -> None:
    """Without a class the text, with a RootModel its value, with a JSON schema its fields."""
    table = {"text": ["one"]}
    assert complete_table(table, "{text}", **options)["answer"] == [answer_to("one")]
    server.handler = lambda request: said("[1, 2]" if request.text == "list" else '{"n": 3, "s": "x", "answer": "y"}')
    assert complete_table({"text": ["list"]}, "{text}", response_format=RootModel[list[int]], **options)["answer"] == [
        [1, 2]
    ]
    schema = {"type": "object", "properties": {"n": {"type": "integer"}, "s": {"type": ["string", "null"]}}}
    form = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
    made = complete_table(pa.table(table), "{text}", response_format=form, **options)
    assert [str(made.schema.field(name).type) for name in ("n", "s")] == ["int64", "string"]
    assert made.to_pylist() == [{"text": "one", "n": 3, "s": "x"}]
    made = complete_table(table, "{text}", response_format={"type": "json_object"}, **options)
    assert json.loads(made["answer"][0])["n"] == 3


def test_complete_table_value_that_does_not_fit_makes_the_column_text(server: Server, options: dict[str, Any]) -> None:
    """No answer is lost or changed: of mixed zones, huge numbers, and a server that ignores the schema."""

    class Moment(BaseModel):
        at: datetime
        n: int

    answers = [{"at": "2024-01-01T10:00:00", "n": 1}, {"at": "2024-01-01T10:00:00+05:00", "n": 2**70}]
    server.handler = lambda request: said(json.dumps(answers[int(request.text)]))
    made = complete_table(pa.table({"i": [0, 1]}), "{i}", response_format=Moment, **options)
    assert made["at"].to_pylist() == [answer["at"] for answer in answers]
    assert made["n"].to_pylist() == ["1", str(2**70)]
    form = {"type": "json_schema", "json_schema": {"name": "x", "schema": {"properties": {"n": {"type": "integer"}}}}}
    answers[0]["n"] = "four"
    made = complete_table(pa.table({"i": [0]}), "{i}", response_format=form, **options)
    assert made["n"].to_pylist() == ["four"]


INDEX = {
    "duplicates": pd.Index([7, 7, 7]),
    "names": pd.Index(list("cab"), name="key"),
    "levels": pd.MultiIndex.from_tuples([("a", 1), ("a", 1), ("b", 2)], names=["x", "y"]),
    "times": pd.date_range("2024-01-01", periods=3, tz="Europe/Rome"),
}


@pytest.mark.parametrize("index", INDEX.values(), ids=INDEX)
def test_complete_table_pandas_index_and_types_are_kept(options: dict[str, Any], index: Any) -> None:
    """Whatever they are: categories, nullable and Arrow types, times with zones, Decimals, UUIDs, lists, structs."""
    frame = pd.DataFrame({
        "category": pd.Categorical(["x", "y", "x"]),
        "nullable": pd.array([1, None, 3], dtype="Int64"),
        "arrow": pd.array(["a", "b", None], dtype=pd.ArrowDtype(pa.string())),
        "zoned": pd.date_range("2024-01-01", periods=3, tz="UTC"),
        "plain": pd.date_range("2024-01-01", periods=3),
        "decimal": [Decimal("1.10"), Decimal("NaN"), Decimal(3)],
        "uuid": [UUID(int=at) for at in range(3)],
        "list": [[1, 2], [3], []],
        "struct": [{"a": 1}, {"a": 2}, {"a": 3}],
    }).set_index(index)  # fmt: skip
    before = frame.copy(deep=True)
    template = " ".join(f"{{{name}}}" for name in frame.columns if name not in {"nullable", "arrow", "decimal"})
    done = complete_table(frame, template, **options)
    pd.testing.assert_frame_equal(done.drop(columns="answer"), before)
    pd.testing.assert_frame_equal(frame, before)
    first = f"x 2024-01-01 00:00:00+00:00 2024-01-01 00:00:00 {UUID(int=0)} [1, 2] {{'a': 1}}"
    assert done["answer"].iloc[0] == answer_to(first)
    for name, missing in (("nullable", 1), ("arrow", 2), ("decimal", 1)):
        with pytest.warns(UserWarning, match=rf"1 of 3 \('{name}': 1\)"):
            done = complete_table(frame, f"{{{name}}}", **options)
        assert done["answer"].isna().tolist() == [at == missing for at in range(3)]


def test_complete_table_wide_and_odd_columns_are_kept(server: Server, options: dict[str, Any]) -> None:
    """A thousand columns, names that are numbers or tuples, and names twice."""
    wide = pd.DataFrame([list(range(1000))] * 2)
    done = complete_table(wide, "{7} {999}", **options)
    assert list(done.columns) == [*range(1000), "answer"]
    levels = pd.DataFrame([[1, 2]], columns=pd.MultiIndex.from_tuples([("a", "x"), ("a", "y")]))
    assert list(complete_table(levels, "{a.y}", **options).columns) == [("a", "x"), ("a", "y"), ("answer", "")]
    assert {request.text for request in server.requests} == {"7 999", "2"}
    with pytest.warns(UserWarning, match="1 of 2"):
        made = complete_table({"n": np.array([1.5, np.nan], dtype="float32")}, "{n}", **options)
    assert made["answer"] == [answer_to("1.5"), None]
    twice = pd.DataFrame([[1, 2, 3]], columns=["a", "a", "b"])
    assert complete_table(twice, "{b}", **options)["answer"].tolist() == [answer_to("3")]
    with pytest.raises(ValueError, match="several columns 'a'"):
        complete_table(twice, "{a}", **options)
    empty = complete_table(pd.DataFrame({"text": []}), "{text}", **options)
    assert (list(empty.columns), len(empty)) == (["text", "answer"], 0)


def test_complete_table_template_names_fields_of_structs(options: dict[str, Any], kind: tuple[Any, Any]) -> None:
    """By a dot, in every kind of table; a field without a value is missing."""
    make, as_arrow = kind
    authors = [{"name": "Ann", "home": {"city": "Rome"}}, {"name": None, "home": {"city": "Oslo"}}]
    with pytest.warns(UserWarning, match=r"1 of 2 \('author.name': 1\)"):
        done = complete_table(make({"author": authors}), "{author.name} of {author.home.city}", **options)
    assert as_arrow(done)["answer"].to_pylist() == [answer_to("Ann of Rome"), None]


def test_complete_table_function_of_a_row_makes_any_request(server: Server, options: dict[str, Any]) -> None:
    """Chats that are arrays of structs, dicts with parameters, and None for a row that is left out."""
    chat = [{"role": "system", "content": "Brief.", "name": None}, {"role": "user", "content": "hi", "name": "ann"}]
    for make in (pd.DataFrame, pl.DataFrame, pa.table, dataset):
        server.reset()
        complete_table(make({"chat": [chat]}), lambda row: row["chat"], **options)
        assert server.requests[0].json["messages"] == [{"role": "system", "content": "Brief."}, chat[1]]
    table = {"text": ["a", "b"]}
    with pytest.warns(UserWarning, match="not sent: 1 of 2"):
        made = complete_table(table, lambda row: None if row["text"] == "a" else {"prompt": "x", "seed": 3}, **options)
    assert made["answer"] == [None, answer_to("x")]
    assert server.requests[-1].json["seed"] == 3


def test_complete_table_images_are_parts_of_the_prompt(server: Server, options: dict[str, Any], tmp_path: Path) -> None:
    """Paths, URLs, bytes, lists of them and a Dataset's; one that is not there fails alone."""
    (tmp_path / "a.png").write_bytes(PNG)
    url = "https://example.com/b.png"
    table = {"text": list("abcde"), "image": [str(tmp_path / "a.png"), url, PNG, [url, url], "nowhere.png"]}
    made = complete_table(table, "{text}?", images="image", details=["error"], **options)
    assert [bool(error) for error in made["error"]] == [False] * 4 + [True]
    assert "'image': No such file" in made["error"][4]
    sent = {r.json["messages"][0]["content"][0]["text"]: r.json["messages"][0]["content"][1:] for r in server.requests}
    urls = {text: [part["image_url"]["url"] for part in parts] for text, parts in sent.items()}
    data = "data:image/png;base64,iVBORw0KGgo="
    assert urls == {"a?": [data], "b?": [url], "c?": [data], "d?": [url, url]}


def test_complete_table_options_are_those_of_a_batch(server: Server, options: dict[str, Any], tmp_path: Path) -> None:
    """System message, checkpoint, ids, and the index in the table for `on_result`; a dry run sends nothing."""
    table = {"text": ["a", None, "c"]}
    seen: list[int] = []
    more: dict[str, Any] = {
        "system": "Brief.", "checkpoint": tmp_path / "run.jsonl", "custom_ids": ["x", "y", "z"],
        "on_result": lambda index, _: seen.append(index), "details": ["custom_id"],
    }  # fmt: skip
    with pytest.warns(UserWarning, match="1 of 3"):
        made = complete_table(table, "{text}", **more, **options)
    assert made["custom_id"] == ["x", None, "z"]
    assert sorted(seen) == [0, 2]
    assert {request.json["messages"][0]["content"] for request in server.requests} == {"Brief."}
    server.reset()
    with pytest.warns(UserWarning, match="1 of 3"):
        assert asyncio.run(acomplete_table(table, "{text}", **more, **options)) == made
    dry = complete_table({"text": ["a"]}, "{text}", dry_run=True, **options)
    assert isinstance(dry, llmbatch.DryRun)
    assert not server.requests


def test_complete_table_failed_rows_are_reported_once(server: Server, options: dict[str, Any]) -> None:
    """By a warning with their places in the table, unless a column has their errors."""
    server.handler = lambda request: Response(400) if "bad" in request.text else None
    with pytest.warns(UserWarning, match="rows") as told:
        complete_table({"text": [None, "good", "bad"]}, "{text}", **options)
    assert [str(warning.message)[:40] for warning in told] == [
        "rows with missing values were not sent: ", "1 of 3 rows failed: 1 BadRequestError (r",
    ]  # fmt: skip
    assert "(row 2)" in str(told[1].message)
    assert told[0].filename == __file__


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (({"text": ["a"]}, "{txt}", {}), "no column 'txt'. The table has 'text'"),
        (({"text": ["a", None]}, "{text}", {"missing": "error"}), r"column 'text' has a missing value \(row 1\)"),
        (({"text": ["a"]}, "{text}", {"missing": "drop"}), "'skip' or 'error', not 'drop'"),
        (({"text": ["a"]}, "{text}", {"images": "image"}), "no column 'image'"),
        (({"text": ["a"]}, "{text}", {"details": ["price"]}), "details has 'price'. Pass a list of these names: error"),
        (({"text": ["a"]}, "{text}", {"details": "error"}), "details has 'error'. Pass a list"),
        (({"text": ["a"]}, "{text:.2f}", {}), "the template does not fit row 0: "),
        (({"text": ["a"]}, "no column", {}), "must name its columns"),
        (({"text": ["a"], "n": [1, 2]}, "{text}", {}), "differ in length"),
        (({"text": ["a"]}, "{text}", {"custom_ids": []}), "custom_ids has 0 ids"),
        (({"text": ["a", "b"]}, "{text}", {"custom_ids": ["x", "x"]}), "duplicate custom_id 'x'"),
        (({"text": ["a"]}, "{text}", {"outptu": "x.csv"}), "outptu.*Did you mean output"),
        (("reviews.csv", "{text}", {}), "a file needs an output"),
    ],
)
def test_complete_table_misuse_raises_before_anything_is_sent(
    server: Server, options: dict[str, Any], given: tuple[Any, str, dict[str, Any]], message: str
) -> None:
    """The message says what is wrong and how to fix it."""
    table, template, more = given
    with pytest.raises(ValueError, match=message):
        complete_table(table, template, **more, **options)
    assert not server.requests


@pytest.mark.parametrize("what", [7, None, ["a", "b"], pl.Series(["a"])])
def test_complete_table_of_no_table_says_what_to_pass(options: dict[str, Any], what: Any) -> None:
    """A TypeError with the kinds of tables."""
    with pytest.raises(TypeError, match="Pass a DataFrame of pandas or polars"):
        complete_table(what, "{text}", **options)


def test_complete_table_works_inside_a_partition(options: dict[str, Any]) -> None:
    """Dask's `map_partitions` and the `map` of a Dataset call it as it is."""
    frame = pd.DataFrame({"text": list("abcd")})
    dask = pytest.importorskip("dask.dataframe").from_pandas(frame, npartitions=2)
    meta = frame.assign(answer=pd.Series(dtype="string"))
    done = dask.map_partitions(complete_table, "{text}", meta=meta, **options).compute(scheduler="threads")
    assert done["answer"].tolist() == [answer_to(text) for text in "abcd"]
    rows = dataset({"text": list("abcd")})
    done = rows.map(lambda part: complete_table(part, "{text}", **options), batched=True, batch_size=2)
    assert done["answer"][:] == [answer_to(text) for text in "abcd"]
