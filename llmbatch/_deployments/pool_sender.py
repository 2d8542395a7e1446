"""Sends one request through a pool: each attempt goes to the deployment that takes it first.

A transient error moves the request to another deployment at once, and uses up a retry only when it has failed at all of
them. What a single server would do to a batch (an outage, a bad key) the circuit breaker of the pool decides, once no
deployment is left that works.
"""

from __future__ import annotations

import asyncio
import math
import random
import time
from collections.abc import Awaitable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from llmbatch._deployments.member import Grant, Health, Member
from llmbatch._deployments.pool import Detours, Pool
from llmbatch._limits.pauses import MIN_PAUSE_SECONDS
from llmbatch._limits.permit import Permit
from llmbatch._limits.throttle import Phase
from llmbatch._litellm import Answer
from llmbatch._request.circuit_breaker import Passage
from llmbatch._request.failures import Failure, Scope
from llmbatch._request.outcome import Outcome
from llmbatch._request.retry import AttemptFailedError, NotSentError, throttle_pause
from llmbatch._request.sender import Call, Sender

_ABSENT = object()


class MemberSender(Sender):
    """Sends to one deployment what the pool has granted: limits and budget were seen to already."""

    async def _reserved(self, request: Mapping[str, Any], passage: Passage) -> float:  # noqa: ARG002 - as in Sender
        assert isinstance(passage, Grant)  # noqa: S101 - the pool's
        return passage.bound

    async def _permit(self, request: Mapping[str, Any], passage: Passage) -> Permit:  # noqa: ARG002 - as in Sender
        assert isinstance(passage, Grant)  # noqa: S101 - the pool's
        assert passage.permit is not None  # noqa: S101 - the pool's
        return passage.permit


@dataclass(frozen=True, slots=True)
class MemberRoute:
    """How a request reaches one deployment: its sender, and which arguments of a request are different there."""

    sender: Sender
    base: Mapping[str, Any]
    params: Mapping[str, Any]

    def request(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """Return the request as this deployment gets it. What a re-ask has changed stays changed."""
        own = {name: value for name, value in request.items() if name not in self.base or name in self.params}
        for name, value in self.params.items():
            known = self.base.get(name, _ABSENT)
            if request.get(name, _ABSENT) == known and value != known:
                own[name] = value
        return own


@dataclass(kw_only=True)
class PoolSender(Sender):
    """Sends requests through a pool.

    Attributes:
        pool: chooses the deployment.
        routes: how each of the deployments that may answer is reached.
    """

    pool: Pool
    routes: Mapping[Member, MemberRoute]

    def _sleep(self, outcome: Outcome, seconds: float) -> Awaitable[None]:
        return asyncio.sleep(seconds if outcome.detours.pauses else 0.0)

    async def _attempt(self, request: dict[str, Any], order: int, call: Call, outcome: Outcome) -> Answer:
        """Make one attempt. If it probes whether any deployment answers, try each."""
        outcome.detours = outcome.detours or Detours()
        passage = await self.breaker.acquire(order)
        try:
            while True:
                try:
                    return await self._try_one(passage, request, call, outcome)
                except AttemptFailedError:
                    if not passage.probe or passage.finished or outcome.detours.pauses:
                        raise
        finally:
            self.breaker.release(passage)

    async def _try_one(self, passage: Passage, request: dict[str, Any], call: Call, outcome: Outcome) -> Answer:
        left = {member: route for member, route in self.routes.items() if member.health is not Health.DROPPED}
        if not left:
            raise self._all_dropped(passage)
        requests = {member: route.request(request) for member, route in left.items()}
        bound = await self._affordable(requests)
        try:
            tokens = {member: self.routes[member].sender.tokens(one) for member, one in requests.items()}
            turn = self.pool.take(passage.order, tokens, outcome.detours, probe=passage.probe)
            began = time.monotonic()
            member, grant = await self.breaker.unless_given_up(turn, passage)
        except BaseException:
            self.budget.settle(bound, 0.0)
            raise
        self.watch.limited += time.monotonic() - began
        grant.bound = bound
        try:
            answer = await self.routes[member].sender.attempt(grant, requests[member], call, outcome)
        except AttemptFailedError as exc:
            if outcome.rejected is not None and exc.failure.retryable:
                member.on_bad_answer(grant, exc.failure)
            raise self._after_failure(exc, member, passage, outcome) from None
        finally:
            member.release(grant)
        member.on_good_answer()
        self.breaker.on_success(passage)
        return answer

    async def _affordable(self, requests: dict[Member, dict[str, Any]]) -> float:
        """Reserve the upper bound of the dearest deployment that the budget allows; leave out those that are dearer."""
        bounds = {member: self.routes[member].sender.cost_bound(one) for member, one in requests.items()}
        fitting = [bound for bound in bounds.values() if self.budget.fits(bound)]
        bound = max(fitting, default=min(bounds.values()))
        if not await self.budget.reserve(bound):
            raise NotSentError(self.over_budget(bound))
        for member, own in bounds.items():
            if own > bound:
                del requests[member]
        return bound

    def _after_failure(
        self, exc: AttemptFailedError, member: Member, passage: Passage, outcome: Outcome
    ) -> AttemptFailedError:
        """Decide what becomes of a request whose attempt at a deployment failed."""
        failure, detours, now = exc.failure, outcome.detours, time.monotonic()
        detours.pauses = True
        if isinstance(exc, NotSentError) or outcome.rejected is not None:
            if outcome.rejected is not None:  # it was answered
                self.breaker.on_success(passage)
                detours.pauses = not self._avoid(member, detours, now)
            return exc
        if not any(member.health is not Health.DROPPED for member in self.routes):
            return self._all_dropped(passage, failure)
        if failure.rate_limited and failure.retryable:
            detours.rate_limits += 1
            detours.until[member] = now + _pause_after(failure, member, detours.rate_limits)
            detours.pauses = False
            return exc
        if failure.retryable or failure.scope is not Scope.ROW or member.may_be_at_fault:
            detours.transient = failure if failure.retryable else detours.transient
            if self._avoid(member, detours, now) and self.retries:
                detours.pauses = False
                return AttemptFailedError(replace(failure, retryable=True, counted=False, retry_after=None))
            return self._failed_everywhere(exc, passage, outcome)
        self.breaker.on_failure(passage, failure)
        return exc

    def _avoid(self, member: Member, detours: Detours, now: float) -> bool:
        """Have a request avoid a deployment; return whether another one is left that it has not failed at."""
        detours.until[member] = math.inf
        if self.pool.candidates(detours, now, self.routes):
            return True
        detours.until.clear()
        return False

    def _failed_everywhere(self, exc: AttemptFailedError, passage: Passage, outcome: Outcome) -> AttemptFailedError:
        """Count a failure as that of a single server: no other deployment can take the request.

        A transient error at another one counts more than a rejection: the request is sent again.
        """
        detours = outcome.detours
        before, failure = self.breaker.given_up, exc.failure
        if not failure.retryable and self.retries:
            failure = detours.transient or failure
        detours.until.clear()
        detours.transient = None
        if any(member.health is Health.GOOD for member in self.routes):
            failure = replace(failure, unavailable=False)
        self.breaker.on_failure(passage, failure if self.retries else replace(failure, unavailable=False))
        if self.breaker.given_up is not before:
            return AttemptFailedError(exc.failure, final=True)
        return AttemptFailedError(self.breaker.uncounted(failure, outcome.outages), final=exc.final)

    def _all_dropped(self, passage: Passage, failure: Failure | None = None) -> AttemptFailedError:
        """Give up: every deployment that may answer was dropped."""
        dropped = [member.dropped_for for member in self.routes if member.dropped_for is not None]
        last = failure or dropped[-1]
        self.breaker.give_up(last, f"no deployment is left; the last one answered {last.type}: {last.message}")
        self.breaker.release(passage)
        return NotSentError(self.breaker.given_up or last) if failure is None else AttemptFailedError(last, final=True)


def _pause_after(failure: Failure, member: Member, rate_limits: int) -> float:
    """Return the seconds for which a request that got a 429 avoids the deployment."""
    seconds = throttle_pause(rate_limits, failure.retry_after, random.random())  # noqa: S311 - jitter
    limited = member.limiter.throttle.phase is Phase.CONCURRENCY_LIMITED
    return min(seconds, MIN_PAUSE_SECONDS) if limited else seconds
