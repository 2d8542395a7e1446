"""Permits: one for each request that was sent, and what became of it."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(slots=True, eq=False)
class Permit:
    """One request that was allowed to be sent.

    Attributes:
        tokens: the estimate that was taken from the token buckets.
        sent_at: in seconds of the limiter's clock.
        number: position among the limiter's requests.
        rate: learnt rate in force when it was sent, in requests a second.
        in_flight_at_send: requests in flight before it; those that turn out to be rate-limited are taken out again.
        in_flight: whether nothing has come back yet.
        accepted: whether it has not been rate-limited for so long that it will not be.
        rate_limited: whether it got a 429.
        at_limit: whether it was sent at a limit, or above one that was found later.
        widens: whether it was sent to test if the concurrency limit has risen.
    """

    tokens: float
    sent_at: float
    number: int = 0
    rate: float = math.inf
    in_flight_at_send: int = 0
    in_flight: bool = True
    accepted: bool = False
    rate_limited: bool = False
    at_limit: bool = False
    widens: bool = False
