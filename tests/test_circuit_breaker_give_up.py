"""A failure that concerns every row stops the batch after a few requests; a failure of one row never does."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING, Any

import pytest

from tests.server import Response
from tests.talk import answered, batch, chats, question

if TYPE_CHECKING:
    from pathlib import Path

    from tests.server import Server

pytestmark = [pytest.mark.usefixtures("quick_backoff"), pytest.mark.both_transports]

FEW = 5 + 3 + 3  # failures in a row, requests in flight beside the last of them, and probes
FEW_WITHOUT_REASON = 5 + 3 + 25  # where the provider gives no reason, more other rows are tried

FAULTS = {
    "bad key": Response(401, body={"error": {"message": "Incorrect API key provided", "code": "invalid_api_key"}}),
    "forbidden": Response(403),
    "no such model": Response(
        404, body={"error": {"message": "The model `x` does not exist", "code": "model_not_found"}}
    ),
    "quota spent": Response(
        429, body={"error": {"message": "You exceeded your current quota", "code": "insufficient_quota"}}
    ),
    "no credit": Response(402, body={"error": {"message": "Insufficient credits"}}),
    "a day's wait": Response(429, {"retry-after": "73192"}),
    "xAI's bad key": Response(400, body={"code": "x", "error": "Incorrect API key provided: sk***"}),
}
FIXES = {
    400: "Check the API key",
    401: "Check the API key",
    402: "Add credit",
    403: "Check that the key may use this model",
    404: "Check the model's name",
    429: "The quota is used up",
}


@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS)
def test_shared_failure_stops_batch_after_few_requests(server: Server, fault: Response) -> None:
    """Each row has a row; the few sent ones have the provider's words, the others say why and what to do."""
    server.handler = lambda request: fault
    rows = batch(server.api_base, chats(200), max_workers=4, deadline=60.0)
    few = FEW_WITHOUT_REASON if fault.status == 403 else FEW
    assert len(server.requests) <= few
    assert len(rows.failed) == 200
    unsent = [row for row in rows if row["error_details"]["type"] == "NotSent"]
    assert len(unsent) >= 200 - few
    assert all(row["attempts"] == 0 and row["cost"] == 0 and row["error_details"]["retryable"] for row in unsent)
    assert FIXES[fault.status] in unsent[0]["error"]
    assert "run again" in unsent[0]["error"]
    (said,) = {(row["error_details"]["status_code"], row["error_details"]["provider"]) for row in unsent}
    assert said == (fault.status, "openai")


def test_shared_failures_to_open_before_and_after_success(server: Server) -> None:
    """Five in a row at the start, fifteen once a row was answered; an answer starts the count anew."""
    server.handler = lambda request: FAULTS["bad key"]
    assert len(batch(server.api_base, chats(30), max_workers=1).failed) == 30
    assert len(server.requests) == 5 + 3
    server.reset()
    server.handler = lambda request: None if request.text in {question(0), question(8)} else FAULTS["bad key"]
    rows = batch(server.api_base, chats(40), max_workers=1)
    assert [i for i, row in enumerate(rows) if "error" not in row] == [0, 8]
    assert len(server.requests) == 9 + 15 + 3


def test_unreachable_address_stops_batch() -> None:
    """A wrong base URL is found out after a few rows."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        base = f"http://127.0.0.1:{free.getsockname()[1]}/v1"
    rows = batch(base, chats(100), max_workers=4, retries=1, server_wait=10)
    assert sum(row["attempts"] > 0 for row in rows) <= FEW
    assert "api_base" in rows[-1]["error"]


def test_give_up_ends_waits_for_limits_and_retries(server: Server) -> None:
    """When the sending stops, nobody waits for a limit or a retry to be told so."""
    server.handler = lambda request: (
        Response(503, {"retry-after": "90"}) if "number 0?" in request.text else FAULTS["bad key"]
    )
    rows = batch(server.api_base, chats(100), max_workers=50, requests_per_minute=200, deadline=60.0)
    assert len(server.requests) <= FEW
    assert {row["error_details"]["type"] for row in rows} == {"AuthenticationError", "NotSent"}


def test_give_up_ends_wait_for_next_attempt(server: Server) -> None:
    """Once the sending has stopped, no row waits for its next attempt."""
    server.handler = lambda request: (
        Response(503, {"retry-after": "90"}, delay=1.0) if "number 0?" in request.text else FAULTS["bad key"]
    )
    rows = batch(server.api_base, chats(100), max_workers=2, deadline=60.0)
    assert {row["error_details"]["type"] for row in rows} == {"AuthenticationError", "NotSent"}
    assert rows[0]["attempts"] == 1


def test_web_page_with_404_stops_batch(server: Server) -> None:
    """A base URL that answers 404 with HTML for everything is as wrong as one that does not answer."""
    server.handler = lambda request: Response(404, {"content-type": "text/html"}, "<html>no such page</html>")
    rows = batch(server.api_base, chats(100), max_workers=4)
    assert len(server.requests) <= FEW
    assert "api_base" in rows[-1]["error"]


@pytest.mark.parametrize("status", [400, 413, 422])
def test_row_errors_never_stop_batch(server: Server, status: int) -> None:
    """Any number of rows that the provider refuses for themselves, even all in a row at the start."""
    server.handler = lambda request: Response(status) if int(request.text.split()[2].rstrip("?")) < 30 else None
    rows = batch(server.api_base, chats(40), max_workers=4)
    assert [answered(row, i) for i, row in enumerate(rows)] == [False] * 30 + [True] * 10
    assert len(server.requests) == 40


def test_single_403_among_answers_stops_nothing(server: Server) -> None:
    """One 403 here and there is one failed row."""
    server.handler = lambda request: Response(403) if request.text in {question(3), question(20)} else None
    rows = batch(server.api_base, chats(40), max_workers=4)
    assert [i for i, row in enumerate(rows) if "error" in row] == [3, 20]


def test_rerun_with_checkpoint_sends_rest(server: Server, tmp_path: Path) -> None:
    """With a checkpoint the rows not sent are sent by the next run, the answered ones are not."""
    seen: list[Any] = []

    def quota(request: Any) -> Response | None:
        seen.append(request)
        return FAULTS["quota spent"] if len(seen) > 50 else None

    server.handler = quota
    first = batch(server.api_base, chats(200), max_workers=4, checkpoint=tmp_path / "run.jsonl")
    assert len(first.succeeded) == 50
    assert len(server.requests) < 50 + 25
    server.handler = None
    server.reset()
    second = batch(server.api_base, chats(200), max_workers=4, checkpoint=tmp_path / "run.jsonl")
    assert all(answered(row, i) for i, row in enumerate(second))
    assert len(server.requests) == 150
