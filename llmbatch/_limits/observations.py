"""How well a record of requests, in the order in which they were sent, bears out what refusals may depend on.

What was not refused counts as let in. Each answer is the log of the odds of a model against chance (one share of
refusals for all), less the log of the number of models that were tried: above 0 is more likely than not.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

SLIP = 0.03  # the share that is refused below a limit, or let in above it
HARDLY_ANYTHING = 8  # is let in: the share of refusals is most likely above 0.8
STEP, LOWEST = 1.25, 0.3  # between the limits that are tried; of the lowest rate that was sent at


@dataclass(slots=True, eq=False)
class Permit:
    """One request that was admitted, and what became of it.

    Attributes:
        tokens: the estimate that it was admitted with.
        sent_at: in seconds.
        number: counts the limiter's requests.
        rate: requests a second at which it was sent.
        crowd: how many were in flight before it; those that were refused later are taken out again.
        open: whether nothing has come back.
        let_in: whether it has not been refused for so long that it will not be.
        refused: whether it was refused for a limit.
        limited: whether it was sent at a limit, or over one as was found later.
        trial: whether it was sent to see if the crowd may be larger.
    """

    tokens: float
    sent_at: float
    number: int = 0
    rate: float = math.inf
    crowd: int = 0
    open: bool = True
    let_in: bool = False
    refused: bool = False
    limited: bool = False
    trial: bool = False


def odds(away: tuple[float, float], limited: tuple[float, float]) -> float:
    """For `(refused, sent)` away from a limit and at it: that they do not have the same share."""
    (k, n), (m, o) = away, limited
    return _by_chance(k, n) + _by_chance(m, o) - _by_chance(k + m, n + o)


def over(below: tuple[float, float], above: tuple[float, float], most: int = 2) -> float:
    """That what was sent above a limit has a share of its own, a large one: the larger `most`, the larger."""
    (k, n), (m, o) = below, above
    limit = _beta(m + most, o - m + 1) - _beta(most, 1)
    return _by_chance(k, n) + limit - _by_chance(k + m, n + o)


def sent_rate(record: Iterable[Permit], until: float) -> float:
    """Requests a second that were sent in the last second before a moment."""
    late = [permit.sent_at for permit in record if until - 1 < permit.sent_at <= until]
    return len(late) / max(0.1, until - late[0]) if late else 0.0


def whatever_rate(record: Sequence[Permit]) -> float:
    """That refusals have one share at all rates, against that there is a limit, which may have fallen once."""
    refused = [at for at, permit in enumerate(record) if permit.refused]
    calm = [after - before for before, after in itertools.pairwise([-1, *refused])]
    fell = refused[calm.index(max(calm))] if refused else 0  # after the longest time without refusals
    twice = _by_limit(record[:fell]) + _by_limit(record[fell:]) - math.log(len(record))
    return _by_chance(len(refused), len(record)) - max(_by_limit(record), twice)


def by_time(record: Sequence[Permit]) -> tuple[float, int]:
    """That refusals are more frequent from some request on, and its place."""
    total, sent = sum(p.refused for p in record), len(record)
    best, place, before = -math.inf, 0, 0
    for i, permit in enumerate(record):
        if permit.refused:
            given = over((before, i), (total - before, sent - i))
            if given > best:
                best, place = given, i
            before += 1
    return best - math.log(max(sent, 1)), place


def by_run(record: Sequence[Permit], run: int) -> float:
    """That the last so many, all of them refused, met something else than those before."""
    before = len(record) - run
    refused = sum(p.refused for p in record[:before])
    return over((refused, before), (run, run)) - math.log(max(len(record), 1))


def by_crowd(record: Sequence[Permit]) -> tuple[float, int]:
    """That hardly anything is let in from some crowd on, and which; what is undecided there does not count."""
    ranked = sorted(record, key=lambda p: p.crowd)
    decided = [p.refused or p.let_in for p in ranked]
    refused, above, below = sum(p.refused for p in ranked), sum(decided), 0
    best, crowd = -math.inf, 0
    for i, permit in enumerate(ranked):
        if permit.crowd and i and ranked[i - 1].crowd < permit.crowd and refused - below >= 0.8 * above:
            given = over((below, i), (refused - below, above), HARDLY_ANYTHING)
            if given > best - 0.5:
                best, crowd = max(best, given), permit.crowd
        below += permit.refused
        above -= decided[i]
    return best - math.log(len({p.crowd for p in record}) or 1), crowd


def since_excess(record: Sequence[Permit], share: float, enough: float) -> int | None:
    """The place from which on refusals are clearly more frequent than this share (a cumulative score), or None."""
    more = share + (1 - share) * 0.15
    score, place = 0.0, 0
    for i, permit in enumerate(record):
        if not score:
            place = i
        score = max(0.0, score + math.log(more / share if permit.refused else (1 - more) / (1 - share)))
    return place if score > enough else None


def _by_chance(refused: float, sent: float) -> float:
    """Log probability of an outcome under a share that is mostly small."""
    return _beta(refused + 1, sent - refused + 4) - _beta(1, 4)


def _beta(a: float, b: float) -> float:
    return math.lgamma(a) + math.lgamma(b) - math.lgamma(a + b)


def _by_limit(record: Sequence[Permit]) -> float:
    """Log probability of an outcome under the limit that explains it best; those far below the rates are rare."""
    if not record:
        return -math.inf
    sent: dict[float, tuple[int, int]] = {}
    for permit in record:
        refused, number = sent.get(permit.rate, (0, 0))
        sent[permit.rate] = refused + permit.refused, number + 1
    best, limit, most = -math.inf, max(sent), max(sent)
    while limit > LOWEST * min(sent):
        given = math.log(limit / most)
        for rate, (k, n) in sent.items():
            share = min(max(1 - limit / rate, SLIP), 1 - SLIP)
            given += k * math.log(share) + (n - k) * math.log(1 - share)
        best, limit = max(best, given), limit / STEP
    return best
