"""`llmbatch run`: a file of prompts in, a file of answers out."""

from __future__ import annotations

import csv
import gzip
import itertools
import json
import os
import pty
import shlex
import signal
import subprocess
import sys
import termios
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
import pytest
from click.testing import CliRunner

import llmbatch
from llmbatch.cli import main
from llmbatch.cli._read_input import Input
from tests.replies import said
from tests.server import Response, Server, answer_to
from tests.talk import lines, until

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.warm import Forked, Warm

MODEL = "openai/test-model"
START = "from llmbatch.cli import main; main()"


def write(path: Path, rows: list[Any]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def text_of(line: dict[str, Any]) -> str:
    return line["response"]["body"]["choices"][0]["message"]["content"]


def batch_line(custom_id: str, text: str, **params: Any) -> dict[str, Any]:
    body = {"model": "test-model", "messages": [{"role": "user", "content": text}], **params}
    return {"custom_id": custom_id, "method": "POST", "url": "/v1/chat/completions", "body": body}


class Shell:
    """Runs `llmbatch run` on files of one directory against one server, in this process or in one of its own."""

    def __init__(self, server: Server, directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.server, self.directory, self.out = server, directory, directory / "out.jsonl"
        monkeypatch.setenv("OPENAI_API_KEY", "sk-test")
        monkeypatch.chdir(directory)

    def arguments(self, source: str | Path, *options: str) -> list[str]:
        where = [] if "--api-base" in options else ["--api-base", self.server.api_base]
        model = [] if "-m" in options else ["-m", MODEL]
        return ["run", str(source), "-o", str(self.out), *where, *model, *options]

    def run(self, source: str | Path, *options: str, given: str | None = None) -> Any:
        return CliRunner().invoke(main, self.arguments(source, *options), input=given)

    def start(self, warm: Warm, source: str | Path, *options: str) -> Forked:
        return warm.script(START, *self.arguments(source, *options))


@pytest.fixture
def shell(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Shell:
    return Shell(server, tmp_path, monkeypatch)


def test_batch_lines_are_answered_under_their_ids_in_order(shell: Shell) -> None:
    """OUT has the input's ids in the input's order, in OpenAI's batch output shape."""
    rows = [batch_line(f"id-{i}", f"question {i}", temperature=0) for i in range(30)]
    done = shell.run(write(shell.directory / "in.jsonl", rows))
    assert done.exit_code == 0, done.output
    out = lines(shell.out)
    assert [line["custom_id"] for line in out] == [f"id-{i}" for i in range(30)]
    assert [text_of(line) for line in out] == [answer_to(f"question {i}") for i in range(30)]
    assert all(line["response"]["status_code"] == 200 and line["error"] is None for line in out)


def test_each_batch_line_is_sent_with_its_own_parameters(shell: Shell, server: Server) -> None:
    """A line's parameters go out as they are, no default is added, and the command line wins over them."""
    rows = [
        batch_line("a", "one", temperature=0, top_p=0.5),
        batch_line("b", "two", max_tokens=7),
        batch_line("c", "three", temperature=0, top_p=0.5),
        batch_line("d", "four", guided_choice=["yes", "no"]),
    ]
    source = write(shell.directory / "in.jsonl", rows)
    assert shell.run(source).exit_code == 0
    sent = {request.text: request.json for request in server.requests}
    for row in rows:
        assert sent[row["body"]["messages"][0]["content"]] == row["body"]
    assert [line["custom_id"] for line in lines(shell.out)] == ["a", "b", "c", "d"]
    server.reset()
    assert shell.run(source, "-t", "1", "-m", "openai/other").exit_code == 0
    assert {(r.json["temperature"], r.json["model"]) for r in server.requests} == {(1.0, "other")}
    assert {r.text: r.json.get("max_tokens") for r in server.requests}["two"] == 7


def test_a_data_file_cannot_redirect_requests(shell: Shell, server: Server, provider: Callable[..., Server]) -> None:
    """Addresses, keys and llmbatch's own options in a line are data for the server, never options."""
    elsewhere = provider()
    row = batch_line("a", "hello", api_base=elsewhere.api_base, api_key="sk-other", fallbacks=["gpt-4o"], retries=0)
    assert shell.run(write(shell.directory / "in.jsonl", [row])).exit_code == 0
    assert not elsewhere.requests
    (request,) = server.requests
    assert request.headers["authorization"] == "Bearer sk-test"


@pytest.mark.parametrize(
    "row", [{"messages": [{"role": "user", "content": "hi"}], "label": 1}, {"prompt": "hi"}, "hi",
            [{"role": "user", "content": "hi"}]]
)  # fmt: skip
def test_lines_may_be_messages_prompts_or_strings(shell: Shell, server: Server, row: Any) -> None:
    """Every plain form is one user message with the Python API's defaults; --system goes before it."""
    done = shell.run(write(shell.directory / "in.jsonl", [row]), "--system", "Be brief.")
    assert done.exit_code == 0, done.output
    (request,) = server.requests
    assert request.json == {
        "model": "test-model",
        "messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "hi"}],
        "temperature": 0.3,
        "max_tokens": 200,
    }


def test_lines_of_differing_parameters_go_out_together(shell: Shell, server: Server) -> None:
    """One fan-out, deadline and budget over all lines: error lines stay, no line waits for another."""
    server.handler = lambda request: Response(400) if "bad" in request.text else None
    server.set(latency=0.05)
    rows = [batch_line(f"id-{i}", f"{'bad' if i % 5 == 0 else 'good'} {i}", seed=i) for i in range(20)]
    done = shell.run(write(shell.directory / "in.jsonl", rows), "--retries", "0")
    assert done.exit_code == 1
    assert [(line["custom_id"], bool(line["error"])) for line in lines(shell.out)] == [
        (f"id-{i}", i % 5 == 0) for i in range(20)
    ]
    assert server.stats.peak_in_flight > 1
    assert {request.json["seed"] for request in server.requests} == set(range(20))
    server.handler, shell.out = None, shell.directory / "late.jsonl"
    server.set(latency=30)
    done = shell.run(write(shell.directory / "in.jsonl", rows[1:5]), "--deadline", "1")
    assert json.loads(done.stdout)["errors"] == {"DeadlineExceeded": 4}
    assert json.loads(done.stdout)["seconds"] < 10


def test_a_line_says_its_own_parameters_and_metadata(shell: Shell, server: Server) -> None:
    """Beside a prompt or messages they stand before the command line; metadata comes back in OUT and is not sent."""
    rows = [
        {"id": "a", "prompt": "one", "model": "openai/other", "temperature": 0, "metadata": {"topic": "x"}},
        {"id": "b", "prompt": "two", "api_base": "http://127.0.0.1:9", "api_key": "sk-other", "retries": 3, "label": 1},
        {"id": "c", "prompt": "three", "temperature": None},
        {"id": "d", "prompt": "four", "temperature": "hot"},
        batch_line("e", "five") | {"metadata": [1, 2]},
    ]
    done = shell.run(write(shell.directory / "in.jsonl", rows), "--max-tokens", "9")
    assert done.exit_code == 1, done.output
    sent = {request.text: {k: v for k, v in request.json.items() if k != "messages"} for request in server.requests}
    assert sent == {
        "one": {"model": "other", "temperature": 0, "max_tokens": 9},
        "two": {"model": "test-model", "temperature": 0.3, "max_tokens": 9},
        "three": {"model": "test-model", "temperature": 0.3, "max_tokens": 9},
        "five": {"model": "test-model", "max_tokens": 9},
    }
    out = lines(shell.out)
    assert [line["custom_id"] for line in out] == list("abcde")
    assert [line["llmbatch"].get("metadata") for line in out] == [{"topic": "x"}, None, None, None, [1, 2]]
    assert "temperature must be a number" in out[3]["error"]["message"]


def test_csv_with_a_template_reports_empty_cells_in_their_place(shell: Shell, server: Server) -> None:
    """A row without a value is an error line in its place, the others are answered, and the exit code is 1."""
    source = shell.directory / "in.csv"
    with source.open("w", newline="") as file:
        csv.writer(file).writerows(
            [["id", "my text", "n"], ["x", 'Hello, "you"\nthere', 3], ["y", "", 4], ["z", "Bye", 5]]
        )
    done = shell.run(source, "--template", "{n:>3} {{{my text}}}")
    assert done.exit_code == 1
    out = lines(shell.out)
    assert [line["custom_id"] for line in out] == ["x", "y", "z"]
    assert out[1]["error"] == {"code": "InvalidRow", "message": "InvalidRow: column 'my text' has no value"}
    assert {request.text for request in server.requests} == {'  3 {Hello, "you"\nthere}', "  5 {Bye}"}
    assert json.loads(done.stdout)["errors"] == {"InvalidRow": 1}


def test_a_table_as_pandas_writes_it_is_read(shell: Shell, server: Server) -> None:
    """`df.to_csv()` has its index in a column without a name; a row with too many cells is still refused."""
    source = shell.directory / "in.csv"
    source.write_text(",text\n0,good\n1,bad\n")
    assert shell.run(source, "--column", "text").exit_code == 0
    assert {request.text for request in server.requests} == {"good", "bad"}
    source.write_text("a,text\n0,good,more\n")
    refused = shell.run(source, "--column", "text")
    assert (refused.exit_code, "as many cells" in refused.stderr) == (2, True)


def test_parquet_and_piped_csv_give_a_column_to_ask_with(shell: Shell, server: Server) -> None:
    """--column takes a column as it is; --id-column names the ids; --format says what a pipe holds."""
    pandas = pytest.importorskip("pandas")
    source = shell.directory / "in.parquet"
    pandas.DataFrame({"key": [10, 11], "q": ["one", "two"]}).to_parquet(source)
    assert shell.run(source, "--column", "q", "--id-column", "key").exit_code == 0
    assert [line["custom_id"] for line in lines(shell.out)] == ["10", "11"]
    shell.out.unlink()
    assert shell.run("-", "--format", "csv", "--column", "q", given="key,q\n7,seven\n").exit_code == 0
    assert server.requests[-1].text == "seven"


def test_rows_without_ids_keep_their_order(shell: Shell) -> None:
    """Without ids in the input, line n of OUT answers row n of IN."""
    source = write(shell.directory / "in.jsonl", [{"prompt": f"q{i % 7}"} for i in range(20)])
    assert shell.run(source).exit_code == 0
    out = lines(shell.out)
    assert [text_of(line) for line in out] == [answer_to(f"q{i % 7}") for i in range(20)]
    assert len({line["custom_id"] for line in out}) == 20


def test_a_rerun_sends_only_what_failed(shell: Shell, server: Server) -> None:
    """Exit code 1 leaves OUT complete, with the error; the same command then sends that row alone."""
    server.handler = lambda request: Response(400) if request.text == "q3" else None
    source = write(shell.directory / "in.jsonl", [{"id": i, "prompt": f"q{i}"} for i in range(6)])
    first = shell.run(source, "--retries", "0")
    assert first.exit_code == 1
    assert [bool(line["error"]) for line in lines(shell.out)] == [False, False, False, True, False, False]
    server.handler = None
    server.reset()
    second = shell.run(source, "--retries", "0")
    assert second.exit_code == 0
    assert [request.text for request in server.requests] == ["q3"]
    assert [line["custom_id"] for line in lines(shell.out)] == [str(i) for i in range(6)]
    assert json.loads(second.stdout)["answered_before"] == 5


def test_a_changed_input_is_sent_again_and_paid_answers_are_kept(shell: Shell, server: Server) -> None:
    """An edited row is asked anew, a moved row is not, and answers to rows that are gone go to OUT.old."""
    source = shell.directory / "in.jsonl"
    write(source, [{"id": "a", "prompt": "one"}, {"id": "b", "prompt": "two"}, {"id": "c", "prompt": "three"}])
    assert shell.run(source).exit_code == 0
    server.reset()
    write(source, [{"id": "b", "prompt": "two"}, {"id": "a", "prompt": "one, edited"}, {"id": "d", "prompt": "three"}])
    done = shell.run(source)
    assert done.exit_code == 0
    assert [request.text for request in server.requests] == ["one, edited"]
    assert [(line["custom_id"], text_of(line)) for line in lines(shell.out)] == [
        ("b", answer_to("two")), ("a", answer_to("one, edited")), ("d", answer_to("three")),
    ]  # fmt: skip
    assert [line["custom_id"] for line in lines(shell.directory / "out.jsonl.old")] == ["a", "c"]


def test_no_error_takes_the_place_of_an_answer(shell: Shell, server: Server) -> None:
    """A rerun that asks anew and fails, with a bad key or an emptied cell, leaves the answers; a good one does not."""
    rows = [{"id": f"r{i}", "prompt": f"q{i}"} for i in range(4)]
    source = write(shell.directory / "in.jsonl", rows)
    assert shell.run(source).exit_code == 0
    paid = shell.out.read_bytes()
    server.handler = lambda request: Response(401)
    done = shell.run(source, "-t", "0.9")
    assert done.exit_code == 1
    assert "4 rows failed now and keep their answers" in done.stderr
    assert shell.out.read_bytes() == paid
    (shell.directory / "in.csv").write_text("id,text\nr0,\n" + "".join(f"r{i},q{i}\n" for i in range(1, 4)))
    assert shell.run(shell.directory / "in.csv", "--column", "text").exit_code == 1
    assert shell.out.read_bytes() == paid
    server.handler = None
    server.reset()
    assert shell.run(source).exit_code == 0
    assert not server.requests
    assert shell.run(source, "-t", "0.9").exit_code == 0
    old = shell.directory / "out.jsonl.old"
    assert len(server.requests) == 4
    assert old.read_bytes() == paid
    assert [line["custom_id"] for line in lines(shell.out)] == ["r0", "r1", "r2", "r3"]
    assert shell.out.read_bytes() != paid


def test_a_pipe_or_a_terminal_as_out_stays_what_it_is(shell: Shell, server: Server) -> None:
    """The rows are written to it in order in the end; nothing takes its place."""
    source = write(shell.directory / "in.jsonl", [{"id": f"r{i}", "prompt": f"q{i}"} for i in range(3)])
    shell.out = shell.directory / "pipe"
    os.mkfifo(shell.out)
    with ThreadPoolExecutor(1) as pool:
        read = pool.submit(shell.out.read_text)
        assert shell.run(source).exit_code == 0
        rows = [json.loads(line) for line in read.result(30).splitlines()]
    assert [row["custom_id"] for row in rows] == ["r0", "r1", "r2"]
    assert shell.out.is_fifo()
    ours, theirs = pty.openpty()
    shell.out = Path(os.ttyname(theirs))
    assert shell.run(source).exit_code == 0
    assert shell.out.is_char_device()
    assert [json.loads(line)["custom_id"] for line in os.read(ours, 1 << 16).splitlines()] == ["r0", "r1", "r2"]
    os.close(ours)
    os.close(theirs)
    assert sorted(path.name for path in shell.directory.iterdir()) == ["in.jsonl", "pipe"]


def test_an_edit_undone_after_a_kill_is_asked_again(shell: Shell, server: Server) -> None:
    """Of two answers under one id only the last one counts, so an old prompt's answer never passes for a new one's."""
    source = write(shell.directory / "in.jsonl", [{"id": "a", "prompt": "one"}])
    assert shell.run(source).exit_code == 0
    first = shell.out.read_text()
    write(source, [{"id": "a", "prompt": "two"}])
    assert shell.run(source).exit_code == 0
    shell.out.write_text(first + shell.out.read_text())  # as a kill before the end leaves it
    write(source, [{"id": "a", "prompt": "one"}])
    assert shell.run(source).exit_code == 0
    assert [text_of(line) for line in lines(shell.out)] == [answer_to("one")]


def test_the_summary_names_what_failed_was_cut_and_was_there_before(shell: Shell, server: Server) -> None:
    """By the rows' numbers in IN, whatever their parameters; a rerun says what it sent beside the file's totals."""
    odd = {"q3": Response(400), "q7": Response(400), "q5": said("half", "length")}
    server.handler = lambda request: odd.get(request.text)
    rows = [batch_line(f"id-{i}", f"q{i}", temperature=i % 2) for i in range(10)]
    source = write(shell.directory / "in.jsonl", rows)
    done = shell.run(source, "-m", "gpt-4o-mini")
    assert done.exit_code == 1, done.output
    told = json.loads(done.stdout)
    (failures,) = told["failures"]
    assert failures == {"type": "BadRequestError", "count": 2, "message": "scripted 400", "rows": [3, 7]}
    assert (told["truncated"], told["resumed"], told["sent"], told["spent"]) == (1, 0, 10, told["cost"])
    times = sorted(line["llmbatch"]["elapsed"] for line in lines(shell.out) if not line["error"])
    assert told["latency"] == {"p50": times[3], "p95": times[7], "p99": times[7], "max": times[7]}
    assert all(line["llmbatch"]["waited"] >= 0 for line in lines(shell.out))
    server.handler = None
    again = json.loads(shell.run(source, "-m", "gpt-4o-mini").stdout)
    assert (again["succeeded"], again["truncated"], again["resumed"], again["sent"]) == (10, 1, 8, 2)
    assert 0 < again["spent"] < again["cost"]
    assert again["failures"] == []


def test_schema_and_parameters_go_out(shell: Shell, server: Server) -> None:
    """--schema becomes a strict response_format, --param any other argument, with JSON values."""
    schema = {"title": "City", "type": "object", "properties": {"name": {"type": "string"}}}
    (shell.directory / "schema.json").write_text(json.dumps(schema))
    source = write(shell.directory / "in.jsonl", [{"prompt": "hi"}])
    server.handler = lambda request: said('{"name": "Rome"}')
    options = [
        "--schema",
        "schema.json",
        "-p",
        "seed=7",
        "-p",
        'stop=["END"]',
        "-p",
        "user=me",
        "-p",
        "temperature=null",
    ]
    assert shell.run(source, *options, "--max-tokens", "9").exit_code == 0
    body = server.requests[0].json
    assert body["response_format"]["json_schema"] == {"name": "City", "schema": schema, "strict": True}
    assert (body["seed"], body["stop"], body["max_tokens"]) == (7, ["END"], 9)
    assert "temperature" not in body


def test_dry_run_shows_payload_and_estimate_and_sends_nothing(shell: Shell, server: Server) -> None:
    """--dry-run prints the first payload as it would be sent and the price of everything; OUT is not made."""
    source = write(shell.directory / "in.jsonl", [{"id": f"r{i}", "prompt": "hello there"} for i in range(3)])
    done = shell.run(source, "-m", "gpt-4o-mini", "--dry-run")
    assert done.exit_code == 0, done.output
    shown = json.loads(done.stdout)
    assert shown["payload"]["custom_id"] == "r0"
    assert shown["payload"]["body"]["messages"] == [{"role": "user", "content": "hello there"}]
    (estimate,) = shown["estimates"]
    assert estimate["rows"] == 3
    assert estimate["live_cost"] > estimate["live_prompt_cost"] > 0
    assert not server.requests
    assert not shell.out.exists()


def test_the_examples_of_the_help_run(shell: Shell, server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """What `llmbatch run --help` shows can be pasted."""
    monkeypatch.setenv("OPENAI_BASE_URL", server.api_base)
    write(shell.directory / "prompts.jsonl", [{"prompt": "hi"}])
    (shell.directory / "reviews.csv").write_text("review\nfine\n")
    shown = CliRunner().invoke(main, ["run", "--help"]).output
    commands = [shlex.split(line)[1:] for line in shown.splitlines() if line.strip().startswith("llmbatch run")]
    assert len(commands) == 4
    for command in commands:
        done = CliRunner().invoke(main, command)
        assert (done.exit_code, json.loads(done.stdout)["succeeded"]) == (0, 1), done.output


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_a_table_is_made_of_the_checkpoint_beside_it(shell: Shell, server: Server, suffix: str) -> None:
    """By its suffix OUT is a table with IN's columns and the answers, in IN's order; a rerun sends only what failed."""
    source = shell.directory / "in.csv"
    source.write_text("text\na\nb\nc\n")
    server.handler = lambda request: Response(400) if request.text == "b" else None
    shell.out = shell.directory / f"out.{suffix}"
    for code, sent in ((1, 3), (1, 1), (0, 1), (0, 0)):
        if code == 0:
            server.handler = None
        server.reset()
        done = shell.run(source, "--column", "text")
        assert (done.exit_code, len(server.requests)) == (code, sent), done.output
        assert "out." + suffix + ".jsonl is the checkpoint" in done.stderr.replace(str(shell.directory), "")
        assert json.loads(done.stdout)["output"] == str(shell.out)
    frame = pd.read_csv(shell.out) if suffix == "csv" else pd.read_parquet(shell.out)
    assert frame["answer"].tolist() == [answer_to(text) for text in "abc"]
    assert list(frame.columns) == ["text", "answer", "error", "cost"]
    assert len(lines(shell.out.with_name(f"{shell.out.name}.jsonl"))) == 3


def test_run_prompts_to_table_writes_the_columns_of_results(shell: Shell) -> None:
    """IN that is no table has no columns to keep: OUT has those of `to_pandas()`."""
    shell.out = shell.directory / "out.parquet"
    assert shell.run(write(shell.directory / "in.jsonl", [{"prompt": "a"}])).exit_code == 0
    columns = list(llmbatch.BatchResults().to_pandas().columns)
    assert list(pd.read_parquet(shell.out).columns) == columns
    shell.out = shell.directory / "out.tsv.gz"
    assert shell.run(shell.directory / "in.jsonl").exit_code == 0
    made = pd.read_csv(shell.out, sep="\t")
    assert (list(made.columns), made["text"].tolist()) == (columns, [answer_to("a")])


def test_run_table_to_table_keeps_columns_and_adds_those_of_the_schema(shell: Shell, server: Server) -> None:
    """From a gzipped TSV to Parquet, with typed columns; --limit and --sample choose rows, the same ones each time."""
    rows = ["code\ttext", *(f"00{at}\tq{at}" for at in range(9)), "009\t"]
    source = shell.directory / "in.tsv.gz"
    source.write_bytes(gzip.compress("\n".join(rows).encode()))
    schema = shell.directory / "city.json"
    schema.write_text(
        json.dumps({"type": "object", "properties": {"n": {"type": "integer"}, "code": {"type": "boolean"}}})
    )
    server.handler = lambda request: said(json.dumps({"n": int(request.text[1:]), "code": True}))
    shell.out = shell.directory / "out.parquet"
    done = shell.run(source, "--column", "text", "--schema", str(schema))
    assert (done.exit_code, json.loads(done.stdout)["errors"]) == (1, {"InvalidRow": 1})
    frame = pd.read_parquet(shell.out)
    assert [str(kind) for kind in frame.dtypes[["n", "cost"]]] == ["float64", "float64"]
    assert list(frame.columns) == ["code", "text", "n", "code_2", "error", "cost"]
    assert frame["code"].tolist() == [f"00{at}" for at in range(10)]
    assert frame["n"].tolist()[:9] == list(range(9))
    assert frame["error"].iloc[9] == "InvalidRow: column 'text' has no value"
    server.reset()
    for choice in ("--limit", "--sample", "--sample"):
        shell.out = shell.directory / f"{choice}.csv"
        done = shell.run(source, "--column", "text", "--schema", str(schema), choice, "3")
        assert len(frame := pd.read_csv(shell.out, dtype=str)) == json.loads(done.stdout)["rows"] == 3
        assert (frame["code"].tolist() == ["000", "001", "002"]) is (choice == "--limit")
    assert len(server.requests) <= 6
    refused = shell.run(source, "--column", "text", "--limit", "1", "--sample", "1")
    assert (refused.exit_code, "exclude each other" in refused.stderr) == (2, True)


def test_run_image_column_is_part_of_the_prompt(shell: Shell, server: Server) -> None:
    """By paths and URLs; a file that is not there is an error in its row."""
    (shell.directory / "a.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    source = shell.directory / "in.csv"
    source.write_text("text,image\nWhat?,a.png\nWhat?,nowhere.png\nWhat?,\n")
    done = shell.run(source, "--column", "text", "--image-column", "image", "--system", "Brief.")
    assert json.loads(done.stdout)["errors"] == {"InvalidRow": 2}
    (request,) = server.requests
    assert request.json["messages"][0]["content"] == "Brief."
    text, image = request.json["messages"][1]["content"]
    assert (text["text"], image["image_url"]["url"][:14]) == ("What?", "data:image/png")


@pytest.mark.parametrize("model", ["openai/m", "gpt-4o-mini", "my-model"])
def test_run_without_a_key_sends_to_a_server_of_ones_own(
    shell: Shell, monkeypatch: pytest.MonkeyPatch, model: str
) -> None:
    """Its address is enough; without one the command says in one line what to set, and writes nothing."""
    monkeypatch.delenv("OPENAI_API_KEY")
    source = write(shell.directory / "in.jsonl", ["a"])
    assert shell.run(source, "-m", model).exit_code == 0
    done = CliRunner().invoke(main, ["run", str(source), "-o", "none.jsonl", "-m", "gpt-4o-mini"])
    assert (done.exit_code, done.stderr.count("\n")) == (2, 1)
    assert "no API key for gpt-4o-mini. Set OPENAI_API_KEY" in done.stderr
    assert not Path("none.jsonl").exists()


def test_a_table_that_is_somebody_elses_is_left_alone(shell: Shell, server: Server) -> None:
    """A file without a checkpoint beside it was made by no run."""
    shell.out = shell.directory / "mine.csv"
    shell.out.write_text("a,b\n")
    done = shell.run(write(shell.directory / "in.jsonl", [{"prompt": "a"}]))
    assert (done.exit_code, len(server.requests)) == (2, 0)
    assert "Give another path" in done.stderr
    assert shell.out.read_text() == "a,b\n"


def test_answers_on_stdout_are_alone_there(shell: Shell, server: Server) -> None:
    """`-o -` prints the lines in IN's order, and all else, that it cannot be resumed included, on stderr."""
    shell.out = "-"
    source = write(shell.directory / "in.jsonl", [{"prompt": text} for text in "abc"])
    done = shell.run(source)
    assert done.exit_code == 0
    assert [text_of(json.loads(line)) for line in done.stdout.splitlines()] == [answer_to(text) for text in "abc"]
    assert "cannot be a checkpoint" in done.stderr
    assert json.loads(done.stderr.splitlines()[-1])["succeeded"] == 3
    assert [path.name for path in shell.directory.iterdir()] == ["in.jsonl"]


def test_what_is_piped_is_utf8_whatever_the_locale(shell: Shell) -> None:
    """As JSON is: payloads, and a summary of a file whose name is in no Latin letters."""
    source = write(shell.directory / "вход.jsonl", ["好 ñ"])
    rendered = CliRunner(charset="ascii").invoke(main, ["render", str(source)])
    assert json.loads(rendered.stdout_bytes)["body"]["messages"][0]["content"] == "好 ñ"
    shell.out = shell.directory / "выход.jsonl"
    done = CliRunner(charset="ascii").invoke(main, shell.arguments(source))
    assert done.exit_code == 0
    assert json.loads(done.stdout_bytes)["output"] == str(shell.out)


@pytest.mark.parametrize("name", ["in.jsonl/out.jsonl", "in.jsonl/out.csv"])
def test_a_path_that_cannot_be_written_is_refused_first(shell: Shell, server: Server, name: str) -> None:
    """Before anything is sent, with the mend."""
    source = write(shell.directory / "in.jsonl", [{"prompt": "a"}])
    shell.out = shell.directory / name
    done = shell.run(source)
    assert (done.exit_code, len(server.requests)) == (2, 0)
    assert "cannot write to" in done.stderr
    assert "Give another path" in done.stderr


def test_the_version_is_told() -> None:
    """`llmbatch --version`."""
    assert CliRunner().invoke(main, ["--version"]).output == f"llmbatch, version {version('llmbatch')}\n"


@pytest.mark.parametrize(
    ("content", "options", "message"),
    [
        ("not json\n", [], "line 1 is not JSON"),
        ("[" * 200_000 + "\n", [], "line 1 is not JSON (nested too deeply)"),
        ('{"text": "x"}\n', [], "--template"),
        ('{"text": "x"}\n', ["--template", "{tex}"], "line 1 has no column 'tex'; it has text"),
        ('{"text": "x"}\n', ["--template", "no columns"], "must name its columns"),
        ('{"text": "x"}\n', ["--template", "{text", "-q"], "not well formed"),
        ('{"text": "x"}\n', ["--template", "{text}", "--column", "text"], "exclude each other"),
        ('{"id": 1, "prompt": "x"}\n{"id": 1, "prompt": "y"}\n', [], "line 2: the id '1' is a duplicate"),
        ('{"id": 1, "prompt": "x"}\n{"prompt": "y"}\n', [], "line 2 has no id"),
        ('{"custom_id": "a", "url": "/v1/embeddings", "body": {"input": "x"}}\n', [], "/v1/embeddings"),
        ('{"prompt": "x"}\n', ["--max-workers", "0"], "max_workers"),
        ('{"prompt": "x"}\n', ["--rpm", "0"], "requests_per_minute"),
        ('{"prompt": "x"}\n', ["-p", "max_worker=3"], "Did you mean max_workers"),
        ('{"prompt": "x"}\n', ["-p", "temprature=1"], "Did you mean temperature"),
        ('{"text": "x"}\n', ["--template", '{"a": 1} {text}'], "{{ and }} for braces"),
        ('{"prompt": "x"}\n', ["-m", "no-such-model-anywhere", "--api-base", ""], "cannot be determined"),
        ('{"prompt": "x"}\n', ["--max-cost", "1"], "max_cost needs a price"),
        ('{"prompt": "x"}\n', ["--no-such-option"], "No such option"),
    ],
)
def test_misuse_exits_2_before_anything_is_sent(
    shell: Shell, server: Server, content: str, options: list[str], message: str
) -> None:
    """Misuse is one line that says what to do, exit code 2, and no request; a bad last line stops the first one too."""
    source = shell.directory / "in.jsonl"
    source.write_text(content)
    done = shell.run(source, *options)
    assert done.exit_code == 2, done.output
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert not server.requests


def test_a_missing_extra_is_one_line(shell: Shell, server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """It names the extra, before anything is sent."""
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    source = write(shell.directory / "in.jsonl", [{"prompt": "x"}])
    shell.out = shell.directory / "out.parquet"
    done = shell.run(source)
    assert (done.exit_code, len(server.requests)) == (2, 0)
    assert "llmbatch[frames]" in done.stderr


def test_out_must_be_a_file_of_answers(shell: Shell, server: Server) -> None:
    """A file that holds something else, the input, and a file in use are refused and left as they are."""
    source = write(shell.directory / "in.jsonl", [{"prompt": "x"}])
    shell.out.write_text("dear diary\n")
    assert "not a batch output line" in shell.run(source).stderr
    assert shell.out.read_text() == "dear diary\n"
    shell.out.write_text("[" * 200_000 + "\n")
    assert "not a batch output line" in shell.run(source).stderr
    shell.out = source
    assert "same file" in shell.run(source).stderr
    assert not server.requests


@pytest.mark.processes
def test_killed_and_rerun_out_has_every_id_once(warm: Warm, shell: Shell, server: Server) -> None:
    """After kill -9 the same command goes on: every id once, and at most what was in flight is sent twice."""
    server.set(latency=0.02)
    count = 400
    source = write(shell.directory / "in.jsonl", [batch_line(f"id-{i}", f"question {i}") for i in range(count)])
    with shell.start(warm, source) as process:
        until(process, lambda: server.stats.ok >= 100)
        process.kill()
    assert process.returncode == -signal.SIGKILL
    done = shell.run(source)
    assert done.exit_code == 0, done.output
    summary = json.loads(done.stdout)
    assert (summary["rows"], summary["succeeded"]) == (count, count)
    assert summary["answered_before"] >= 80
    found = lines(shell.out)
    assert [line["custom_id"] for line in found] == [f"id-{i}" for i in range(count)]
    assert [text_of(line) for line in found] == [answer_to(f"question {i}") for i in range(count)]
    assert server.stats.ok <= count + 20
    assert (done.stderr, done.stdout.count("\n")) == ("", 1), "quiet on a pipe, and one line of JSON"
    assert (summary["cost"], summary["unpriced"]) == (None, count), "unknown, not 0"


@pytest.mark.processes
def test_ctrl_c_exits_130_and_leaves_out_resumable(warm: Warm, shell: Shell, server: Server) -> None:
    """Ctrl-C says how far it got; what was answered is not sent again."""
    server.set(latency=0.05)
    source = write(shell.directory / "in.jsonl", [{"id": i, "prompt": f"q{i}"} for i in range(200)])
    with shell.start(warm, source) as process:
        until(process, lambda: server.stats.ok >= 40)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate()
    assert process.returncode == 130
    assert err.startswith("Interrupted: ")
    assert "the same command resumes" in err
    kept = {line["custom_id"] for line in lines(shell.out)}
    assert len(kept) >= 30
    server.reset()
    done = shell.run(source)
    assert done.exit_code == 0
    assert not kept & {request.text[1:] for request in server.requests}
    assert len(lines(shell.out)) == 200


@pytest.mark.processes
def test_interrupted_csv_run_prints_no_traceback(warm: Warm, shell: Shell, server: Server) -> None:
    """The reader of the file, which waits in a thread of its own, ends quietly too."""
    server.set(latency=0.05)
    source = shell.directory / "in.csv"
    source.write_text("text\n" + "".join(f"q{i}\n" for i in range(200)))
    with shell.start(warm, source, "--column", "text") as process:
        until(process, lambda: server.stats.ok >= 20)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate()
    assert process.returncode == 130
    assert err.count("\n") == 1
    assert err.startswith("Interrupted: ")


@pytest.mark.processes
@pytest.mark.parametrize("closed", [">&-", "<&-", ">&- <&-"])
def test_closed_standard_streams_are_no_error(shell: Shell, closed: str) -> None:
    """As cron and daemons close them: the rows are answered, and the exit code says so."""
    source = write(shell.directory / "in.jsonl", [{"prompt": f"q{i}"} for i in range(3)])
    command = shlex.join([sys.executable, "-c", START, *shell.arguments(source)])
    done = subprocess.run(["/bin/sh", "-c", f"exec {command} {closed}"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert len(lines(shell.out)) == 3


def test_output_that_cannot_be_finished_exits_1(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    """A full disk or a table that cannot be written, after all rows are paid: the answers are kept, and found again."""
    shell.out = shell.directory / "out.csv"
    source = write(shell.directory / "in.jsonl", [{"prompt": f"q{i}"} for i in range(3)])
    with monkeypatch.context() as patch:
        patch.setattr(llmbatch.BatchResults, "to_csv", lambda *_: 1 // 0)
        done = shell.run(source)
    assert done.exit_code == 1
    assert "out.csv could not be finished (ZeroDivisionError" in done.stderr
    assert json.loads(done.stdout.splitlines()[-1])["succeeded"] == 3
    shell.server.reset()
    assert shell.run(source).exit_code == 0
    assert shell.server.requests == []
    assert len(pd.read_csv(shell.out)) == 3


def test_input_that_changes_while_it_is_sent_exits_1(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    """Exit code 2 says that nothing was sent."""
    source = write(shell.directory / "in.jsonl", [{"prompt": f"q{i}"} for i in range(30)])

    given = Input.__iter__

    def changing(self: Input) -> Any:
        yield from itertools.islice(given(self), 3)
        raise ValueError("line 4 is not JSON")

    monkeypatch.setattr(Input, "__iter__", changing)
    done = shell.run(source)
    assert done.exit_code == 1
    assert "line 4 is not JSON" in done.stderr
    assert shell.server.requests


@pytest.mark.processes
def test_a_terminal_shows_the_bar_and_a_line_for_people(warm: Warm, shell: Shell, server: Server) -> None:
    """On a terminal the bar has rate, failures, tokens, cost and time left; the summary has lines, failures first."""
    server.handler = lambda request: Response(400) if request.text == "q7" else None
    server.set(latency=0.1)
    source = write(shell.directory / "in.jsonl", [{"id": i, "prompt": f"q{i}"} for i in range(60)])
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (24, 160))
    given = shell.arguments(source, "-w", "4", "-m", "gpt-4o-mini")
    with warm.script(START, *given, terminal=theirs) as process:
        os.close(theirs)
        shown = b""
        while True:
            try:
                piece = os.read(ours, 4096)
            except OSError:  # how Linux says that the other side has closed
                break
            if not piece:
                break
            shown += piece
        process.wait()
    os.close(ours)
    text = shown.decode()
    assert process.returncode == 1
    assert "60/60" in text
    assert "1 failed" in text
    assert "tokens, $" in text
    assert "row/s" in text
    end = text[text.index("1 of 60 rows failed:") :].split("\r\n")
    assert end[1] == "  1 BadRequestError (row 7): scripted 400"
    assert end[2].startswith("59 of 60 rows answered in ")
    assert "; latency: p50 0." in end[2]
