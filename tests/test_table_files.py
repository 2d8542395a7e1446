"""`complete_table` on files: what is written, what is kept as it is, and how a run resumes."""

from __future__ import annotations

import asyncio
import csv
import gzip
import json
import signal
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from pydantic import BaseModel

import llmbatch
from llmbatch import acomplete_table, complete_table
from tests.replies import said
from tests.server import Response, Server, answer_to
from tests.talk import lines, until

if TYPE_CHECKING:
    from tests.warm import Warm

pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")

COLUMNS = {"code": ["007", "8", None], "text": ['a "b", c\nd', "é", "x"], "n": [1, None, 3]}


class Stars(BaseModel):
    """Two typed fields."""

    stars: int
    good: bool


@pytest.fixture
def options(place: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    monkeypatch.chdir(tmp_path)
    return {**place, "model": "openai/test-model", "progress": False, "retries": 0}


def written(name: str, columns: dict[str, list[Any]]) -> Path:
    """A file of these columns, of the kind that its name says."""
    path, rows = Path(name), list(zip(*columns.values(), strict=True))
    if ".parquet" in name:
        pq.write_table(pa.table(columns), path)
    elif ".jsonl" in name:
        path.write_text("".join(json.dumps(dict(zip(columns, row, strict=True))) + "\n" for row in rows))
    else:
        with path.open("w", encoding="utf-8-sig", newline="") as file:
            csv.writer(file, delimiter="\t" if ".tsv" in name else ",").writerows([list(columns), *rows])
    if name.endswith(".gz"):
        path.write_bytes(gzip.compress(path.read_bytes()))
    return path


def read(path: Path) -> list[dict[str, Any]]:
    """The rows of a file."""
    data = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    if ".parquet" in path.name:
        return pq.read_table(pa.BufferReader(data)).to_pylist()  # type: ignore[no-any-return]
    if ".jsonl" in path.name:
        return [json.loads(line) for line in data.splitlines()]
    delimiter = "\t" if ".tsv" in path.name else ","
    return list(csv.DictReader(data.decode().splitlines(keepends=True), delimiter=delimiter))


def names(folder: str = ".") -> list[str]:
    """The names of the files in a folder."""
    return sorted(path.name for path in Path(folder).iterdir())


@pytest.mark.parametrize("source", ["in.csv", "in.tsv", "in.jsonl", "in.parquet", "in.csv.gz", "in.parquet.gz"])
def test_complete_table_file_keeps_columns_in_every_format(
    server: Server, options: dict[str, Any], source: str
) -> None:
    """Text stays as it is written, numbers are typed where the format has types; order is the input's."""
    written(source, COLUMNS)
    server.handler = lambda _: said('{"stars": 4, "good": true}')
    for name in ("out.csv", "out.tsv.gz", "out.jsonl.gz", "out.parquet"):
        done = complete_table(source, "{text}", output=name, response_format=Stars, details=["asks"], **options)
        assert (done.rows, done.skipped, done.failed) == (3, 0, 0)
        rows = read(Path(done))
        assert list(rows[0]) == ["code", "text", "n", "stars", "good", "asks"]
        assert [row["text"] for row in rows] == COLUMNS["text"]
        assert [row["code"] or None for row in rows] == COLUMNS["code"]
        assert [int(row["stars"]) for row in rows] == [4, 4, 4]
    schema = pq.read_schema("out.parquet")
    assert [str(schema.field(name).type) for name in ("code", "n", "stars", "good")] == [
        "string", "int64", "int64", "bool",
    ]  # fmt: skip


def test_complete_table_parquet_types_and_metadata_are_kept(options: dict[str, Any]) -> None:
    """Types that only Arrow has, dictionaries, times, Decimals, structs, and pandas' index."""
    pd = pytest.importorskip("pandas")
    frame = pd.DataFrame(
        {"text": ["a", "b"], "kind": pd.Categorical(["x", "y"]), "at": [datetime(2024, 1, 1, tzinfo=UTC)] * 2,
         "price": [Decimal("1.50"), None], "parts": [[{"a": 1}], []]},
        index=pd.Index(["r1", "r2"], name="key"),
    )  # fmt: skip
    frame.to_parquet("in.parquet")
    complete_table("in.parquet", "{text} {kind} {at} {parts}", output="out.parquet", **options)
    before, after = pq.read_schema("in.parquet"), pq.read_schema("out.parquet")
    assert list(after)[:-1] == list(before)
    assert after.metadata == before.metadata
    made = pd.read_parquet("out.parquet")
    pd.testing.assert_frame_equal(made.drop(columns="answer"), pd.read_parquet("in.parquet"))
    assert made["answer"].iloc[1] == answer_to("b y 2024-01-01 00:00:00+00:00 []")


def test_complete_table_jsonl_objects_of_any_shape_are_rows(options: dict[str, Any]) -> None:
    """Keys that some lines have, nested values, and a column whose values have no common type."""
    rows = [{"text": "a", "tags": ["x"], "odd": 1}, {"text": "b", "more": {"k": 1}, "odd": "y", "none": None}]
    Path("in.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    complete_table("in.jsonl", "{text}", output="out.jsonl", **options)
    assert read(Path("out.jsonl")) == [{**row, "answer": answer_to(str(row["text"]))} for row in rows]
    complete_table("in.jsonl", "{text}", output="out.parquet", **options)
    made = pq.read_table("out.parquet").to_pylist()
    assert made[0] == {"text": "a", "tags": ["x"], "odd": "1", "more": None, "none": None, "answer": answer_to("a")}
    assert (made[1]["odd"], made[1]["more"]) == ("y", {"k": 1})


def test_complete_table_rerun_sends_only_failed_rows(server: Server, options: dict[str, Any]) -> None:
    """The checkpoint is next to the output; answers are kept, failed rows are sent again, the file is written anew."""
    written("in.csv", {"text": ["a", "bad", ""]})
    server.handler = lambda request: Response(400) if "bad" in request.text else None
    with pytest.warns(UserWarning, match="rows with missing values were not sent: 1 of 3"):
        done = complete_table("in.csv", "{text}", output="out/deep.csv", details=["error"], **options)
    assert (done.failed, done.skipped, "1 BadRequestError (row 1)" in done.summary()) == (1, 1, True)
    assert len(lines(Path("out/deep.csv.jsonl"))) == 2
    server.reset()
    server.handler = None
    with pytest.warns(UserWarning, match="1 of 3"):
        done = complete_table("in.csv", "{text}", output="out/deep.csv", details=["error"], **options)
    assert [request.text for request in server.requests] == ["bad"]
    assert [row["answer"] for row in read(done.path)] == [answer_to("a"), answer_to("bad"), ""]
    assert names("out") == ["deep.csv", "deep.csv.jsonl"]


def test_complete_table_frame_with_output_is_written_and_returned(options: dict[str, Any]) -> None:
    """A table in memory is kept in a file too, with its checkpoint; rows that a function needs are read from it."""
    table = pa.table({"text": ["a", "b"], "n": [1, 2]})
    made = complete_table(table, "{text}", output="out.parquet", **options)
    assert pq.read_table("out.parquet").to_pylist() == made.to_pylist()
    done = complete_table("out.parquet", lambda row: row["text"] + str(row["n"]), output="more.csv", **options)
    assert [row["answer_2"] for row in read(done.path)] == [answer_to("a1"), answer_to("b2")]
    dry = complete_table("out.parquet", "{text}", output="dry.csv", dry_run=True, **options)
    assert isinstance(dry, llmbatch.DryRun)
    assert names() == ["more.csv", "more.csv.jsonl", "out.parquet", "out.parquet.jsonl"]


def test_acomplete_table_reads_images_row_by_row(server: Server, options: dict[str, Any]) -> None:
    """From a file, awaited; a path in a cell is read, one that is not there fails alone."""
    Path("a.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    written("in.csv", {"text": ["a", "b", "c"], "image": ["a.png", "nowhere.png", ""]})
    with pytest.warns(UserWarning, match=r"1 of 3 \('image': 1\)"):
        done = asyncio.run(
            acomplete_table("in.csv", "{text}", output="out.jsonl", images="image", details=["error"], **options)
        )
    assert [(row["answer"], row["error"]) for row in read(done.path)] == [
        (answer_to("a"), None), (None, "InvalidRow: column 'image': No such file or directory"), (None, None),
    ]  # fmt: skip
    assert server.requests[0].json["messages"][0]["content"][1]["type"] == "image_url"
    assert repr(done).startswith("<CompletedFile 'out.jsonl': 1/2 rows succeeded")
    assert done.cost is None


def test_complete_table_deadline_leaves_late_rows_as_errors(server: Server, options: dict[str, Any]) -> None:
    """Rows that were not reached are failed rows in their place."""
    server.set(latency=30)
    written("in.csv", {"text": ["", *map(str, range(40))]})
    with pytest.warns(UserWarning, match="1 of 41"):
        done = complete_table(
            "in.csv", "{text}", output="out.csv", details=["error"], deadline=0.3, max_workers=4, **options
        )
    errors = [row["error"].partition(":")[0] for row in read(done.path)]
    assert errors == ["", *["DeadlineExceeded"] * 40]


def test_complete_table_of_odd_files_says_what_is_wrong(server: Server, options: dict[str, Any]) -> None:
    """Before anything is sent or written, with the file's name."""
    written("in.csv", {"text": ["a"]})
    Path("mine.csv").write_text("precious")
    Path("latin.csv").write_bytes(b"text\n\xe9\n")
    Path("twice.csv").write_text("text,a,a\nx,1,2\n")
    Path("list.jsonl").write_text("[1]\n")
    written("none.csv", {"text": ["a", ""]})
    for source, output, more, message in (
        ("in.csv", "out.xlsx", {}, r"out.xlsx is not a table by its name. Give it one of these suffixes.*\.tsv"),
        ("in.txt", "out.csv", {}, "in.txt is not a table by its name"),
        ("in.csv", "in.csv", {}, "the same file"),
        ("in.csv", "mine.csv", {}, "mine.csv already exists, and has no checkpoint mine.csv.jsonl"),
        ("twice.csv", "out.csv", {}, "twice.csv has several columns 'a'"),
        ("latin.csv", "out.csv", {}, "latin.csv is not CSV in UTF-8"),
        ("list.jsonl", "out.csv", {}, "line 1 of list.jsonl is not a JSON object"),
        ("none.csv", "out.csv", {"missing": "error"}, r"'text' has a missing value \(row 1\)"),
    ):
        with pytest.raises(ValueError, match=message):
            complete_table(source, "{text}", output=output, **more, **options)
    with pytest.raises(FileNotFoundError):
        complete_table("nowhere.csv", "{text}", output="out.csv", **options)
    assert not server.requests
    assert Path("mine.csv").read_text() == "precious"
    assert not Path("out.csv").exists()


RUN = """
import sys
from llmbatch import complete_table
complete_table("in.parquet", "{text}", output="out.parquet", model="openai/m", api_base=sys.argv[1], api_key="k",
               max_workers=4, progress=False)
"""


@pytest.mark.processes
def test_complete_table_killed_runs_resume(
    warm: Warm, server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After `kill -9` there is no half a file, no row in the checkpoint is sent again, and the table is complete."""
    monkeypatch.chdir(tmp_path)
    server.set(latency=0.02)
    texts, kills, out = [f"text {at}" for at in range(120)], 2, Path("out.parquet.jsonl")
    written("in.parquet", {"text": texts})
    for turn in range(kills):
        with warm.script(RUN, server.api_base) as process:
            goal = (turn + 1) * 30
            until(process, lambda: out.exists() and out.read_bytes().count(b"\n") >= goal)  # noqa: B023 - at once
            process.send_signal(signal.SIGKILL)
        assert not Path("out.parquet").exists()
    Path("out.parquet.999999999-1.tmp").write_bytes(b"a killed run's")
    with warm.script(RUN, server.api_base) as process:
        assert process.wait() == 0
    assert pq.read_table("out.parquet")["answer"].to_pylist() == list(map(answer_to, texts))
    assert len(server.requests) <= len(texts) + kills * 4
    assert names() == ["in.parquet", "out.parquet", "out.parquet.jsonl"]


def test_output_as_its_own_checkpoint_raises(server: Server, place: dict[str, Any], tmp_path: Path) -> None:
    """The completed table would replace the checkpoint, and a rerun would find neither."""
    source, output = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    source.write_text('{"q": "a"}\n')
    with pytest.raises(ValueError, match="output and checkpoint are the same file"):
        complete_table(source, "{q}", "openai/m", output=output, checkpoint=tmp_path / "." / "out.jsonl", **place)
    assert not server.requests
