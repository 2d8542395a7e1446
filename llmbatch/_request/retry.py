"""Whether and when a failed attempt is made again: the one retry policy, around tenacity."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

from tenacity import AsyncRetrying, RetryCallState, retry_if_exception, wait_random_exponential

from llmbatch._request.failures import Failure

# Right after a wait shorter than this the provider still rejects.
MIN_RETRY_AFTER_SECONDS = 0.05
# A longer wait that the provider asks for is cut to this, and asked for again.
MAX_RETRY_AFTER_SECONDS = 120.0
# Backoff after a transient error: a random part of a bound that doubles with each attempt.
INITIAL_BACKOFF_SECONDS = 0.5
MAX_BACKOFF_SECONDS = 30.0
# Pause of one row after a 429 without a wait: short, since the limiter throttles the others too.
INITIAL_THROTTLE_PAUSE_SECONDS = 0.1
MAX_THROTTLE_PAUSE_SECONDS = 1.0
THROTTLE_PAUSE_GROWTH = 1.5
# A row that keeps failing for this long after its first failure is given up, whatever its number of attempts.
MAX_RETRY_SECONDS = 600.0
MAX_RATE_LIMITED_SECONDS = 3600.0


T = TypeVar("T")


def throttle_pause(consecutive: int, retry_after: float | None, jitter: float) -> float:
    """Return how many seconds a row pauses after a number of 429s in a row.

    It is at least what the provider asks for. `jitter` is a random number from 0 to 1.
    """
    own = min(INITIAL_THROTTLE_PAUSE_SECONDS * THROTTLE_PAUSE_GROWTH ** (consecutive - 1), MAX_THROTTLE_PAUSE_SECONDS)
    return max(min(retry_after or 0.0, MAX_RETRY_AFTER_SECONDS), own * (0.5 + 0.5 * jitter))


class AttemptFailedError(Exception):
    """Carries a `Failure` through tenacity; a `final` one is not tried again, whatever it is."""

    def __init__(self, failure: Failure, *, final: bool = False) -> None:
        super().__init__(failure.type)
        self.failure = failure
        self.final = final


class NotSentError(AttemptFailedError):
    """The request was not sent and will not be: there is nothing to try again."""


def retrying(
    retries: int, *, paced: bool = False, sleep: Callable[[float], Awaitable[None]] = asyncio.sleep
) -> AsyncRetrying:
    """Return tenacity's loop around the attempts of one row, or of one call to a provider's batch endpoints.

    `retries` counts transient errors (5xx, resets, timeouts). 429s do not count, and neither do failures that are not
    `counted`. After a 429 a `paced` row pauses for a moment and goes back to its limiter.
    """
    policy = _Policy(retries, paced)
    return AsyncRetrying(
        retry=retry_if_exception(_is_retryable), stop=policy.stop, wait=policy.wait, sleep=sleep, reraise=True
    )


async def with_retries(
    attempt: Callable[[], Awaitable[T]], retries: int, sleep: Callable[[float], Awaitable[None]]
) -> T:
    """Make the attempts of one paced row. The first one is made without tenacity, which costs 0.1 ms of CPU."""
    try:
        return await attempt()
    except AttemptFailedError as exc:
        if not _is_retryable(exc):
            raise
        failures = [exc]

    async def next_attempt() -> T:
        if failures:
            raise failures.pop()
        return await attempt()

    return await retrying(retries, paced=True, sleep=sleep)(next_attempt)


def _is_retryable(exc: BaseException) -> bool:
    return (
        isinstance(exc, AttemptFailedError)
        and not isinstance(exc, NotSentError)
        and not exc.final
        and exc.failure.retryable
    )


class _Policy:
    """The attempts of one row: when to stop, and how long to wait."""

    def __init__(self, retries: int, paced: bool) -> None:
        self.retries, self.paced = retries, paced
        self.errors = self.consecutive_rate_limits = 0
        self.first_failure_at: float | None = None
        self.backoff = wait_random_exponential(multiplier=INITIAL_BACKOFF_SECONDS, max=MAX_BACKOFF_SECONDS)

    def stop(self, retry_state: RetryCallState) -> bool:
        """Stop after `retries` transient errors, or after too long a time."""
        failure = _failure_of(retry_state)
        if not failure.counted:
            return False
        now = time.monotonic()
        self.first_failure_at = self.first_failure_at or now
        seconds_since_first_failure = now - self.first_failure_at
        if failure.rate_limited:
            return self.retries == 0 or seconds_since_first_failure > MAX_RATE_LIMITED_SECONDS
        self.errors += 1
        return self.errors > self.retries or seconds_since_first_failure > MAX_RETRY_SECONDS

    def wait(self, retry_state: RetryCallState) -> float:
        """Return the backoff with full jitter, or what the provider asks for, within bounds."""
        failure = _failure_of(retry_state)
        self.consecutive_rate_limits = self.consecutive_rate_limits + 1 if failure.rate_limited else 0
        if failure.rate_limited and self.paced:
            return throttle_pause(self.consecutive_rate_limits, failure.retry_after, random.random())  # noqa: S311 - jitter
        if not failure.counted:
            return min(max(failure.retry_after or 0.0, MIN_RETRY_AFTER_SECONDS), MAX_RETRY_AFTER_SECONDS)
        if failure.retry_after is not None:
            wait = min(max(failure.retry_after, MIN_RETRY_AFTER_SECONDS), MAX_RETRY_AFTER_SECONDS)
            return wait + random.uniform(0, INITIAL_BACKOFF_SECONDS)  # noqa: S311 - jitter
        return self.backoff(retry_state)


def _failure_of(retry_state: RetryCallState) -> Failure:
    exc = retry_state.outcome.exception() if retry_state.outcome else None
    assert isinstance(exc, AttemptFailedError)  # noqa: S101 - the only exception that the policy retries
    return exc.failure
