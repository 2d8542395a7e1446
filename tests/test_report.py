"""The report of a batch: one file, of bounded size, with no secret and no prompt in it."""

from __future__ import annotations

import re
import sys
from html.parser import HTMLParser
from typing import TYPE_CHECKING, Any

import pytest
from click.testing import CliRunner

from llmbatch import create_chat_completions_batch, create_embeddings_batch
from llmbatch.cli import main
from llmbatch.results import BatchResults
from tests.replies import said
from tests.server import Request, Response, Server

if TYPE_CHECKING:
    from pathlib import Path

pytest.importorskip("matplotlib")

SECRET = "sk-proj-Xy12Secret34KeyAb56Cd78"
HOSTILE = "</table><script>alert(1)</script> & <img src=//example.com/x>"


class Page(HTMLParser):
    """What a page shows: its headings, its tables' rows by heading, and every address in it."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.text, self.tags, self.addresses = text, [], []
        self.rows: dict[str, list[list[str]]] = {}
        self._heading, self._into = "", None
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.addresses += [str(value) for name, value in attrs if name in {"src", "href", "xlink:href", "action"}]
        if tag == "h2":
            self._into = tag
        elif tag == "tr":
            self.rows[self._heading].append([])
            self._into = tag
        elif tag in {"th", "td"}:
            self.rows[self._heading][-1].append("")

    def handle_endtag(self, tag: str) -> None:
        if tag in {"h2", "tr"}:
            self._into = None

    def handle_data(self, data: str) -> None:
        if self._into == "h2":
            self._heading = data.strip()
            self.rows[self._heading] = []
        elif self._into == "tr" and self.rows[self._heading][-1]:
            self.rows[self._heading][-1][-1] += data.strip()


def chats(*texts: str) -> list[list[dict[str, str]]]:
    return [[{"role": "user", "content": text}] for text in texts]


def reported(results: BatchResults, path: Path, **how: Any) -> Page:
    results.report(path, **how)
    return Page(path.read_text(encoding="utf-8"))


@pytest.fixture
def place(place: dict[str, Any]) -> dict[str, Any]:
    return {**place, "model": "openai/gpt-4o-mini", "progress": False}


@pytest.mark.usefixtures("quick_backoff")
def test_a_report_shows_the_run_and_no_secret(server: Server, place: dict[str, Any], tmp_path: Path) -> None:
    """Answers, failures, cut answers and times are there; keys, prompts and addresses are not; no answer is markup."""

    def answer(request: Request) -> Response | None:
        if "bad" in request.text:
            return Response(400, body={"error": {"message": f"{request.headers['authorization']} {request.text}"}})
        if "again" in request.text and len(server.requests) < 12:
            return Response(429, {"retry-after": "0"})
        return said(HOSTILE, finish_reason="length" if "long" in request.text else "stop")

    server.handler = answer
    asked = chats(*(f"Jane Roe's question {i}" for i in range(8)), "Jane Roe is bad", "a long one", "again, please")
    results = create_chat_completions_batch(asked, **{**place, "api_key": SECRET})
    page = reported(results, tmp_path / "run.html")
    for kept_out in (SECRET, "Jane Roe", "Xy12", "please", place["api_base"], str(tmp_path)):
        assert kept_out not in page.text
    assert page.tags.count("script") == 1
    assert "img" not in page.tags
    assert [address for address in page.addresses if not address.startswith("#")] == []
    assert "10 of 11" in page.text
    assert page.rows["Failures"][1][:2] == ["BadRequestError", "1"]
    assert page.rows["Failures"][1][2].startswith("row 8: BadRequestError: ")
    assert [line[0] for line in page.rows["Cut off"][1:]] == ["9"]
    models = page.rows["Models"][1:]
    assert [sum(int(line[at]) for line in models) for at in (1, 2, 3)] == [11, 1, 1]
    assert [line[0] for line in page.rows["Samples"][1:]] == [str(at) for at in range(11)]
    assert page.rows["Samples"][1][3] == HOSTILE
    slowest = [float(line[-1]) for line in page.rows["Slowest"][1:]]
    assert slowest == sorted(slowest, reverse=True)
    assert len(page.rows["Dearest"]) == 11
    for label in (">answered<", ">failed<", ">retried<", ">waiting<", ">p95 "):
        assert label in page.text, label

    with_prompts = reported(results, tmp_path / "asked.html", prompts=asked)
    assert with_prompts.rows["Samples"][1][3] == "user: Jane Roe's question 0"
    assert SECRET not in with_prompts.text
    assert reported(results, tmp_path / "its own.html", prompts=True).rows["Samples"] == with_prompts.rows["Samples"]
    with pytest.raises(ValueError, match="prompts are not stored here"):
        results[:2].report(tmp_path / "no.html", prompts=True)
    with pytest.raises(ValueError, match="there are 2 prompts for 11 rows"):
        results.report(tmp_path / "no.html", prompts=asked[:2])
    assert not (tmp_path / "no.html").exists()


def test_the_command_reports_a_file_of_answers(tmp_path: Path, place: dict[str, Any]) -> None:
    """What `to_jsonl` and `llmbatch run` write, with the prompts on demand; a torn last line is left out."""
    answers, prompts, out = tmp_path / "answers.jsonl", tmp_path / "prompts.jsonl", tmp_path / "run.html"
    create_chat_completions_batch(chats("one", "two"), **place).to_jsonl(answers)
    answers.write_text(answers.read_text() + '{"custom_id": "torn')
    prompts.write_text('{"prompt": "Q one"}\n{"messages": [{"role": "user", "content": "Q two"}]}\n')
    command = ["report", str(answers), "-o", str(out)]
    done = CliRunner().invoke(main, command)
    assert (done.exit_code, done.output) == (0, "")
    page = Page(out.read_text())
    assert len(page.rows["Samples"]) == 3
    assert "Q one" not in page.text
    assert CliRunner().invoke(main, [*command, "--prompts", str(prompts)]).exit_code == 0
    assert [line[3] for line in Page(out.read_text()).rows["Samples"][1:]] == ["Q one", "user: Q two"]
    done = CliRunner().invoke(main, ["report", str(prompts), "-o", str(out)])
    assert done.exit_code == 2
    assert "line 1 of" in done.output


def test_many_rows_make_a_small_page(tmp_path: Path) -> None:
    """Fifty thousand: every kind of failure is among the samples, and these are from all over the run."""
    answered = {"choices": [{"finish_reason": "stop", "message": {"content": "word " * 400}}], "created": 1_764_000_000,
                "model": "m", "custom_id": "x", "usage": {"total_tokens": 5}, "cost": None, "attempts": 1}  # fmt: skip
    failed = {"error": "E: no", "choices": [], "model": "m", "custom_id": "x", "usage": {}, "cost": 0.0, "attempts": 2}
    rows = [
        {**failed, "error_details": {"type": "Rare" if at % 1_000 == 0 else "Frequent", "index": at}} if at % 10 == 0
        else {**answered, "created": 1_764_000_000 + at // 50, "elapsed": at % 7 / 3, "waited": 0.5}
        for at in range(50_000)
    ]  # fmt: skip
    page = reported(BatchResults(rows), tmp_path / "run.html")
    assert len(page.text) < 1_000_000
    shown = [(int(line[0]), line[2]) for line in page.rows["Samples"][1:]]
    assert len(shown) == 500
    assert {(at, "failed") for at in range(0, 50_000, 1_000)} <= set(shown), "no kind crowds out another"
    assert sum(at > 25_000 for at, _ in shown) > 100
    assert page.rows["Failures"][1][:2] == ["Frequent", "4,950"]


def test_rows_without_times_or_texts_have_a_report(tmp_path: Path, place: dict[str, Any]) -> None:
    """Embeddings, rows of jobs, and none at all."""
    vectors = create_embeddings_batch(["one", ""], **place)
    page = reported(vectors, tmp_path / "vectors.html")
    assert re.fullmatch(r"\[vector of \d+ numbers\]", page.rows["Samples"][1][3])
    assert page.rows["Samples"][2][2] == "failed"
    empty = reported(BatchResults([]), tmp_path / "empty.html")
    assert "Rows over time" not in empty.rows
    assert "Time of an answer" not in empty.rows


@pytest.mark.parametrize("package", ["jinja2", "matplotlib.figure"])
def test_without_the_extra_the_error_names_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, package: str) -> None:
    """And no file is made."""
    monkeypatch.setitem(sys.modules, package, None)
    row = {"custom_id": "x", "created": 1, "choices": [], "model": "m", "usage": {}, "cost": 0.0, "attempts": 1}
    with pytest.raises(ImportError, match=r"llmbatch\[report\]"):
        BatchResults([row]).report(tmp_path / "run.html")
    assert list(tmp_path.iterdir()) == []
