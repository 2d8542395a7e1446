"""Input files that the provider rejects for a reason that passes: each is submitted again, once it can be."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

import llmbatch
from llmbatch import BatchJob, BatchJobError
from tests.batch_server import MODEL, rejected, submitted
from tests.replies import answer_to
from tests.wire import Response

if TYPE_CHECKING:
    from pathlib import Path

    from tests.batch_server import BatchProvider

NOT_FOUND = "Cannot find file file-1, or project proj_x does not have access to it."


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody waits for half a minute."""
    monkeypatch.setattr("llmbatch._jobs.waiting_files.FIRST_PAUSE", 0.05)
    monkeypatch.setattr("llmbatch._jobs.waiting_files._FILE_PAUSE", 0.01)


def whole(results: llmbatch.BatchResults, count: int) -> bool:
    return results.texts == [answer_to(f"Question {i}") for i in range(count)]


def ran(batches: BatchProvider) -> list[str]:
    """The input files of the batches that the provider did not reject."""
    return [job["input_file_id"] for job in batches.jobs.values() if job["status"] != "failed"]


def test_wait_queue_full_submits_files_one_after_the_other(
    batches: BatchProvider, place: dict[str, Any], tmp_path: Path
) -> None:
    """Each file is uploaded once and run once; the job says that it waits, also after it was loaded again."""
    batches.queue, batches.polls = 1, 3
    job = submitted(place, 6, max_rows=2, state=tmp_path / "job.json")
    assert job.status == "waiting"
    with pytest.raises(BatchJobError, match="is waiting"):
        job.results()
    results = BatchJob.load(tmp_path / "job.json", api_key="k").wait(0.01).results()
    assert whole(results, 6)
    assert len(ran(batches)) == len(set(ran(batches))) == 3
    assert len([file for file in batches.files.values() if not file.name.startswith("batch_")]) == 3


def test_wait_file_larger_than_queue_fails(batches: BatchProvider, place: dict[str, Any]) -> None:
    """A file that is rejected although nothing else runs is not waited for, and says what to do."""
    batches.queue = 0
    results = submitted(place).wait(0.01).results()
    assert {row["error_details"]["type"] for row in results} == {"BatchRefused"}
    assert "smaller max_rows" in results[0]["error"]
    assert results[0]["error_details"]["retryable"]
    assert len(batches.jobs) < 5


def test_wait_queue_full_of_other_jobs_is_waited_for(batches: BatchProvider, place: dict[str, Any]) -> None:
    """Batches of other jobs take up the room until they end."""
    batches.queue, batches.polls = 1, 10**6
    other = submitted(place, 1)
    job = submitted(place)
    with pytest.raises(TimeoutError, match="is waiting"):
        job.wait(0.01, timeout=0.5)
    batches.polls = 1
    other.refresh()
    assert whole(job.wait(0.01).results(), 3)


@pytest.mark.parametrize("lane", ["job", "cheapest"])
def test_lane_queue_full_answers_every_row_in_the_job(batches: BatchProvider, place: dict[str, Any], lane: str) -> None:
    """Each model has an input file of its own."""
    batches.queue, batches.polls = 1, 2
    rows: list[Any] = [{"prompt": f"Question {i}", "model": f"openai/gpt-4o{'-mini' * (i % 2)}"} for i in range(4)]
    results = llmbatch.create_chat_completions_batch(rows, MODEL, lane=lane, progress=False, **place)
    assert whole(results, 4)
    assert {row["lane"] for row in results} == {"job"}


def test_cancel_waiting_file_is_not_submitted(batches: BatchProvider, place: dict[str, Any]) -> None:
    """Its rows were not run and cost nothing."""
    batches.queue, batches.polls = 1, 10**6
    job = submitted(place, 2, max_rows=1).cancel().wait(0.01)
    last = job.results()[1]
    assert (last["error_details"]["type"], last["cost"]) == ("BatchCancelled", 0.0)
    assert len(batches.jobs) == 2


def test_resubmit_waiting_file_is_submitted_at_once(batches: BatchProvider, place: dict[str, Any]) -> None:
    """For those who do not call wait(), such as a webhook's handler."""
    batches.queue = 1
    job = submitted(place, 2, max_rows=1)
    assert job.refresh().status == "waiting"
    assert whole(job.resubmit_failed().wait(0.01).results(), 2)


def test_submit_file_not_found_creates_the_batch_again(batches: BatchProvider, place: dict[str, Any]) -> None:
    """For some seconds after its upload OpenAI does not find a file."""
    for _ in range(2):
        batches.fault("POST", "/v1/batches", Response(400, body={"error": {"message": NOT_FOUND, "param": "file_id"}}))
    assert whole(submitted(place).wait(0.01).results(), 3)
    assert len(batches.jobs) == 1


def test_wait_batch_failed_for_file_not_found_is_created_again(batches: BatchProvider, place: dict[str, Any]) -> None:
    """The same as the failure of a batch; a file that is never found fails, with rows that can be sent again."""

    def once(_: list[bytes]) -> dict[str, Any]:
        batches.end = "completed"
        return rejected("invalid_request", NOT_FOUND)

    batches.end = once
    job = submitted(place)
    assert job.status == "waiting"
    assert whole(job.wait(0.01).results(), 3)
    batches.end = lambda _: rejected("invalid_request", NOT_FOUND)
    results = submitted(place).wait(0.01).results()
    assert {(row["error_details"]["type"], row["error_details"]["retryable"]) for row in results} == {
        ("BatchRefused", True)
    }
