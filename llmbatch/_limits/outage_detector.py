"""Outages: everything gets a 429, whatever is sent. A circuit breaker that recovers by itself.

States and transitions:

- CLOSED: requests flow. A run of 429s that nothing else explains opens the circuit.
- OPEN: nothing is sent until the cooldown is over; the next request is then a probe (HALF_OPEN).
- HALF_OPEN: one probe is in flight. A 429 opens the circuit again, for longer. Anything else closes it.

After it has closed, the first 429 among the next `RECOVERY_REQUESTS` is put down to the rate at once: what was held
back comes in a burst.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from llmbatch._limits.detector import MIN_RUN, RARE, CutRate, Detector, Evidence, LimitConcurrency, OpenCircuit, Verdict
from llmbatch._limits.permit import Permit

# Log odds against chance that are enough for an outage. Low, since a probe costs little.
OUTAGE_ODDS = 2.5
# Seconds before the first probe, the factor from probe to probe, and the longest wait.
INITIAL_RECOVERY_SECONDS = 0.3
RECOVERY_GROWTH = 1.25
MAX_RECOVERY_SECONDS = 30.0
# Requests to be accepted before a closed circuit is believed.
RECOVERY_REQUESTS = 8
# The share of 429s at random, below which a 429 during recovery is put down to the rate.
RARE_IN_RECOVERY = 2 * RARE


class CircuitState(Enum):
    """The states of the circuit."""

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half-open"


@dataclass(slots=True)
class Cooldown:
    """A time before which nothing is sent, on the word of a Retry-After or of an open circuit.

    Attributes:
        until: the time.
        set_by: number of the request whose Retry-After it is; a later one that is accepted ends it.
    """

    until: float = 0.0
    set_by: int = 0

    def extend(self, until: float) -> None:
        """Make it last at least until a time."""
        self.until = max(self.until, until)


class OutageDetector(Detector):
    """Opens the circuit for an outage, and closes it when a probe is accepted.

    Attributes:
        state: of the circuit.
        opened_at: when the circuit was opened.
        probe: the request in flight that tests if the outage is over.
        recovery_requests_left: requests to be accepted before a closed circuit is believed.
    """

    def __init__(self, cooldown: Cooldown, now: float) -> None:
        self.state = CircuitState.CLOSED
        self.opened_at = now
        self.probe: Permit | None = None
        self.recovery_requests_left = 0
        self._recovery_seconds = INITIAL_RECOVERY_SECONDS
        self._cooldown = cooldown

    @property
    def is_closed(self) -> bool:
        """Whether requests flow."""
        return self.state is CircuitState.CLOSED

    def on_sent(self, permit: Permit) -> None:
        """Make the first request that is sent through an open circuit the probe."""
        if not self.is_closed:
            self.state, self.probe = CircuitState.HALF_OPEN, permit

    def observe(self, permit: Permit, now: float) -> bool:
        """Count accepted requests after an outage; during one, a 429 needs no other explanation."""
        if not permit.rate_limited:
            self.recovery_requests_left = max(0, self.recovery_requests_left - 1)
            return False
        if self.is_closed:
            return False
        permit.at_limit = True
        if permit is self.probe:
            self.state, self.probe = CircuitState.OPEN, None
            self._recovery_seconds = min(MAX_RECOVERY_SECONDS, self._recovery_seconds * RECOVERY_GROWTH)
            self._cooldown.until = now + self._recovery_seconds
        return True

    def decide(self, evidence: Evidence) -> Verdict | None:
        """Open the circuit for a run of 429s, unless a concurrency limit is likelier."""
        if self.recovery_requests_left and evidence.share_before_run < RARE_IN_RECOVERY:
            return CutRate(evidence.run[0].number)
        if len(evidence.run) < MIN_RUN or evidence.run_odds <= OUTAGE_ODDS:
            return None
        if evidence.concurrency_odds > 0:
            return LimitConcurrency(evidence.concurrency)
        return OpenCircuit(evidence.run)

    def open(self, now: float) -> None:
        """Open the circuit."""
        self.state, self.opened_at = CircuitState.OPEN, now
        self._recovery_seconds = INITIAL_RECOVERY_SECONDS
        self._cooldown.extend(now + INITIAL_RECOVERY_SECONDS)

    def close(self) -> None:
        """Close the circuit, since the probe was accepted."""
        self.state, self.probe = CircuitState.CLOSED, None
        self._cooldown.until = 0.0
        self.recovery_requests_left = RECOVERY_REQUESTS
