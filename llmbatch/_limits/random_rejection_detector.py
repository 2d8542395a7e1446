"""Random rejections: a share of requests gets a 429 whatever the rate and whatever is in flight.

A rate limit does not help against them, so they are not held against the rate; the rows are sent again.
"""

from __future__ import annotations

from collections.abc import Sequence

from llmbatch._limits.detector import RARE, Detector, Evidence, StopThrottling, Verdict
from llmbatch._limits.learned_rate import LearnedRate
from llmbatch._limits.log_odds import independent_of_rate, shares_differ
from llmbatch._limits.observations import Observations
from llmbatch._limits.permit import Permit

# 429s and requests at random that are assumed before anything is known.
PRIOR_RATE_LIMITED = 0.5
PRIOR_SENT = 20
# 429s away from a limit, and requests at it, before the two shares are compared.
MIN_RATE_LIMITED_AWAY = 4
MIN_SENT_AT_LIMIT = 40
# Log odds below which the share at the limit is no higher than elsewhere.
SAME_SHARE_ODDS = -0.5
# Requests after a cut, and log odds, that show that cuts are ineffective.
MIN_SENT_SINCE_CUT = 16
INEFFECTIVE_ODDS = 1.0
# 429s, requests and share before random rejections are reported.
MIN_REPORTED_RATE_LIMITED = 5
MIN_REPORTED_SENT = 50
MIN_REPORTED_SHARE = RARE / 10


class RandomRejectionDetector(Detector):
    """Estimates the share of 429s at random, and says when throttling is of no use.

    Attributes:
        stopped_throttling: whether a rate limit was removed for it.
    """

    def __init__(self, observations: Observations, rate: LearnedRate) -> None:
        self.stopped_throttling = False
        self._observations, self._rate = observations, rate

    def share(self, before: int | None = None) -> float:
        """Return the share of 429s away from any limit; while throttling, only as it was before the last decision."""
        if before is None:
            before = self._observations.decided_at if self._rate.throttles else self._observations.sent
        limited, sent = self._observations.counts(at_limit=False, before=before)
        return (limited + PRIOR_RATE_LIMITED) / (sent + PRIOR_SENT)

    @property
    def reported_share(self) -> float | None:
        """The share of 429s at random, if enough was seen to report it."""
        seen = self._observations
        if seen.rate_limited < MIN_REPORTED_RATE_LIMITED or seen.sent < MIN_REPORTED_SENT:
            return None
        share = self.share()
        return share if share > MIN_REPORTED_SHARE else None

    def decide(self, evidence: Evidence) -> Verdict | None:
        """Stop throttling if the share of 429s at the limit is no higher than away from it."""
        if self._rate.throttles and evidence.permit.at_limit and self.share() < RARE and self._same_share_at_limit():
            return StopThrottling()
        return None

    def cuts_are_ineffective(self, since_first_cut: Sequence[Permit], sent_since_cut: int) -> bool:
        """Return whether 429s are as frequent at lower rates."""
        return sent_since_cut >= MIN_SENT_SINCE_CUT and independent_of_rate(since_first_cut) > INEFFECTIVE_ODDS

    def stop_throttling(self, since: int) -> None:
        """Put 429s at the limit down to chance, with the share that they have had since a request."""
        seen = self._observations
        self.stopped_throttling = True
        self._rate.remove()
        (k, n), (m, o) = seen.faded[False], seen.faded[True]
        seen.faded = {False: (0.0, 0.0) if since else (k + m, n + o), True: (0.0, 0.0)}
        seen.forget_before(since)
        for permit in seen.recent:
            permit.at_limit = False

    def _same_share_at_limit(self) -> bool:
        counts, sent = self._observations.counts, self._observations.sent
        away, at_limit = counts(at_limit=False, before=sent), counts(at_limit=True, before=sent)
        enough = away[0] >= MIN_RATE_LIMITED_AWAY and at_limit[1] > MIN_SENT_AT_LIMIT
        return enough and shares_differ(away, at_limit) < SAME_SHARE_ODDS
