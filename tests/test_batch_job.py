"""Batch jobs against a loopback provider: one right row for each input, whatever the provider's files hold."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from pydantic import BaseModel

import llmbatch
from llmbatch import submit_batch_job
from llmbatch._rows.row import row_text
from tests.batch_server import MODEL, asked, submitted
from tests.replies import answer_to, said, vector_for

if TYPE_CHECKING:
    from pathlib import Path

    from tests.batch_server import BatchProvider
    from tests.server import Server


def test_job_rows_are_the_live_rows_at_half_the_price(batches: BatchProvider, place: dict[str, Any]) -> None:
    """Same ids, same keys, same answers, in the order of the input; how long one took only the provider knows."""
    live = llmbatch.create_chat_completions_batch(asked(3), MODEL, **place)
    job = submitted(place).wait(0.01).results()
    assert [row["custom_id"] for row in job] == [row["custom_id"] for row in live]
    assert job.texts == live.texts == [answer_to(f"Question {i}") for i in range(3)]
    assert job.usage == live.usage
    assert live.cost
    assert job.cost == pytest.approx(live.cost / 2)
    for mine, theirs in zip(job, live, strict=True):
        told = {key: value for key, value in theirs.items() if value is not None} | {"elapsed": None, "waited": None}
        told["lane"] = "job"
        assert theirs["lane"] == "live"
        assert mine["saved"] == pytest.approx(theirs["cost"] / 2)
        varies = {"id", "cost", "choices", "started_at"}  # the test server makes up a new id for each answer
        assert {key: mine[key] for key in told if key not in varies} == {
            key: value for key, value in told.items() if key not in varies
        }
        assert mine["choices"][0]["message"]["content"] == theirs["choices"][0]["message"]["content"]


def test_input_file_has_what_live_calls_send(batches: BatchProvider, place: dict[str, Any], server: Server) -> None:
    """Line by line."""
    llmbatch.create_chat_completions_batch(asked(1), MODEL, seed=7, **place)
    live = server.requests[0].json
    submitted(place, 1, seed=7)
    assert json.loads(batches.files["file-1"].content)["body"] == live


@pytest.mark.parametrize(
    ("fate", "kind", "retryable"),
    [
        ("missing", "MissingResult", True),
        ("failed", "bad_prompt", False),
        ("contradicted", "DuplicateResult", True),
        ("garbled", "UnparsableResult", True),
        ("expired", "BatchExpired", True),
        ("empty", "RequestError", True),
    ],
)
def test_results_request_without_answer_is_an_error_row(
    batches: BatchProvider, place: dict[str, Any], fate: str, kind: str, retryable: bool
) -> None:
    """In its place, with the others unharmed."""
    job = submitted(place)
    batches.fates[job.state.custom_ids[1]] = fate
    results = job.wait(0.01).results()
    assert results.texts == [answer_to("Question 0"), None, answer_to("Question 2")]
    details = results[1]["error_details"]
    assert (details["type"], details["retryable"], details["provider"]) == (kind, retryable, "openai")
    assert results[1]["custom_id"] == job.state.custom_ids[1]


@pytest.mark.parametrize(("end", "kind"), [("expired", "BatchExpired"), ("cancelled", "BatchCancelled")])
def test_results_of_ended_early_job_are_kept(
    batches: BatchProvider, place: dict[str, Any], end: str, kind: str
) -> None:
    """What was done by then is answered, the rest says why not, and costs nothing."""
    batches.end = end
    job = submitted(place)
    batches.fates[job.state.custom_ids[0]] = "missing"
    results = job.wait(0.01).results()
    assert job.status == end
    assert results.texts == [None, answer_to("Question 1"), answer_to("Question 2")]
    assert (results[0]["error_details"]["type"], results[0]["cost"]) == (kind, 0.0)


def test_results_rejected_file_fails_each_row_and_names_the_faulty_one(
    batches: BatchProvider, place: dict[str, Any]
) -> None:
    """There are no files to read then."""
    error = {"code": "invalid_json_line", "message": "This line is not parseable.", "line": 2, "param": None}
    batches.end = lambda _: {"status": "failed", "errors": {"object": "list", "data": [error]}}
    job = submitted(place).wait(0.01)
    assert job.status == "failed"
    first, second, third = job.results()
    assert second["error"] == "invalid_json_line: This line is not parseable."
    assert first["error"] == third["error"]
    assert "rejected the whole input file: invalid_json_line (line 2)" in first["error"]
    assert (first["error_details"]["retryable"], second["error_details"]["retryable"]) == (True, False)


def lines(*values: Any) -> bytes:
    return b"".join(json.dumps(value).encode() + b"\n" for value in values)


def test_results_both_files_are_read_and_statuses_checked(batches: BatchProvider, place: dict[str, Any]) -> None:
    """Error lines with `error: null`, status 0, counts that do not add up, and lines of nobody, as seen in the wild."""
    body = {"error": {"message": "Forbidden", "type": "invalid_request_error", "code": None}}
    ids = [payload["custom_id"] for payload in llmbatch.render_batch_requests(asked(4), MODEL)]
    answer = said("yes").body
    output = batches.add_file("out", lines(
        {"custom_id": "nobody", "response": {"status_code": 200, "body": answer}, "error": None},
        {"custom_id": ids[3], "response": {"status_code": 200, "body": answer}, "error": None},
        {"custom_id": ids[2], "response": {"status_code": 200, "body": {"no": "answer"}}, "error": None},
    ) + b"\n[]\nnot json\n")  # fmt: skip
    errors = batches.add_file("err", lines(
        {"custom_id": ids[0], "response": {"status_code": 403, "request_id": "", "body": body}, "error": None},
        {"custom_id": ids[1], "response": {"status_code": 0, "body": {}}, "error": None},
    ))  # fmt: skip
    counts = {"total": 4, "completed": 7, "failed": 0}
    batches.end = lambda _: {"status": "COMPLETED", "output_file_id": output.id, "error_file_id": errors.id,
                             "request_counts": counts, "metadata": None, "completed_at": None}  # fmt: skip
    results = submitted(place, 4).wait(0.01).results()
    assert [row["error_details"]["type"] for row in results.failed] == [
        "invalid_request_error", "RequestError", "UnparsableResult",
    ]  # fmt: skip
    assert results[0]["error_details"]["status_code"] == 403
    assert results.texts[3] == "yes"


def test_results_empty_error_file_without_counts_are_accepted(batches: BatchProvider, place: dict[str, Any]) -> None:
    """A cancelled job may have both files and nothing in them."""
    empty = batches.add_file("empty", b"")
    batches.end = lambda _: {"status": "cancelled", "output_file_id": None, "error_file_id": empty.id,
                             "request_counts": None, "errors": None}  # fmt: skip
    results = submitted(place).wait(0.01).results()
    assert [row["error_details"]["type"] for row in results] == ["BatchCancelled"] * 3


def test_submit_invalid_rows_are_error_rows(batches: BatchProvider, place: dict[str, Any]) -> None:
    """The others are submitted."""
    results = submit_batch_job([*asked(1), [], *asked(1, "More")], MODEL, **place).wait(0.01).results()
    assert results.texts == [answer_to("Question 0"), None, answer_to("More 0")]
    assert results[1]["error_details"]["type"] == "InvalidRow"


def test_submit_nothing_to_send_creates_nothing(batches: BatchProvider, place: dict[str, Any]) -> None:
    """Not even a file."""
    job = submit_batch_job([None, 7], MODEL, **place)
    assert (job.status, job.ended) == ("completed", True)
    assert len(job.wait().results().failed) == 2
    assert submit_batch_job([], MODEL, **place).results() == []
    assert not batches.files


def test_submit_large_job_is_split_at_the_limits(batches: BatchProvider, place: dict[str, Any]) -> None:
    """By rows and by bytes; a row too long for any file is an error row."""
    job = submitted(place, 10, max_rows=4)
    assert [len(file.content.splitlines()) for file in batches.files.values()] == [4, 4, 2]
    assert job.wait(0.01).results().texts == [answer_to(f"Question {i}") for i in range(10)]
    size = len(next(iter(batches.files.values())).content) // 4
    batches.files.clear()
    long = [{"role": "user", "content": "x" * 3 * size}]
    results = submit_batch_job([*asked(4), long], MODEL, max_bytes=2 * size + 9, **place).wait(0.01).results()
    assert [len(file.content.splitlines()) for file in batches.files.values()][:2] == [2, 2]
    assert results[4]["error_details"]["type"] == "InvalidRow"


def test_results_large_job_has_one_right_row_for_each_input(batches: BatchProvider, place: dict[str, Any]) -> None:
    """Three files, output in another order, with rows missing, failed and given twice (one answer all the same)."""
    count = 600
    job = submitted(place, count, max_rows=200)
    fates = dict(zip(job.state.custom_ids, ["", "", "missing", "", "failed", "", "twice"] * count, strict=False))
    batches.fates = fates
    results = job.wait(0.01).results()
    assert [row["custom_id"] for row in results] == job.state.custom_ids
    for i, row in enumerate(results):
        if fates[row["custom_id"]] in {"missing", "failed"}:
            assert "error" in row
        else:
            assert row_text(row) == answer_to(f"Question {i}")


def test_results_unknown_price_is_none(batches: BatchProvider, place: dict[str, Any]) -> None:
    """Never 0."""
    results = submit_batch_job(asked(2), "openai/nobody-knows", **place).wait(0.01).results()
    assert results.cost is None
    assert results.unpriced == 2


class Person(BaseModel):
    name: str


def test_results_structured_answers_are_checked_as_live_ones(batches: BatchProvider, place: dict[str, Any]) -> None:
    """An answer that is none of the model's is an error row that keeps it."""
    results = submit_batch_job(asked(1), MODEL, response_format=Person, **place).wait(0.01).results()
    assert results[0]["error_details"]["type"] == "ValidationError"
    assert results[0]["choices"]
    assert results.response_format is Person


def test_submit_embeddings_run_as_a_job(batches: BatchProvider, place: dict[str, Any]) -> None:
    """The rows are those of `create_embeddings_batch`."""
    payloads = llmbatch.render_embeddings_requests(["a cat", "a dog"])
    results = submit_batch_job(payloads, "text-embedding-3-small", **place).wait(0.01).results()
    assert results.embeddings == [vector_for("a cat"), vector_for("a dog")]
    assert results.cost
    assert batches.jobs["batch_1"]["endpoint"] == "/v1/embeddings"


def test_submit_payloads_and_files_are_sent_as_they_are(
    batches: BatchProvider, place: dict[str, Any], tmp_path: Path
) -> None:
    """They name their model; what would change them is refused."""
    payloads = llmbatch.render_batch_requests(asked(3), "gpt-4o", temperature=None, max_tokens=7)
    path = tmp_path / "batch.jsonl"
    llmbatch.write_batch_file(path, payloads)
    for given in (payloads, iter(payloads), path, str(path)):
        assert submit_batch_job(given, **place).wait(0.01).results().texts[2] == answer_to("Question 2")
    assert len({file.content for file in batches.files.values() if not file.name.startswith("batch_")}) == 1
    with pytest.raises(ValueError, match="Leave out seed"):
        submit_batch_job(payloads, seed=1, **place)
    with pytest.raises(ValueError, match="are for model 'gpt-4o'"):
        submit_batch_job(payloads, MODEL, **place)
    path.write_text("")
    with pytest.raises(ValueError, match="no payload"):
        submit_batch_job(path, **place)


def test_submit_misuse_raises_before_anything_is_created(batches: BatchProvider, place: dict[str, Any]) -> None:
    """With the mend."""
    for arguments, kind, why in (
        ({"max_rows": 0}, ValueError, "at least 1"),
        ({"metadata": {"a": 1}}, ValueError, "strings"),
        ({"custom_ids": ["a"]}, ValueError, "fewer"),
        ({"model": "anthropic/claude-sonnet-4-5"}, NotImplementedError, "anthropic"),
    ):
        with pytest.raises(kind, match=why):
            submit_batch_job(asked(2), **{"model": MODEL, **place, **arguments})
    with pytest.raises(ValueError, match="OPENAI_API_KEY"):
        submit_batch_job(asked(2), MODEL)
    assert not batches.files


def test_retrieve_job_of_several_models_knows_each_price(place: dict[str, Any], batches: BatchProvider) -> None:
    """By its id, without a state file: the provider's input files say which row was for which model."""
    requests = [
        {"prompt": f"Question {i}", "model": f"openai/{model}"} for i, model in enumerate(("gpt-4o", "gpt-4o-mini"))
    ]
    job = llmbatch.submit_batch_job(requests, "openai/gpt-4o-mini", **place).wait(0.01)
    known, found = job.results(), llmbatch.retrieve_batch_job(job.id, model="openai/gpt-4o-mini", **place).results()
    assert len(batches.jobs) == 2
    costs = {row["custom_id"]: (row["cost"], row["request_model"]) for row in known}
    assert {row["custom_id"]: (row["cost"], row["request_model"]) for row in found} == costs
    assert len(set(costs.values())) == 2
