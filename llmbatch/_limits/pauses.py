"""Pauses of rate-limited rows for as long as a Retry-After says, or shorter if that proves to be no time to wait.

Under a concurrency limit a slot is free when an answer has come, whatever the Retry-After of the 429 says. So when a
request is answered that was in flight when a row got its 429, that row is tried early. If it is accepted, each further
answer frees one more row. If it gets a 429 again, its Retry-After counts, and no row is tried early for a while.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque

from llmbatch._limits.permit import Permit

# Pauses of at most this many seconds are never ended early.
MIN_PAUSE_SECONDS = 1.0
# Seconds without early tries after one that got a 429; doubled with each, up to the bound.
INITIAL_GAP_SECONDS = 1.0
MAX_GAP_SECONDS = 60.0


class _Pause:
    """One row's pause."""

    def __init__(self, began_at: float) -> None:
        self.began_at = began_at
        self.ended = asyncio.Event()


class Pauses:
    """The rows of one limiter that wait for a Retry-After."""

    def __init__(self) -> None:
        self._waiting: deque[_Pause] = deque()
        self._tried_from: int | None = None  # number of the first request of the early tries that go on
        self._not_before = 0.0
        self._gap = INITIAL_GAP_SECONDS

    async def wait(self, seconds: float, now: float) -> None:
        """Wait until the time has passed or the pause is ended."""
        if seconds <= MIN_PAUSE_SECONDS:
            await asyncio.sleep(seconds)
            return
        pause = _Pause(now)
        self._waiting.append(pause)
        try:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(pause.ended.wait(), seconds)
        finally:
            if pause in self._waiting:
                self._waiting.remove(pause)

    def end_all(self) -> None:
        """End all pauses: a concurrency limit was found."""
        while self._waiting:
            self._waiting.popleft().ended.set()

    def on_success(self, permit: Permit, now: float, next_number: int) -> bool:
        """End the oldest pause if an answer frees a slot for it; return whether it is tried early."""
        if not self._waiting or now < self._not_before:
            return False
        tried = self._tried_from is not None and permit.number >= self._tried_from
        if tried:
            self._gap = INITIAL_GAP_SECONDS
        elif permit.sent_at > self._waiting[0].began_at:
            return False
        if self._tried_from is None:
            self._tried_from = next_number
        self._waiting.popleft().ended.set()
        return True

    def on_rate_limit(self, permit: Permit, now: float) -> None:
        """Stop early tries if one of them got a 429."""
        if self._tried_from is not None and permit.number >= self._tried_from:
            self._tried_from = None
            self._not_before = now + self._gap
            self._gap = min(MAX_GAP_SECONDS, 2 * self._gap)
