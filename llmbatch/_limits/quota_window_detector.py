"""Quota windows: a number of requests in each fixed window of time; the Retry-After says when the next one begins.

Waiting for that moment is enough, and the rate need not be cut, as long as each window lets many requests through for
each 429 at its end. A token bucket with a Retry-After does not: it lets one request through after each wait.
"""

from __future__ import annotations

from llmbatch._limits.detector import Detector, Evidence, Verdict, WaitForWindow
from llmbatch._limits.permit import Permit

# The shortest Retry-After that may be the end of a window, in seconds. Token buckets name shorter ones.
MIN_RETRY_AFTER_SECONDS = 0.1
# Requests that a window lets through at least, ...
MIN_ACCEPTED = 16
# ... and at least this many for each 429.
MIN_ACCEPTED_PER_429 = 8


class QuotaWindowDetector(Detector):
    """Recognizes the end of a quota's window."""

    def __init__(self) -> None:
        self._since = 0  # number of the first request of this window
        self._accepted = 0
        self._late_429s = 0  # of requests that were sent before the last window's end was noticed

    def observe(self, permit: Permit, now: float) -> bool:  # noqa: ARG002 - the detectors' interface
        """Count what this window lets through, and what the last one rejected at its end."""
        if permit.rate_limited:
            self._late_429s += permit.number < self._since
        else:
            self._accepted += permit.number >= self._since
        return False

    def decide(self, evidence: Evidence) -> Verdict | None:
        """Wait for the next window if 429s at random hardly ever come in such a run, and windows let enough through."""
        if evidence.retry_after < MIN_RETRY_AFTER_SECONDS or not evidence.is_improbable_run:
            return None
        needed = max(MIN_ACCEPTED, MIN_ACCEPTED_PER_429 * max(len(evidence.run), self._late_429s))
        return WaitForWindow() if self._accepted >= needed else None

    def begin(self, number: int) -> None:
        """Begin a window with the request of that number."""
        self._since, self._accepted, self._late_429s = number, 0, 0
