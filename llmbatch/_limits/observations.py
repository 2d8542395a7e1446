"""What is known of past requests: the last ones in detail, older ones as counts that fade."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator

from llmbatch._limits.log_odds import Counts
from llmbatch._limits.permit import Permit

# Requests that are remembered one by one.
MAX_RECENT = 128
# The delay of 429s that is assumed before any has come, in seconds.
INITIAL_DELAY_SECONDS = 0.045
# Bounds of the time after which a request without a 429 counts as accepted, in seconds.
MIN_GRACE_SECONDS = 0.05
MAX_GRACE_SECONDS = 1.0
# That time, as a multiple of the slowest recent 429.
GRACE_PER_DELAY = 2
# Share of the slowest delay that is left after each 429 that came faster.
DELAY_DECAY = 0.9


class Observations:
    """The requests of one limiter.

    A request that is not rate-limited within twice the slowest recent 429 counts as accepted, long before its answer.

    Attributes:
        recent: the last requests, in the order in which they were sent.
        sent: number of requests so far.
        rate_limited: number of 429s so far.
        decided_at: number of the first request after the last decision: only what was sent since is judged anew.
        delay: seconds that 429s take to come back, as the slowest recent ones did.
        faded: counts of older requests: those sent at a limit (True) and those sent away from it (False).
    """

    def __init__(self) -> None:
        self.recent: deque[Permit] = deque()
        self.sent = self.rate_limited = self.decided_at = 0
        self.delay = INITIAL_DELAY_SECONDS
        self.faded: dict[bool, Counts] = {True: (0.0, 0.0), False: (0.0, 0.0)}
        self._open: deque[Permit] = deque()

    @property
    def grace(self) -> float:
        """Seconds after which a request that has not been rate-limited counts as accepted."""
        return min(max(GRACE_PER_DELAY * self.delay, MIN_GRACE_SECONDS), MAX_GRACE_SECONDS)

    @property
    def undecided(self) -> int:
        """Number of requests in flight that the provider may not have counted yet."""
        return sum(permit.in_flight for permit in self._open)

    def next_decided_in(self, now: float) -> float | None:
        """Return the seconds until the oldest open request counts as accepted; None if none is open."""
        return self._open[0].sent_at + self.grace - now if self._open else None

    def on_sent(self, permit: Permit) -> None:
        """Add a request."""
        permit.number = self.sent
        self.sent += 1
        self._open.append(permit)
        self.recent.append(permit)
        if len(self.recent) > MAX_RECENT:
            old = self.recent.popleft()
            limited, sent = self.faded[old.at_limit]
            fade = min(1.0, MAX_RECENT / (sent + 1))
            self.faded[old.at_limit] = (fade * (limited + old.rate_limited), fade * (sent + 1))

    def on_rate_limit(self, permit: Permit, now: float) -> None:
        """Note that a request got a 429: those sent after it had one less in flight beside them."""
        self.rate_limited += 1
        permit.rate_limited = True
        if self.recent and permit.number < self.recent[0].number:
            limited, sent = self.faded[permit.at_limit]
            self.faded[permit.at_limit] = min(limited + 1, sent), sent
        self.delay = max(now - permit.sent_at, DELAY_DECAY * self.delay)
        for later in reversed(self.recent):
            if later.number <= permit.number:
                break
            later.in_flight_at_send -= 1

    def newly_accepted(self, now: float) -> Iterator[Permit]:
        """Yield the requests that count as accepted by now, in the order in which they were sent."""
        while self._open:
            permit = self._open[0]
            if permit.in_flight and now - permit.sent_at < self.grace:
                break
            self._open.popleft()
            if not permit.rate_limited:
                permit.accepted = True
                yield permit

    def up_to_last_rate_limit(self) -> list[Permit]:
        """Return the recent requests up to the last one that got a 429."""
        known = list(self.recent)
        while known and not known[-1].rate_limited:
            known.pop()
        return known

    def counts(self, *, at_limit: bool, before: int) -> Counts:
        """Count the requests sent at a limit, or away from it, before the request of that number."""
        limited, sent = self.faded[at_limit]
        found = [
            p.rate_limited
            for p in self.recent
            if p.at_limit is at_limit and p.number < before and (p.rate_limited or p.accepted)
        ]
        return limited + sum(found), sent + len(found)

    def forget_before(self, number: int) -> None:
        """Forget the recent requests before that number."""
        self.recent = deque(permit for permit in self.recent if permit.number >= number)
