"""The circuit breaker: other rows are tried before a batch is given up, and a server that is away is waited for."""

from __future__ import annotations

import socket
import threading
import time
from random import Random
from typing import TYPE_CHECKING, Any

import pytest

from llmbatch._request import circuit_breaker
from tests.server import Response, Server
from tests.talk import KEY, answered, batch, chats, question

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = pytest.mark.usefixtures("quick_backoff", "quick_recovery")

# What providers answer for the content or shape of one row.
ROW_REJECTIONS = {
    "xAI, moderation": Response(
        403, body={"code": "permission-denied", "error": "Content violates usage guidelines. Failed check: BIO"}
    ),
    "OpenRouter, moderation": Response(
        403,
        body={"error": {"code": 403, "message": "Your input was flagged", "metadata": {"reasons": ["violence"]}}},
    ),
    "OpenRouter, images": Response(
        404, body={"error": {"code": 404, "message": "No endpoints found that support image input"}}
    ),
    "Azure, filter": Response(400, body={"error": {"code": "content_filter", "message": "The prompt was filtered"}}),
    "no reason": Response(403, body=""),
    "no reason, 404": Response(404, body={"error": {"message": "no"}}),
}


@pytest.fixture
def quick_recovery(monkeypatch: pytest.MonkeyPatch) -> None:
    """Probes follow one another almost at once."""
    monkeypatch.setattr(circuit_breaker, "INITIAL_RECOVERY_SECONDS", 0.02)
    monkeypatch.setattr(circuit_breaker, "MAX_RECOVERY_SECONDS", 0.05)


def number(request: Any) -> int:
    """The number of the question that a request asks."""
    return int(request.text.split()[2].rstrip("?"))


@pytest.mark.parametrize("rejection", ROW_REJECTIONS.values(), ids=ROW_REJECTIONS)
@pytest.mark.parametrize("seed", range(3))
def test_row_rejections_in_any_order_cost_no_other_row(server: Server, rejection: Response, seed: int) -> None:
    """Whatever the order of rejected and harmless rows, every harmless row is answered and none is NotSent."""
    random = Random(seed)  # noqa: S311 - reproducible, not secret
    bad = set(random.sample(range(60), 40)) if seed else set(range(40))  # at random, or all of them first
    server.handler = lambda request: rejection if number(request) in bad else None
    rows = batch(server.api_base, chats(60), max_workers=random.choice((1, 4, 10)), deadline=60.0)
    assert [i for i, row in enumerate(rows) if not answered(row, i)] == sorted(bad)
    assert {row["error_details"]["type"] for row in rows.failed} != {"NotSent"}
    assert len(server.requests) == 60


def test_server_errors_of_one_kind_of_row_cost_no_other_row(server: Server) -> None:
    """Servers (vLLM, llama.cpp) answer 500 for some faults of a row alone (an image for a text model)."""
    server.handler = lambda request: Response(500) if number(request) < 12 else None
    rows = batch(server.api_base, chats(40), max_workers=4, retries=2, deadline=60.0)
    assert [i for i, row in enumerate(rows) if not answered(row, i)] == list(range(12))


@pytest.mark.parametrize("count", [1000])
def test_bad_key_stops_thousand_rows_after_few_requests(server: Server, count: int) -> None:
    """Five failures in a row, those in flight beside them, and three probes of other rows: 17 requests of 1,000."""
    server.handler = lambda request: Response(401, body={"error": {"message": "Incorrect API key provided"}})
    rows = batch(server.api_base, chats(count))
    assert len(server.requests) <= 5 + 9 + 3
    assert sum(row["error_details"]["type"] == "NotSent" for row in rows) == count - len(server.requests)
    asked = sorted(map(number, server.requests))
    assert max(asked) > 50, "the probes are other rows, not the next ones"


def test_probe_answered_closes_circuit(server: Server) -> None:
    """A key that works again after some rejections goes on with the rest."""
    seen: list[Any] = []

    def handler(request: Any) -> Response | None:
        seen.append(request)
        return Response(401, body={"error": {"message": "Invalid API key"}}) if len(seen) <= 6 else None

    server.handler = handler
    rows = batch(server.api_base, chats(50), max_workers=1)
    assert len(rows.failed) == 6
    assert len(rows.succeeded) == 44


def test_look_ahead_keeps_max_workers(server: Server) -> None:
    """Rows taken from the input to choose probes from do not raise the number of requests in flight."""
    server.handler = lambda request: Response(403, body="") if number(request) < 20 else None
    server.set(latency=0.02)
    rows = batch(server.api_base, chats(150), max_workers=3)
    assert len(rows.succeeded) == 130
    assert server.stats.peak_in_flight <= 3


def test_day_quota_stops_batch_at_once(server: Server) -> None:
    """Gemini's quota of a day: the error names it and says when it resets, although it asks to retry in 2 s."""
    details = [{"violations": [{"quotaId": "GenerateRequestsPerDayPerProjectPerModel-FreeTier", "quotaValue": "5"}]}]
    message = "You exceeded your current quota.\nPlease retry in 2.1s."
    body = {"error": {"code": 429, "status": "RESOURCE_EXHAUSTED", "message": message, "details": details}}
    server.handler = lambda request: Response(429, body=body)
    rows = batch(server.api_base, chats(100), max_workers=4, deadline=30.0)
    assert len(server.requests) <= 4
    assert all("GenerateRequestsPerDayPerProjectPerModel-FreeTier" in row["error"] for row in rows)
    assert "resets at midnight" in rows[0]["error"]


QUOTAS = {
    "OpenAI's requests of a day": (
        429,
        {"x-ratelimit-remaining-requests": "0", "x-ratelimit-reset-requests": "8h30m"},
        "Rate limit reached on requests per day (RPD)",
    ),
    "OpenRouter's free models": (429, {"x-ratelimit-reset": "{epoch_ms}"}, "Rate limit exceeded: free-models-per-day"),
    "LiteLLM's budget of a provider": (429, {}, "No deployments available - crossed budget: Exceeded budget for x"),
    "LiteLLM's budget of a key": (422, {}, "Budget has been exceeded! Current cost: 0.3, Max budget: 0.01"),
    "a wait of hours": (429, {"retry-after": "73192"}, "slow down"),
}


@pytest.mark.parametrize(("status", "headers", "message"), QUOTAS.values(), ids=QUOTAS)
def test_exhausted_quota_ends_batch(server: Server, status: int, headers: dict[str, str], message: str) -> None:
    """By reset headers hours away, by the provider's words, or by a gateway's budget."""
    soon = {name: value.format(epoch_ms=int((time.time() + 7200) * 1000)) for name, value in headers.items()}
    kind = "budget_exceeded" if status == 422 else "x"
    body = {"error": {"message": message, "type": kind, "code": str(status)}}
    server.handler = lambda request: Response(status, soon, body)
    rows = batch(server.api_base, chats(50), max_workers=2, deadline=30.0, model=f"openai/quota-{len(message)}")
    assert len(server.requests) <= 2
    assert all(("quota" in row["error"] or "budget" in row["error"].lower()) for row in rows)


def test_remaining_quota_with_distant_reset_is_rate_limit(server: Server) -> None:
    """A reset hours away of a quota that is not used up says nothing about this 429."""
    headers = {"x-ratelimit-remaining-requests": "900", "x-ratelimit-reset-requests": "8h"}
    server.enqueue(Response(429, headers))
    (row,) = batch(server.api_base, chats(1), model="openai/remaining")
    assert answered(row, 0)


LOADING = {
    "llama.cpp": Response(503, body={"error": {"code": 503, "message": "Loading model", "type": "unavailable_error"}}),
    "Hugging Face": Response(503, body={"error": "Model x/y is currently loading", "estimated_time": 20.0}),
    "Envoy": Response(503, body="no healthy upstream"),
    "vLLM's router": Response(503, body={"detail": "The engine is not ready yet"}),
}


@pytest.mark.parametrize("loading", LOADING.values(), ids=LOADING)
def test_server_that_loads_its_model_is_waited_for(server: Server, log: list[str], loading: Response) -> None:
    """More often than there are retries; the rows do not use them up, and the log says what is waited for."""
    server.enqueue(*[loading] * 20)
    rows = batch(server.api_base, chats(20), retries=1, max_workers=4)
    assert not rows.failed
    assert any("The server is not available" in line and "Waiting up to" in line for line in log)
    assert any("available again" in line for line in log)
    assert sum(row["attempts"] for row in rows) == 20 + 20


def _later(start: Callable[[], Server], seconds: float) -> tuple[threading.Thread, list[Server]]:
    started: list[Server] = []

    def run() -> None:
        time.sleep(seconds)
        started.append(start())

    thread = threading.Thread(target=run)
    thread.start()
    return thread, started


def test_server_that_restarts_is_waited_for(provider: Callable[..., Server]) -> None:
    """Connections are refused meanwhile: no row is lost, and none uses up its only retry."""
    first = provider(latency=0.01)
    port = first.port
    begun = threading.Event()

    def handler(_: Any) -> None:
        if len(first.requests) > 10:
            begun.set()

    first.handler = handler
    restart: list[Any] = []

    def outage() -> None:
        begun.wait(30)
        first.close()
        restart.extend(_later(lambda: Server(port), 1.0))

    thread = threading.Thread(target=outage)
    thread.start()
    rows = batch(f"http://127.0.0.1:{port}/v1", chats(60), retries=1, max_workers=4, deadline=60.0)
    thread.join()
    restart[0].join()
    restart[1][0].close()
    assert not rows.failed


def test_address_that_never_answered_is_given_up_soon(log: list[str]) -> None:
    """It gets a tenth of server_wait; the log says at once that api_base may be wrong, and the rows say what to do."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        base = f"http://127.0.0.1:{free.getsockname()[1]}/v1"
    rows = batch(base, chats(100), max_workers=4, server_wait=5.0, deadline=30.0)
    assert len(rows.failed) == 100
    assert {row["error_details"]["type"] for row in rows} == {"ConnectionError", "NotSent"}
    assert sum(row["attempts"] > 0 for row in rows) <= 5
    assert any("it has never answered in this run, so check api_base" in line for line in log)
    assert "Check api_base" in rows[-1]["error"]


def test_server_wait_of_zero_does_not_wait() -> None:
    """Then an unreachable server is a transient error like any other."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        base = f"http://127.0.0.1:{free.getsockname()[1]}/v1"
    rows = batch(base, chats(30), max_workers=4, server_wait=0, retries=1)
    assert max(row["attempts"] for row in rows) == 2
    assert len(rows.failed) == 30


def test_row_that_breaks_its_server_is_given_up(server: Server) -> None:
    """A row that always meets a "restart", while others are answered, uses up its retries in the end."""
    loading = LOADING["llama.cpp"]
    server.handler = lambda request: loading if request.text == question(3) else None
    rows = batch(server.api_base, chats(30), retries=2, max_workers=2, deadline=60.0)
    assert [i for i, row in enumerate(rows) if "error" in row] == [3]
    assert rows[3]["error_details"]["type"] == "ServiceUnavailableError"


def test_fallback_is_taken_instead_of_waiting(server: Server) -> None:
    """With fallbacks nobody waits for a server that is away."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        base = f"http://127.0.0.1:{free.getsockname()[1]}/v1"
    fallback = {"model": "openai/other", "api_base": server.api_base, "api_key": KEY}
    rows = batch(base, chats(20), max_workers=4, retries=1, fallbacks=[fallback], deadline=60.0)
    assert not rows.failed
    assert all(row["fallback"]["instead_of"] == "openai/gpt-4o-mini" for row in rows)


def test_deadline_error_names_last_failure(server: Server) -> None:
    """A row that is still tried at the deadline says what it met."""
    server.handler = lambda request: LOADING["llama.cpp"]
    rows = batch(server.api_base, chats(3), max_workers=1, deadline=1.0)
    assert rows[0]["error_details"]["type"] == "DeadlineExceeded"
    assert "Loading model" in rows[0]["error"]
