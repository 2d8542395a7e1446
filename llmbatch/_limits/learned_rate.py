"""The rate limit that is learnt from 429s: cut below what was accepted, then grown again.

After a cut the rate grows by `GROWTH` * t² of itself a second, where t is the time since the cut: slowly near a limit,
and ever faster the longer no 429 comes.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

from llmbatch._limits.permit import Permit

# Seconds over which the accepted rate is measured, ...
RECENT_SECONDS = 4.0
# ... or the time that this number of requests took, whichever is longer.
RECENT_REQUESTS = 16
# The first cut, as a share of the accepted rate: that rate includes a quota that had been saved up.
FIRST_CUT = 0.33
# Every further cut, as a share of the accepted rate.
CUT = 0.87
# A cut as a share of the last rate, if too little is known of what was accepted since.
BLIND_CUT = 0.78
# Seconds and requests after a cut, before the accepted rate is known again.
MIN_OBSERVED_SECONDS = 0.5
MIN_OBSERVED_REQUESTS = 8
# The shortest time, in seconds, and the fewest requests that a rate is worked out from: with less it is a guess.
MIN_SPAN_SECONDS = 0.25
MIN_ACCEPTED = 0.5
# The share of the last limit from which on the rate counts as being at it.
NEAR_LIMIT = 0.95
# Growth a second, as a share of the rate, for each squared second since the last cut.
GROWTH = 0.004
# The highest growth a second, as a share of the rate.
MAX_GROWTH = 0.3
# The highest growth a second for each request a second: low rates must not grow faster than 429s can tell.
MAX_GROWTH_PER_REQUEST = 0.01
# Seconds by which growth is ahead after the first cut, which is the least sure.
HEAD_START_SECONDS = 3.0
# Delay of 429s, in seconds, up to which growth is not slowed down.
PROMPT_SECONDS = 0.08
# Growth never catches up with more than this many seconds at once.
MAX_GROWTH_STEP_SECONDS = 1.0


class LearnedRate:
    """A rate limit in requests a second.

    Attributes:
        value: the rate; inf while nothing is throttled for it.
        last_limit: rate that was accepted before the last cut.
    """

    def __init__(self, now: float) -> None:
        self.value = self.last_limit = math.inf
        self._cut_at = self._grown_at = self._calm_since = now
        self._before_cuts = math.inf, math.inf

    @property
    def throttles(self) -> bool:
        """Whether requests are held back."""
        return self.value < math.inf

    @property
    def is_near_limit(self) -> bool:
        """Whether it is about as high as the last limit."""
        return NEAR_LIMIT * self.last_limit <= self.value < math.inf

    def grow(self, now: float, delay: float, *, wanted: bool) -> None:
        """Raise the rate if requests wait for it; `delay` is how long 429s take to come back."""
        seconds, self._grown_at = min(now - self._grown_at, MAX_GROWTH_STEP_SECONDS), now
        if wanted and self.throttles:
            calm = max(0.0, now - self._calm_since)
            growth = GROWTH * calm**2 / max(1.0, delay / PROMPT_SECONDS)
            self.value *= 1 + seconds * min(MAX_GROWTH, growth, MAX_GROWTH_PER_REQUEST * self.value)

    def slow_growth(self, now: float) -> None:
        """Grow as slowly as after a cut."""
        self._calm_since = now

    def accepted_since_cut(self, record: Iterable[Permit], until: float) -> int:
        """Return how many requests that were sent since the last cut, up to `until`, were accepted."""
        return sum(self._cut_at <= permit.sent_at <= until and not permit.rate_limited for permit in record)

    def accepted_rate(self, record: Iterable[Permit], until: float) -> float:
        """Return the requests a second that were accepted of late; of those sent after `until` nothing is known."""
        known = [permit for permit in record if permit.sent_at <= until]
        since = until - RECENT_SECONDS
        if len(known) > RECENT_REQUESTS:
            since = min(since, known[-RECENT_REQUESTS].sent_at)
        since = max(since, self._cut_at, known[0].sent_at if known else until)
        accepted = sum(not permit.rate_limited for permit in known if permit.sent_at >= since)
        return max(MIN_ACCEPTED, accepted) / max(until - since, MIN_SPAN_SECONDS)

    def cut(self, now: float, accepted: float, observed: int, *, first: bool) -> None:
        """Cut the rate below the accepted one, or blindly if only few requests were observed since the last cut."""
        long_ago = now - self._cut_at > MIN_OBSERVED_SECONDS
        if long_ago:
            self._before_cuts = self.value, self.last_limit
        self._calm_since = now
        if not self.throttles or (long_ago and observed >= MIN_OBSERVED_REQUESTS):
            self._calm_since -= 0.0 if self.throttles else HEAD_START_SECONDS
            self.last_limit = accepted
            self.value = min(self.value, accepted * (FIRST_CUT if first else CUT))
        else:
            self.last_limit = self.value = self.value * BLIND_CUT
        self._cut_at = self._grown_at = now

    def remove(self) -> None:
        """Throttle no more."""
        self.value = self.last_limit = math.inf

    def undo_cuts(self, sent_at: float) -> None:
        """Take back the cuts since a request was sent that turned out to be rate-limited for another reason."""
        if sent_at <= self._cut_at:
            self.value, self.last_limit = self._before_cuts

    def measure_since(self, at: float) -> None:
        """Ignore what was accepted before a moment."""
        self._cut_at = at
