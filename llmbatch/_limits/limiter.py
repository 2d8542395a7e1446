"""The limiter: when the next request may be sent, so that nothing has to be tuned and hardly anything gets a 429.

A `Limiter` stands for one model at one account (`account`) and is shared by every batch of the process that sends there
(`registry`). It combines the limits that callers configure, those that the provider states in its headers, and what
`Throttle` learns from 429s. Errors (5xx, resets, timeouts) say nothing about limits. It knows nothing of LLMs, and runs
on one event loop.
"""

from __future__ import annotations

import asyncio
import contextlib
import heapq
import itertools
import time
from collections.abc import Callable, Iterator, Mapping

from llmbatch._limits.configured_limits import ConfiguredLimits
from llmbatch._limits.pauses import MIN_PAUSE_SECONDS, Pauses
from llmbatch._limits.permit import Permit
from llmbatch._limits.rate_headers import stated_limits
from llmbatch._limits.throttle import Finding, Phase, Throttle
from llmbatch._limits.token_bucket import TokenBucket

# Seconds without a request, after which what 429s have taught is forgotten.
FORGET_AFTER_SECONDS = 60.0
# Tokens that one answer is never believed to have used.
MAX_BELIEVED_TOKENS = 10**7
# Seconds of a learnt rate that may be sent at once.
LEARNED_BURST_SECONDS = 0.05
# Requests that are kept back from a stated limit: a jitter of milliseconds must not bring a 429.
STATED_RESERVE = 2.0
# Weight of the newest answer in the averages of latency and of tokens.
LATENCY_WEIGHT = 0.3
TOKENS_WEIGHT = 0.1


class Limiter:
    """Decides when requests may go; `order` in `acquire` decides who goes first (a retried row before a new one).

    Attributes:
        account: limits configured for the account, which the models there share.
        throttle: what 429s have taught.
        in_flight: number of requests in flight.
        latency: average seconds of late answers, None before any.
        listeners: called when a request may have become possible to send.
        stated: limits that the provider's headers state, in units a second.
    """

    def __init__(self, clock: Callable[[], float] | None = None, account: ConfiguredLimits | None = None) -> None:
        self._clock = clock or time.monotonic
        now = self._clock()
        self.account = account or ConfiguredLimits(now)
        self.throttle = Throttle(now)
        self.in_flight = 0
        self.latency: float | None = None
        self.listeners: set[Callable[[], None]] = set()
        self.stated: dict[str, float] = {}
        self._requests, self._tokens, self._learned = TokenBucket(now), TokenBucket(now), TokenBucket(now)
        self._last_sent_at = now
        self._pauses = Pauses()
        self._waiters: list[tuple[int, int, float, asyncio.Future[Permit]]] = []
        self._ticket = itertools.count()
        self._timer: asyncio.TimerHandle | None = None
        self._tokens_per_answer = 0.0
        self._newest_read = 0

    @property
    def waiting(self) -> int:
        """Number of requests that wait to be sent: limits, not the number of workers, hold the run back."""
        return len(self._waiters)

    @property
    def finding(self) -> Finding:
        """What 429s were found to depend on."""
        return self.throttle.finding

    @contextlib.contextmanager
    def configured(self, requests_per_minute: float | None, tokens_per_minute: float | None) -> Iterator[None]:
        """Enforce a caller's limits within the context, for everyone at this account; the lowest in force counts."""
        self.account.add(requests_per_minute, tokens_per_minute, self._clock())
        try:
            yield
        finally:
            self.account.remove(requests_per_minute, tokens_per_minute, self._clock())
            self._pump()

    async def acquire(self, order: int, tokens: float) -> Permit:
        """Wait until this request may be sent.

        Every permit must go to exactly one of `on_success`, `on_rate_limit` and `on_error`.
        """
        self._forget_if_idle(self._clock())
        future: asyncio.Future[Permit] = asyncio.get_running_loop().create_future()
        heapq.heappush(self._waiters, (order, next(self._ticket), tokens, future))
        self._pump()
        try:
            return await future
        except asyncio.CancelledError:
            if future.done() and not future.cancelled():
                self.on_error(future.result())
            raise

    def seconds_until_free(self, tokens: float) -> float | None:
        """Return the seconds until a request may be sent; None if that takes an answer, or others wait for it here."""
        now = self._clock()
        self._forget_if_idle(now)
        if self._waiters:
            return None
        self.throttle.settle(now, wanted=True)
        return self._wait(tokens, now)

    def try_acquire(self, tokens: float) -> Permit | None:
        """Return a permit if a request may be sent now, as `acquire` does; None if it has to wait."""
        return self._permit(tokens, self._clock()) if self.seconds_until_free(tokens) == 0 else None

    def on_success(self, permit: Permit, headers: Mapping[str, str], used_tokens: float | None) -> None:
        """Learn from an answer: the limits in its headers, its latency, and the tokens that it really used."""
        now = self._clock()
        seconds = now - permit.sent_at
        known = self.latency
        self.latency = seconds if known is None else (1 - LATENCY_WEIGHT) * known + LATENCY_WEIGHT * seconds
        believed = used_tokens is not None and used_tokens < MAX_BELIEVED_TOKENS
        self._release(permit, used_tokens if believed and used_tokens is not None else permit.tokens)
        self._read(headers, permit)
        if self._pauses.on_success(permit, now, self.throttle.observations.sent):
            self.throttle.allow_one()
        self._pump()

    def on_rate_limit(self, permit: Permit, headers: Mapping[str, str], retry_after: float | None) -> None:
        """Learn from a 429."""
        now = self._clock()
        self._release(permit, 0.0)
        self._read(headers, permit)
        self.throttle.on_rate_limit(permit, now, retry_after or 0.0)
        self._pauses.on_rate_limit(permit, now)
        if self.throttle.phase is Phase.CONCURRENCY_LIMITED:
            self._pauses.end_all()
        self._pump()

    async def pause(self, seconds: float) -> None:
        """Let a rate-limited row wait for as long as its Retry-After says, unless a concurrency limit is the reason.

        Under that a slot is free when an answer has come, which `acquire` waits for.
        """
        if self.throttle.phase is Phase.CONCURRENCY_LIMITED:
            seconds = min(seconds, MIN_PAUSE_SECONDS)
        await self._pauses.wait(seconds, self._clock())

    def on_error(self, permit: Permit) -> None:
        """Release a request that failed in a way that says nothing about limits, or was cancelled."""
        self._release(permit, 0.0)
        self._pump()

    def seconds_for(self, requests: int, tokens: float) -> float:
        """Return the seconds that requests of `tokens` tokens each take at the known limits; 0 without any."""
        rate = min(self.throttle.rate, self._requests.rate, self.account.requests.rate)
        token_rate = min(self._tokens.rate, self.account.tokens.rate)
        return max(requests / rate, requests * tokens / token_rate)

    def estimated_tokens(self, prompt_tokens: float, max_tokens: float | None) -> float:
        """Estimate the tokens of a request: its prompt, and what answers have used; before any, `max_tokens`."""
        return prompt_tokens + (self._tokens_per_answer or max_tokens or 0.0)

    def learn_answer_tokens(self, completion_tokens: float) -> None:
        """Learn how many tokens an answer takes."""
        known = self._tokens_per_answer
        if completion_tokens < MAX_BELIEVED_TOKENS:
            average = (1 - TOKENS_WEIGHT) * known + TOKENS_WEIGHT * completion_tokens
            self._tokens_per_answer = average if known else completion_tokens

    def _release(self, permit: Permit, used_tokens: float) -> None:
        """Take a request out of those in flight, and give back the tokens that it was expected to use and did not."""
        if not permit.in_flight:
            return
        permit.in_flight = False
        self.in_flight -= 1
        for bucket in (self._tokens, self.account.tokens):
            bucket.take(used_tokens - permit.tokens)

    def _read(self, headers: Mapping[str, str], permit: Permit) -> None:
        """Follow the limits that headers state."""
        if not (stated := stated_limits(headers)):
            return
        now, in_flight, undecided = self._clock(), self.in_flight, self.throttle.observations.undecided
        newest = permit.number >= self._newest_read
        self._newest_read = max(self._newest_read, permit.number)
        for bucket, unit, each in ((self._requests, "requests", 1.0), (self._tokens, "tokens", permit.tokens)):
            if limit := stated.get(unit):
                if limit.rate != self.stated.get(unit):
                    self.stated = {**self.stated, unit: limit.rate}
                bucket.refill(now)
                reserve = min(STATED_RESERVE, limit.rate) if unit == "requests" else 0.0
                left = limit.remaining - reserve
                bucket.follow(limit.rate, left, in_flight * each, undecided * each, newest=newest)

    def _buckets(self, now: float) -> tuple[list[TokenBucket], list[TokenBucket]]:
        """Return the buckets of requests and of tokens, refilled."""
        learned, rate = self._learned, self.throttle.rate
        if learned.rate != rate:
            if rate < learned.rate:  # the next request is as far from a cut as those after it from each other
                learned.level = min(learned.level, 0.0)
            learned.rate, learned.burst = rate, max(1.0, LEARNED_BURST_SECONDS * rate)
        requests, tokens = [self._requests, learned, self.account.requests], [self._tokens, self.account.tokens]
        for bucket in (*requests, *tokens):
            bucket.refill(now)
        return requests, tokens

    def _forget_if_idle(self, now: float) -> None:
        if not self.in_flight and not self._waiters and now - self._last_sent_at > FORGET_AFTER_SECONDS:
            self.throttle, self._newest_read = Throttle(now), 0

    def _wait(self, tokens: float, now: float) -> float | None:
        """Return the seconds until a request may be sent; None if that takes an answer or a 429."""
        retry_in = self.throttle.decide(now, self.in_flight).retry_in
        if retry_in is None:
            return None
        request_buckets, token_buckets = self._buckets(now)
        for bucket in request_buckets:
            retry_in = max(retry_in, bucket.seconds_until(1))
        for bucket in token_buckets:
            retry_in = max(retry_in, bucket.seconds_until(tokens))
        return retry_in

    def _permit(self, tokens: float, now: float) -> Permit:
        for bucket in (self._requests, self._learned, self.account.requests):
            bucket.take(1)
        for bucket in (self._tokens, self.account.tokens):
            bucket.take(tokens)
        permit = Permit(tokens, now)
        self.throttle.on_sent(permit, self.in_flight)
        self.in_flight += 1
        self._last_sent_at = now
        return permit

    def _pump(self) -> None:
        """Let everyone go whose turn has come, and come back when the next one's does."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        now = self._clock()
        self.throttle.settle(now, wanted=bool(self._waiters))
        while self._waiters:
            _, _, tokens, future = self._waiters[0]
            if not future.done():
                wait = self._wait(tokens, now)
                if wait is None:
                    break
                if wait > 0:
                    self._timer = asyncio.get_running_loop().call_later(wait, self._pump)
                    break
                future.set_result(self._permit(tokens, now))
            heapq.heappop(self._waiters)
        for listener in tuple(self.listeners):
            listener()
