"""What refusals depend on: the rate, the crowd in flight, or nothing (chance). It knows no LLM and no clock.

The rules, each of which can be checked in `tests/benchmarks/limiter_lab.py`:

1. **Evidence.** The last requests are kept in the order in which they were sent, each with the crowd that it met (those in
   flight that the provider had let in). What is not refused counts as let in, until it is. Three models are compared by
   how probable they make this record (a Beta-Bernoulli share, a split paid for by the number of places it could be at):
   one share for all (chance); a higher share since some moment (rate); hardly anything let in from some crowd on (crowd).
2. **Admission by time.** What is not refused within twice the slowest recent refusal (0.2 s before there is one) has been
   let in, long before its answer comes. The window starts at 8 and is one larger for each request so let in.
3. **Rate.** Where a split in time wins, the rate is cut to half of what was let in of late, once until new requests have
   shown what that did. Once paced, the next refusals cut to nine tenths of what is let in. A cut is followed by growth,
   slow at first and then ever faster, while the rate is what holds requests back.
4. **Undoing.** Where the share of refusals after a cut is what it was before it, the cut is undone.
5. **Crowd.** Where a split by the crowd wins, that crowd is the window; one more is tried after a while, ever more seldom.
6. **Closed door.** A run of refusals, improbable at the share otherwise seen, holds everything back: one request at a
   time is tried, ever more seldom, until one is let in. Then the window starts anew, from what is in flight.
7. **Hints.** A Retry-After holds everybody back while refusals are rare, until a later request is let in: then it was
   meant for that row alone.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass
from itertools import takewhile

__all__ = ["FIRST_WINDOW", "Permit", "Refusals"]

RECORD = 128  # requests that are remembered
FIRST_WINDOW = 8  # requests in flight before the provider has shown anything
FIRST_GRACE, LEAST_GRACE, MOST_GRACE = 0.15, 0.05, 1.0
CONVINCED = 3.5  # log of the odds that a model must have against chance
RECENT = 2.0  # seconds over which the accepted rate is measured
FIRST_CUT, CUT = 0.4, 0.92  # of the accepted rate
MOST_GROWTH, GROWTH = 0.3, 0.006  # a second; the latter times the square of the seconds since the last cut
LONGEST_HINT, LONGEST_PROBE = 120.0, 30.0
FIRST_PROBE, PROBE_GROWTH = 0.3, 1.25
WIDEN, SELDOM = 0.5, 60.0


@dataclass(slots=True, eq=False)
class Permit:
    """One admitted request. `tokens` is the estimate that it was admitted with; `crowd` were in flight before it."""

    tokens: float
    sent_at: float
    number: int = 0
    crowd: int = 0
    open: bool = True
    answered: bool = False
    refused: bool = False
    over: bool = False  # sent while a limit was passed, as was found later
    near: bool = False  # sent at about the rate that was the limit before
    widens: bool = False  # sent to see whether one more is let in


class Refusals:
    """Fed with what was sent and what became of it; `rate`, `window` and `not_before` say what may be sent."""

    def __init__(self, now: float) -> None:
        self.rate = math.inf  # requests a second
        self.window: float = FIRST_WINDOW
        self.not_before = 0.0
        self.crowd: int | None = None
        self.total = 0
        self._record: deque[Permit] = deque(maxlen=RECORD)
        self._undecided: deque[Permit] = deque()
        self._quiet = (0.0, 0.0)  # refused and sent away from any limit, before the record
        self._sent = 0
        self._decided = 0  # the number of the first request sent since the last decision
        self._cut_at = self._grown_at = self._calm_since = now
        self._trial: tuple[int, int] | None = None  # refused and sent before the first cut
        self._lag = FIRST_GRACE / 2
        self._limit = math.inf
        self._closed = 0.0  # seconds until the next probe; 0 when the door is open
        self._probe: Permit | None = None
        self._tender = 0
        self._held_for = 0
        self._widen_at, self._widen_after = 0.0, WIDEN

    @property
    def grace(self) -> float:
        return min(max(2 * self._lag, LEAST_GRACE), MOST_GRACE)

    def wait(self, now: float, in_flight: int) -> float:
        """Seconds until one more may be sent as far as window and door go; inf: when something comes back."""
        if self._closed and self._probe is not None:
            return self._probe.sent_at + self.grace - now + 1e-6
        if self.not_before > now:
            return self.not_before - now
        if in_flight < self.window:
            return 0.0
        if self.crowd is not None and in_flight == self.window:
            return max(0.0, self._widen_at - now)
        head = self._undecided[0] if self._undecided else None
        return math.inf if head is None else max(head.sent_at + self.grace - now, 0.0) + 1e-6

    def sent(self, permit: Permit, in_flight: int) -> None:
        permit.number, permit.crowd = self._sent, in_flight
        self._sent += 1
        self._undecided.append(permit)
        permit.near = 0.95 * self._limit <= self.rate < math.inf
        permit.widens = self.crowd is not None and in_flight >= self.window
        if permit.widens:
            self._widen_at = math.inf
        else:
            if len(self._record) == RECORD and not (self._record[0].over or self._record[0].near):
                kept = min(1.0, RECORD / (self._quiet[1] + 1))
                self._quiet = (kept * (self._quiet[0] + self._record[0].refused), kept * (self._quiet[1] + 1))
            self._record.append(permit)
        if self._closed:
            self._probe = permit

    def settle(self, now: float, wanted: bool) -> None:
        """Count what has been let in by now."""
        while self._undecided and (
            (head := self._undecided[0]).answered or head.refused or now - head.sent_at >= self.grace
        ):
            self._undecided.popleft()
            if head.refused:
                continue
            if head.number > self._held_for and not self._closed:
                self.not_before = 0.0
            if head is self._probe:
                self._open(head, now)
            if self._tender:
                self._tender -= 1
            if head.widens:
                self.window = head.crowd + 1
                self._widen_after = max(WIDEN, self._widen_after / 2)
                self._widen_at = now + self._widen_after
            elif self.crowd is None and head.crowd + 1 >= self.window / 2:
                self.window += 1
        seconds = min(now - self._grown_at, 1.0)
        self._grown_at = now
        if wanted and self.rate < math.inf and now > self._calm_since:
            growth = min(MOST_GROWTH, GROWTH * (now - self._calm_since) ** 2, 0.01 * self.rate)
            self.rate *= 1 + growth * seconds

    def refused(self, permit: Permit, now: float, hint: float) -> None:
        self.total += 1
        permit.refused = True
        self._lag = max(now - permit.sent_at, 0.9 * self._lag)
        for later in reversed(self._record):
            if later.number <= permit.number:
                break
            later.crowd -= 1
        if self.crowd is not None and permit.crowd >= 0.9 * self.crowd:
            self.window = max(permit.crowd, math.ceil(0.9 * self.crowd))
            self._widen_after = min(SELDOM, self._widen_after * 2)
            self._widen_at = now + self._widen_after
            return
        if self._closed:
            permit.over = True
            if permit is self._probe:
                self._probe = None
                self._closed = min(LONGEST_PROBE, self._closed * PROBE_GROWTH)
                self.not_before = max(self.not_before, now + max(self._closed, min(hint, LONGEST_HINT)))
            elif hint:
                self.not_before = max(self.not_before, now + min(hint, LONGEST_HINT))
            return
        self._decide(permit, now)
        if hint:
            run = list(takewhile(lambda p: p.refused, reversed(self._known())))
            if len(self._record) == len(run) or self._share(run) ** len(run) < 0.002:
                self.not_before = max(self.not_before, now + min(hint, LONGEST_HINT))
                self._held_for = permit.number

    # -- decisions

    def _known(self) -> list[Permit]:
        """The record up to the latest request that was refused."""
        known = list(self._record)
        while known and not known[-1].refused:
            known.pop()
        return known

    def _share(self, run: list[Permit]) -> float:
        """Share of refusals that is seen apart from a run, and from what was over a limit."""
        rest = [p for p in self._record if not p.over and p not in run]
        return (sum(p.refused for p in rest) + 0.5) / (len(rest) + 4)

    def _chance(self) -> float:
        """The share of refusals away from any limit."""
        quiet = [p for p in self._record if not p.over and not p.near and (self.rate == math.inf or p.number < self._decided)]
        return (self._quiet[0] + sum(p.refused for p in quiet) + 0.5) / (self._quiet[1] + len(quiet) + 20)

    def _decide(self, permit: Permit, now: float) -> None:
        known = self._known()
        run = list(takewhile(lambda p: p.refused, reversed(known)))
        recent = [p for p in known if p.number >= self._decided]
        if permit.number < self._decided or not recent:
            return
        share = self._share(run)
        if self._tender and share < 0.3:
            self._cut(now, CUT, run[::-1])
            return
        by_crowd, crowd = _by_crowd(recent, now - self.grace)
        if self.crowd is not None and crowd >= self.crowd:
            by_crowd = -math.inf
        by_time, since = _by_time(recent)
        if len(run) >= 5:
            rest = len(known) - len(run)
            refused = sum(p.refused for p in known) - len(run)
            odds = _quiet(refused, rest) + _over(len(run), len(run)) - _quiet(refused + len(run), len(known)) - math.log(len(known))
            if odds > 2.5:
                if by_crowd > 0:
                    self._gather(crowd, now)
                else:
                    self._close(run, now)
                return
        if by_crowd > CONVINCED and by_crowd > by_time - 1:
            if sum(p.refused for p in recent if p.crowd >= crowd) >= 5:
                self._gather(crowd, now)
            return
        if self.rate == math.inf:
            if by_time > CONVINCED:
                self._cut(now, FIRST_CUT, recent[since:])
            return
        rest = [p for p in known if not p.over]
        if self._trial and len(recent) >= 12:
            (k, n), (m, o) = self._trial, (sum(p.refused for p in recent), len(recent))
            if _over(k, n) + _quiet(m, o) < _quiet(k + m, n + o):
                self._lift()
                return
        share = self._chance()
        near = permit.near and share < 0.05
        since = _excess(recent, share, 2.0 if near else 3.5)
        if since is not None:
            self._cut(now, CUT, recent[since:] if not permit.near else [])
        elif near:
            self._calm_since = now

    def _accepted(self, now: float) -> float:
        """Requests a second that were let in of late."""
        until = now - self._lag
        shown = [p for p in self._record if p.sent_at <= until]
        since = until - RECENT
        if len(shown) > 16:
            since = min(since, shown[-16].sent_at)
        since = max(since, self._cut_at, shown[0].sent_at if shown else now)
        return sum(not p.refused for p in shown if p.sent_at >= since) / max(until - since, 0.25)

    def _cut(self, now: float, factor: float, over: list[Permit]) -> None:
        shown = self.rate == math.inf or (now - self._cut_at > 0.5 and sum(p.number >= self._decided for p in self._record) >= 8)
        if self.rate == math.inf:
            self._trial = sum(p.refused for p in over), len(over)
        chance = self._chance()
        self._limit = max(self._accepted(now), 0.5) / (1 - chance) if shown else self.rate * 0.8
        self.rate = min(self.rate, self._limit * factor)
        for p in self._record:
            p.over |= bool(over) and p.number >= over[0].number
        self._decided, self._cut_at, self._grown_at, self._calm_since = self._sent, now, now, now

    def _lift(self) -> None:
        self.rate = math.inf
        for p in self._record:
            p.over = False
        self._decided = self._sent

    def _gather(self, crowd: int, now: float) -> None:
        self.crowd = self.window = crowd
        self._widen_at, self._widen_after = now + WIDEN, WIDEN
        self._decided = self._sent

    def _close(self, run: list[Permit], now: float) -> None:
        self._closed = FIRST_PROBE
        self.not_before = max(self.not_before, now + FIRST_PROBE)
        self.crowd = None
        for p in run:
            p.over = True
        self._closed_at = now

    def _open(self, probe: Permit, now: float) -> None:
        self._closed, self._probe, self.not_before = 0.0, None, 0.0
        self.window = max(2, probe.crowd + 2)
        self._decided = probe.number
        self._tender = 8
        self._cut_at = self._closed_at


def _beta(a: float, b: float) -> float:
    return math.lgamma(a) + math.lgamma(b) - math.lgamma(a + b)


def _quiet(refused: int, sent: int) -> float:
    """Log probability of so many refusals by chance alone: mostly a small share."""
    return _beta(refused + 1, sent - refused + 4) - _beta(1, 4)


def _over(refused: int, sent: int) -> float:
    """Log probability of so many refusals over a limit: mostly a large share."""
    return _beta(refused + 2, sent - refused + 1) - _beta(2, 1)


def _by_time(record: list[Permit]) -> tuple[float, int]:
    """Log odds that refusals are more frequent since some request, and which."""
    total, sent = sum(p.refused for p in record), len(record)
    best, at, before = -math.inf, 0, 0
    for i, p in enumerate(record):
        k, n = total - before, sent - i
        if p.refused and i and k * i > before * n:
            odds = _quiet(before, i) + _over(k, n)
            if odds > best:
                best, at = odds, i
        before += p.refused
    return best - _quiet(total, sent) - math.log(max(sent, 1)), at


def _excess(record: list[Permit], share: float, enough: float) -> int | None:
    """Since when refusals are clearly more frequent than this share (a cumulative score), or None."""
    more = share + (1 - share) * 0.15
    score, since = 0.0, 0
    for i, p in enumerate(record):
        if not score:
            since = i
        score = max(0.0, score + math.log(more / share if p.refused else (1 - more) / (1 - share)))
    return since if score > enough else None


def _by_crowd(record: list[Permit], since: float) -> tuple[float, int]:
    """Log odds that hardly anything is let in from some crowd on, and which; what is sent since then is undecided."""
    ranked = sorted(record, key=lambda p: p.crowd)
    total = sum(p.refused for p in ranked)
    above = sum(p.refused or p.answered or p.sent_at < since for p in ranked)
    best, crowd, below = -math.inf, 0, 0
    for i, p in enumerate(ranked):
        k = total - below
        if p.crowd > 0 and i and ranked[i - 1].crowd < p.crowd and k >= 0.8 * above:
            odds = _quiet(below, i) + _over(k, above) - _quiet(total, i + above)
            if odds > best - 0.5:
                best, crowd = max(best, odds), p.crowd
        below += p.refused
        above -= p.refused or p.answered or p.sent_at < since
    return best - math.log(len({p.crowd for p in record}) or 1), crowd
