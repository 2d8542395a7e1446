"""Answers of a job that do not fit are asked for again in further parts of it, at the job's price."""

from __future__ import annotations

import json
import random
import signal
import time
from typing import TYPE_CHECKING, Any

import pytest

import llmbatch
from tests.batch_server import MODEL, BatchProvider, asked
from tests.replies import answer_to
from tests.talk import lines
from tests.wire import Request, Response

if TYPE_CHECKING:
    from pathlib import Path

    from llmbatch import Row
    from tests.server import Server
    from tests.warm import Warm

ROWS = 6
AGAIN = "Say it again."


def validate(row: Row) -> str | None:
    """Content with what was asked again, and with the first answers to even questions."""
    said = row["choices"][0]["message"]["content"]
    return None if AGAIN in said or int(said.split()[-1]) % 2 == 0 else AGAIN


def never(row: Row) -> str | None:
    """Content with nothing."""
    return AGAIN if row["choices"] else None


def by_job(place: dict[str, Any], rows: Any = None, **options: Any) -> llmbatch.BatchResults:
    given: dict[str, Any] = {"lane": "job", "deadline": 60, "max_tokens": 10, "reask": 1, "validate": validate}
    rows = asked(ROWS) if rows is None else rows
    return llmbatch.create_chat_completions_batch(rows, MODEL, progress=False, **{**given, **place, **options})


def sent(batches: BatchProvider) -> list[list[dict[str, Any]]]:
    """The bodies of each job's lines."""
    files = [batches.files[job["input_file_id"]] for job in batches.jobs.values()]
    return [[json.loads(line)["body"] for line in file.content.splitlines()] for file in files]


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Jobs are looked at often."""
    monkeypatch.setattr("llmbatch._jobs.job_run._LEAST_POLLS", 1000)


@pytest.fixture
def price(batches: BatchProvider, place: dict[str, Any]) -> float:
    """USD of one first answer by a job."""
    assert batches
    row = llmbatch.create_chat_completion(asked(1)[0], MODEL, **place)
    assert row["cost"]
    return row["cost"] / 2


def test_reask_invalid_answers_make_a_further_input_file(
    server: Server, batches: BatchProvider, place: dict[str, Any], price: float, tmp_path: Path
) -> None:
    """In the same conversation, and nothing is asked live; a row has the price of both."""
    server.requests.clear()
    results = by_job(place, checkpoint=tmp_path / "run.jsonl")
    assert results.texts == [answer_to(AGAIN if i % 2 else f"Question {i}") for i in range(ROWS)]
    assert [row["asks"] for row in results] == [1, 2] * (ROWS // 2)
    assert [row["attempts"] for row in results] == [1, 2] * (ROWS // 2)
    assert {row["lane"] for row in results} == {"job"}
    first, second = sent(batches)
    assert len(first) == ROWS
    assert [body["messages"] for body in second] == [
        [
            *asked(ROWS)[i],
            {"role": "assistant", "content": answer_to(f"Question {i}")},
            {"role": "user", "content": AGAIN},
        ]
        for i in range(1, ROWS, 2)
    ]
    assert not [request for request in server.requests if request.path.endswith("/chat/completions")]
    assert [row["cost"] for row in results][::2] == [pytest.approx(price)] * (ROWS // 2)
    assert all(row["cost"] > 2 * price and row["saved"] == pytest.approx(row["cost"]) for row in results[1::2])
    assert len(lines(tmp_path / "run.jsonl")) == ROWS
    assert not (tmp_path / "run.jsonl.job").exists()


def test_reask_is_repeated_as_often_as_the_option_says(batches: BatchProvider, place: dict[str, Any]) -> None:
    """Each time in a part of its own; what still does not fit is an error row with its answer and the whole bill."""
    results = by_job(place, reask=3, validate=never)
    assert [len(bodies) for bodies in sent(batches)] == [ROWS] * 4
    assert [len(bodies[0]["messages"]) for bodies in sent(batches)] == [1, 3, 5, 7]
    for row in results:
        assert (row["asks"], row["attempts"], row["error_details"]["type"]) == (4, 4, "ValidationError")
        assert AGAIN in row["choices"][0]["message"]["content"]


def test_reask_duplicates_wait_for_the_reasked_row(batches: BatchProvider, place: dict[str, Any]) -> None:
    """With dedupe, too, a row is asked for once."""
    results = by_job(place, [*asked(3), *asked(3)], dedupe=True, warm_prompt_cache=True)
    assert results.texts == [answer_to(AGAIN if i % 3 == 1 else f"Question {i % 3}") for i in range(6)]
    assert [len(bodies) for bodies in sent(batches)] == [3, 1]


def test_reask_failed_keeps_the_answer_before(server: Server, batches: BatchProvider, place: dict[str, Any]) -> None:
    """A refusal of the file costs nothing more."""
    made = iter([None, Response(400, body={"error": {"message": "no more files"}})])
    serve = batches.handle

    def refused(request: Request) -> Response | None:
        answer = next(made) if (request.method, request.path) == ("POST", "/v1/batches") else None
        return answer or serve(request)

    server.handler = refused
    results = by_job(place)
    assert [("error" in row, row["asks"]) for row in results] == [(False, 1), (True, 2)] * (ROWS // 2)
    assert all(row["choices"] for row in results)
    assert len(batches.answered) == ROWS


@pytest.mark.processes
def test_reask_deadline_ends_the_round(
    server: Server, batches: BatchProvider, place: dict[str, Any], monkeypatch: pytest.MonkeyPatch, jump: Any
) -> None:
    """Its rows keep their first answers; what they have cost in the end nobody knows."""
    monkeypatch.setattr("llmbatch._jobs.job_run.CANCEL_SECONDS", 1.0)
    served = server.handler

    def handler(request: Request) -> Response | None:
        batches.polls = batches.closing = 10**6 if "batch_2" in request.path else 0
        assert served is not None
        return served(request)

    server.handler = handler
    jump(60, lambda: any("batch_2" in request.path for request in server.requests))
    results = by_job(place, deadline=60)
    assert [("error" in row, row["cost"] is None) for row in results] == [(False, False), (True, True)] * (ROWS // 2)
    assert all(row["choices"] for row in results)
    assert batches.jobs["batch_2"]["status"] == "cancelling"


def least_cap(place: dict[str, Any], count: int) -> float:
    """USD that a job of so many rows may cost."""
    with pytest.raises(ValueError, match="the job may cost") as refused:
        by_job(place, asked(count), max_tokens=2000, max_cost=1e-6)
    return 1.02 * float(str(refused.value).split("$")[1].split(",")[0])


def test_reask_max_cost_covers_all_rounds(batches: BatchProvider, place: dict[str, Any]) -> None:
    """What it cannot hold at once is asked in a later part."""
    cap = least_cap(place, ROWS)
    results = by_job(place, max_tokens=2000, max_cost=cap, validate=never)
    assert [row["asks"] for row in results] == [2] * ROWS
    assert len(batches.answered) == 2 * ROWS
    assert len(batches.jobs) > 2
    assert results.cost <= cap


def test_reask_beyond_max_cost_is_not_sent(batches: BatchProvider, place: dict[str, Any]) -> None:
    """The row keeps its answer."""
    (row,) = by_job(place, asked(1), max_tokens=2000, max_cost=least_cap(place, 1), validate=never)
    assert (len(batches.jobs), row["error_details"]["type"]) == (1, "ValidationError")
    assert row["choices"]


RUN = """
import sys
import llmbatch
from llmbatch._jobs import job_run
from tests.batch_server import MODEL, asked
from tests.test_reask_rounds import validate
job_run._LEAST_POLLS = 200
given = {"lane": "job", "deadline": 60, "max_tokens": 10, "checkpoint": sys.argv[2], "reask": 1, "validate": validate}
place = {"api_base": sys.argv[1], "api_key": "k", "progress": False}
results = llmbatch.create_chat_completions_batch(asked(40), MODEL, **place, **given)
print(len(results.succeeded), sum(row["asks"] for row in results))
"""


@pytest.mark.processes
def test_reask_kill_in_any_round_submits_nothing_twice(
    warm: Warm, server: Server, batches: BatchProvider, tmp_path: Path
) -> None:
    """Kill -9 in each round: the same call goes on with the parts that were submitted."""
    batches.polls = 3
    path, moments = tmp_path / "run.jsonl", random.Random()  # noqa: S311 - whenever
    for _ in range(4):
        with warm.script(RUN, server.api_base, str(path)) as process:
            time.sleep(moments.uniform(0.2, 2.0))
            process.send_signal(signal.SIGKILL)
    with warm.script(RUN, server.api_base, str(path)) as process:
        out, err = process.communicate()
    assert (process.returncode, err) == (0, "")
    assert out.split()[0] == "40"
    assert [len(bodies) for bodies in sent(batches)] == [40, 20]
    assert len(batches.answered) == 60
    kept = [line["response"]["body"]["choices"][0]["message"]["content"] for line in lines(path)]
    assert sorted(kept) == sorted(answer_to(AGAIN if i % 2 else f"Question {i}") for i in range(40))
    assert not path.with_name("run.jsonl.job").exists()


@pytest.mark.processes
def test_reask_interrupted_round_is_found_again(
    warm: Warm, server: Server, batches: BatchProvider, place: dict[str, Any], tmp_path: Path
) -> None:
    """By its state file or by its id: `results()` gives the later answers, with all that was spent."""
    path, state = tmp_path / "run.jsonl", tmp_path / "run.jsonl.job"
    batches.polls = 3
    with warm.script(RUN, server.api_base, str(path)) as process:
        until = time.monotonic() + 240
        while time.monotonic() < until:
            parts = json.loads(state.read_bytes())["input_files"] if state.exists() else []
            if len(parts) == 2 and parts[1]["batch_id"]:
                break
            time.sleep(0.02)
        process.send_signal(signal.SIGKILL)
    batches.polls = 0
    job = llmbatch.retrieve_batch_job(state, **place).wait()
    by_id = llmbatch.retrieve_batch_job(job.id, model=MODEL, **place).wait()
    for found in (job, by_id):
        results = found.results()
        assert results.texts == [answer_to(AGAIN if i % 2 else f"Question {i}") for i in range(40)]
        assert [row["attempts"] for row in results] == [1, 2] * 20
        assert results.cost is not None
