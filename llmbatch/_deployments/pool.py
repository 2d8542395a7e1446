"""A pool: the deployments that answer for some requests, and the choice of one for each attempt.

A request waits here, and not at a deployment, so that it goes to whichever can take it first. Of several that can, it
goes to the one with the lowest product of latency and requests in flight (peak EWMA), divided by its weight. One that
would answer much later than a busy one, waiting included, is left out.
"""

from __future__ import annotations

import asyncio
import bisect
import itertools
import math
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from llmbatch._deployments.member import Grant, Health, Member
from llmbatch._request.failures import Failure

# A free deployment is left out if its answer is expected to take this many times as long as that of a busy one.
MUCH_SLOWER = 3.0
# Seconds, and multiples of its latency, after which a deployment that was left out is measured again.
MEASURE_AGAIN_SECONDS = 5.0
MEASURE_AGAIN_LATENCIES = 5.0
# Requests that a deployment gets before its first answer, once another has answered, and in the first moments: one
# that hangs or is slow gets no more.
IN_FLIGHT_BEFORE_FIRST_ANSWER = 2
FIRST_MOMENTS_SECONDS = 1.0
# Seconds after which deployments that were left out are looked at again.
LOOK_AGAIN_SECONDS = 0.05


@dataclass(slots=True)
class Detours:
    """Which deployments a request avoids, and until when.

    Attributes:
        until: time until which it avoids a deployment.
        rate_limits: number of 429s that it got.
        transient: the transient error that it met at one of those, if it did.
        pauses: whether it waits before its next attempt, since no other deployment can take it.
    """

    until: dict[Member, float] = field(default_factory=dict)
    rate_limits: int = 0
    transient: Failure | None = None
    pauses: bool = True

    def open_to(self, member: Member, now: float) -> bool:
        """Return whether the request may go there."""
        return self.until.get(member, 0.0) <= now


@dataclass(slots=True, eq=False)
class _Waiter:
    key: tuple[int, int]
    tokens: dict[Member, float]
    detours: Detours
    probe: bool
    future: asyncio.Future[tuple[Member, Grant]]


class Pool:
    """Some deployments, and the requests that wait for one of them.

    Attributes:
        members: the deployments.
    """

    def __init__(self, members: Sequence[Member]) -> None:
        self.members = members
        self._waiters: list[_Waiter] = []
        self._tickets = itertools.count()
        self._began_at = math.inf
        self._timer: asyncio.TimerHandle | None = None
        self._scheduled: asyncio.Handle | None = None
        for member in members:
            member.limiter.listeners.add(self._schedule)
            member.on_change.append(self._schedule)

    def close(self) -> None:
        """Listen to the limiters no more."""
        for member in self.members:
            member.limiter.listeners.discard(self._schedule)
        for handle in (self._timer, self._scheduled):
            if handle is not None:
                handle.cancel()

    @property
    def waiting(self) -> int:
        """Number of requests that wait to be sent."""
        return len(self._waiters)

    def left(self) -> list[Member]:
        """Return the deployments that were not dropped."""
        return [member for member in self.members if member.health is not Health.DROPPED]

    def candidates(self, detours: Detours, now: float, among: Iterable[Member] | None = None) -> list[Member]:
        """Return the deployments that a request may be sent to: healthy ones, or all that are left if there are none.

        Deployments of a higher order are among them only if none of a lower one is.
        """
        left = [member for member in among or self.members if member.health is not Health.DROPPED]
        usable = [member for member in left if member.usable(now)] or [
            member for member in left if not any(other.health is Health.GOOD for other in left)
        ]
        open_to = [member for member in usable if detours.open_to(member, now)]
        lowest = min((member.deployment.order for member in open_to), default=0)
        return [member for member in open_to if member.deployment.order == lowest]

    async def take(
        self, order: int, tokens: dict[Member, float], detours: Detours, *, probe: bool
    ) -> tuple[Member, Grant]:
        """Wait for a deployment among those of `tokens` that can take a request now, and for leave to send it there.

        `tokens` are the tokens of the request at each. Requests of a lower `order` go first.
        """
        loop = asyncio.get_running_loop()
        self._began_at = min(self._began_at, time.monotonic())
        waiter = _Waiter((order, next(self._tickets)), tokens, detours, probe, loop.create_future())
        bisect.insort(self._waiters, waiter, key=lambda waiter: waiter.key)
        self._dispatch()
        try:
            return await waiter.future
        except asyncio.CancelledError:
            if waiter.future.done() and not waiter.future.cancelled():
                member, grant = waiter.future.result()
                member.release(grant)
            raise
        finally:
            if waiter in self._waiters:
                self._waiters.remove(waiter)

    def _schedule(self) -> None:
        if self._waiters and self._scheduled is None:
            self._scheduled = asyncio.get_running_loop().call_soon(self._dispatch)

    def _dispatch(self) -> None:
        """Send off those that wait, as far as deployments are free, and come back when one may be."""
        for handle in (self._timer, self._scheduled):
            if handle is not None:
                handle.cancel()
        self._timer = self._scheduled = None
        now = time.monotonic()
        waits = {member: self._wait(member, now) for member in self.members}
        free = {member for member, wait in waits.items() if wait == 0}
        again: list[float] = [wait for wait in waits.values() if wait]
        none_for_most = False
        for waiter in list(self._waiters):
            if not free:
                break
            plain = not waiter.detours.until and len(waiter.tokens) == len(self.members) and not waiter.probe
            if waiter.future.done() or (plain and none_for_most):
                continue
            sent = self._send(waiter, free, now)
            if sent is None:
                none_for_most |= plain
                again += [until - now for until in waiter.detours.until.values() if now < until < math.inf]
                again.append(LOOK_AGAIN_SECONDS)
                continue
            member, grant = sent
            self._waiters.remove(waiter)
            waiter.future.set_result((member, grant))
            if self._wait(member, now) != 0:
                free.discard(member)
        if self._waiters and again:
            self._timer = asyncio.get_running_loop().call_later(max(1e-3, min(again)), self._dispatch)

    def _wait(self, member: Member, now: float) -> float | None:
        """Return the seconds until a deployment may take a small request; None if that takes an answer."""
        if member.health is Health.DROPPED:
            return None
        wait = member.seconds_until_free(0.0)
        if member.probing:
            return None
        if wait is None or member.health is Health.GOOD or not any(m.health is Health.GOOD for m in self.members):
            return wait
        return max(wait, member.probe_at - now)

    def _send(self, waiter: _Waiter, free: set[Member], now: float) -> tuple[Member, Grant] | None:
        until = waiter.detours.until
        later = Detours({member: at for member, at in until.items() if at == math.inf})
        rivals = self.candidates(later, now, waiter.tokens)
        if not rivals and later.until:  # those that it has not failed at are gone
            waiter.detours.until = {member: at for member, at in until.items() if at < math.inf}
            rivals = self.candidates(Detours(), now, waiter.tokens)
        candidates = self.candidates(waiter.detours, now, waiter.tokens) if until else rivals
        if waiter.probe:  # nothing answers: each in turn
            candidates = sorted(candidates, key=lambda member: member.probe_at)
        else:
            candidates = self._sensible([one for one in candidates if one in free], rivals, now)
        for member in candidates:
            if member in free and (grant := member.grant(waiter.key[0], waiter.tokens[member], probe=waiter.probe)):
                return member, grant
        return None

    def _sensible(self, free: list[Member], rivals: list[Member], now: float) -> list[Member]:
        """Return the free candidates, the best first, without those that would answer much later than a rival.

        Rivals are all that the request may go to, now or in a moment.
        """
        expected = {member: member.expected_latency(now) for member in rivals}
        known = [seconds for seconds in expected.values() if seconds is not None]
        best = min(known, default=0.0)
        chosen = []
        for member in free:
            seconds = expected[member]
            if member.latency is None:
                if member.in_flight >= IN_FLIGHT_BEFORE_FIRST_ANSWER and self._may_wait_for(member, rivals, now):
                    continue
            elif seconds is not None and seconds > MUCH_SLOWER * best:
                fast = [other for other in rivals if other is not member]
                if seconds > MUCH_SLOWER * self._otherwise(fast, expected) and not self._is_stale(member, now):
                    continue
            chosen.append(member)
        default = best or 1.0
        return sorted(
            chosen,
            key=lambda member: (
                (expected[member] or default) * (member.limiter.in_flight + 1) / member.deployment.weight,
                member.in_flight,
            ),
        )

    def _may_wait_for(self, member: Member, rivals: list[Member], now: float) -> bool:
        """Return whether a deployment that has answered nothing yet gets no more requests for now."""
        others = [other for other in rivals if other is not member]
        answered = any(other.latency is not None for other in others)
        return answered or (bool(others) and now - self._began_at < FIRST_MOMENTS_SECONDS)

    def _otherwise(self, others: list[Member], expected: dict[Member, float | None]) -> float:
        """Return the seconds in which the last of those that wait would be answered by these deployments."""
        seconds = [found for other in others if (found := expected[other])]
        rate = sum(other.limiter.in_flight / found for other in others if (found := expected[other]))
        return min(seconds) + len(self._waiters) / rate if rate else math.inf

    @staticmethod
    def _is_stale(member: Member, now: float) -> bool:
        """Return whether a deployment was not measured for so long that it is worth another request."""
        if member.in_flight:
            return False
        pause = max(MEASURE_AGAIN_SECONDS, MEASURE_AGAIN_LATENCIES * (member.latency or 0.0))
        return now - member.answered_at > pause
