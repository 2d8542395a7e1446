"""Limits that callers configure (`requests_per_minute=`, `tokens_per_minute=`): hard, and spread evenly."""

from __future__ import annotations

import math

from llmbatch._limits.token_bucket import TokenBucket

# Seconds of a configured limit that may be sent at once after a delay: well within the margin over a minute.
REQUEST_BURST_SECONDS = 0.1
TOKEN_BURST_SECONDS = 1.0
# Share of a configured limit that is used, since requests that are sent evenly may arrive a little closer.
CONFIGURED_LIMIT_MARGIN = 0.995


class ConfiguredLimits:
    """The limits configured for one account, all its models together. The lowest of those in force counts.

    Attributes:
        requests: bucket for requests.
        tokens: bucket for tokens.
    """

    def __init__(self, now: float) -> None:
        self.requests, self.tokens = TokenBucket(now), TokenBucket(now)
        self._in_force: list[tuple[float | None, float | None]] = []

    def add(self, requests_per_minute: float | None, tokens_per_minute: float | None, now: float) -> None:
        """Put limits in force."""
        self._in_force.append((requests_per_minute, tokens_per_minute))
        self._apply(now)

    def remove(self, requests_per_minute: float | None, tokens_per_minute: float | None, now: float) -> None:
        """End limits; a debt stays."""
        self._in_force.remove((requests_per_minute, tokens_per_minute))
        self._apply(now)

    def _apply(self, now: float) -> None:
        for bucket, unit, seconds in ((self.requests, 0, REQUEST_BURST_SECONDS), (self.tokens, 1, TOKEN_BURST_SECONDS)):
            bucket.refill(now)
            lowest = min((limit for limits in self._in_force if (limit := limits[unit])), default=math.inf)
            bucket.rate = lowest / 60 * CONFIGURED_LIMIT_MARGIN
            if lowest < math.inf:
                bucket.burst = max(1.0, bucket.rate * seconds)
