"""Concurrency limits: 429s begin at some number of requests in flight.

Phases:

- No limit known (`limit` is 0): the window is the slow start of a new limiter. It grows by one for each request that
  is accepted while it is about half full.
- Limit known: the window is the limit. One more request is tried now and then, the more seldom the surer the limit is.
  A 429 at about the limit narrows the window. When the limit has become unlikely, it is given up.
"""

from __future__ import annotations

import math

from llmbatch._limits.detector import (
    MIN_RUN,
    SIGNIFICANT,
    Detector,
    Evidence,
    LimitConcurrency,
    Undecided,
    Verdict,
)
from llmbatch._limits.log_odds import HARDLY_ANY_ACCEPTED, share_is_large
from llmbatch._limits.observations import Observations
from llmbatch._limits.permit import Permit

# Requests in flight before the provider has shown anything.
INITIAL_CONCURRENCY = 8
# Seconds before one more than the limit is tried, ...
WIDEN_SECONDS = 0.5
# ... doubled for each unit of the limit's log odds up to this.
MAX_CERTAINTY = 10.5
# Share of the limit from which on a 429 is put down to it.
MIN_LIMIT_SHARE = 0.9
# A moment from which 429s are more frequent is preferred, if it is likelier by this (log odds).
CHANGE_PREFERENCE = 1


class ConcurrencyDetector(Detector):
    """Finds the concurrency limit, and holds the number in flight below it.

    Attributes:
        window: requests that may be in flight.
        limit: number in flight at which 429s begin; 0 while none is known.
    """

    def __init__(self, observations: Observations) -> None:
        self.window: float = INITIAL_CONCURRENCY
        self.limit = 0
        self._widen_at = 0.0
        self._failed_tests = 0  # since one succeeded
        self._observations = observations

    def seconds_until_room(self, now: float, in_flight: int) -> float | None:
        """Return the seconds until one more may be in flight; None if that takes an answer or a 429."""
        if in_flight < self.window:
            return 0.0
        if not self.limit:
            wait = self._observations.next_decided_in(now)
            return None if wait is None else max(wait, 1e-6)
        if in_flight > self.window or self._widen_at == math.inf:
            return None
        return max(0.0, self._widen_at - now)

    def on_sent(self, permit: Permit) -> None:
        """Note whether a request tries more than the limit; only one does so at a time."""
        if self.limit and permit.in_flight_at_send >= self.window:
            permit.widens = permit.at_limit = True
            self._widen_at = math.inf

    def observe(self, permit: Permit, now: float) -> bool:
        """Widen the window for what is accepted; narrow it for a 429 at about the limit."""
        level = permit.in_flight_at_send
        if not self.limit:
            if not permit.rate_limited and level + 1 >= self.window / 2:
                self.window += 1
            return False
        if not permit.rate_limited:
            if permit.widens:
                self.window += level >= self.window
                self._failed_tests = 0
                self._doubt(now)
            return False
        self._failed_tests += permit.widens
        explained = level >= self.limit or level >= MIN_LIMIT_SHARE * self.limit < self.window - 1
        if explained:
            permit.at_limit = level >= self.limit
            self.window = min(self.window, level)
        self._doubt(now)
        return explained

    def decide(self, evidence: Evidence) -> Verdict | None:
        """Limit the concurrency if that explains 429s better than chance or a moment does."""
        if evidence.concurrency_odds <= max(evidence.threshold, evidence.change_odds - CHANGE_PREFERENCE):
            return None
        at_limit = (p.rate_limited for p in evidence.recent if p.in_flight_at_send >= evidence.concurrency)
        return LimitConcurrency(evidence.concurrency) if sum(at_limit) >= MIN_RUN else Undecided()

    def begin(self, limit: int, now: float) -> None:
        """Hold a limit that was found."""
        observations = self._observations
        observations.faded[True] = (0.0, 0.0)
        for permit in observations.recent:
            permit.at_limit = permit.in_flight_at_send >= limit
        self.limit = self.window = limit
        self._widen_at = now + WIDEN_SECONDS
        self._failed_tests = 0

    def forget(self) -> None:
        """Give the limit up; the window stays as it is."""
        self.limit = 0

    def _doubt(self, now: float) -> None:
        """Schedule the next test of the limit, the later the surer it is; or give the limit up."""
        counts, sent = self._observations.counts, self._observations.sent
        away, limited = counts(at_limit=False, before=sent), counts(at_limit=True, before=sent)
        belief = share_is_large(away, limited, HARDLY_ANY_ACCEPTED) - math.log(self.limit + 1)
        if belief < 0:
            self.forget()
        doublings = min(belief, MAX_CERTAINTY) - SIGNIFICANT
        self._widen_at = now + WIDEN_SECONDS * 2 ** min(doublings, self._failed_tests)
