"""A rate that is learnt from refusals: cut to what was let in, and grown again."""

from __future__ import annotations

import math
from collections.abc import Iterable

from llmbatch._limits.observations import Permit

RECENT_SECONDS, RECENT_REQUESTS = 4.0, 16  # over which the accepted rate is measured, whichever is longer
FIRST_CUT, CUT = 0.33, 0.87  # of the accepted rate; the first one also counts what had been saved up
BLIND_CUT = 0.78  # of the last rate, where too little is known of what was accepted since
SHOWN_SECONDS, SHOWN_REQUESTS = 0.5, 8  # after a cut, before more is known
SHORTEST_SPAN, LEAST_ACCEPTED = 0.25, 0.5  # seconds, requests; with less a rate is no more than a guess
AT_LIMIT = 0.95  # of the last limit
# Growth: a share of the rate a second, `GROWTH` times (seconds since the last cut)², at most 0.3, and at most 1 % for
# each request. After a first cut, of which little is sure, as if some seconds had passed already.
GROWTH, MOST_GROWTH, GROWTH_PER_REQUEST, HEAD_START_SECONDS = 0.004, 0.3, 0.01, 3.0
PROMPT_SECONDS = 0.08  # the later than this refusals come back, the slower the growth


class Pace:
    """`rate` in requests a second, inf while nothing is known; `limit` is what was let in before the last cut."""

    def __init__(self, now: float) -> None:
        self.rate = self.limit = math.inf
        self._cut_at = self._grown_at = self._calm_since = now
        self._before_cuts = math.inf, math.inf

    @property
    def near(self) -> bool:
        """Whether it is about as high as the last limit."""
        return AT_LIMIT * self.limit <= self.rate < math.inf

    def grow(self, now: float, lag: float, *, wanted: bool) -> None:
        """Grow, where it is what holds requests back; `lag` is how long refusals are on their way."""
        seconds, self._grown_at = min(now - self._grown_at, 1.0), now
        if wanted and self.rate < math.inf:
            calm = max(0.0, now - self._calm_since)
            growth = GROWTH * calm**2 / max(1.0, lag / PROMPT_SECONDS)
            self.rate *= 1 + seconds * min(MOST_GROWTH, growth, GROWTH_PER_REQUEST * self.rate)

    def hesitate(self, now: float) -> None:
        """Grow slowly again, as after a cut."""
        self._calm_since = now

    def known(self, record: Iterable[Permit], until: float) -> int:
        """How many were let in of what was sent since the last cut, up to `until`."""
        return sum(self._cut_at <= permit.sent_at <= until and not permit.refused for permit in record)

    def accepted(self, record: Iterable[Permit], until: float) -> float:
        """Requests a second that were let in of late; nothing is known of those sent after `until`."""
        shown = [permit for permit in record if permit.sent_at <= until]
        since = until - RECENT_SECONDS
        if len(shown) > RECENT_REQUESTS:
            since = min(since, shown[-RECENT_REQUESTS].sent_at)
        since = max(since, self._cut_at, shown[0].sent_at if shown else until)
        let_in = sum(not permit.refused for permit in shown if permit.sent_at >= since)
        return max(LEAST_ACCEPTED, let_in) / max(until - since, SHORTEST_SPAN)

    def cut(self, now: float, accepted: float, shown: int, *, first: bool) -> None:
        """Cut it to less than what is accepted, as far as so many requests since the last cut show that."""
        long_ago = now - self._cut_at > SHOWN_SECONDS
        if long_ago:
            self._before_cuts = self.rate, self.limit
        self._calm_since = now
        if self.rate == math.inf or (long_ago and shown >= SHOWN_REQUESTS):
            self._calm_since -= HEAD_START_SECONDS * (self.rate == math.inf)
            self.limit = accepted
            self.rate = min(self.rate, accepted * (FIRST_CUT if first else CUT))
        else:
            self.limit = self.rate = self.rate * BLIND_CUT
        self._cut_at = self._grown_at = now

    def lift(self) -> None:
        """Hold nothing back any more."""
        self.rate = self.limit = math.inf

    def undo(self, sent_at: float) -> None:
        """What was sent then was refused for another reason: take back the cuts since."""
        if sent_at <= self._cut_at:
            self.rate, self.limit = self._before_cuts

    def measure_since(self, at: float) -> None:
        """What was accepted before says nothing about now."""
        self._cut_at = at
