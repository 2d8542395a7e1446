"""Rate limits: 429s are more frequent since some moment, or come at about the rate that was found before.

Phases:

- Not throttled: a moment from which 429s are clearly more frequent means that the rate is too high. The first cut.
- Throttled: a 429 at about the last limit, or more 429s than chance explains, cut the rate to somewhat less than what
  is accepted. Between cuts the rate grows (`learned_rate`).
"""

from __future__ import annotations

import math

from llmbatch._limits.detector import RARE, SIGNIFICANT, CutRate, Detector, Evidence, SlowGrowth, Verdict, significant
from llmbatch._limits.learned_rate import RECENT_REQUESTS, LearnedRate
from llmbatch._limits.log_odds import excess_start, sent_rate
from llmbatch._limits.observations import Observations
from llmbatch._limits.permit import Permit
from llmbatch._limits.random_rejection_detector import RandomRejectionDetector

# 429s that a first cut is concluded from.
MIN_RATE_LIMITED = 3
# Log odds that are enough at about the last limit, where a 429 is expected.
AT_LIMIT_ODDS = 2.0


class RateDetector(Detector):
    """Finds the rate limit by cutting the learnt rate."""

    def __init__(self, observations: Observations, rate: LearnedRate, random: RandomRejectionDetector) -> None:
        self._observations, self._rate, self._random = observations, rate, random
        self._cuts_since = self._throttled_from = 0  # numbers of the first request that was too fast, and of the next

    def decide(self, evidence: Evidence) -> Verdict | None:
        """Cut the rate if it is too high."""
        if self._rate.throttles:
            return self._decide_throttled(evidence)
        if evidence.change_odds <= evidence.threshold:
            return None
        enough = sum(p.rate_limited for p in evidence.change) >= MIN_RATE_LIMITED
        return CutRate(evidence.change[0].number, first=True) if enough else None

    def _decide_throttled(self, evidence: Evidence) -> Verdict | None:
        """Cut the rate again, unless chance explains the 429."""
        recent, share = evidence.recent, self._random.share()
        at_limit = share < RARE and evidence.permit.at_limit
        if at_limit:
            start = excess_start(recent, share, AT_LIMIT_ODDS)
        else:
            start = excess_start(recent, share, SIGNIFICANT)
            if start is not None:
                # What had been rate-limited until then may have been chance.
                recent = recent[start:]
                share = self._random.share(recent[0].number)
                start = excess_start(recent, share, significant(share))
        if start is not None:
            return CutRate(recent[start].number)
        return SlowGrowth() if at_limit else None

    def measure(self, since: int, now: float) -> tuple[float, list[Permit], int]:
        """Return the accepted rate, the requests that the first cut was made for, and how many came after that cut.

        A 429 just after a cut may still be due to what was sent before it.
        """
        record, until = self._observations.recent, now - self._observations.delay
        if not self._rate.throttles:
            if self._rate.accepted_since_cut(record, until) < RECENT_REQUESTS:  # a circuit was closed just now
                until = max([until, *(permit.sent_at for permit in record if permit.rate_limited)])
            self._cuts_since, self._throttled_from = since, self._observations.sent
        accepted = self._rate.accepted_rate(record, until)
        unthrottled = max(accepted, sent_rate(record, until))
        cuts = [p for p in record if p.number >= self._cuts_since and (p.rate_limited or p.accepted)]
        for permit in cuts:
            if permit.rate == math.inf:
                permit.rate = unthrottled
        return accepted, cuts, sum(permit.number >= self._throttled_from for permit in cuts)

    @property
    def cuts_since(self) -> int:
        """Number of the request from which on the rate was too high, or seemed to be."""
        return self._cuts_since

    def cut(self, verdict: CutRate, accepted: float, now: float) -> None:
        """Cut the rate below the accepted one; 429s at random are made up for."""
        seen = self._observations
        for permit in seen.recent:
            permit.at_limit |= permit.number >= verdict.since
        observed = sum(permit.number >= seen.decided_at for permit in seen.recent)
        self._rate.cut(now, accepted / (1 - self._random.share()), observed, first=verdict.first)
