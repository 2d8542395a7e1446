"""Admission: when the next request may be sent, so that nothing has to be tuned and nothing is refused.

A `Limiter` stands for one account's limit at one provider (provider, base URL, key, model) and is shared by every batch
of the process that meets it. It paces by what the provider states in its headers, else by what its refusals teach:
slow start, one multiplicative cut for each episode of refusals, growth only while the limit is really used. Faults
(5xx, resets, timeouts) teach nothing about limits. It knows no LLM and runs on one event loop.
"""

from __future__ import annotations

import asyncio
import contextlib
import heapq
import itertools
import math
import os
import time
from collections import deque
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

from llmbatch._request.rate_headers import stated_limits

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

__all__ = ["Limiter", "Permit", "limiter_for"]

FIRST_WINDOW = 8  # requests in flight before the provider has said or shown anything
BURST_SECONDS = 2.0  # of a stated limit that may be sent at once where the provider says that it remains
CUT = 0.85  # of the rate that was accepted just before a refusal
GROWTH_PER_SECOND = 0.03
RECENT_SECONDS = 2.0  # over which the accepted rate is measured
EPISODE_SECONDS = 1.0  # in which a cut shows what it has done
TOLD_BURST_SECONDS = 0.1  # that may be caught up with after a late moment; well within the margin over a minute
TOLD_MARGIN = 0.995  # of a limit never to exceed: requests sent evenly may arrive a little closer
LONGEST_PAUSE = 30.0
LONGEST_HINT = 120.0


class _Bucket:
    """A token bucket: `rate` a second, at most `burst` at once. Its level may be negative (debt)."""

    def __init__(self, rate: float = math.inf, burst: float = 1.0) -> None:
        self.rate, self.burst = rate, burst
        self.level, self.at = burst, time.monotonic()

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


# What the caller has told of an account, by its numbers.
_Account = dict[tuple[float | None, float | None], tuple[_Bucket, _Bucket]]


@dataclass(slots=True, eq=False)
class Permit:
    """One admitted request. `tokens` is the estimate that it was admitted with."""

    tokens: float
    sent_at: float
    open: bool = True


class Limiter:
    """When requests may go. `order` in `admit` decides who goes first (a retried row before a new one)."""

    def __init__(self, account: _Account | None = None) -> None:
        now = time.monotonic()
        self.account = {} if account is None else account
        self.requests, self.tokens = _Bucket(), _Bucket()
        self.ceiling = math.inf  # the requests a second that the provider states
        self.window: float = FIRST_WINDOW
        self.in_flight = 0
        self.refusals = 0
        self._told: list[tuple[_Bucket, _Bucket]] = []
        self._waiters: list[tuple[int, int, float, asyncio.Future[Permit]]] = []
        self._ticket = itertools.count()
        self._timer: asyncio.TimerHandle | None = None
        self._accepted: deque[float] = deque(maxlen=4096)
        self._last_refusal = self._last_cut = self._last_growth = now
        self._passes = False  # whether anything sent since the last cut was accepted
        self._not_before = 0.0
        self._streak = 0
        self._tokens_per_answer = 0.0

    @property
    def waiting(self) -> int:
        """How many requests wait for their turn: pacing, not the number of workers, is what holds the run back."""
        return len(self._waiters)

    @contextlib.contextmanager
    def told(self, requests_per_minute: float | None, tokens_per_minute: float | None) -> Iterator[None]:
        """Within it the caller's own limits hold, evenly paced, for everyone who shares this limiter.

        The same numbers told to other limiters of the account (its other models) are one limit with these.
        """
        if not requests_per_minute and not tokens_per_minute:
            yield
            return
        told = self.account.setdefault((requests_per_minute, tokens_per_minute), (_Bucket(), _Bucket()))
        for bucket, per_minute, burst_seconds in zip(
            told, (requests_per_minute, tokens_per_minute), (TOLD_BURST_SECONDS, 1.0), strict=True
        ):
            if per_minute and bucket.rate == math.inf:
                bucket.rate = per_minute / 60 * TOLD_MARGIN
                bucket.burst = bucket.level = max(1.0, bucket.rate * burst_seconds)
        if requests_per_minute:
            self.window = math.inf
        self._told.append(told)
        try:
            yield
        finally:
            self._told.remove(told)
            self._pump()

    async def admit(self, order: int, tokens: float) -> Permit:
        """Wait for this request's turn. Every permit must go to exactly one of `answered`, `refused`, `faulted`."""
        future: asyncio.Future[Permit] = asyncio.get_running_loop().create_future()
        heapq.heappush(self._waiters, (order, next(self._ticket), tokens, future))
        self._pump()
        try:
            return await future
        except asyncio.CancelledError:
            if future.done() and not future.cancelled():
                self.faulted(future.result())
            raise

    def answered(self, permit: Permit, headers: Mapping[str, str], used_tokens: float | None) -> None:
        """The request was answered: learn what the headers state, and what it really used."""
        now = time.monotonic()
        self._close(permit, now)
        if permit.sent_at > self._last_refusal:
            self._streak = 0
        self._passes |= permit.sent_at > self._last_cut
        self._accepted.append(now)
        if used_tokens is not None and permit.tokens:
            for bucket in (self.tokens, *(tokens for _, tokens in self._told)):
                bucket.take(used_tokens - permit.tokens)
        self._read(headers, permit)
        self._grow(now)
        self._pump()

    def refused(self, permit: Permit, headers: Mapping[str, str], hint: float | None) -> None:
        """The request was refused for a rate limit: cut once an episode, and hold everybody back."""
        now = time.monotonic()
        self.refusals += 1
        self._close(permit, now)
        self._read(headers, permit)
        fresh = permit.sent_at >= self._last_refusal
        if fresh:
            self._streak += 1
            self._last_refusal = now
        # Some accepted and some refused: the rate is too high still. All refused: a window is spent, whatever the rate.
        too_fast = permit.sent_at >= self._last_cut and self._passes and now - self._last_cut > EPISODE_SECONDS
        if too_fast or (fresh and self._streak == 1):
            self._cut(now)
        pause = 0.0
        if hint is not None:
            pause = min(hint, LONGEST_HINT)
        elif self._streak > 1:
            pause = min(LONGEST_PAUSE, 0.25 * 2 ** (self._streak - 2))
        self._not_before = max(self._not_before, now + pause)
        self._pump()

    def faulted(self, permit: Permit) -> None:
        """The request failed in a way that says nothing about limits, or was cancelled."""
        self._close(permit, time.monotonic())
        self._pump()

    def estimate(self, prompt_tokens: float, max_tokens: float | None) -> float:
        """Tokens that a request will count as: its prompt and what answers have used so far, at first the most."""
        return prompt_tokens + (self._tokens_per_answer or max_tokens or 0)

    def used(self, completion_tokens: float) -> None:
        """Learn how many tokens an answer takes."""
        last = self._tokens_per_answer
        self._tokens_per_answer = completion_tokens if not last else 0.9 * last + 0.1 * completion_tokens

    def _close(self, permit: Permit, now: float) -> None:
        if permit.open:
            permit.open = False
            self.in_flight -= 1
        for bucket in (self.requests, self.tokens):
            bucket.refill(now)

    def _read(self, headers: Mapping[str, str], permit: Permit) -> None:
        """Take over what the provider states: the truth lies between what remains and that less what is in flight."""
        stated = stated_limits(headers)
        if requests := stated.get("requests"):
            # Two in reserve, so that a jitter of milliseconds is not a refusal.
            reserve = min(2.0, requests.rate)
            self._follow(self.requests, requests.rate, requests.remaining - reserve, self.in_flight)
            self.window = math.inf
            if requests.rate != self.ceiling:
                self.ceiling = self.requests.rate = requests.rate
        if tokens := stated.get("tokens"):
            self._follow(self.tokens, tokens.rate, tokens.remaining, self.in_flight * permit.tokens)
            self.tokens.rate = tokens.rate

    @staticmethod
    def _follow(bucket: _Bucket, rate: float, remaining: float, in_flight: float) -> None:
        bucket.burst = max(1.0, rate * BURST_SECONDS)
        if bucket.rate == math.inf:
            bucket.level = remaining - in_flight
        bucket.level = min(max(bucket.level, remaining - in_flight), remaining, bucket.burst)

    def _cut(self, now: float) -> None:
        since = max(now - RECENT_SECONDS, self._last_cut)
        accepted = math.inf
        if now - since > RECENT_SECONDS / 4:
            accepted = sum(at > since for at in self._accepted) / (now - since) or math.inf
        known = min(self.requests.rate, accepted, self.ceiling)
        if known == math.inf:
            known = max(self.in_flight, 1.0)
        self.requests.rate = max(known * CUT, 1 / 60)
        if self.ceiling == math.inf:
            self.requests.burst = max(1.0, 0.05 * self.requests.rate)
        self.requests.level = min(self.requests.level, 0.0)
        self._last_cut = self._last_growth = now
        self._passes = False

    def _grow(self, now: float) -> None:
        if self.window < math.inf:
            self.window += 1
        seconds = min(now - self._last_growth, 1.0)
        self._last_growth = now
        if self._waiters and self.requests.rate < self.ceiling and now > self._last_cut:
            self.requests.rate = min(self.requests.rate * (1 + GROWTH_PER_SECOND * seconds), self.ceiling)

    def _wait(self, now: float, tokens: float) -> float:
        if self.in_flight >= self.window:
            return math.inf
        waits = [self._not_before - now, self.requests.wait(1), self.tokens.wait(tokens)]
        for requests, token in self._told:
            waits += [requests.wait(1), token.wait(tokens)]
        return max(waits)

    def _pump(self) -> None:
        """Admit everyone whose turn has come, and come back when the next one's does."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        now = time.monotonic()
        buckets = [self.requests, self.tokens, *itertools.chain.from_iterable(self._told)]
        for bucket in buckets:
            bucket.refill(now)
        while self._waiters:
            _, _, tokens, future = self._waiters[0]
            if not future.done():
                wait = self._wait(now, tokens)
                if wait == math.inf:
                    return
                if wait > 0:
                    self._timer = asyncio.get_running_loop().call_later(wait, self._pump)
                    return
                for bucket in buckets[::2]:
                    bucket.take(1)
                for bucket in buckets[1::2]:
                    bucket.take(tokens)
                self.in_flight += 1
                future.set_result(Permit(tokens, now))
            heapq.heappop(self._waiters)


@lru_cache(maxsize=256)
def limiter_for(provider: str, api_base: str | None, key_digest: str | None, model: str) -> Limiter:  # noqa: ARG001
    """The process's limiter for one account at one provider; what it has learnt stays for the next batch."""
    return Limiter(_account(provider, api_base, key_digest))


@lru_cache(maxsize=256)
def _account(provider: str, api_base: str | None, key_digest: str | None) -> _Account:  # noqa: ARG001 - the cache's key
    return {}


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=limiter_for.cache_clear)
