"""What becomes of a job's failed rows, and jobs run in one call."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any

import pytest

import llmbatch
from llmbatch import BatchJob, BatchJobError, submit_batch_job
from tests.batch_server import MODEL, asked, submitted
from tests.replies import answer_to
from tests.wire import Response

if TYPE_CHECKING:
    from pathlib import Path

    from tests.batch_server import BatchProvider
    from tests.server import Server


def test_resubmit_failed_rows_make_results_whole(batches: BatchProvider, place: dict[str, Any], tmp_path: Path) -> None:
    """As another batch of the same job, whose results are then whole."""
    state = tmp_path / "job.json"
    job = submit_batch_job([*asked(5), []], MODEL, state=state, max_rows=2, **place)
    batches.fates = {job.state.custom_ids[at]: fate for at, fate in ((0, "missing"), (3, "failed"))}
    assert len(job.wait(0.01).results().failed) == 3
    batches.fates.clear()
    again = BatchJob.load(state, api_key="k").resubmit_failed()
    assert again.id == job.id
    assert len(batches.jobs) == 4
    results = again.wait(0.01).results()
    assert results.texts == [*(answer_to(f"Question {i}") for i in range(5)), None]
    assert submit_batch_job([*asked(5), []], MODEL, state=state, max_rows=2, **place).results().texts == results.texts
    assert len(batches.jobs) == 4
    again.resubmit_failed()
    assert len(batches.jobs) == 4


def test_resubmit_failed_again_keeps_answers(batches: BatchProvider, place: dict[str, Any]) -> None:
    """Only failures are replaced."""
    job = submitted(place)
    batches.fates[job.state.custom_ids[0]] = "failed"
    job.wait(0.01)
    results = job.resubmit_failed().wait(0.01).results()
    assert results.texts == [None, answer_to("Question 1"), answer_to("Question 2")]


def test_run_failed_live_has_one_budget_for_all_rows(batches: BatchProvider, place: dict[str, Any]) -> None:
    """However many sets of parameters they have."""
    rows = asked(36)
    sets = [rows[at : at + 12] for at in (0, 12, 24)]
    payloads = [
        p
        for seed, part in enumerate(sets)
        for p in llmbatch.render_batch_requests(part, MODEL, seed=seed, max_tokens=10)
    ]
    job = submit_batch_job(payloads, MODEL, **place)
    batches.fates = dict.fromkeys(job.state.custom_ids, "failed")
    results = job.wait(0.01).run_failed_live(progress=False, max_cost=0.00008)
    assert 0 < results.cost <= 0.00008  # type: ignore[operator]
    assert results.failed


def test_resubmit_interrupted_is_continued(batches: BatchProvider, place: dict[str, Any], tmp_path: Path) -> None:
    """With the same rows, once."""
    job = submitted(place, state=tmp_path / "job.json")
    batches.fates[job.state.custom_ids[1]] = "missing"
    job.wait(0.01)
    batches.fates.clear()
    batches.fault("POST", "/v1/batches", Response(401))
    with pytest.raises(BatchJobError):
        job.resubmit_failed()
    again = BatchJob.load(tmp_path / "job.json", api_key="k")
    assert again.status == "submitting"
    assert again.resubmit_failed().wait(0.01).results().texts == [answer_to(f"Question {i}") for i in range(3)]
    assert len(batches.jobs) == 2


def test_run_failed_live_sends_the_bodies_of_the_job(
    batches: BatchProvider, place: dict[str, Any], server: Server
) -> None:
    """With the very bodies of the job, at live prices, each row in its place."""
    job = submitted(place, seed=7)
    batches.fates[job.state.custom_ids[1]] = "missing"
    job.wait(0.01)
    results = job.run_failed_live(progress=False)
    assert results.texts == [answer_to(f"Question {i}") for i in range(3)]
    assert [row["custom_id"] for row in results] == job.state.custom_ids
    (live,) = [request.json for request in server.requests if request.path.endswith("/chat/completions")]
    assert live == json.loads(batches.files["file-1"].content.splitlines()[1])["body"]


def test_run_failed_live_adds_the_cost_of_the_job(batches: BatchProvider, place: dict[str, Any]) -> None:
    """Live or in the job, tokens, USD and attempts are those of both."""
    job = submitted(place, response_format={"type": "json_object"}).wait(0.01)
    before = job.results()
    assert {row["error_details"]["type"] for row in before} == {"ValidationError"}
    results = job.run_failed_live(progress=False)
    assert results.usage["total_tokens"] == 2 * before.usage["total_tokens"]
    assert results.cost == pytest.approx(3 * before.cost)  # type: ignore[operator]  # at half the price, and at all of it
    assert [row["attempts"] for row in results] == [row["attempts"] + 1 for row in before]
    again = job.resubmit_failed().wait(0.01).results()
    assert again.usage["total_tokens"] == 2 * before.usage["total_tokens"]
    assert again.cost == pytest.approx(2 * before.cost)  # type: ignore[operator]


def test_run_failed_live_takes_payloads_without_providers_copy(batches: BatchProvider, place: dict[str, Any]) -> None:
    """`payloads=` takes what `render_batch_requests` made."""
    job = submitted(place)
    batches.fates[job.state.custom_ids[1]] = "missing"
    job.wait(0.01)
    del batches.files["file-1"]
    with pytest.raises(BatchJobError, match="download file-1"):
        job.run_failed_live(progress=False)
    payloads = llmbatch.render_batch_requests(asked(3), MODEL)
    assert job.run_failed_live(payloads=payloads, progress=False).texts[1] == answer_to("Question 1")


def test_job_lane_rerun_with_checkpoint_submits_nothing(
    batches: BatchProvider, place: dict[str, Any], tmp_path: Path
) -> None:
    """`batch_job=True` submits, waits and returns; a rerun with its checkpoint submits nothing."""
    seen: list[int] = []
    for _ in range(2):
        results = llmbatch.create_chat_completions_batch(
            asked(3), MODEL, batch_job=True, checkpoint=tmp_path / "run.jsonl", progress=False,
            on_result=lambda index, _: seen.append(index), **place,
        )  # fmt: skip
        assert results.texts == [answer_to(f"Question {i}") for i in range(3)]
    assert seen == [0, 1, 2] * 2
    assert len(batches.jobs) == 1


def test_job_lane_rerun_submits_failed_rows_again(
    batches: BatchProvider, place: dict[str, Any], tmp_path: Path
) -> None:
    """As a live batch with a checkpoint does, and only these; also where that was cut short."""

    def run() -> llmbatch.BatchResults:
        given: dict[str, Any] = {"batch_job": True, "custom_ids": ["a", "b", "c"], "progress": False, **place}
        return llmbatch.create_chat_completions_batch(asked(3), MODEL, checkpoint=tmp_path / "run.jsonl", **given)

    a, b, _ = (payload["custom_id"] for payload in llmbatch.render_batch_requests(asked(3), MODEL))
    batches.fates = {a: "expired", b: "failed"}
    assert run().texts == [None, None, answer_to("Question 2")]
    batches.fates = {b: "failed"}
    assert run().texts == [answer_to("Question 0"), None, answer_to("Question 2")]
    batches.fault("POST", "/v1/batches", Response(401))
    with pytest.raises(BatchJobError):
        run()
    batches.fates.clear()
    assert run().texts == [answer_to(f"Question {i}") for i in range(3)]
    run()
    sizes = [len(batches.files[job["input_file_id"]].content.splitlines()) for job in batches.jobs.values()]
    assert sizes == [3, 2, 1]


def test_job_lane_interruption_says_how_to_continue(
    batches: BatchProvider, place: dict[str, Any], tmp_path: Path
) -> None:
    """The error names the job's id or its state file, by which it is found, waited for or cancelled."""
    batches.polls = 10**6

    async def interrupted(**options: Any) -> str:
        made = len(batches.jobs)
        given = {"batch_job": True, "progress": False, **place, **options}
        task = asyncio.ensure_future(llmbatch.acreate_chat_completions_batch(asked(2), MODEL, **given))
        while len(batches.jobs) == made:  # noqa: ASYNC110 - the server is another thread
            await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError) as caught:
            await task
        (note,) = caught.value.__notes__
        return note

    journal = tmp_path / "run.jsonl"
    for options in ({}, {"checkpoint": journal}):
        note = asyncio.run(interrupted(**options))
        job = list(batches.jobs.values())[-1]
        assert job["status"] != "cancelling"
        assert job["metadata"]["llmbatch_job"] in note
    assert repr(str(journal)) in note
    assert f"retrieve_batch_job({str(tmp_path / 'run.jsonl.job')!r})" in note


def test_job_lane_deadline_cancels_the_job(batches: BatchProvider, place: dict[str, Any]) -> None:
    """Rows not done by then are error rows."""
    batches.polls = 10_000
    batches.fates = {payload["custom_id"]: "missing" for payload in llmbatch.render_batch_requests(asked(1), MODEL)}
    results = llmbatch.create_chat_completions_batch(
        asked(2), MODEL, batch_job=True, deadline=0.01, progress=False, **place
    )
    assert results[0]["error_details"]["type"] == "BatchCancelled"
    assert [job["status"] for job in batches.jobs.values()] == ["cancelled"]
    assert results.texts[1] == answer_to("Question 1")


def test_job_lane_max_cost_is_checked_before_the_job(batches: BatchProvider, place: dict[str, Any]) -> None:
    """At the worst case, with batch prices."""
    for options, why in (
        ({"max_cost": 1e-6}, "may cost"),
        ({"max_cost": 1.0, "model": "openai/nobody-knows"}, "needs a price"),
        ({"fallbacks": ["gpt-4o"]}, "run_failed_live"),
    ):
        with pytest.raises(ValueError, match=why):
            llmbatch.create_chat_completions_batch(asked(2), **{"model": MODEL, "batch_job": True, **place, **options})
    assert not batches.files
