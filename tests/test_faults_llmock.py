"""llmock breaks the provider and judges the client: every verdict is without a warning."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from tests.talk import batch, chats, streamed

if TYPE_CHECKING:
    from llmock.pytest_plugin import LLMock

    import llmbatch


@pytest.fixture(autouse=True)
def most_jitter(monkeypatch: pytest.MonkeyPatch) -> None:
    """Waits are drawn at their upper end: a verdict on two of them must not hang on chance."""
    monkeypatch.setattr("tenacity.wait.random.uniform", lambda _, high: high)


pytestmark = pytest.mark.processes


def ask(llmock: LLMock, count: int = 1, *, stream: bool = False, **options: Any) -> llmbatch.BatchResults:
    form = streamed if stream else batch
    return form(rows=chats(count), **{"api_base": llmock.base_url("openai"), "retries": 4, **options})


@pytest.mark.parametrize("stream", [False, True])
def test_429_with_retry_after_is_waited_for(llmock: LLMock, stream: bool) -> None:
    """Every row is answered, none before the time that it was told."""
    llmock.rate_limit(times=4, retry_after=0.7)
    assert not ask(llmock, 6, stream=stream).failed
    llmock.assert_resilient(strict=True)


def test_429_without_retry_after_is_backed_off_from(llmock: LLMock) -> None:
    """No hint at all: the waits grow."""
    llmock.fail(429, times=3)
    assert not ask(llmock, 2, max_workers=1).failed
    llmock.assert_resilient(strict=True)


def test_short_outage_costs_no_row(llmock: LLMock) -> None:
    """Server faults are retried with backoff."""
    llmock.fail(503, times=3)
    assert not ask(llmock, 5).failed
    llmock.assert_resilient(strict=True)


def test_outage_ends_batch_with_few_requests(llmock: LLMock, monkeypatch: pytest.MonkeyPatch) -> None:
    """Few rows are sent, none more often than asked, and all say why; rows in flight at the end are not retried."""
    monkeypatch.setattr("llmbatch._request.retry.INITIAL_BACKOFF_SECONDS", 0.1)
    monkeypatch.setattr("llmbatch._request.circuit_breaker.MAX_RECOVERY_SECONDS", 0.5)
    llmock.outage()
    results = ask(llmock, 40, retries=2, max_workers=4)
    assert len(results.failed) == 40
    assert len(llmock.requests) <= 3 * 9 + 25
    assert not [finding for finding in llmock.verdict().findings if finding.code not in {"no_backoff", "gave_up"}]


@pytest.mark.parametrize("status", [400, 401, 403, 404, 422])
def test_permanent_error_is_sent_once(llmock: LLMock, status: int) -> None:
    """A refusal for good is that row's error; the rows beside it are answered."""
    llmock.fail(status)
    results = ask(llmock, 3)
    assert [row["error_details"]["status_code"] for row in results.failed] == [status]
    llmock.assert_resilient(strict=True)


def test_prompt_too_long_fails_alone(llmock: LLMock) -> None:
    """The provider's own limit is a failed row."""
    llmock.context_overflow()
    assert len(ask(llmock, 3).failed) == 1
    llmock.assert_resilient(strict=True)


def test_slow_answer_is_retried_after_timeout(llmock: LLMock) -> None:
    """An attempt ends with its own timeout, whatever the server does."""
    ask(llmock)
    llmock.delay(20)
    assert not ask(llmock, 2, timeout=0.8).failed
    llmock.assert_resilient(strict=True)


@pytest.mark.parametrize("fault", ["disconnect", "truncate", "corrupt"])
@pytest.mark.parametrize("route", ["openai", "hosted_vllm"])
def test_broken_stream_is_retried(llmock: LLMock, fault: str, route: str) -> None:
    """Cut off, ended early or with a corrupt chunk: sent again, and the whole answer is the row."""
    whole = ask(llmock, 3).texts
    llmock.pace(20)  # so that the server notices when its client has left
    getattr(llmock, fault)(after_chunks=2, times=2)
    results = ask(llmock, 3, stream=True, model=f"{route}/gpt-4o-mini")
    assert results.texts == whole
    llmock.assert_resilient(strict=True)


def test_stalled_stream_is_retried(llmock: LLMock) -> None:
    """A stream that hangs ends with the attempt's timeout."""
    ask(llmock)
    llmock.stall(after_chunks=1, seconds=20)
    assert not ask(llmock, 1, stream=True, timeout=0.8).failed
    llmock.assert_resilient(strict=True)


def test_quotas_are_throttled_for_and_rows_answered(llmock: LLMock) -> None:
    """Real requests-per-minute quotas with headers: all rows, with hardly a refusal."""
    llmock.limits(rpm=400)
    results = ask(llmock, 425, max_workers=32, max_tokens=1)
    assert not results.failed
    assert sum(record.status == 429 for record in llmock.requests) <= 12
    llmock.assert_resilient(strict=True)


@pytest.mark.parametrize("route", ["anthropic", "gemini", "mistral", "xai"])
def test_other_providers_errors_cost_no_row(llmock: LLMock, route: str) -> None:
    """Refusals and server faults in each provider's own shape cost no row."""
    models = {
        "anthropic": "claude-sonnet-4-5",
        "gemini": "gemini-2.5-flash",
        "mistral": "mistral-small",
        "xai": "grok-4",
    }
    base = llmock.base_url(route)
    llmock.rate_limit(times=1, retry_after=0.4)
    llmock.fail(503, times=1)
    options = {"api_base": base if route != "gemini" else f"{base}/v1beta"}
    results = ask(llmock, 4, model=f"{route}/{models[route]}", **options)
    assert not results.failed
    llmock.assert_resilient(strict=True)
