"""Whether and when a failed attempt is made again: the one retry policy, around tenacity."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable

from tenacity import AsyncRetrying, RetryCallState, retry_if_exception, wait_random_exponential

from llmbatch._request.failures import Failure

# Waits in seconds. A provider's hint below the floor is still a refusal a moment later; one above the cap is honoured
# up to the cap.
HINT_FLOOR, HINT_CAP = 0.05, 120.0
BACKOFF_FIRST, BACKOFF_CAP = 0.5, 30.0
# After a refusal: short, since the limiter paces.
REST_FIRST, REST_CAP = 0.1, 1.0
# A row that keeps failing for this long after its first failure is given up, whatever its attempts.
FAULT_SECONDS, REFUSED_SECONDS = 600.0, 3600.0


def rest(refusals: int, hint: float | None, jitter: float) -> float:
    """Seconds that a row rests after so many refusals in a row: what the provider asks for, or a moment, ever longer.

    `jitter` is a random number from 0 to 1. The limiter holds back the others, where that is called for.
    """
    own = min(REST_FIRST * 1.5 ** (refusals - 1), REST_CAP)
    return max(min(hint or 0.0, HINT_CAP), own * (0.5 + 0.5 * jitter))


class AttemptFailedError(Exception):
    """Carries a `Failure` through tenacity."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.type)
        self.failure = failure


class NotSentError(AttemptFailedError):
    """The request was not sent and will not be: there is nothing to try again."""


def retrying(
    retries: int, *, paced: bool = False, sleep: Callable[[float], Awaitable[None]] = asyncio.sleep
) -> AsyncRetrying:
    """Tenacity around the attempts of one row, or of one call to a provider's administration.

    `retries` counts the faults (5xx, resets, timeouts) that are survived. Refusals for a rate limit do not count. What
    is `paced` rests after one and goes back to its limiter, which holds everybody back where that is called for.
    """
    policy = _Policy(retries, paced)
    return AsyncRetrying(
        retry=retry_if_exception(_may_pass), stop=policy.stop, wait=policy.wait, sleep=sleep, reraise=True
    )


def _may_pass(exc: BaseException) -> bool:
    return isinstance(exc, AttemptFailedError) and not isinstance(exc, NotSentError) and exc.failure.retryable


class _Policy:
    """One instance serves one row."""

    def __init__(self, retries: int, paced: bool) -> None:
        self.retries, self.paced = retries, paced
        self.faults = self.refusals = 0
        self.first_failure: float | None = None
        self.backoff = wait_random_exponential(multiplier=BACKOFF_FIRST, max=BACKOFF_CAP)

    def stop(self, retry_state: RetryCallState) -> bool:
        """Attempts for faults, time for refusals."""
        failure = _failure_of(retry_state)
        if failure.mended:
            return False
        now = time.monotonic()
        self.first_failure = self.first_failure or now
        spent = now - self.first_failure
        if failure.refused:
            return self.retries == 0 or spent > REFUSED_SECONDS
        self.faults += 1
        return self.faults > self.retries or spent > FAULT_SECONDS

    def wait(self, retry_state: RetryCallState) -> float:
        """Full jitter on an exponential for faults; the provider's own hint, floored and capped, where it gives one.

        A row that its limiter paces only rests for a moment after a refusal.
        """
        failure = _failure_of(retry_state)
        self.refusals = self.refusals + 1 if failure.refused else 0
        if failure.refused and self.paced:
            return rest(self.refusals, failure.hint, random.random())  # noqa: S311 - jitter
        if failure.hint is not None:
            return min(max(failure.hint, HINT_FLOOR), HINT_CAP) + random.uniform(0, BACKOFF_FIRST)  # noqa: S311 - jitter
        return self.backoff(retry_state)


def _failure_of(retry_state: RetryCallState) -> Failure:
    exc = retry_state.outcome.exception() if retry_state.outcome else None
    assert isinstance(exc, AttemptFailedError)  # noqa: S101 - the only exception that the policy retries
    return exc.failure
