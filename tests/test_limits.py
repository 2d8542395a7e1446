"""Limits hold as the server counts them, are shared by all batches of an account, and are remembered."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest

import llmbatch
from llmbatch._limits import limiter
from llmbatch._limits.concurrency_detector import INITIAL_CONCURRENCY
from llmbatch._limits.observations import MAX_RECENT
from llmbatch._limits.permit import Permit
from tests.replies import said
from tests.server import Response
from tests.talk import answered, batch, chats, place

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.server import Server

pytestmark = pytest.mark.processes


def most_in(times: list[float], seconds: float) -> int:
    """Return the largest number of times in any window of so many seconds."""
    times = sorted(times)
    return max(sum(start <= at < start + seconds for at in times) for start in times)


def last_after(server: Server, began: float) -> float:
    """Return the seconds from a moment to the last arrival: a busy machine makes them more, never fewer."""
    return max(request.at for request in server.requests) - began


@pytest.fixture(autouse=True)
def _warm(server: Server) -> None:
    batch(server.api_base, chats(1), model="openai/warm")
    server.reset()


@pytest.fixture
def admitted(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Times at which requests were let go, by the limiter's clock: on a busy machine some arrive late, so closer."""
    times: list[float] = []

    def noted(tokens: float, now: float) -> Permit:
        times.append(now)
        return Permit(tokens, now)

    monkeypatch.setattr(limiter, "Permit", noted)
    return times


@pytest.mark.parametrize("workers", [2, 50, "auto"])
def test_requests_per_minute_are_never_exceeded(server: Server, admitted: list[float], workers: Any) -> None:
    """In no second are there more than a sixtieth of a minute's, whatever the number of workers."""
    began = time.monotonic()
    rows = batch(
        server.api_base, chats(25), requests_per_minute=600, max_workers=workers, model=f"openai/rpm-{workers}"
    )
    assert not rows.failed
    assert len(server.requests) == len(admitted) == 25
    for seconds in (0.5, 1.0, 2.0):
        assert most_in(admitted, seconds) <= 10 * seconds + 1
    assert last_after(server, began) >= 24 / 10 * 0.98


def test_tokens_per_minute_are_never_exceeded(server: Server) -> None:
    """As the server counts prompt and answer tokens, from the second second on and over the whole run."""
    began = time.monotonic()
    rows = batch(server.api_base, chats(25), tokens_per_minute=6000, max_tokens=20, max_workers=20, model="openai/tpm")
    assert not rows.failed
    assert server.stats.tokens <= 6000 / 60 * last_after(server, began) + 2 * 100 + 20


def test_limit_two_batches_in_two_threads_share_it(server: Server, admitted: list[float]) -> None:
    """The limit is the account's, not the call's."""
    began = time.monotonic()

    def one(number: int) -> llmbatch.BatchResults:
        return batch(server.api_base, chats(11, start=number * 11), requests_per_minute=600, model="openai/shared")

    with ThreadPoolExecutor(2) as pool:
        assert not any(rows.failed for rows in pool.map(one, range(2)))
    assert len(server.requests) == len(admitted) == 22
    assert most_in(admitted, 1.0) <= 11
    assert last_after(server, began) >= 21 / 10 * 0.98


def test_limit_many_small_calls_share_it(server: Server, admitted: list[float]) -> None:
    """One row at a time, call after call: the pace goes on where the last call left it."""
    began = time.monotonic()
    for i in range(22):
        assert not batch(server.api_base, chats(1, start=i), requests_per_minute=600, model="openai/small").failed
    assert last_after(server, began) >= 21 / 10 * 0.98
    assert most_in(admitted, 1.0) <= 11


@pytest.mark.usefixtures("quick_backoff")
def test_limit_retries_count_against_it(server: Server, admitted: list[float]) -> None:
    """An attempt that failed was a request too."""
    server.enqueue(*(Response(503) for _ in range(8)))
    assert not batch(server.api_base, chats(14), requests_per_minute=600, retries=12, model="openai/retries").failed
    assert len(server.requests) == len(admitted) == 22
    assert most_in(admitted, 1.0) <= 11


def test_limit_embeddings_count_by_request(server: Server) -> None:
    """A chunk of texts is one request."""
    texts = [f"text {i}" for i in range(400)]
    given = place(server.api_base, model="openai/e", requests_per_minute=600)
    began = time.monotonic()
    assert not llmbatch.create_embeddings_batch(texts, **given).failed
    assert len(server.requests) == 20
    assert last_after(server, began) >= 19 / 10 * 0.98


def test_limit_that_falls_is_learnt_anew(provider: Callable[..., Server]) -> None:
    """Among slow answers and quick 429s, the rate goes down until 429s are rare."""
    server = provider(rpm=3600, latency=1.0, sigma=0.3, limit_headers=False)
    asked = threading.Timer(3, lambda: server.set(rpm=1200))
    asked.start()
    rows = batch(server.api_base, chats(300), max_workers=64, model="openai/falling")
    asked.join()
    assert all(answered(row, i) for i, row in enumerate(rows))
    assert server.stats.limited < 75


def test_retry_after_holds_whole_account_back(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """After a 429 nothing is sent on the account before its Retry-After has passed."""
    known, learn = threading.Event(), limiter.Limiter.on_rate_limit

    def on_rate_limit(*given: Any) -> None:
        learn(*given)
        known.set()

    monkeypatch.setattr(limiter.Limiter, "on_rate_limit", on_rate_limit)
    server.enqueue(Response(429, {"retry-after-ms": "1500"}))
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(batch, server.api_base, chats(5), model="openai/retry-after", max_workers=1)
        assert known.wait(60)
        second = pool.submit(batch, server.api_base, chats(5, start=5), model="openai/retry-after", max_workers=1)
        assert not first.result().failed
        assert not second.result().failed
    earliest, *others = [request.at for request in server.requests]
    assert min(others) - earliest >= 1.5 * 0.99


def test_rate_limit_that_comes_late_concerns_its_row_alone(server: Server) -> None:
    """When hundreds were sent and answered after it, its Retry-After included."""
    late = MAX_RECENT + 64
    server.enqueue(Response(429, {"retry-after-ms": "500"}, until=lambda: len(server.requests) > late))
    rows = batch(server.api_base, chats(late + 40), max_workers=32, model="openai/late")
    assert all(answered(row, i) for i, row in enumerate(rows))
    assert len(server.requests) == late + 41


@pytest.mark.parametrize(
    ("headers", "message"),
    [
        ({"rate_limit_type": "max_parallel_requests"}, "Rate limit exceeded"),
        ({}, "Rate limit exceeded for api_key. Limit type: max_parallel_requests. Current limit: 2"),
        ({}, "Your concurrency limit of 2 is reached"),
        ({}, "Too many concurrent requests"),
    ],
)
def test_retry_after_of_concurrency_limit_is_ignored(server: Server, headers: dict[str, str], message: str) -> None:
    """LiteLLM's proxy says 60 s, although a slot is free as soon as an answer has come."""
    server.enqueue(Response(429, {"retry-after": "60", **headers}, {"error": {"message": message}}))
    rows = batch(server.api_base, chats(3), model=f"openai/{len(message)}", deadline=30, max_workers=1)
    assert all(answered(row, i) for i, row in enumerate(rows))


@pytest.mark.usefixtures("quick_backoff")
def test_server_errors_do_not_throttle(provider: Callable[..., Server]) -> None:
    """5xx and resets say nothing about limits: no cut, hardly a longer run."""
    server = provider(error_rate=0.15, reset_rate=0.15, latency=1.0)
    rows = batch(server.api_base, chats(100), max_workers=32, retries=12, model="openai/faults")
    assert all(answered(row, i) for i, row in enumerate(rows))
    assert server.stats.peak_in_flight > INITIAL_CONCURRENCY, "more and more is in flight, as without the faults"


def test_limit_in_headers_is_learnt_and_kept(provider: Callable[..., Server]) -> None:
    """The first batch learns it, and the second one starts with it: hardly a 429 in either."""
    server = provider(rpm=1200)
    for start in (0, 60):
        rows = batch(server.api_base, chats(60, start=start), max_workers=32, model="openai/headers")
        assert not rows.failed
    assert server.stats.limited <= 4


def test_limit_without_headers_is_learnt_from_429s(provider: Callable[..., Server]) -> None:
    """No headers, no Retry-After: what is in flight gets a 429 once, and hardly more in the second batch."""
    server = provider(rpm=2400, burst=1.0, latency=0.1, limit_headers=False, retry_after=False)
    limited = []
    for start in (0, 120):
        before = server.stats.limited
        rows = batch(server.api_base, chats(120, start=start), max_workers=32, model="openai/no-headers")
        assert not rows.failed
        limited.append(server.stats.limited - before)
    assert sum(limited) <= 2 * 32
    assert limited[1] <= max(limited[0], 16), "a slow machine meets the limit late"


def test_random_rejections_do_not_throttle(provider: Callable[..., Server], log: list[str]) -> None:
    """A fifth gets 429 whatever the rate: few lines of the log say so, and the next batch waits for nothing."""
    server = provider(refuse_rate=0.2, latency=0.05)
    rows = batch(server.api_base, chats(300), max_workers=20, model="openai/chance")
    assert all(answered(row, i) for i, row in enumerate(rows))
    assert server.stats.limited < 300 * 0.4, "no row is sent more often than chance asks for"
    assert sum("independent of our rate" in line for line in log) <= 5  # of some 75 requests with a 429
    server.set(refuse_rate=0.0, latency=0.5)
    server.reset()
    assert not batch(server.api_base, chats(60, start=300), max_workers=20, model="openai/chance").failed
    assert server.stats.peak_in_flight > INITIAL_CONCURRENCY


def test_concurrency_limit_is_found(provider: Callable[..., Server], log: list[str]) -> None:
    """With at most five in flight, few requests get a 429."""
    server = provider(most_in_flight=5, latency=1.0)  # long beside the delays of a busy machine
    rows = batch(server.api_base, chats(40), max_workers=20, model="openai/concurrency")
    assert all(answered(row, i) for i, row in enumerate(rows))
    assert server.stats.limited < 60
    assert any("concurrency limit found: at most" in line for line in log)


def test_retry_after_of_zero_opens_circuit(server: Server) -> None:
    """If every answer is a 429 with `Retry-After: 0`, single probes are sent, ever more seldom."""
    server.handler = lambda request: Response(429, {"retry-after": "0"})
    rows = batch(server.api_base, chats(10), model="openai/now", deadline=4)
    assert len(rows.failed) == 10
    assert len(server.requests) <= 25


def test_tokens_per_minute_unknown_answers_count_at_most(server: Server) -> None:
    """Before any answer, a request without max_tokens counts with the model's longest answer."""
    long = said("x").body
    long["usage"] = {"prompt_tokens": 10, "completion_tokens": 3000, "total_tokens": 3010}
    server.handler = lambda request: Response(200, body=long)
    batch(server.api_base, chats(20), max_tokens=None, tokens_per_minute=6000, max_workers=20, deadline=3)
    assert len(server.requests) == 1


def test_max_workers_auto_stops_growing_at_queueing_server(provider: Callable[..., Server]) -> None:
    """A GPU server works on eight requests, the others wait: no hundreds are in flight."""
    server = provider(slots=8, latency=0.05)
    assert not batch(server.api_base, chats(400), max_workers="auto", model="openai/gpu").failed
    assert server.stats.peak_in_flight <= 128


def test_limit_other_accounts_are_not_throttled(server: Server) -> None:
    """Another key, model or server has a limit of its own."""
    server.handler = lambda request: Response(429, {"retry-after": "60"}) if request.json["model"] == "slow" else None
    held = batch(server.api_base, chats(3), model="openai/slow", deadline=0.5)
    assert len(held.failed) == 3
    assert not batch(server.api_base, chats(20), model="openai/other", deadline=30).failed
