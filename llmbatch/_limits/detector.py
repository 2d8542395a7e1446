"""What the four detectors share: what they are given when a request is rate-limited, and the verdicts they may reach.

There is one detector for each thing that 429s may depend on: the rate (`rate_detector`), the quota of a fixed window
(`quota_window_detector`), the number of requests in flight (`concurrency_detector`), chance
(`random_rejection_detector`), and an outage (`outage_detector`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from llmbatch._limits.permit import Permit

# Share of 429s at random, below which one more 429 is significant.
RARE = 0.05
# 429s that an outage or a concurrency limit is concluded from.
MIN_RUN = 5
# Log odds against chance that are enough for a decision, ...
SIGNIFICANT = 3.5
# ... and their multiple where 429s at random are frequent: runs of them then come at random, too.
FREQUENT_FACTOR = 2


def significant(random_share: float) -> float:
    """Return the log odds that are enough for a decision, given the share of 429s at random."""
    return SIGNIFICANT if random_share < RARE else FREQUENT_FACTOR * SIGNIFICANT


@dataclass(frozen=True, slots=True)
class Evidence:
    """What is known when a request was rate-limited.

    Attributes:
        permit: the request.
        known: recent requests up to the last one that got a 429.
        recent: those of `known` that were sent since the last decision.
        run: the 429s at the end of `known`, with nothing accepted between them.
        retry_after: seconds that the 429 asks to wait, 0 if it named none.
        is_improbable_run: whether 429s at random hardly ever come in such a run.
        share_before_run: share of 429s at random before the run.
        run_odds: log odds that the run met something new.
        concurrency: number in flight at which 429s seem to begin, and `concurrency_odds`, its log odds.
        change: requests sent away from any limit, since 429s seem to be more frequent; `change_odds`, its log odds.
        threshold: log odds that are enough to believe in `concurrency` or `change`.
    """

    permit: Permit
    known: Sequence[Permit]
    recent: Sequence[Permit]
    run: Sequence[Permit]
    retry_after: float
    is_improbable_run: bool
    share_before_run: float
    run_odds: float
    concurrency: int
    concurrency_odds: float
    change: Sequence[Permit]
    change_odds: float
    threshold: float


@dataclass(frozen=True, slots=True)
class CutRate:
    """The rate was too high for requests from number `since` on; `first`: nothing was throttled before."""

    since: int
    first: bool = False


@dataclass(frozen=True, slots=True)
class SlowGrowth:
    """A single 429 at the limit: the rate is about right."""


@dataclass(frozen=True, slots=True)
class StopThrottling:
    """429s do not depend on the rate; their share is what it has been since request number `since`."""

    since: int = 0


@dataclass(frozen=True, slots=True)
class LimitConcurrency:
    """Hardly anything is accepted with `limit` or more in flight."""

    limit: int


@dataclass(frozen=True, slots=True)
class OpenCircuit:
    """Everything has been rate-limited since the first request of `run`."""

    run: Sequence[Permit]


@dataclass(frozen=True, slots=True)
class WaitForWindow:
    """The quota of a window is used up; the Retry-After says when the next one begins."""


@dataclass(frozen=True, slots=True)
class Undecided:
    """More 429s are needed, before another detector may conclude anything."""


Verdict = CutRate | SlowGrowth | StopThrottling | LimitConcurrency | OpenCircuit | WaitForWindow | Undecided


class Detector:
    """One explanation of 429s."""

    def observe(self, permit: Permit, now: float) -> bool:  # noqa: ARG002 - some detectors need only `decide`
        """Take in that a request was accepted or, later perhaps, rate-limited (`permit.rate_limited`).

        Return whether this explanation accounts for a 429, so that nothing is left to decide.
        """
        return False

    def decide(self, evidence: Evidence) -> Verdict | None:
        """Return what a 429 means under this explanation; None leaves it to the next detector."""
        raise NotImplementedError
