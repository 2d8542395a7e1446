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
FIRST_GRACE, LEAST_GRACE, MOST_GRACE = 0.2, 0.05, 1.0
CONVINCED = 3.5  # log of the odds that a model must have against chance
RECENT = 2.0  # seconds over which the accepted rate is measured
FIRST_CUT, CUT = 0.5, 0.92  # of the accepted rate
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
        self._sent = 0
        self._decided = 0  # the number of the first request sent since the last decision
        self._cut_at = self._grown_at = self._calm_since = now
        self._trial: tuple[int, int] | None = None  # refused and sent before the first cut
        self._lag = FIRST_GRACE / 2
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
        permit.widens = self.crowd is not None and in_flight >= self.window
        if permit.widens:
            self._widen_at = math.inf
        else:
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
            self.rate *= 1 + min(MOST_GROWTH, GROWTH * (now - self._calm_since) ** 2) * seconds

    def refused(self, permit: Permit, now: float, hint: float) -> None:
        self.total += 1
        permit.refused = True
        self._lag = max(now - permit.sent_at, 0.9 * self._lag)
        for later in reversed(self._record):
            if later.number <= permit.number:
                break
            later.crowd -= 1
        if self.crowd is not None and permit.crowd >= self.crowd:
            self.window = self.crowd
            self._widen_after = min(SELDOM, self._widen_after * 2)
            self._widen_at = now + self._widen_after
            return
        if self._closed:
            if permit is self._probe:
                self._probe = None
                self._closed = min(LONGEST_PROBE, self._closed * PROBE_GROWTH)
                self.not_before = max(self.not_before, now + max(self._closed, min(hint, LONGEST_HINT)))
            elif hint:
                self.not_before = max(self.not_before, now + min(hint, LONGEST_HINT))
            return
        self._decide(permit, now)
        if hint and (self._share(self._run(permit)) ** len(self._run(permit)) < 0.03):
            self.not_before = max(self.not_before, now + min(hint, LONGEST_HINT))
            self._held_for = permit.number

    # -- decisions

    def _run(self, permit: Permit) -> list[Permit]:
        """The refusals in a row that end with the latest one."""
        known = list(self._record)
        while known and not known[-1].refused:
            known.pop()
        return list(takewhile(lambda p: p.refused, reversed(known)))

    def _share(self, run: list[Permit]) -> float:
        """Share of refusals that is seen apart from a run, and from what was over a limit."""
        rest = [p for p in self._record if not p.over and (not run or p.number < run[-1].number or p.number > run[0].number)]
        return (sum(p.refused for p in rest) + 1) / (len(rest) + 2) if len(rest) > 1 or run and len(run) > 1 else 0.02

    def _decide(self, permit: Permit, now: float) -> None:
        if permit.number < self._decided:
            return
        recent = [p for p in self._record if p.number >= self._decided]
        run = self._run(permit)
        share = self._share(run)
        if len(run) >= 5 and share ** len(run) < 0.002:
            least = min(p.crowd for p in run)
            most = max((p.crowd for p in self._record if not p.refused and p.number < run[-1].number), default=-1)
            if least > most and least > 0 and (self.crowd is None or least < self.crowd):
                self._gather(least, now)
            else:
                self._close(run, now)
            return
        if self._tender and share < 0.3:
            self._cut(now, CUT, run)
            return
        by_time, since = _by_time(recent)
        by_crowd, crowd = _by_crowd(recent)
        if by_crowd > CONVINCED and by_crowd > by_time - 1 and (self.crowd is None or crowd < self.crowd):
            self._gather(crowd, now)
            return
        if self.rate == math.inf:
            if by_time > CONVINCED:
                self._cut(now, FIRST_CUT, recent[since:])
            return
        rest = [p for p in self._record if not p.over]
        if self._trial and len(recent) >= 12:
            (k, n), (m, o) = self._trial, (sum(p.refused for p in recent), len(recent))
            if _evidence(k, n) + _evidence(m, o) < _evidence(k + m, n + o):
                self._lift()
                return
        quiet = [p for p in rest if p.number < self._decided]
        since = _excess(recent, (sum(p.refused for p in quiet) + 1) / (len(quiet) + 20))
        if since is not None:
            over = recent[since:]
            self._cut(now, CUT, over if sum(p.refused for p in over) > 2 else [])
        else:
            self._calm_since = now

    def _accepted(self, now: float) -> float:
        """Requests a second that were let in of late."""
        since = now - self._lag - RECENT
        if len(self._record) == RECORD:
            since = max(since, self._record[0].sent_at)
        since = max(since, self._cut_at)
        let_in = sum(not p.refused for p in self._record if since <= p.sent_at <= now - self._lag)
        first = max(since, min((p.sent_at for p in self._record), default=now))
        return let_in / max(now - self._lag - first, 0.25)

    def _cut(self, now: float, factor: float, over: list[Permit]) -> None:
        shown = self.rate == math.inf or sum(p.number >= self._decided for p in self._record) >= 8
        if self.rate == math.inf:
            self._trial = sum(p.refused for p in over), len(over)
        accepted = max(self._accepted(now), 0.5) if shown else self.rate
        self.rate = min(self.rate, accepted * factor)
        for p in over:
            p.over = True
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


def _evidence(refused: int, sent: int) -> float:
    """Log of the probability of an outcome of `sent` requests, whatever the share of refusals (all equally likely)."""
    return math.lgamma(refused + 1) + math.lgamma(sent - refused + 1) - math.lgamma(sent + 2)


def _split(some: list[Permit], others: list[Permit]) -> float:
    """Log odds that `some` were refused at a higher share than `others`, against one share for all."""
    k, n, m, o = sum(p.refused for p in some), len(some), sum(p.refused for p in others), len(others)
    if k * o <= m * n:
        return -math.inf
    return _evidence(k, n) + _evidence(m, o) - _evidence(k + m, n + o) - math.log(n + o)


def _by_time(record: list[Permit]) -> tuple[float, int]:
    """Log odds that refusals are more frequent since some request, and which."""
    total, sent = sum(p.refused for p in record), len(record)
    best, at, before = -math.inf, 0, 0
    for i, p in enumerate(record):
        k, n = total - before, sent - i
        if p.refused and i and k * i > before * n:
            odds = _evidence(before, i) + _evidence(k, n)
            if odds > best:
                best, at = odds, i
        before += p.refused
    return best - _evidence(total, sent) - math.log(max(sent, 1)), at


def _excess(record: list[Permit], share: float) -> int | None:
    """Since when refusals are clearly more frequent than this share (a cumulative score), or None."""
    more = share + (1 - share) * 0.15
    score, since = 0.0, 0
    for i, p in enumerate(record):
        if not score:
            since = i
        score = max(0.0, score + math.log(more / share if p.refused else (1 - more) / (1 - share)))
    return since if score > 3 else None


def _by_crowd(record: list[Permit]) -> tuple[float, int]:
    """Log odds that hardly anything is let in from some crowd on, and which."""
    ranked = sorted(record, key=lambda p: p.crowd)
    total, sent = sum(p.refused for p in ranked), len(ranked)
    best, crowd, below = -math.inf, 0, 0
    for i, p in enumerate(ranked):
        k, n = total - below, sent - i
        if p.crowd > 0 and (not i or ranked[i - 1].crowd < p.crowd) and k >= 5 and k >= 0.9 * n:
            odds = (_evidence(below, i) if i else 0.0) + _evidence(k, n)
            if odds > best:
                best, crowd = odds, p.crowd
        below += p.refused
    return best - _evidence(total, sent) - math.log(max(sent, 1)), crowd
