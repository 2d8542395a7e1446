"""Statistics of rate-limited requests: how much better than pure chance does an explanation fit what was observed?

The explanations are a rate limit, a concurrency limit, an outage, and a moment from which on something changed. Each
function takes requests in the order in which they were sent, and counts what was not rate-limited as accepted. Each
result is the logarithm of the odds of the explanation against "429s come at random with one share", less the logarithm
of the number of alternatives that were tried: above 0, the explanation is more likely than not.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Sequence

from llmbatch._limits.permit import Permit

Counts = tuple[float, float]
"""Rate-limited requests, and all requests."""

# The share that is rate-limited below a limit, or accepted above it, since both sides are a little out of step.
SLIP = 0.03
# Prior strength for "hardly anything is accepted": the share of 429s is most likely above 0.8.
HARDLY_ANY_ACCEPTED = 8
# Factor between neighbouring limits that are tried.
LIMIT_STEP = 1.25
# The lowest limit that is tried, as a share of the lowest rate that requests were sent at.
MIN_LIMIT_SHARE = 0.3
# The share of 429s above a concurrency limit is at least this.
MIN_SHARE_ABOVE_LIMIT = 0.8
# A higher concurrency limit is preferred as long as it is no less likely than this (log odds).
HIGHER_LIMIT_BONUS = 0.5
# Seconds over which the rate of sending is measured.
SENT_RATE_SECONDS = 1.0
# The shortest time that a rate is measured over, in seconds.
MIN_SENT_RATE_SECONDS = 0.1
# What `excess_start` looks for: the share of 429s has grown by this part of the accepted share.
EXCESS = 0.15


def shares_differ(away: Counts, at_limit: Counts) -> float:
    """Return the odds that the share of 429s away from a limit is not the share at it."""
    (k, n), (m, o) = away, at_limit
    return _one_small_share(k, n) + _one_small_share(m, o) - _one_small_share(k + m, n + o)


def share_is_large(below: Counts, above: Counts, strength: int = 2) -> float:
    """Return the odds that requests above a limit have a large share of 429s; `strength` says how large."""
    (k, n), (m, o) = below, above
    large = _log_beta(m + strength, o - m + 1) - _log_beta(strength, 1)
    return _one_small_share(k, n) + large - _one_small_share(k + m, n + o)


def sent_rate(record: Iterable[Permit], until: float) -> float:
    """Return the requests a second that were sent in the last second before a moment."""
    late = [permit.sent_at for permit in record if until - SENT_RATE_SECONDS < permit.sent_at <= until]
    return len(late) / max(MIN_SENT_RATE_SECONDS, until - late[0]) if late else 0.0


def independent_of_rate(record: Sequence[Permit]) -> float:
    """Return the odds that 429s have one share at all rates, against a rate limit that may have fallen once."""
    limited = [at for at, permit in enumerate(record) if permit.rate_limited]
    calm = [after - before for before, after in itertools.pairwise([-1, *limited])]
    fell = limited[calm.index(max(calm))] if limited else 0  # after the longest time without a 429
    twice = _best_rate_limit(record[:fell]) + _best_rate_limit(record[fell:]) - math.log(len(record))
    return _one_small_share(len(limited), len(record)) - max(_best_rate_limit(record), twice)


def change_point(record: Sequence[Permit]) -> tuple[float, int]:
    """Return the odds that 429s are more frequent from some request on, and the place of that request."""
    total, sent = sum(p.rate_limited for p in record), len(record)
    best, place, before = -math.inf, 0, 0
    for i, permit in enumerate(record):
        if permit.rate_limited:
            odds = share_is_large((before, i), (total - before, sent - i))
            if odds > best:
                best, place = odds, i
            before += 1
    return best - math.log(max(sent, 1)), place


def run_is_unusual(record: Sequence[Permit], run: int) -> float:
    """Return the odds that the last `run` requests, all of them rate-limited, met something new."""
    before = len(record) - run
    limited = sum(p.rate_limited for p in record[:before])
    return share_is_large((limited, before), (run, run)) - math.log(max(len(record), 1))


def concurrency_limit(record: Sequence[Permit]) -> tuple[float, int]:
    """Return the odds that hardly anything is accepted from some number in flight on, and that number.

    Requests whose outcome is open do not count above it.
    """
    ranked = sorted(record, key=lambda p: p.in_flight_at_send)
    decided = [p.rate_limited or p.accepted for p in ranked]
    limited, above, below = sum(p.rate_limited for p in ranked), sum(decided), 0
    best, limit = -math.inf, 0
    for i, permit in enumerate(ranked):
        level = permit.in_flight_at_send
        new_level = level and i and ranked[i - 1].in_flight_at_send < level
        if new_level and limited - below >= MIN_SHARE_ABOVE_LIMIT * above:
            odds = share_is_large((below, i), (limited - below, above), HARDLY_ANY_ACCEPTED)
            if odds > best - HIGHER_LIMIT_BONUS:
                best, limit = max(best, odds), level
        below += permit.rate_limited
        above -= decided[i]
    return best - math.log(len({p.in_flight_at_send for p in record}) or 1), limit


def excess_start(record: Sequence[Permit], share: float, threshold: float) -> int | None:
    """Return the place from which on 429s are clearly more frequent than `share` (a CUSUM test), or None."""
    more = share + (1 - share) * EXCESS
    score, place = 0.0, 0
    for i, permit in enumerate(record):
        if not score:
            place = i
        score = max(0.0, score + math.log(more / share if permit.rate_limited else (1 - more) / (1 - share)))
    return place if score > threshold else None


def _one_small_share(limited: float, sent: float) -> float:
    """Return the log probability of an outcome under one share of 429s that is mostly small."""
    return _log_beta(limited + 1, sent - limited + 4) - _log_beta(1, 4)


def _log_beta(a: float, b: float) -> float:
    return math.lgamma(a) + math.lgamma(b) - math.lgamma(a + b)


def _best_rate_limit(record: Sequence[Permit]) -> float:
    """Return the log probability of an outcome under the rate limit that fits best; low limits are less likely."""
    if not record:
        return -math.inf
    sent: dict[float, tuple[int, int]] = {}
    for permit in record:
        limited, number = sent.get(permit.rate, (0, 0))
        sent[permit.rate] = limited + permit.rate_limited, number + 1
    best, limit, highest = -math.inf, max(sent), max(sent)
    while limit > MIN_LIMIT_SHARE * min(sent):
        fit = math.log(limit / highest)
        for rate, (k, n) in sent.items():
            share = min(max(1 - limit / rate, SLIP), 1 - SLIP)
            fit += k * math.log(share) + (n - k) * math.log(1 - share)
        best, limit = max(best, fit), limit / LIMIT_STEP
    return best
