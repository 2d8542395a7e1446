"""What is sent again and what is not, as the server counts it."""

from __future__ import annotations

import time
from email.utils import formatdate
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from llmbatch._request import failures, retry
from llmbatch._request.classify import classify
from tests.replies import said
from tests.server import Response
from tests.talk import answered, batch, chats

if TYPE_CHECKING:
    from tests.server import Server


pytestmark = [pytest.mark.usefixtures("quick_backoff"), pytest.mark.both_transports]


def error(message: str, **more: Any) -> dict[str, Any]:
    return {"error": {"message": message, "type": "x", "param": None, "code": None, **more}}


TRANSIENT = [*map(Response, (408, 409, 429, 500, 502, 503, 504, 529)), Response(reset=True)]


@pytest.mark.parametrize("fault", TRANSIENT, ids=lambda fault: "reset" if fault.reset else str(fault.status))
def test_retry_transient_error_is_retried(server: Server, fault: Response) -> None:
    """Timeouts, conflicts, refusals, server faults and lost connections; the attempts are counted on the row."""
    server.enqueue(fault, fault)
    (row,) = batch(server.api_base, chats(1))
    assert answered(row, 0)
    assert row["attempts"] == len(server.requests) == 3


@pytest.mark.parametrize("status", [400, 401, 402, 403, 404, 405, 413, 418, 422, 451])
def test_retry_permanent_error_is_not_retried(server: Server, status: int) -> None:
    """A refusal for good is one attempt, with its status on the row."""
    server.handler = lambda request: Response(status)
    (row,) = batch(server.api_base, chats(1))
    assert len(server.requests) == row["attempts"] == 1
    assert (row["error_details"]["status_code"], row["error_details"]["retryable"]) == (status, False)


def test_retries_option_counts_transient_errors(server: Server) -> None:
    """`retries=2` is three attempts; 0 is one; the row says that it could be retried."""
    server.handler = lambda request: Response(503)
    for retries in (0, 2):
        server.reset()
        (row,) = batch(server.api_base, chats(1), retries=retries)
        assert len(server.requests) == row["attempts"] == retries + 1
        assert row["error_details"]["retryable"]


def test_retries_option_does_not_count_429s(server: Server) -> None:
    """A row outlives more 429s than it has retries."""
    server.enqueue(*(Response(429, {"retry-after-ms": "20"}) for _ in range(5)))
    (row,) = batch(server.api_base, chats(1), retries=1)
    assert answered(row, 0)
    assert row["attempts"] == len(server.requests) == 6


SOON = {
    "seconds": ({"retry-after": "1"}, 1.0),
    "a fraction": ({"retry-after": "0.3"}, 0.3),
    "milliseconds": ({"retry-after-ms": "300"}, 0.3),
    "milliseconds before seconds": ({"retry-after": "9", "retry-after-ms": "300"}, 0.3),
    "Azure's zero milliseconds": ({"retry-after": "1", "retry-after-ms": "0"}, 1.0),
    "zero": ({"retry-after": "0"}, 0.0),
    "nonsense": ({"retry-after": "soon"}, 0.0),
    "negative": ({"retry-after": "-5"}, 0.0),
    "endless": ({"retry-after": "inf", "retry-after-ms": "1e999"}, 0.0),
    "no number": ({"retry-after": "nan"}, 0.0),
    "the first day": ({"retry-after": "0001-01-01T00:00:00"}, 0.0),
}


@pytest.mark.parametrize("status", [429, 503])
@pytest.mark.parametrize(("headers", "least"), SOON.values(), ids=SOON)
def test_retry_after_header_is_waited_for(server: Server, status: int, headers: dict[str, str], least: float) -> None:
    """No attempt comes before the time that the provider asked for, in each form of saying it."""
    server.enqueue(Response(status, headers))
    (row,) = batch(server.api_base, chats(1))
    first, second = server.requests
    assert answered(row, 0)
    assert second.at - first.at >= least * 0.99


def test_retry_after_date_is_waited_for(server: Server) -> None:
    """An HTTP date counts from now."""
    server.enqueue(Response(503, {"retry-after": formatdate(time.time() + 2, usegmt=True)}))
    (row,) = batch(server.api_base, chats(1))
    first, second = server.requests
    assert answered(row, 0)
    assert second.at - first.at >= 0.9


@pytest.mark.parametrize("message", ["Please retry in 0.4s.", "Rate limit reached. Please try again in 400ms."])
def test_retry_after_in_message_is_waited_for(server: Server, message: str) -> None:
    """Gemini has no header and names the wait in its message."""
    server.enqueue(Response(429, body=error(message)))
    (row,) = batch(server.api_base, chats(1))
    first, second = server.requests
    assert answered(row, 0)
    assert second.at - first.at >= 0.39


def test_retry_after_of_day_fails_row(server: Server) -> None:
    """`retry-after: 73192` is a spent quota, not a pause."""
    server.handler = lambda request: Response(429, {"retry-after": "73192"})
    (row,) = batch(server.api_base, chats(1), deadline=30.0)
    assert len(server.requests) == 1
    assert "73192" in row["error"]
    assert not row["error_details"]["retryable"]


@pytest.mark.parametrize(
    "words",
    [
        "try again in 4h10m30.5s",
        "Try again in 24 hours",
        "try again in 20m30s",
        "Please wait 43200 seconds",
        "retry after 2 days",
    ],
)
def test_retry_after_of_hours_in_message_fails_row(server: Server, words: str) -> None:
    """In any unit, on its first refusal."""
    server.handler = lambda request: Response(
        429, body={"error": {"message": f"Tokens per day: {words}. Upgrade today"}}
    )
    (row,) = batch(server.api_base, chats(1), model=f"openai/{words[-9:]}", deadline=5.0).failed
    assert len(server.requests) == 1
    assert row["error_details"]["type"] == "RateLimitError"
    assert "asks to wait" in row["error"]


def test_retry_after_of_minutes_in_message_is_waited_for(server: Server, jump: Any) -> None:
    """Each row waits as long as its own refusal says: none is sent again within the deadline."""
    words = ["in 90 seconds", "in 2 minutes", "in 3m", "in 1m30s", "after 2 minutes and 3 seconds", "in 99 secs"]
    server.handler = lambda request: Response(
        503, body={"error": {"message": f"Please try again {words[int(request.text.split()[2][:-1])]}."}}
    )
    jump(60, lambda: len(server.requests) == len(words))
    rows = batch(server.api_base, chats(len(words)), deadline=60, max_workers=len(words))
    assert len(server.requests) == len(words)
    assert {row["error_details"]["type"] for row in rows} == {"DeadlineExceeded"}


def test_retry_after_on_success_is_ignored(server: Server) -> None:
    """Some providers send it with every answer."""
    server.enqueue(Response(200, {"retry-after": "60"}, said("x").body))
    rows = batch(server.api_base, chats(3), max_workers=1, deadline=30)
    assert not rows.failed


def test_x_should_retry_header_overrules_status(server: Server) -> None:
    """`false` ends a 500 and a 429 at once; `true` retries a 400."""
    for status in (500, 429):
        server.reset()
        server.enqueue(Response(status, {"x-should-retry": "false"}))
        (row,) = batch(server.api_base, chats(1))
        assert (len(server.requests), row["error_details"]["retryable"]) == (1, False)
    server.reset()
    server.enqueue(Response(400, {"x-should-retry": "true"}))
    (row,) = batch(server.api_base, chats(1))
    assert answered(row, 0)
    assert len(server.requests) == 2


NOT_RETRYABLE = {
    "OpenAI's quota": error("You exceeded your current quota, please check your plan.", code="insufficient_quota"),
    "too large": error("Request too large for gpt-4o on tokens per min (TPM): Limit 10, Requested 20."),
    "no balance": error("Insufficient Balance"),
    "no credit": error("Your credit balance is too low to access the API."),
}  # fmt: skip


@pytest.mark.parametrize("shape", NOT_RETRYABLE.values(), ids=NOT_RETRYABLE)
def test_retry_429_of_quota_or_size_is_not_retried(server: Server, shape: Any) -> None:
    """A spent quota and a request that is too large are failures at once."""
    server.handler = lambda request: Response(429, body=shape)
    (row,) = batch(server.api_base, chats(1))
    assert (len(server.requests), row["error_details"]["retryable"]) == (1, False)


def test_retry_geminis_quota_message_with_wait_is_rate_limit(server: Server) -> None:
    """It says "exceeded your current quota" for a full minute, and when to come back."""
    text = "You exceeded your current quota, please check your plan. Please retry in 0.2s."
    server.enqueue(Response(429, body=error(text, status="RESOURCE_EXHAUSTED")))
    (row,) = batch(server.api_base, chats(1))
    assert answered(row, 0)
    assert len(server.requests) == 2


def test_retry_request_that_cannot_be_built_is_not_retried(server: Server) -> None:
    """A fault on this side that LiteLLM dresses up as a server error is one attempt and no request."""
    (row,) = batch(server.api_base, chats(1), tools=[{"type": "function", "function": {"name": object}}])
    assert "error" in row
    assert not row["error_details"]["retryable"]
    assert row["attempts"] <= 1
    assert not server.requests


@pytest.mark.parametrize("fault", [ImportError, AttributeError, TypeError, KeyError])
def test_classify_local_bug_as_500_is_not_retryable(fault: type[Exception]) -> None:
    """The chain of causes tells."""

    class InternalServerError(Exception):
        status_code = 500

    outer = InternalServerError("litellm.InternalServerError: it broke")
    outer.__cause__ = fault("inner")
    failure = classify(outer, "openai")
    assert (failure.retryable, failure.status_code) == (False, None)


class _State:
    def __init__(self, attempt: int, failure: failures.Failure) -> None:
        self.attempt_number = attempt
        self.outcome = self
        self._failure = failure

    def exception(self) -> Exception:
        return retry.AttemptFailedError(self._failure)


def test_backoff_grows_with_full_jitter_up_to_bound() -> None:
    """The waits are drawn from the full range up to an exponential bound, and never beyond the cap."""
    policy = retry.retrying(50)
    fault = failures.Failure("x", "x", 500, retryable=True)
    drawn = [[policy.wait(_State(n, fault)) for _ in range(300)] for n in (1, 4, 20)]  # type: ignore[arg-type]
    bounds = retry.INITIAL_BACKOFF_SECONDS, 8 * retry.INITIAL_BACKOFF_SECONDS, retry.MAX_BACKOFF_SECONDS
    for waits, bound in zip(drawn, bounds, strict=True):
        assert min(waits) < bound / 4 < bound * 3 / 4 < max(waits) <= bound
    for hint, least in ((0.0, 0.05), (5.0, 5.0), (1000.0, 120.0)):
        told = failures.Failure("x", "x", 503, retryable=True, retry_after=hint)
        waits = [policy.wait(_State(1, told)) for _ in range(50)]  # type: ignore[arg-type]
        assert least <= min(waits) < max(waits) <= least + retry.INITIAL_BACKOFF_SECONDS


def test_throttle_pause_grows_and_honours_retry_after() -> None:
    """From 0.1 s by a half each time up to 1 s, half of it at random; a longer hint holds, up to two minutes."""
    rests = [retry.throttle_pause(refusals, None, 1.0) for refusals in (1, 2, 3, 50)]
    assert rests == pytest.approx([0.1, 0.15, 0.225, 1.0])
    assert [retry.throttle_pause(1, 0.0, jitter) for jitter in (0.0, 0.5)] == pytest.approx([0.05, 0.075])
    assert [retry.throttle_pause(1, hint, 1.0) for hint in (0.01, 5.0, 1000.0)] == [0.1, 5.0, 120.0]


def test_policy_paced_row_pauses_shortly_after_429(monkeypatch: pytest.MonkeyPatch) -> None:
    """Longer with each refusal in a row, anew after a fault; faults and administration wait as ever."""
    monkeypatch.setattr("random.random", lambda: 1.0)
    monkeypatch.setattr("random.uniform", lambda least, most: most)
    refused = failures.Failure("x", "x", 429, retryable=True, rate_limited=True)
    told = failures.Failure("x", "x", 429, retryable=True, rate_limited=True, retry_after=5.0)
    fault = failures.Failure("x", "x", 500, retryable=True)
    order = [refused, refused, fault, refused, told, fault]
    paced, unpaced = ([policy.wait(_State(9, failure)) for failure in order] for policy in (  # type: ignore[arg-type]
        retry.retrying(9, paced=True), retry.retrying(9),
    ))  # fmt: skip
    backoff = min(2**8 * retry.INITIAL_BACKOFF_SECONDS, retry.MAX_BACKOFF_SECONDS)
    assert paced == pytest.approx([0.1, 0.15, backoff, 0.1, 5.0, backoff])
    assert unpaced == pytest.approx([backoff] * 4 + [5.0 + retry.INITIAL_BACKOFF_SECONDS, backoff])


def test_retries_zero_does_not_retry_429(server: Server) -> None:
    """`retries=0` sends once, whatever the fault; the row says that it could be retried."""
    server.enqueue(Response(429, {"retry-after-ms": "20"}))
    (row,) = batch(server.api_base, chats(1), retries=0)
    assert (len(server.requests), row["error_details"]["type"]) == (1, "RateLimitError")
    assert row["error_details"]["retryable"]


@pytest.mark.parametrize(("status", "kind"), [(429, "RateLimitError"), (503, "ServiceUnavailableError")])
def test_retry_row_failing_too_long_is_given_up(
    server: Server, monkeypatch: pytest.MonkeyPatch, status: int, kind: str
) -> None:
    """After an hour of refusals, or ten minutes of faults, whatever the retries; here they pass before the third."""
    limit = {429: retry.MAX_RATE_LIMITED_SECONDS, 503: retry.MAX_RETRY_SECONDS}[status]
    clock = SimpleNamespace(monotonic=lambda: time.monotonic() + (limit if len(server.requests) > 2 else 0.0))
    monkeypatch.setattr(retry, "time", clock)
    server.handler = lambda request: Response(status, {"retry-after-ms": "60"})
    (row,) = batch(server.api_base, chats(1), retries=1000, model=f"openai/gives-up-{status}")
    assert row["error_details"]["type"].endswith(kind)
    assert row["attempts"] == len(server.requests) == 3
