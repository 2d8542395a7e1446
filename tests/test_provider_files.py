"""Batch jobs at providers with other paths or other APIs, and through the llmock server."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Any

import pytest

from llmbatch import BatchJobError, submit_batch_job
from tests.batch_server import BatchProvider, asked, submitted
from tests.replies import answer_to
from tests.wire import Request, Response

if TYPE_CHECKING:
    from llmock.pytest_plugin import LLMock

    from tests.server import Server

ANSWERS = [answer_to(f"Question {i}") for i in range(3)]


def test_azure_uses_its_own_paths_and_the_deployment(batches: BatchProvider, server: Server) -> None:
    """Files and batches are under /openai, lines have no version in their url."""
    place = {"api_base": server.url, "api_key": "k", "api_version": "2024-10-21"}
    job = submit_batch_job(asked(3), "azure/my-deployment", **place)
    assert job.wait(0.01).results().texts == ANSWERS
    line = json.loads(batches.files["file-1"].content.splitlines()[0])
    assert (line["url"], line["body"]["model"]) == ("/chat/completions", "my-deployment")
    assert batches.jobs["batch_1"]["endpoint"] == "/chat/completions"
    assert {request.path for request in server.requests} >= {
        "/openai/files?api-version=2024-10-21", "/openai/batches?api-version=2024-10-21",
    }  # fmt: skip
    assert server.requests[0].headers["api-key"] == "k"


def test_azure_pending_file_is_waited_for(batches: BatchProvider, server: Server) -> None:
    """A batch of a file that is still pending is refused there."""
    file = {"id": "file-1", "object": "file", "status": "pending", "filename": "x", "purpose": "batch"}
    batches.fault("POST", "/v1/files", Response(body=file), done=True)
    place = {"api_base": server.url, "api_key": "k", "api_version": "2024-10-21"}
    submit_batch_job(asked(1), "azure/x", **place)
    paths = [f"{request.method} {request.path.partition('?')[0]}" for request in server.requests]
    assert paths == ["POST /openai/files", "GET /openai/files/file-1", "POST /openai/batches"]


@pytest.mark.parametrize("model", ["groq/llama-3.1-8b-instant", "hosted_vllm/llama", "litellm_proxy/anything"])
def test_openai_compatible_services_work_by_their_own_name(
    batches: BatchProvider, place: dict[str, Any], model: str
) -> None:
    """And at their own address."""
    assert submit_batch_job(asked(3), model, **place).wait(0.01).results().texts == ANSWERS
    assert json.loads(batches.files["file-1"].content.splitlines()[0])["body"]["model"] == model.partition("/")[2]


class Mistral:
    """Mistral's files and batch jobs, on top of the loopback's files."""

    def __init__(self, server: Server) -> None:
        self.batches = BatchProvider(server)
        self.looks = 0
        self.asked: dict[str, Any] = {}
        server.handler = self.handle

    def handle(self, request: Request) -> Response | None:
        if not request.path.startswith("/v1/batch/jobs"):
            return self.batches.handle(request)
        if request.method == "POST":
            self.asked = request.json
        job = {**self.asked, "id": "job-1", "object": "batch", "created_at": int(time.time()), "status": "QUEUED",
               "total_requests": 3, "errors": []}  # fmt: skip
        self.looks += request.method == "GET"
        if self.looks >= 2:
            inner = self.batches._create(
                {"input_file_id": self.asked["input_files"][0], "endpoint": "", "completion_window": ""}
            )
            self.batches._finish(inner, "completed")
            job |= {"status": "SUCCESS", "output_file": inner["output_file_id"], "error_file": inner["error_file_id"],
                    "completed_requests": 3, "succeeded_requests": 2, "failed_requests": 1}  # fmt: skip
        return Response(body=job)


def test_mistral_job_runs_through_litellm(server: Server, place: dict[str, Any]) -> None:
    """OpenAI's lines go in, the model is named for the whole job, and OpenAI-shaped lines come back."""
    mistral = Mistral(server)
    job = submit_batch_job(asked(3), "mistral/mistral-small-latest", seed=7, **place)
    mistral.batches.fates[job.state.custom_ids[1]] = "failed"
    results = job.wait(0.01).results()
    assert mistral.asked["model"] == "mistral-small-latest"
    assert mistral.asked["endpoint"] == "/v1/chat/completions"
    assert mistral.asked["metadata"]["llmbatch_job"] == job.id
    line = json.loads(mistral.batches.files["file-1"].content.splitlines()[0])
    assert line["body"]["random_seed"] == 7
    assert results.texts == [ANSWERS[0], None, ANSWERS[2]]
    assert results[1]["error_details"]["status_code"] == 400
    mistral.looks = -10
    with pytest.raises(BatchJobError, match="cannot cancel"):
        submit_batch_job(asked(1), "mistral/mistral-small-latest", **place).cancel()


class XAI:
    """xAI's batches: counters instead of a status, pages of results instead of a file."""

    def __init__(self, server: Server) -> None:
        self.batches = BatchProvider(server)
        self.looks = 0
        self.asked: list[dict[str, Any]] = []
        server.handler = self.handle

    def handle(self, request: Request) -> Response | None:
        path = request.path.partition("?")[0]
        if not path.startswith("/v1/batches"):
            return self.batches.handle(request)
        if path.endswith("/results"):
            return Response(body={"results": [self.result(line) for line in reversed(self.lines())]})
        if request.method == "POST":
            self.asked.append(request.json)
        if path == "/v1/batches" and request.method == "GET":
            return Response(body={"batches": [self.shown()]})
        self.looks += request.method == "GET"
        return Response(body=self.shown())

    def lines(self) -> list[dict[str, Any]]:
        file = self.batches.files[self.asked[0]["input_file_id"]]
        return [json.loads(line) for line in file.content.splitlines()]

    def shown(self) -> dict[str, Any]:
        done = self.looks >= 2
        state = {"num_requests": 3, "num_pending": 0 if done else 3, "num_success": 2 if done else 0, "num_error": 1}
        return {"batch_id": "batch_1", "name": self.asked[0]["name"], "input_file_id": self.asked[0]["input_file_id"],
                "create_time": "2026-01-01T00:00:00Z", "state": state}  # fmt: skip

    def result(self, line: dict[str, Any]) -> dict[str, Any]:
        text = line["body"]["messages"][-1]["content"]
        if text == "Question 1":
            return {"batch_request_id": line["custom_id"], "batch_result": {"error": {"code": 3, "message": "no"}}}
        made = self.batches._outcome(line, "")[0]
        answer = {"chat_get_completion": json.loads(made)["response"]["body"]}
        return {"batch_request_id": line["custom_id"], "batch_result": {"response": answer}}


def test_xai_job_runs_through_litellm(server: Server, place: dict[str, Any]) -> None:
    """Also when the answer to the creation is lost."""
    xai = XAI(server)
    results = submit_batch_job(asked(3), "xai/grok-3", **place).wait(0.01).results()
    assert results.texts == [ANSWERS[0], None, ANSWERS[2]]
    assert results[1]["error"] == "3: no"
    assert len(xai.asked) == 1
    assert "job-" in xai.asked[0]["name"]


@pytest.mark.processes
@pytest.mark.filterwarnings("ignore:Exception ignored in. <function SpooledTemporaryFile")  # llmock's own upload
def test_llmock_job_runs_to_its_end(llmock: LLMock) -> None:
    """Uploads, creation, polls and downloads that meet 429s and 5xx, a bad line among the good ones."""
    place = {"api_base": llmock.base_url("openai"), "api_key": "made-up"}
    llmock.fail(429, retry_after=0.05)
    job = submitted(place)
    llmock.fail(503)
    results = job.wait(0.3).results()
    assert results.failed == []
    assert all(results.texts)
    assert [row["custom_id"] for row in results] == job.state.custom_ids
    assert results.cost
