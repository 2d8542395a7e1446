"""Admission: when the next request may be sent, so that nothing has to be tuned and hardly anything is refused.

A `Limiter` stands for one account's limit at one provider (provider, base URL, key, model) and is shared by every batch
of the process that meets it. It holds what the caller told, what the provider states in its headers, and what
`Refusals` has found out from what was refused. Faults (5xx, resets, timeouts) teach nothing about limits. It knows no
LLM and runs on one event loop.
"""

from __future__ import annotations

import asyncio
import contextlib
import heapq
import itertools
import math
import time
from collections.abc import Callable, Iterator, Mapping

from loguru import logger

from llmbatch._limits.observations import Permit
from llmbatch._limits.rate_headers import stated_limits
from llmbatch._limits.throttling import Refusals

TOLD_BURST_SECONDS = 0.1  # that may be caught up with after a late moment; well within the margin over a minute
TOLD_MARGIN = 0.995  # of a limit never to exceed: requests sent evenly may arrive a little closer
FORGOTTEN_SECONDS = 60.0  # without a request, after which what was found out about refusals is doubted altogether
SAID_AGAIN_SECONDS = 30.0
MOST_TOKENS = 10**7  # that one answer is believed to have used
PACE_BURST = 0.05  # seconds of a learnt rate that may be caught up with


class _Bucket:
    """A token bucket: `rate` a second, at most `burst` at once. Its level may be negative (debt)."""

    def __init__(self, now: float) -> None:
        self.rate, self.burst = math.inf, 1.0
        self.level, self.at = 1.0, now

    def refill(self, now: float) -> None:
        if self.rate < math.inf:
            self.level = min(self.burst, self.level + (now - self.at) * self.rate)
        self.at = now

    def wait(self, amount: float) -> float:
        """Seconds until `amount` may be taken; more than the bucket holds goes when it is full."""
        if self.rate == math.inf:
            return 0.0
        return max(0.0, (min(amount, self.burst) - self.level) / self.rate)

    def take(self, amount: float) -> None:
        if self.rate < math.inf:
            self.level -= amount

    def follow(self, rate: float, remaining: float, in_flight: float, undecided: float, *, newest: bool) -> None:
        """Take over what the provider states: no more than what remains goes before it has stated it anew.

        What it has counted already is at least what was let in, at most all that is in flight. What it states for a
        request sent before another that was read already is past: it takes, and gives nothing.
        """
        if self.rate == math.inf:
            self.level = -math.inf
        if newest:
            self.level = max(self.level, remaining - in_flight)
            self.burst = max(1.0, remaining)
        self.level = min(self.level, remaining - undecided)
        self.rate = rate


class ConfiguredLimits:
    """What callers have told of one account, all its models together: the lowest of the numbers that hold counts."""

    def __init__(self, now: float) -> None:
        self.requests, self.tokens = _Bucket(now), _Bucket(now)
        self.limits: list[tuple[float | None, float | None]] = []

    def hold(self, now: float) -> None:
        """Follow a change of `limits`; a debt stays."""
        for bucket, unit, seconds in ((self.requests, 0, TOLD_BURST_SECONDS), (self.tokens, 1, 1.0)):
            bucket.refill(now)
            lowest = min((limit for told in self.limits if (limit := told[unit])), default=math.inf)
            bucket.rate = lowest / 60 * TOLD_MARGIN
            if lowest < math.inf:
                bucket.burst = max(1.0, bucket.rate * seconds)


class Limiter:
    """When requests may go. `order` in `admit` decides who goes first (a retried row before a new one)."""

    def __init__(self, clock: Callable[[], float] | None = None, account: ConfiguredLimits | None = None) -> None:
        self._clock = clock or time.monotonic
        now = self._clock()
        self.account = account or ConfiguredLimits(now)
        self.requests, self.tokens, self._pace = _Bucket(now), _Bucket(now), _Bucket(now)
        self.refusals = Refusals(now)
        self.in_flight = 0
        self._last_sent = now
        self._said: dict[str, float] = {}
        self._waiters: list[tuple[int, int, float, asyncio.Future[Permit]]] = []
        self._ticket = itertools.count()
        self._timer: asyncio.TimerHandle | None = None
        self._tokens_per_answer = 0.0
        self.latency: float | None = None
        self._newest_read = 0

    @property
    def waiting(self) -> int:
        """How many requests wait for their turn: pacing, not the number of workers, is what holds the run back."""
        return len(self._waiters)

    @contextlib.contextmanager
    def told(self, requests_per_minute: float | None, tokens_per_minute: float | None) -> Iterator[None]:
        """Within it the caller's own limits hold, evenly paced, for everyone at this account; the lowest counts."""
        told = (requests_per_minute, tokens_per_minute)
        self.account.limits.append(told)
        self.account.hold(self._clock())
        try:
            yield
        finally:
            self.account.limits.remove(told)
            self.account.hold(self._clock())
            self._pump()

    async def admit(self, order: int, tokens: float) -> Permit:
        """Wait for this request's turn. Every permit must go to exactly one of `answered`, `refused`, `faulted`."""
        now = self._clock()
        if not self.in_flight and not self._waiters and now - self._last_sent > FORGOTTEN_SECONDS:
            self.refusals, self._newest_read = Refusals(now), 0
        future: asyncio.Future[Permit] = asyncio.get_running_loop().create_future()
        heapq.heappush(self._waiters, (order, next(self._ticket), tokens, future))
        self._pump()
        try:
            return await future
        except asyncio.CancelledError:
            if future.done() and not future.cancelled():
                self.faulted(future.result())
            raise

    def seconds_for(self, requests: int, tokens: float) -> float:
        """How long so many requests of so many tokens each take at the limits that are known now; 0 where none is."""
        rate = min(self.refusals.rate, self.requests.rate, self.account.requests.rate)
        token_rate = min(self.tokens.rate, self.account.tokens.rate)
        return max(requests / rate, requests * tokens / token_rate)

    def answered(self, permit: Permit, headers: Mapping[str, str], used_tokens: float | None) -> None:
        """The request was answered: learn what the headers state, how long it took, and what it really used."""
        seconds = self._clock() - permit.sent_at
        self.latency = seconds if self.latency is None else 0.7 * self.latency + 0.3 * seconds
        self._back(permit, used_tokens if used_tokens is not None and used_tokens < MOST_TOKENS else permit.tokens)
        self._read(headers, permit)
        self._pump()

    def refused(self, permit: Permit, headers: Mapping[str, str], hint: float | None) -> None:
        """The request was refused for a limit."""
        self._back(permit, 0.0)
        self._read(headers, permit)
        self.refusals.refused(permit, self._clock(), hint or 0.0)
        self._tell()
        self._pump()

    def faulted(self, permit: Permit) -> None:
        """The request failed in a way that says nothing about limits, or was cancelled."""
        self._back(permit, 0.0)
        self._pump()

    def estimate(self, prompt_tokens: float, max_tokens: float | None) -> float:
        """Tokens that a request will count as: its prompt and what answers have used so far, at first the most."""
        return prompt_tokens + (self._tokens_per_answer or max_tokens or 0.0)

    def used(self, completion_tokens: float) -> None:
        """Learn how many tokens an answer takes."""
        last = self._tokens_per_answer
        if completion_tokens < MOST_TOKENS:
            self._tokens_per_answer = completion_tokens if not last else 0.9 * last + 0.1 * completion_tokens

    def _back(self, permit: Permit, used_tokens: float) -> None:
        """The request is not in flight any more; what it was expected to use and has not used is free again."""
        if not permit.open:
            return
        permit.open = False
        self.in_flight -= 1
        for bucket in (self.tokens, self.account.tokens):
            bucket.take(used_tokens - permit.tokens)

    def _tell(self) -> None:
        """Log what refusals were found to depend on, once for each finding and while."""
        kind, line = self.refusals.finding
        now = self._clock()
        if kind and now - self._said.get(kind, -math.inf) > SAID_AGAIN_SECONDS:
            logger.info("{}", line)
        if kind:
            self._said[kind] = now

    def _read(self, headers: Mapping[str, str], permit: Permit) -> None:
        if not (stated := stated_limits(headers)):
            return
        now, in_flight, undecided = self._clock(), self.in_flight, self.refusals.undecided
        newest = permit.number >= self._newest_read
        self._newest_read = max(self._newest_read, permit.number)
        for bucket, unit, each in ((self.requests, "requests", 1.0), (self.tokens, "tokens", permit.tokens)):
            if limit := stated.get(unit):
                bucket.refill(now)
                # Requests are held two in reserve, so that a jitter of milliseconds is not a refusal.
                reserve = min(2.0, limit.rate) if unit == "requests" else 0.0
                left = limit.remaining - reserve
                bucket.follow(limit.rate, left, in_flight * each, undecided * each, newest=newest)

    def _buckets(self, now: float) -> tuple[list[_Bucket], list[_Bucket]]:
        """The buckets of requests and of tokens that hold now, filled up to now."""
        if self._pace.rate != self.refusals.rate:
            if self.refusals.rate < self._pace.rate:
                self._pace.level = min(self._pace.level, 0.0)
            self._pace.rate = self.refusals.rate
            self._pace.burst = max(1.0, PACE_BURST * self._pace.rate)
        requests, tokens = [self.requests, self._pace, self.account.requests], [self.tokens, self.account.tokens]
        for bucket in (*requests, *tokens):
            bucket.refill(now)
        return requests, tokens

    def _pump(self) -> None:
        """Admit everyone whose turn has come, and come back when the next one's does."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        now = self._clock()
        self.refusals.settle(now, wanted=bool(self._waiters))
        request_buckets, token_buckets = self._buckets(now)
        while self._waiters:
            _, _, tokens, future = self._waiters[0]
            if not future.done():
                wait = max(
                    self.refusals.wait(now, self.in_flight),
                    *(bucket.wait(1) for bucket in request_buckets),
                    *(bucket.wait(tokens) for bucket in token_buckets),
                )
                if wait == math.inf:
                    return
                if wait > 0:
                    self._timer = asyncio.get_running_loop().call_later(wait, self._pump)
                    return
                for bucket in request_buckets:
                    bucket.take(1)
                for bucket in token_buckets:
                    bucket.take(tokens)
                permit = Permit(tokens, now)
                self.refusals.sent(permit, self.in_flight)
                self.in_flight += 1
                self._last_sent = now
                future.set_result(permit)
            heapq.heappop(self._waiters)
