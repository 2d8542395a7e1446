"""A row tells the whole truth: its time, its number, a cut or refused answer; and one odd row harms no other."""

from __future__ import annotations

import asyncio
import json
import time
from typing import TYPE_CHECKING, Any

import pytest
from click.testing import CliRunner
from pydantic import BaseModel, field_validator

import llmbatch
from llmbatch._litellm import load
from llmbatch.cli import main
from tests.batch_server import MODEL, BatchProvider, asked, submitted
from tests.replies import said
from tests.server import Request, Response, Server, answer_to
from tests.talk import answered, batch, chats, lines, place, question

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

HALF, LOST = "cut \ud83d", "cut \ufffd"


class Number(BaseModel):
    x: int

    @field_validator("x")
    @classmethod
    def not_seven(cls, x: int) -> int:
        """A caller's own code, with a bug of its own."""
        return {7: {}}.get(x, {"x": x})["x"]


def by_number(answers: dict[int, Response]) -> Callable[[Request], Response | None]:
    """Answers to some of the numbered questions; the others get the usual one."""
    return lambda request: next((answers[i] for i in answers if request.text == question(i)), None)


# Time


def test_a_row_tells_the_time_of_its_answer_and_what_went_before(server: Server) -> None:
    """`elapsed` is the last attempt's, `waited` all before it; in seconds, and together within the batch's time."""
    batch(server.api_base, chats(1))
    server.enqueue(Response(500, {"retry-after-ms": "1"}, delay=0.4), Response(body=said("late").body, delay=0.2))
    results = batch(server.api_base, chats(1))
    (row,) = results
    assert row["attempts"] == 2
    assert row["waited"] >= 0.39
    assert row["elapsed"] >= 0.19
    assert row["waited"] + row["elapsed"] <= results.elapsed + 0.001
    assert results.latency == dict.fromkeys(("p50", "p95", "p99", "max"), row["elapsed"])


@pytest.mark.litellm_only("slows acompletion down")
@pytest.mark.parametrize("model", ["openai/gpt-4o-mini", "hosted_vllm/x"])
def test_elapsed_of_first_call_excludes_work_before_request(
    server: Server, monkeypatch: pytest.MonkeyPatch, model: str
) -> None:
    """What LiteLLM imports and builds before the request leaves is not the provider's time."""
    litellm, ready = load(), []
    complete = litellm.acompletion

    async def slow_at_first(**request: Any) -> Any:
        time.sleep(0.3)  # noqa: ASYNC251 - imports block the loop
        ready.append(time.monotonic())
        return await complete(**request)

    monkeypatch.setattr(litellm, "acompletion", slow_at_first)
    (row,) = batch(server.api_base, chats(1), model=model)
    assert 0 < row["elapsed"] < time.monotonic() - ready[0]
    assert row["waited"] >= 0.3


def test_a_failed_row_tells_the_time_of_its_last_attempt(server: Server, jump: Any) -> None:
    """And one that was never sent tells how long it waited for that."""
    server.handler = by_number({0: Response(400, delay=0.2), 1: Response(200, delay=60)})
    done: list[int] = []
    jump(60, lambda: done and len(server.requests) == 2)
    results = batch(server.api_base, chats(2), deadline=60, on_result=lambda at, _: done.append(at))
    assert 0.19 <= results[0]["elapsed"] <= results.elapsed
    assert 0 < results[1]["elapsed"] <= results.elapsed, "cut by the deadline"
    assert [row["attempts"] for row in results] == [1, 1]
    unsent = batch(server.api_base, chats(3), requests_per_minute=1, deadline=0.3, api_key="sk-another-account")[2]
    assert (unsent["attempts"], unsent["elapsed"], unsent["cost"]) == (0, None, 0.0)
    assert unsent["waited"] > 0


def test_percentiles_are_of_the_answered_rows(server: Server) -> None:
    """By the nearest rank; nothing answered is None."""
    server.handler = by_number({3: Response(400, delay=0.3)})
    results = batch(server.api_base, chats(20))
    times = sorted(row["elapsed"] for row in results.succeeded)
    assert len(times) == 19
    assert results.latency == {"p50": times[9], "p95": times[18], "p99": times[18], "max": times[18]}
    assert f"p50 {times[9]:.2f}s" in results.summary()
    assert f"<td style='text-align:left'>{results[0]['elapsed']:.2f}</td>" in results._repr_html_()
    assert llmbatch.BatchResults(results.failed).latency is None
    assert llmbatch.BatchResults().latency is None


def test_embeddings_know_their_chunks_time(server: Server) -> None:
    """Texts that were sent together took the same time; a refused one has its own."""
    server.handler = lambda request: Response(400) if "bad" in request.json["input"] else None
    results = llmbatch.create_embeddings_batch(["a", "b", "bad", ""], **place(server.api_base, model="openai/e"))
    assert all(row["elapsed"] > 0 and row["waited"] >= 0 for row in results[:3])
    assert (results[3]["elapsed"], results[3]["waited"]) == (None, None)
    assert [row["error_details"]["index"] for row in results.failed] == [2, 3]


# Cut off, refused


def test_cut_answers_are_counted_wherever_rows_are_summed(server: Server, log: list[str]) -> None:
    """`finish_reason` "length" is told by the list, the summary, the table and the log."""
    server.handler = by_number({2: said("half an ans", "length"), 5: said("half", "length")})
    results = batch(server.api_base, chats(8))
    assert results.truncated == [results[2], results[5]]
    assert "8/8 rows succeeded" in results.summary()
    assert results.summary().endswith("; 2 cut off at max_tokens")
    assert results._repr_html_().count("[cut off at max_tokens]") == 2
    assert any("2 cut off at max_tokens" in line for line in log)
    frame = pytest.importorskip("pandas") and results.to_pandas()
    assert frame["finish_reason"].tolist() == ["length" if i in {2, 5} else "stop" for i in range(8)]


def test_a_failed_row_names_its_model(server: Server) -> None:
    """As it was asked for, where no answer says which it was."""
    server.handler = lambda request: Response(400)
    (row,) = batch(server.api_base, chats(1))
    assert row["model"] == "openai/gpt-4o-mini"


def test_a_resumed_row_has_the_metadata_of_its_own_run(server: Server, tmp_path: Path) -> None:
    """None where that run gives it none."""
    path = tmp_path / "run.jsonl"
    batch(server.api_base, [{"prompt": "a", "metadata": {"run": 1}}], checkpoint=path)
    for metadata in ({"run": 2}, None):
        (row,) = batch(server.api_base, [{"prompt": "a", "metadata": metadata}], checkpoint=path)
        assert row["resumed"]
        assert row.get("metadata") == metadata
    assert len(server.requests) == 1


def test_a_refusal_is_not_bad_json(server: Server) -> None:
    """A refusal and a filtered answer are errors of their own; bad JSON stays bad JSON."""
    server.handler = by_number({
        0: said('{"x": 1}'), 1: said(None, refusal="I can't help with that."), 2: said("", "content_filter"),
        3: said("I had to stop", "content_filter"), 4: said("no JSON"), 5: said('{"x": 2}', "content_filter"),
    })  # fmt: skip
    results = batch(server.api_base, chats(6), response_format=Number)
    kinds = [row.get("error_details", {}).get("type") for row in results]
    assert kinds == [None, "Refused", "ContentFiltered", "ContentFiltered", "ValidationError", None]
    assert {row["error_details"]["status_code"] for row in results.failed} == {200}
    assert results[1]["error"] == "Refused: I can't help with that."
    assert "content_filter" in results[2]["error"]
    assert results[3]["error"].startswith("ContentFiltered: ")
    assert [results.index(row) for row in results.filtered] == [2, 3, 5]
    assert results[3]["choices"][0]["message"]["content"] == "I had to stop"
    assert results[1]["usage"]["total_tokens"] == 12
    assert results[1]["cost"] > 0
    plain = batch(server.api_base, chats(3))
    assert plain.failed == plain.filtered == [plain[2]]
    assert "I can&#x27;t help with that." in plain._repr_html_()


# Which row


def test_every_form_says_which_row_failed(server: Server, log: list[str]) -> None:
    """List, iterator, stream and job; the exception and the log name the numbers too."""
    server.handler = by_number(dict.fromkeys((3, 11, 12), Response(400)))
    results = batch(server.api_base, chats(14))
    assert [row["error_details"]["index"] for row in results.failed] == [3, 11, 12]
    with pytest.raises(llmbatch.BatchFailedError, match=r"3 of 14 rows failed: 3 BadRequestError \(rows 3, 11, 12\): "):
        results.raise_for_errors()
    assert any("3 BadRequestError (rows 3, 11, 12): scripted 400" in line for line in log)
    given = place(server.api_base, progress=False)
    found = {index: row for index, row in llmbatch.as_completed(chats(14), **given) if "error" in row}
    assert {index: row["error_details"]["index"] for index, row in found.items()} == {i: i for i in (3, 11, 12)}
    for event in llmbatch.stream_chat_completions_batch(chats(4), **given):
        if "error" in event.get("row", {}):
            assert event["row"]["error_details"]["index"] == event["index"] == 3


def test_a_jobs_rows_say_which_failed(batches: BatchProvider, place: dict[str, Any], server: Server) -> None:
    """Also those that are sent live after it."""
    batches.fates = {"b": "failed", "c": "failed"}
    job = submitted(place, custom_ids=["a", "b", "c"]).wait(0.01, progress=False)
    assert [row["error_details"]["index"] for row in job.results().failed] == [1, 2]
    before = server.handler
    assert before
    server.handler = lambda request: Response(400) if request.path.endswith("completions") else before(request)
    live = job.run_failed_live(progress=False, retries=0)
    assert [row["error_details"]["index"] for row in live.failed] == [1, 2]


def test_a_slice_is_a_batch_of_its_own(server: Server) -> None:
    """With the model that `.parsed` needs; a single row stays a dict."""
    server.handler = lambda request: said('{"x": 1}')
    results = batch(server.api_base, chats(5), response_format=Number)
    for some in (results[:2], results[::-2], results[9:]):
        assert isinstance(some, llmbatch.BatchResults)
        assert some.elapsed == results.elapsed
        assert some.parsed == [Number(x=1)] * len(some)
    assert type(results[0]) is dict


# At a glance


def test_the_root_cause_comes_first(server: Server) -> None:
    """Of 60 rows that a bad key kept from being sent, the few that met it lead summary, table and exception."""
    refusal = {"error": {"message": "Incorrect API key provided.", "type": "x", "code": "invalid_api_key"}}
    server.handler = lambda request: Response(401, body=refusal)
    results = batch(server.api_base, chats(60), max_workers=2)
    why, first, cause, effect, totals = results.summary().splitlines()
    assert "ended early" in why or "not sent" in why.lower(), why
    assert first == "60 of 60 rows failed:"
    assert "AuthenticationError (rows 0, " in cause
    assert "Incorrect API key" in cause
    assert "NotSent" in effect
    assert ", …): not sent: " in effect
    assert totals.startswith("0/60 rows succeeded")
    with pytest.raises(llmbatch.BatchFailedError, match=r"60 of 60 rows failed: \d AuthenticationError"):
        results.raise_for_errors()
    shown = results._repr_html_()
    assert 0 < shown.index("AuthenticationError") < shown.index("NotSent") < shown.index("<table>")


def test_the_table_shows_failed_rows_wherever_they_stand(server: Server) -> None:
    """At their own numbers, among ten rows at most, one of each kind before more of the same."""
    server.handler = by_number({i: Response(400) for i in range(20, 30)} | {37: Response(413)})
    shown = batch(server.api_base, chats(40))._repr_html_()
    numbers = [int(row.split("</td>")[0]) for row in shown.split("<tr")[2:] for row in [row.split("left'>", 1)[1]]]
    assert numbers == [0, 1, 2, 3, 4, 20, 21, 22, 23, 37]
    assert shown.count("<tr style") == 5
    assert "… and 30 more rows" in shown


# What this run did


def test_a_resumed_run_says_what_it_sent_and_spent(server: Server, tmp_path: Path, log: list[str]) -> None:
    """Beside the file's totals; rows found there are marked, in memory only."""
    path = tmp_path / "run.jsonl"
    first = batch(server.api_base, chats(6), checkpoint=path)
    assert first.resumed == []
    assert "checkpoint" not in first.summary()
    both = batch(server.api_base, chats(8), checkpoint=path)
    assert both.resumed == both[:6]
    assert ["resumed" in row for row in both] == [True] * 6 + [False] * 2
    assert both.cost == pytest.approx(sum(row["cost"] for row in both))
    spent = sum(row["cost"] for row in both[6:])
    told = f"6 rows were in the checkpoint, this run sent 2 for ${spent:.6f}"
    assert both.summary().endswith(told)
    assert f"({2 / both.elapsed:.1f} rows/s)" in both.summary()
    assert any(told in line for line in log)
    assert "resumed" not in path.read_text()
    assert [row["elapsed"] for row in both[:6]] == [row["elapsed"] for row in first]
    renamed = batch(server.api_base, chats(8), checkpoint=path, custom_ids=[f"id-{i}" for i in range(8)])
    assert len(renamed.resumed) == 8
    assert "resumed" not in path.read_text()


def test_an_interrupted_batch_counts_what_it_answered(server: Server) -> None:
    """Speed is that of answers; rows never sent cost nothing, and only those in flight have an unknown price."""
    server.handler = lambda request: None if int(request.text.split()[2].rstrip("?")) < 6 else Response(200, delay=60)
    given = place(server.api_base, progress=False, max_workers=4)

    async def interrupted() -> None:
        running = asyncio.ensure_future(llmbatch.acreate_chat_completions_batch(chats(300), **given))
        while len(server.requests) < 10:  # noqa: ASYNC110 - another thread's
            await asyncio.sleep(0.01)
        running.cancel()
        await running

    with pytest.raises(asyncio.CancelledError):
        asyncio.run(interrupted())
    results = llmbatch.interrupted_results()
    assert results is not None
    assert [answered(row, i) for i, row in enumerate(results)] == [True] * 6 + [False] * 294
    assert [row["attempts"] for row in results] == [1] * 10 + [0] * 290
    assert [row["cost"] for row in results[6:]] == [None] * 4 + [0.0] * 290
    assert results.unpriced == 4
    assert [row["error_details"]["index"] for row in results.failed] == list(range(6, 300))
    assert f"({6 / results.elapsed:.1f} rows/s)" in results.summary()
    assert "294 Cancelled (rows 6, 7, 8, 9, 10, …)" in results.summary()


def test_a_deadline_knows_what_was_sent(server: Server) -> None:
    """Rows that waited for a limit are free; those refused until the end have their attempts."""
    batch(server.api_base, chats(1))
    server.handler = lambda request: Response(429, {"retry-after": "60"})
    results = batch(server.api_base, chats(3), deadline=1.5, requests_per_minute=60, api_key="sk-a-deadline")
    assert [row["cost"] for row in results] == [0.0] * 3
    assert results.unpriced == 0
    assert results[0]["attempts"] == 1


# Odd rows


def test_half_an_emoji_in_one_answer_harms_no_other(server: Server, tmp_path: Path) -> None:
    """It is replaced where the answer comes in, two halves are joined; every form and file works for all rows."""
    pandas = pytest.importorskip("pandas")
    from llmbatch.integrations.pandas import complete_column

    error = {"error": {"message": HALF, "type": "x"}}
    server.handler = by_number({1: said(HALF), 2: said("\ud83d\ude00"), 3: Response(400, body=error)})
    path = tmp_path / "run.jsonl"
    ids = ["a", "b\ud83d", "c", "d"]
    results = batch(server.api_base, chats(4), checkpoint=path, custom_ids=ids, max_workers=1)
    assert results.texts == [answer_to(question(0)), LOST, "\N{GRINNING FACE}", None]
    assert results[3]["error"] == f"BadRequestError: {LOST}"
    json.dumps(results, ensure_ascii=False).encode("ascii", "xmlcharrefreplace")
    assert results.to_pandas()["text"].tolist()[:3] == results.texts[:3]
    assert LOST in results._repr_html_()
    assert [line["custom_id"] for line in lines(path)] == ids
    assert batch(server.api_base, chats(3), checkpoint=path).texts == results.texts[:3]
    frame = pandas.DataFrame({"n": range(3)})
    column = complete_column(frame, "Question number {n}?", **place(server.api_base, progress=False))
    assert column.tolist() == results.texts[:3]


def test_half_an_emoji_harms_no_other_row_in_the_shell(
    server: Server, batches: BatchProvider, place: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`llmbatch results` and `llmbatch run` write every row, ids included, under their own."""
    monkeypatch.setenv("OPENAI_API_KEY", "sk-test")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("tests.batch_server.reply", lambda request: said(HALF))
    submitted(place, state="job.json").wait(0.01, progress=False)
    assert len(batches.jobs) == 1
    for form in ([], ["--text"]):
        done = CliRunner().invoke(main, ["results", "job.json", *form])
        assert (done.exit_code, done.stdout.count("\n"), done.stdout.count(LOST)) == (0, 3, 3), done.stderr
    server.handler = lambda request: said(HALF) if request.text == "Question 1" else None
    ids = ["a", "b\ud83d", "c"]
    rows = [{"id": i, "messages": messages} for i, messages in zip(ids, asked(3), strict=True)]
    (tmp_path / "in.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    where = ["-o", "out.jsonl", "-m", MODEL, "--api-base", place["api_base"]]
    done = CliRunner().invoke(main, ["run", "in.jsonl", *where])
    assert done.exit_code == 0, done.output
    assert [line["custom_id"] for line in lines(tmp_path / "out.jsonl")] == ids


def test_one_odd_answer_keeps_no_other_from_being_parsed(server: Server) -> None:
    """Text beside tool calls, numbers past any column, a validator with a bug, content in parts: each its own row's."""
    pytest.importorskip("pandas")
    call = {"id": "c1", "type": "function", "function": {"name": "w", "arguments": "{}"}}
    parts = [{"type": "text", "text": '{"x": '}, {"type": "text", "text": "5}"}, {"type": "text", "text": 5}]
    huge = said('{"x": 1}')
    huge.body["usage"] = {"prompt_tokens": 10**30, "completion_tokens": 5, "total_tokens": 10**30 + 5}
    lost = said('{"x": 1}')
    lost.body["choices"][0]["logprobs"] = {"content": [{"token": "a", "logprob": float("nan"), "top_logprobs": []}]}
    null = said('{"x": 4}')
    null.body |= {"error": None, "elapsed": "1s"}
    server.handler = by_number({
        0: said('{"x": 1}'), 1: said("Let me look.", "tool_calls", tool_calls=[call]), 2: said(f'{{"x": {10**30}}}'),
        3: said('{"x": 7}'), 4: said(parts), 5: huge, 6: lost, 7: null,
    })  # fmt: skip
    results = batch(server.api_base, chats(8), response_format=Number)
    numbers = [1, None, 10**30, None, 5, 1, 1, 4]
    assert results.parsed == [n and Number(x=n) for n in numbers]
    assert [row["error_details"]["index"] for row in results.failed] == [3]
    assert "validator raised KeyError" in results[3]["error"]
    frame = results.to_pandas()
    assert [None if isna else n for n, isna in zip(frame["x"], frame["x"].isna(), strict=True)] == numbers
    assert frame["prompt_tokens"][5] == 2**63 - 1
    assert results.usage["prompt_tokens"] > 10**30
    json.dumps(results, allow_nan=False)
    assert results[7]["elapsed"] < 60


def test_usage_without_total_has_sum_and_counts_for_token_limit(provider: Callable[..., Server]) -> None:
    """LiteLLM makes 0 of a total that a server leaves out; then no limit of tokens would hold."""
    server = provider()
    reply = said("yes")
    del reply.body["usage"]["total_tokens"]
    server.handler = lambda _: reply
    options: dict[str, Any] = {"tokens_per_minute": 60, "max_tokens": 5, "deadline": 2}
    rows = batch(server.api_base, [[{"role": "user", "content": f"word {i}"}] for i in range(20)], **options)
    assert {row["usage"]["total_tokens"] for row in rows.succeeded} == {12}
    assert len(server.requests) < 10
