"""`on_event` hears of a batch as it happens, off the event loop, and cannot harm it."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

import pytest

import llmbatch
from llmbatch import events
from tests.server import Request, Response, Server

if TYPE_CHECKING:
    from collections.abc import Callable

Heard = list[events.Event]


@pytest.fixture
def options(place: dict[str, Any]) -> dict[str, Any]:
    return {**place, "model": "openai/test-model", "progress": False}


def failing_once(status: int, headers: dict[str, str] | None = None) -> Callable[[Request], Response | None]:
    failed: set[str] = set()

    def answer(request: Request) -> Response | None:
        if request.text != "flaky" or failed:
            return None
        failed.add(request.text)
        return Response(status, headers or {})

    return answer


@pytest.mark.usefixtures("quick_backoff")
def test_events_tell_each_attempt_and_row_in_order(server: Server, options: dict[str, Any]) -> None:
    """From the batch's start to its end, with its id, the row's index and id, and what failed."""
    server.handler = failing_once(500)
    heard: Heard = []
    asked = [{"prompt": "flaky", "custom_id": "a"}]
    results = llmbatch.create_chat_completions_batch(asked, on_event=heard.append, **options)
    assert [type(event).__name__ for event in heard] == [
        "BatchStarted", "RequestSent", "RequestRetried", "RequestSent", "RowDone", "BatchEnded",
    ]  # fmt: skip
    assert {event.batch_id for event in heard} == {results.batch_id}
    started, first, retried, second, done, ended = heard
    assert isinstance(started, events.BatchStarted)
    assert (started.rows, started.provider, started.model) == (1, "openai", "test-model")
    assert isinstance(retried, events.RequestRetried)
    assert (retried.index, retried.custom_id, retried.attempt, retried.cause) == (0, "a", 1, "InternalServerError")
    assert isinstance(first, events.RequestSent)
    assert isinstance(second, events.RequestSent)
    assert (first.attempt, second.attempt) == (1, 2)
    assert isinstance(done, events.RowDone)
    assert done.row == results[0]
    assert isinstance(ended, events.BatchEnded)
    assert ended.stats["retries"] == {"InternalServerError": 1}
    assert [event.at for event in heard] == sorted(event.at for event in heard)


def test_events_tell_429s_and_limits(server: Server, options: dict[str, Any]) -> None:
    """A 429 with its Retry-After, and the limit that the provider states."""
    headers = {"retry-after": "0.05", "x-ratelimit-limit-requests": "600", "x-ratelimit-remaining-requests": "600"}
    server.handler = failing_once(429, headers)
    heard: Heard = []
    llmbatch.create_chat_completions_batch(["flaky"], on_event=heard.append, **options)
    (limited,) = (event for event in heard if isinstance(event, events.RequestRateLimited))
    assert limited.retry_after == 0.05
    limits = [event.limits for event in heard if isinstance(event, events.LimitsChanged)]
    assert "600 requests/min" in limits


def test_on_event_may_fail_or_call_llmbatch(options: dict[str, Any], log: list[str]) -> None:
    """It runs in a thread of its own; the batch goes on, and the log says how often it failed."""
    inner: list[Any] = []

    def on_event(event: events.Event) -> None:
        if isinstance(event, events.BatchStarted):
            inner.append(llmbatch.create_chat_completion("inner", **options))
        raise RuntimeError(threading.current_thread().name)

    results = llmbatch.create_chat_completions_batch(["a", "b"], on_event=on_event, **options)
    assert not results.failed
    assert "error" not in inner[0]
    assert sum("on_event raised RuntimeError for BatchStarted; the batch goes on" in line for line in log) == 1
    assert sum("on_event raised 6 times" in line for line in log) == 1


def test_slow_on_event_does_not_outlast_the_deadline(options: dict[str, Any], log: list[str]) -> None:
    """The batch ends, and the log says what was not seen."""
    gate = threading.Event()
    try:
        results = llmbatch.create_chat_completions_batch(
            ["a", "b"], on_event=lambda _: gate.wait(60), deadline=1.0, **options
        )
    finally:
        gate.set()
    assert not results.failed
    assert any("on_event was too slow, and has not seen" in line for line in log)


def test_streams_and_embeddings_have_events_too(options: dict[str, Any]) -> None:
    """Also where the stream is left early, or where rows are left out."""
    heard: Heard = []
    for _ in llmbatch.as_completed(["a", "b", "c"], on_event=heard.append, max_workers=1, **options):
        break
    assert isinstance(heard[-1], events.BatchEnded)
    heard.clear()
    llmbatch.create_embeddings_batch(["a", "b"], on_event=heard.append, **options)
    assert sum(isinstance(event, events.RowDone) for event in heard) == 2
    assert sum(isinstance(event, events.RequestSent) for event in heard) == 1


def test_on_event_that_cannot_be_called_is_rejected(options: dict[str, Any]) -> None:
    """Before anything is sent."""
    with pytest.raises(TypeError, match="on_event must be a function of an event"):
        llmbatch.create_chat_completions_batch(["a"], on_event=3, **options)
