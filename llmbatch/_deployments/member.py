"""What a batch knows of one deployment: how long its answers take, and whether it is left alone because it fails."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from enum import Enum
from typing import Any, TypeVar

from llmbatch._limits.limiter import Limiter
from llmbatch._limits.permit import Permit
from llmbatch._request.circuit_breaker import FIXES, Passage
from llmbatch._request.deployments import Deployment
from llmbatch._request.failures import Failure, Scope
from llmbatch._util.batch_log import logger

T = TypeVar("T")

# Consecutive failures after which a deployment is left alone; one is enough if nobody listens there.
FAILURES_TO_SET_ASIDE = 3
# Seconds before a deployment that was set aside is probed; they double with each probe that fails.
INITIAL_PROBE_SECONDS = 0.5
MAX_PROBE_SECONDS_UNAVAILABLE = 5.0
MAX_PROBE_SECONDS = 30.0
# Consecutive rejections for a reason that concerns every request (key, model), after which it is used no more.
REJECTIONS_TO_DROP = 3
# Weight of the newest answer in the average latency.
LATENCY_WEIGHT = 0.3


class Health(Enum):
    """Whether a deployment is used (GOOD), left alone and probed (ASIDE), or used no more (DROPPED)."""

    GOOD = "good"
    ASIDE = "aside"
    DROPPED = "dropped"


@dataclass(slots=True, eq=False)
class Grant(Passage):
    """Leave to send one attempt to a deployment; the permit of its limiter, and USD reserved in the budget."""

    permit: Permit | None = None
    bound: float = 0.0
    tried: bool = False  # whether it is the probe of a deployment that was set aside


class Member:
    """One deployment of a batch. It takes the place of a circuit breaker in the sender of the deployment.

    Attributes:
        health: see `Health`.
        probe_at: time of the next probe, if it was set aside.
        dropped_for: the failure that it was dropped for.
        latency: average seconds of its late answers; None before any.
        answered_at: time of the last answer.
        in_flight: requests in flight there, of this batch.
        probing: whether a probe is in flight.
        on_change: called when it may be used again.
    """

    given_up: Failure | None = None

    def __init__(self, deployment: Deployment, limiter: Limiter) -> None:
        self.deployment, self.limiter = deployment, limiter
        self.health = Health.GOOD
        self.probe_at = 0.0
        self.dropped_for: Failure | None = None
        self.latency: float | None = None
        self.answered_at = 0.0
        self.on_change: list[Callable[[], None]] = []
        self._sent: dict[Grant, float] = {}  # in the order of their times
        self._failures = self._rejections = self._refused = 0
        self.probing = False
        self._aside_since = 0.0
        self._probe_seconds = INITIAL_PROBE_SECONDS

    @property
    def name(self) -> str:
        """The deployment's name."""
        return self.deployment.name

    @property
    def in_flight(self) -> int:
        """Number of requests in flight."""
        return len(self._sent)

    @property
    def may_be_at_fault(self) -> bool:
        """Whether its rejections may be its own fault, and not that of the requests: it answers none, or not lately."""
        return self.latency is None or self._refused >= FAILURES_TO_SET_ASIDE

    def usable(self, now: float) -> bool:
        """Return whether a request may be sent there, as far as its health tells."""
        if self.health is Health.ASIDE:
            return not self.probing and now >= self.probe_at
        return self.health is Health.GOOD

    def expected_latency(self, now: float) -> float | None:
        """Return the seconds of an answer: the average, or the age of the oldest request in flight if it is more."""
        oldest = now - next(iter(self._sent.values())) if self._sent else 0.0
        if self.latency is None:
            return oldest or None
        return max(self.latency, oldest)

    def seconds_until_free(self, tokens: float) -> float | None:
        """Return the seconds until it can take a request; None if that takes an answer."""
        most = self.deployment.max_in_flight
        if most is not None and self.in_flight >= most:
            return None
        return self.limiter.seconds_until_free(tokens)

    def grant(self, order: int, tokens: float, *, probe: bool) -> Grant | None:
        """Return leave to send a request there now; None if its limits do not allow it."""
        if self.seconds_until_free(tokens) != 0:
            return None
        permit = self.limiter.try_acquire(tokens)
        if permit is None:
            return None
        grant = Grant(order, probe, permit=permit, tried=self.health is Health.ASIDE)
        self.probing |= grant.tried
        self._sent[grant] = time.monotonic()
        return grant

    async def unless_given_up(self, wait: Awaitable[T], passage: Passage | None = None) -> T:  # noqa: ARG002 - as a circuit breaker
        """Return what `wait` returns: a deployment is never given up while a request is on its way."""
        return await wait

    def uncounted(self, failure: Failure, outages: set[int]) -> Failure:  # noqa: ARG002 - as a circuit breaker
        """Return the failure as it is: the pool decides what counts."""
        return failure

    def on_row_failed(self, failure: Failure) -> None:
        """Ignore a row that failed for good: the pool counts those."""

    def release(self, passage: Any) -> None:
        """End an attempt; one that said nothing about the deployment leaves it as it is."""
        self._sent.pop(passage, None)
        if passage.permit is not None:
            self.limiter.on_error(passage.permit)  # does nothing if it was answered
        if passage.tried:
            self.probing = passage.tried = False
        self._changed()

    def on_success(self, passage: Any) -> None:
        """Note an answer."""
        now = time.monotonic()
        self.answered_at = now
        if (sent := self._sent.get(passage)) is not None:
            seconds, known = now - sent, self.latency
            self.latency = seconds if known is None else (1 - LATENCY_WEIGHT) * known + LATENCY_WEIGHT * seconds
        self._failures = self._rejections = 0
        if self.health is Health.ASIDE:
            seconds = now - self._aside_since
            logger.info("Deployment {}: it answers again after {:.0f} s, and is used again", self.name, seconds)
            self.health, self._probe_seconds = Health.GOOD, INITIAL_PROBE_SECONDS
        self.release(passage)

    def on_failure(self, passage: Any, failure: Failure) -> None:
        """Note how an attempt failed."""
        if failure.rate_limited or (failure.scope is Scope.ROW and not failure.retryable):
            if failure.status_code is not None and not failure.rate_limited:
                self._failures = self._rejections = 0
                self._refuse(passage, failure)
            return self.release(passage)
        self._failures += 1
        if failure.shared and not failure.retryable:
            self._rejections += 1
            if failure.scope is Scope.FINAL or self._rejections >= REJECTIONS_TO_DROP:
                self._drop(failure)
                return self.release(passage)
        if self.health is Health.ASIDE:
            if passage.tried:
                self._set_aside(failure)
        elif self.health is Health.GOOD and (failure.unavailable or self._failures >= FAILURES_TO_SET_ASIDE):
            self._begin_aside(failure)
        return self.release(passage)

    def _begin_aside(self, failure: Failure) -> None:
        logger.warning(
            "Deployment {}: set aside after {}: {}. It is probed until it answers",
            self.name, failure.type, failure.message,
        )  # fmt: skip
        self._aside_since = time.monotonic()
        self._set_aside(failure)

    def on_good_answer(self) -> None:
        """Note that an answer counts as one."""
        self._refused = 0

    def on_bad_answer(self, passage: Any, failure: Failure) -> None:
        """Note an answer that does not count as one: empty, or broken."""
        self._refuse(passage, failure)

    def _refuse(self, passage: Any, failure: Failure) -> None:
        """Count what one request may be at fault for; leave the deployment alone if it comes again and again."""
        self._refused += 1
        if self.health is Health.ASIDE and passage.tried:
            self._set_aside(failure)
        elif self.health is Health.GOOD and self._refused >= FAILURES_TO_SET_ASIDE:
            self._begin_aside(failure)

    def _set_aside(self, failure: Failure) -> None:
        self.health = Health.ASIDE
        most = MAX_PROBE_SECONDS_UNAVAILABLE if failure.unavailable else MAX_PROBE_SECONDS
        self.probe_at = time.monotonic() + self._probe_seconds
        self._probe_seconds = min(2 * self._probe_seconds, most)

    def _drop(self, failure: Failure) -> None:
        if self.health is Health.DROPPED:
            return
        self.health, self.dropped_for = Health.DROPPED, failure
        fix = FIXES.get(failure.status_code or 0, "Check its configuration")
        logger.warning(
            "Deployment {}: used no more in this batch, since it answers {}: {}. {}",
            self.name, failure.type, failure.message.rstrip("."), fix,
        )  # fmt: skip

    def _changed(self) -> None:
        for notify in self.on_change:
            notify()
