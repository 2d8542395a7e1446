"""Rows of a job's output and error files, whatever shape a server writes them in."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from click.testing import CliRunner

import llmbatch
from llmbatch.cli import main
from tests.batch_server import MODEL, asked, submitted
from tests.replies import answer_to, said

if TYPE_CHECKING:
    from pathlib import Path

    from tests.batch_server import BatchProvider
    from tests.server import Server

VLLM_ERROR = {
    "error": {"message": "maximum context length is 256", "type": "BadRequestError", "param": None, "code": 400}
}
FASTAPI_BODY = {"detail": [{"loc": ["body", "messages", 0], "msg": "Field required", "type": "missing"}]}


def failing(batches: BatchProvider, **line: Any) -> None:
    """Let each line of a job become this error line."""

    def end(lines: list[bytes]) -> dict[str, Any]:
        made = [{"id": "r", "custom_id": json.loads(text)["custom_id"], **line} for text in lines]
        file = batches.add_file("errors.jsonl", b"".join(json.dumps(one).encode() + b"\n" for one in made))
        return {"status": "completed", "error_file_id": file.id}

    batches.end = end


@pytest.mark.parametrize(
    ("line", "error", "status", "retryable"),
    [
        ({"response": {"status_code": 400, "body": None}, "error": VLLM_ERROR},
         "BadRequestError: maximum context length is 256", 400, False),
        ({"response": None, "error": VLLM_ERROR}, "BadRequestError: maximum context length is 256", 400, False),
        ({"response": {"status_code": 400, "body": None}, "error": "bad url"}, "RequestError: bad url", 400, False),
        ({"response": {"status_code": 422, "body": FASTAPI_BODY}, "error": None},
         "RequestError: body.messages.0: Field required", 422, False),
        ({"response": {"status_code": 422, "body": json.dumps({"detail": "bad role"})}, "error": None},
         "RequestError: bad role", 422, False),
        ({"response": {"status_code": 400, "body": {}}},
         "RequestError: the request failed without a message", 400, False),
        ({"error": {"type": "request_failed", "message": "Error code: 400 - too long"}},
         "request_failed: Error code: 400 - too long", 400, False),
        ({"error": {"type": "request_failed", "message": "Error code: 429 - busy"}},
         "request_failed: Error code: 429 - busy", 429, True),
        ({"error": {"type": "request_failed", "message": "Error code: 500 - engine died"}},
         "request_failed: Error code: 500 - engine died", 500, True),
        ({"error": {"type": "request_failed", "message": "we met Error code: 500 - once"}},
         "request_failed: we met Error code: 500 - once", None, False),
        ({"error": {"code": "server_error", "message": "try again"}}, "server_error: try again", None, True),
    ],
)  # fmt: skip
def test_results_error_line_has_reason_status_and_retryable(  # noqa: PLR0917 - fixtures
    batches: BatchProvider, place: dict[str, Any], line: dict[str, Any], error: str, status: int | None, retryable: bool
) -> None:
    """Lines of OpenAI, `vllm run-batch`, FastAPI servers and OGX say the same in different places."""
    failing(batches, **line)
    (row,) = submitted(place, 1).wait(0.01).results()
    assert row["error"] == error
    assert (row["error_details"]["status_code"], row["error_details"]["retryable"]) == (status, retryable)


def test_cheapest_throttled_error_line_is_sent_live(
    batches: BatchProvider, place: dict[str, Any], server: Server
) -> None:
    """A status that is only in the message counts; a 400 stays final."""
    rows = []
    for code in (429, 400):
        failing(batches, error={"type": "request_failed", "message": f"Error code: {code} - no"})
        rows += llmbatch.create_chat_completions_batch(
            asked(1, f"{code}"), MODEL, lane="cheapest", progress=False, **place
        )
    assert [row.get("error", "ok") for row in rows] == ["ok", "request_failed: Error code: 400 - no"]
    assert sum(request.path.endswith("/chat/completions") for request in server.requests) == 1


def discarded(batches: BatchProvider, ran: int) -> None:
    """Let a job be cancelled after so many requests, without an output file, as OGX 1.5 does."""
    batches.end = lambda lines: {
        "status": "cancelled", "request_counts": {"completed": ran, "failed": 0, "total": len(lines)},
    }  # fmt: skip


def test_results_discarded_answers_have_unknown_cost(batches: BatchProvider, place: dict[str, Any]) -> None:
    """Rows that the server counts as completed are not called unsent, and do not cost 0 for certain."""
    discarded(batches, ran=2)
    rows = submitted(place, 3).wait(0.01).results()
    assert {(row["error_details"]["type"], row["cost"]) for row in rows} == {("MissingResult", None)}
    assert "ran 2 of the 3 requests" in rows[0]["error"]
    discarded(batches, ran=0)
    rows = submitted(place, 3).wait(0.01).results()
    assert {(row["error_details"]["type"], row["cost"]) for row in rows} == {("BatchCancelled", 0.0)}


def test_cheapest_discarded_answers_stay_reserved(batches: BatchProvider, place: dict[str, Any]) -> None:
    """`max_cost` counts what they may have cost, and the live rows say that they may have been paid for twice."""
    discarded(batches, ran=2)
    # At most $0.0003 for each row in the job, and $0.0006 for each live one.
    given: dict[str, Any] = {"lane": "cheapest", "progress": False, "max_tokens": 1000, **place}
    rows = llmbatch.create_chat_completions_batch(asked(3), MODEL, max_cost=0.003, **given)
    assert rows.texts == [answer_to(f"Question {i}") for i in range(3)]
    assert [row["paid_twice"] for row in rows] == [None] * 3
    rows = llmbatch.create_chat_completions_batch(asked(3), MODEL, max_cost=0.0013, **given)
    assert [row["error_details"]["type"] for row in rows.failed] == ["BudgetExceeded"] * 3


def test_report_provider_files_are_read(tmp_path: Path) -> None:
    """Bodies as JSON strings (OGX), nested errors and bare strings (vLLM) are lines like any other."""
    answer = said("yes").body
    path = tmp_path / "out.jsonl"
    lines: list[dict[str, Any]] = [
        {"custom_id": "a", "response": {"status_code": 200, "request_id": "r", "body": json.dumps(answer)}},
        {"custom_id": "b", "response": {"status_code": 400, "body": None}, "error": VLLM_ERROR},
        {"custom_id": "c", "response": {"status_code": 400, "body": None}, "error": "no such url"},
    ]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    done = CliRunner().invoke(main, ["report", str(path), "-o", str(tmp_path / "run.html")])
    assert done.exit_code in {0, 1}, done.output
    page = (tmp_path / "run.html").read_text()
    for words in ("1 of 3", "maximum context length is 256", "no such url"):
        assert words in page
