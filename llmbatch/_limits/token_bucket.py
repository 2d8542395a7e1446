"""A token bucket: the usual model of a rate limit."""

from __future__ import annotations

import math


class TokenBucket:
    """A bucket that refills at `rate` a second up to `burst`. Its level may be negative: a debt.

    Attributes:
        rate: units a second; inf means no limit.
        burst: units that may be taken at once.
        level: units that are left.
    """

    def __init__(self, now: float) -> None:
        self.rate, self.burst = math.inf, 1.0
        self.level, self.last_refill_at = 1.0, now

    def refill(self, now: float) -> None:
        """Add what has come in since the last time."""
        if self.rate < math.inf:
            self.level = min(self.burst, self.level + (now - self.last_refill_at) * self.rate)
        self.last_refill_at = now

    def seconds_until(self, amount: float) -> float:
        """Return the seconds until `amount` may be taken; more than the bucket holds may go when it is full."""
        if self.rate == math.inf:
            return 0.0
        return max(0.0, (min(amount, self.burst) - self.level) / self.rate)

    def take(self, amount: float) -> None:
        """Take units out; a negative amount gives them back."""
        if self.rate < math.inf:
            self.level -= amount

    def follow(self, rate: float, remaining: float, in_flight: float, undecided: float, *, newest: bool) -> None:
        """Adopt the limit and the remaining units that a provider's headers state.

        The provider has counted at least what it accepted, and at most all that is in flight; the `undecided` requests
        may or may not be counted. Headers of out-of-order responses (not `newest`) may lower the level, never raise it.
        """
        if self.rate == math.inf:
            self.level = -math.inf
        if newest:
            self.level = max(self.level, remaining - in_flight)
            self.burst = max(1.0, remaining)
        self.level = min(self.level, remaining - undecided)
        self.rate = rate
