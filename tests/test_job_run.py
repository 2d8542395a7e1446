"""Batches with lane="job" or "cheapest" that are continued: each row is in the job once, whatever was left of it."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any

import pytest

import llmbatch
from llmbatch import BatchJob, BatchJobError
from tests.batch_server import MODEL, asked
from tests.replies import answer_to
from tests.wire import Response

if TYPE_CHECKING:
    from pathlib import Path

    from tests.batch_server import BatchProvider
    from tests.server import Server

LANES = ["job", "cheapest"]


@pytest.fixture
def call(place: dict[str, Any], tmp_path: Path) -> dict[str, Any]:
    """The options of every call."""
    return {**place, "checkpoint": tmp_path / "run.jsonl", "progress": False}


def interrupted(batches: BatchProvider, count: int, **call: Any) -> None:
    """Run a batch until its job is at the provider, and interrupt it."""

    async def run() -> None:
        task = asyncio.ensure_future(llmbatch.acreate_chat_completions_batch(asked(count), MODEL, **call))
        while not batches.jobs:  # noqa: ASYNC110 - the server is another thread
            await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    polls, batches.polls = batches.polls, 10**6
    asyncio.run(run())
    batches.polls = polls


def whole(results: llmbatch.BatchResults, count: int) -> bool:
    return results.texts == [answer_to(f"Question {i}") for i in range(count)]


def sizes(batches: BatchProvider) -> list[int]:
    """The rows of each batch."""
    return [len(batches.files[job["input_file_id"]].content.splitlines()) for job in batches.jobs.values()]


@pytest.mark.parametrize("lane", LANES)
def test_resume_added_rows_are_submitted_in_a_further_file(
    batches: BatchProvider, call: dict[str, Any], lane: str
) -> None:
    """The rows of before are not submitted again, and a further interruption changes nothing."""
    interrupted(batches, 2, lane=lane, **call)
    results = llmbatch.create_chat_completions_batch(asked(5), MODEL, lane=lane, **call)
    assert whole(results, 5)
    assert {row["lane"] for row in results} == {"job"}
    assert sizes(batches) == [2, 3]
    assert whole(llmbatch.create_chat_completions_batch(asked(5), MODEL, lane=lane, **call), 5)
    assert len(batches.jobs) == 2


def test_resume_added_rows_without_time_are_sent_live(
    batches: BatchProvider, call: dict[str, Any], server: Server
) -> None:
    """The earlier job's rows are waited for as long as there is time."""
    interrupted(batches, 2, lane="cheapest", **call)
    results = llmbatch.create_chat_completions_batch(asked(3), MODEL, lane="cheapest", deadline=5, **call)
    assert whole(results, 3)
    assert sizes(batches) == [2]
    assert results[2]["lane"] == "live"


@pytest.mark.parametrize("lane", LANES)
def test_resume_interrupted_submission_takes_added_and_lost_rows(
    batches: BatchProvider, call: dict[str, Any], lane: str
) -> None:
    """A submission that failed half way is continued, also if rows came or went meanwhile."""
    rows: list[Any] = [{"prompt": f"Question {i}", "model": f"openai/gpt-4o{'-mini' * (i % 2)}"} for i in range(6)]
    batches.fault("POST", "/v1/batches", Response(200, body={"object": "batch", "id": None}))
    with pytest.raises(BatchJobError, match="gave no id"):
        llmbatch.create_chat_completions_batch(rows[:4], MODEL, lane=lane, **call)
    results = llmbatch.create_chat_completions_batch(rows, MODEL, lane=lane, **call)
    assert whole(results, 6)
    assert sum(sizes(batches)) == 6


def test_resume_with_max_cost_reserves_added_rows(batches: BatchProvider, call: dict[str, Any]) -> None:
    """What the job may cost is checked with the rows that came later."""
    interrupted(batches, 2, lane="job", max_cost=0.001, **call)
    with pytest.raises(ValueError, match="more than max_cost"):
        llmbatch.create_chat_completions_batch(asked(40), MODEL, lane="job", max_cost=0.001, **call)
    assert len(batches.jobs) == 1
    assert whole(llmbatch.create_chat_completions_batch(asked(3), MODEL, lane="job", max_cost=0.001, **call), 3)


def test_job_row_too_large_for_an_input_file_says_so(
    batches: BatchProvider, call: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the job it is an invalid row at once; lane "cheapest" sends it live."""
    monkeypatch.setattr("llmbatch.providers.base.Provider.max_bytes", 1000)
    rows = ["Question 0", "long " * 300]
    results = llmbatch.create_chat_completions_batch(rows, MODEL, lane="job", **{**call, "checkpoint": None})
    assert results.texts == [answer_to("Question 0"), None]
    assert results[1]["error_details"]["type"] == "InvalidRow"
    results = llmbatch.create_chat_completions_batch(rows, MODEL, lane="cheapest", **{**call, "checkpoint": None})
    assert [row["lane"] for row in results] == ["job", "live"]


def test_state_file_of_an_older_version_is_read(batches: BatchProvider, place: dict[str, Any], tmp_path: Path) -> None:
    """Input files were called parts."""
    path = tmp_path / "job.json"
    job = llmbatch.submit_batch_job(asked(2), MODEL, state=path, **place)
    data = json.loads(path.read_text())
    files = data.pop("input_files")
    data["parts"] = [{key: value for key, value in file.items() if key != "rejections"} for file in files]
    path.write_text(json.dumps(data))
    older = BatchJob.load(path, api_key="k")
    assert older.batch_ids == job.batch_ids
    assert older.state.parts is older.state.input_files
    assert whole(older.wait(0.01).results(), 2)


def test_batch_job_shows_what_users_need() -> None:
    """The steps inside a job are not public."""
    public = {name for name in dir(BatchJob) if not name.startswith("_")}
    sync = {"cancel", "refresh", "refresh_from", "results", "resubmit_failed", "run_failed_live"}
    assert public == sync | {f"a{name}" for name in sync} | {
        "await_", "batch_ids", "ended", "id", "load", "of_event", "path", "request_counts", "save", "state", "status",
        "to_dict", "wait",
    }  # fmt: skip


@pytest.mark.parametrize("lane", LANES)
def test_resume_rows_that_fail_a_new_check_are_in_the_job(
    batches: BatchProvider, call: dict[str, Any], lane: str
) -> None:
    """They are submitted like new rows, once, and marked; the other rows stay as they were."""
    rows: list[Any] = [*asked(2), []]
    assert len(llmbatch.create_chat_completions_batch(rows, MODEL, lane=lane, **call).failed) == 1
    checked: list[str] = []

    def validate(row: Any) -> str | None:
        checked.append(row["custom_id"])
        return "no" if checked.count(row["custom_id"]) == 1 and "Question 1" in str(row["choices"]) else None

    results = llmbatch.create_chat_completions_batch(rows, MODEL, lane=lane, validate=validate, **call)
    assert results.texts == [answer_to("Question 0"), answer_to("Question 1"), None]
    assert [row.get("rechecked", False) for row in results] == [False, True, False]
    assert [row.get("resumed", False) for row in results] == [True, False, False]
    assert sizes(batches) == [2, 1]
    assert len(checked) == 3
