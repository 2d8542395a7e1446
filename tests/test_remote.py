"""Batch jobs under faults: nothing is submitted twice, nothing is forgotten, and waiting goes on."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any

import pytest

import llmbatch
from llmbatch import BatchJob, BatchJobError, retrieve_batch_job
from tests.batch_server import MODEL, asked, submitted
from tests.replies import answer_to
from tests.talk import until
from tests.wire import Request, Response

if TYPE_CHECKING:
    from pathlib import Path

    from tests.batch_server import BatchProvider
    from tests.server import Server
    from tests.warm import Warm


@pytest.mark.parametrize(
    "fault",
    [Response(429, {"retry-after-ms": "10"}), Response(503), Response(500), Response(reset=True)],
    ids=["429", "503", "500", "reset"],
)
@pytest.mark.parametrize(
    ("method", "path"),
    [("POST", "/v1/files"), ("POST", "/v1/batches"), ("GET", "/v1/batches/"), ("GET", "/v1/files/")],
    ids=["upload", "create", "poll", "download"],
)
def test_job_transient_error_is_retried(
    batches: BatchProvider, place: dict[str, Any], method: str, path: str, fault: Response
) -> None:
    """Whichever request it hits, each job is created once."""
    batches.fault(method, path, fault)
    results = submitted(place).wait(0.01).results()
    assert results.texts == [answer_to(f"Question {i}") for i in range(3)]
    assert len(batches.jobs) == 1


@pytest.mark.parametrize("metadata", [True, False])
@pytest.mark.parametrize("path", ["/v1/files", "/v1/batches"])
def test_submit_lost_response_creates_nothing_twice(
    batches: BatchProvider, place: dict[str, Any], path: str, metadata: bool
) -> None:
    """What was created is found again, by name, tag or input file."""
    batches.keep_metadata = metadata
    batches.fault("POST", path, Response(reset=True), done=True)
    job = submitted(place)
    assert (len(batches.files), len(batches.jobs)) == (1, 1)
    assert job.batch_ids == ["batch_1"]


@pytest.mark.parametrize(
    "told",
    [
        {"created_at": "2026-11-25T12:00:00Z", "completed_at": "now"},
        {"request_counts": [1, 2], "errors": 5, "metadata": "none"},
        {"request_counts": {"total": "3", "completed": None, "failed": [0]}, "errors": {"data": 7}},
        {"id": ["batch"], "input_file_id": 12},
    ],
    ids=["times", "lists", "counts", "ids"],
)
def test_wait_malformed_batch_object_is_followed_to_its_end(
    batches: BatchProvider, place: dict[str, Any], server: Server, told: dict[str, Any]
) -> None:
    """What it says that is not what its name says is not believed, and nothing that is known is forgotten."""
    usual = batches.handle

    def handler(request: Request) -> Response | None:
        made = usual(request)
        if request.method == "GET" and request.path.startswith("/v1/batches/") and made is not None:
            return Response(body={**made.body, **told})
        return made

    server.handler = handler
    job = submitted(place).wait(0.01)
    assert (job.status, job.batch_ids) == ("completed", ["batch_1"])
    assert job.results().texts == [answer_to(f"Question {i}") for i in range(3)]


def test_submit_upload_without_id_raises(batches: BatchProvider, place: dict[str, Any]) -> None:
    """With what to do."""
    batches.fault("POST", "/v1/files", Response(body={"object": "file", "id": None}))
    with pytest.raises(BatchJobError, match=r"gave no id for the uploaded file .*; submit again"):
        submitted(place)
    assert not batches.jobs


@pytest.mark.parametrize("status", [float("nan"), "400", [400]], ids=["NaN", "text", "list"])
def test_results_malformed_status_concerns_its_row_only(
    batches: BatchProvider, place: dict[str, Any], status: Any
) -> None:
    """The row is strict JSON."""
    job = submitted(place).wait(0.01)
    batches.files["file-2"].content = b"".join(
        json.dumps({**line, "response": {**line["response"], "status_code": status}}).encode() + b"\n"
        if not at
        else json.dumps(line).encode() + b"\n"
        for at, line in enumerate(map(json.loads, batches.files["file-2"].content.splitlines()))
    )
    results = job.results()
    json.dumps(results, allow_nan=False)
    assert len(results.failed) == 1
    assert results.failed[0]["error_details"]["status_code"] is None


def test_submit_lost_response_without_listing_is_not_retried(batches: BatchProvider, place: dict[str, Any]) -> None:
    """A second job would be a second bill."""
    batches.listed = False
    batches.fault("POST", "/v1/batches", Response(reset=True), done=True)
    with pytest.raises(BatchJobError, match="no list to look it up in"):
        submitted(place)
    assert len(batches.jobs) == 1


def test_submit_rejection_names_the_step_and_shows_no_key(
    batches: BatchProvider, place: dict[str, Any], tmp_path: Path
) -> None:
    """And the state file remembers how far it got."""
    refusal = {"error": {"message": "Incorrect API key provided: sk-very-secret-1234.", "code": "invalid_api_key"}}
    batches.fault("POST", "/v1/batches", Response(401, body=refusal))
    state = tmp_path / "job.json"
    with pytest.raises(BatchJobError, match=r"openai did not create the batch .* \(status 401\)") as caught:
        submitted(place, state=state)
    assert "secret" not in str(caught.value)
    assert BatchJob.load(state).status == "submitting"
    with pytest.raises(BatchJobError, match="call submit_batch_job again"):
        BatchJob.load(state, api_key="x").wait()
    submitted(place, state=state)
    assert (len(batches.files), len(batches.jobs)) == (1, 1)


def test_submit_unwritable_state_file_raises_before_anything_is_created(
    batches: BatchProvider, place: dict[str, Any], tmp_path: Path
) -> None:
    """A folder that takes no file is an error with its mend."""
    with pytest.raises(BatchJobError, match="another path"):
        submitted(place, state=tmp_path / ("x" * 250))
    assert not batches.files


def test_results_body_in_json_string_is_read(
    batches: BatchProvider, place: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As OGX's server writes them, answers and refusals alike; what is no JSON is that row's error."""
    whole = batches._outcome
    odd = iter(["<html>", "[1]"])

    def quoted(line: dict[str, Any], fate: str) -> list[bytes]:
        (text,) = whole(line, fate)
        outcome = json.loads(text)
        outcome["response"]["body"] = next(odd) if fate == "empty" else json.dumps(outcome["response"]["body"])
        return [json.dumps(outcome).encode()]

    monkeypatch.setattr(batches, "_outcome", quoted)
    batches.fates = {"id-1": "failed", "id-3": "empty", "id-4": "empty"}
    rows = submitted(place, 5, custom_ids=[f"id-{i}" for i in range(5)]).wait(0.01).results()
    assert rows.texts == [answer_to("Question 0"), None, answer_to("Question 2"), None, None]
    assert "scripted refusal" in rows[1]["error"]
    assert rows[1]["error_details"]["status_code"] == 400


def test_submit_cancelled_submission_is_continued(
    batches: BatchProvider, place: dict[str, Any], tmp_path: Path
) -> None:
    """The uploaded file is used, whether its id was learnt or not."""
    state = tmp_path / "job.json"

    async def interrupted() -> None:
        task = asyncio.ensure_future(llmbatch.asubmit_batch_job(asked(3), MODEL, state=state, **place))
        while not (batches.files or task.done()):  # noqa: ASYNC110 - filled by another thread
            await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    batches.fault("POST", "/v1/files", Response(delay=30), done=True)
    asyncio.run(interrupted())
    assert not batches.jobs
    job = submitted(place, state=state)
    assert (len(batches.files), len(batches.jobs)) == (1, 1)
    assert job.wait(0.01).results().texts == [answer_to(f"Question {i}") for i in range(3)]


@pytest.mark.processes
def test_submit_killed_submission_is_found_again(
    warm: Warm, batches: BatchProvider, place: dict[str, Any], server: Server, tmp_path: Path
) -> None:
    """SIGKILL after the provider created the job and before its answer: one job remotely, and its rows."""
    state = tmp_path / "job.json"
    batches.fault("POST", "/v1/batches", Response(delay=120), done=True)
    code = (
        "from llmbatch import submit_batch_job\n"
        "from tests.batch_server import asked, MODEL\n"
        f"submit_batch_job(asked(3), MODEL, state={str(state)!r}, api_base={server.api_base!r}, api_key='k')"
    )
    with warm.script(code) as process:
        until(process, lambda: batches.jobs)
        process.kill()
    assert len(batches.jobs) == 1
    assert BatchJob.load(state).batch_ids == []
    job = submitted(place, state=state)
    assert job.batch_ids == ["batch_1"]
    assert (len(batches.files), len(batches.jobs)) == (1, 1)
    assert job.wait(0.01).results().texts == [answer_to(f"Question {i}") for i in range(3)]


def test_state_file_has_no_prompt_and_no_key(batches: BatchProvider, place: dict[str, Any], tmp_path: Path) -> None:
    """It is written before the first request, and loads in another process."""
    state = tmp_path / "deep" / "job.json"
    batches.fault("POST", "/v1/files", Response(401))
    with pytest.raises(BatchJobError):
        submitted(place, state=state)
    assert state.exists()
    job = submitted(place, state=state, metadata={"team": "blue"})
    text = state.read_text("utf-8")
    assert "Question" not in text
    assert "secret" not in text
    loaded = BatchJob.load(state, api_key="k")
    assert loaded.to_dict() == job.to_dict()
    assert loaded.wait(0.01).results().texts[0] == answer_to("Question 0")
    assert batches.jobs["batch_1"]["metadata"]["llmbatch_job"] == job.id
    assert [path.name for path in state.parent.iterdir()] == ["job.json"]


def test_submit_same_state_never_submits_twice(batches: BatchProvider, place: dict[str, Any], tmp_path: Path) -> None:
    """Other requests with it are refused, and so is a file that is none of ours."""
    state = tmp_path / "job.json"
    jobs = [submitted(place, state=state) for _ in range(3)]
    assert len({job.id for job in jobs}) == 1
    assert len(batches.jobs) == 1
    with pytest.raises(ValueError, match="other requests"):
        submitted(place, 4, state=state)
    state.write_text('{"some": "file"}')
    with pytest.raises(BatchJobError, match="not a batch job's state file"):
        submitted(place, state=state)


def test_retrieve_job_is_found_by_state_and_by_ids(
    batches: BatchProvider, place: dict[str, Any], tmp_path: Path
) -> None:
    """Without the state file, the order is read from the input files."""
    job = submitted(place, 5, max_rows=2, state=tmp_path / "job.json").wait(0.01)
    for known in (str(job.path), job.id, job.batch_ids):
        found = retrieve_batch_job(known, **({} if known == str(job.path) else {"model": MODEL}), **place)  # type: ignore[arg-type]
        assert found.status == "completed"
        assert found.results().texts == [answer_to(f"Question {i}") for i in range(5)]
    with pytest.raises(BatchJobError, match="no batch of job"):
        retrieve_batch_job("job-0000000000000000", model=MODEL, **place)


def test_wait_downloads_nothing_and_survives_errors(
    batches: BatchProvider, place: dict[str, Any], server: Server
) -> None:
    """Polls are single requests until the results are asked for."""
    batches.polls = 4
    job = submitted(place)
    batches.fault("GET", "/v1/batches/", Response(503))
    job.wait(0.01)
    assert not [request for request in server.requests if request.path.endswith("/content")]
    job.results()
    assert [request for request in server.requests if request.path.endswith("/content")]


def test_wait_timeout_raises(batches: BatchProvider, place: dict[str, Any]) -> None:
    """After `timeout` the job goes on without us; its results are not there yet."""
    batches.polls = 10_000
    job = submitted(place)
    with pytest.raises(TimeoutError, match="it continues"):
        job.wait(0.01, timeout=0.05)
    with pytest.raises(BatchJobError, match="call wait"):
        job.results()


def test_cancel_ends_the_job(batches: BatchProvider, place: dict[str, Any]) -> None:
    """Twice, and after its end, is no trouble."""
    batches.polls = 3
    job = submitted(place).cancel()
    assert job.status == "cancelling"
    assert job.wait(0.01).status == "cancelled"
    job.cancel()


def test_async_versions_work_in_running_loop(batches: BatchProvider, place: dict[str, Any]) -> None:
    """Several jobs at once."""

    async def run() -> list[Any]:
        async def one(word: str) -> Any:
            job = await llmbatch.asubmit_batch_job(asked(2, word), MODEL, **place)
            return (await (await job.await_(0.01)).aresults()).texts

        return await asyncio.gather(*(one(word) for word in ("A", "B", "C")))

    assert asyncio.run(run()) == [[answer_to(f"{word} {i}") for i in range(2)] for word in ("A", "B", "C")]
