"""What refusals depend on: the rate, the crowd in flight, or neither; and what follows for the next request.

The rules, each of which can be checked in `tests/benchmarks/limiter_lab.py`:

1. **Evidence** (`evidence`). The last requests are kept in the order in which they were sent, each with the crowd that it
   met, and compared with what refusals may depend on. Fewer than three refusals prove nothing.
2. **Admission by time.** What is not refused within twice the slowest recent refusal has been let in, long before its
   answer comes. The window starts at 8 and is one larger for each request so let in.
3. **Rate.** Where refusals are more frequent since some moment, the rate is cut to less than half of what was let in of
   late. Once paced, a refusal at about the rate that was the limit before, or more of them than chance explains, cuts it
   to somewhat less than what is let in. Growth follows: slow at first, then ever faster, while the rate is what holds
   requests back. Cuts take back those refused that had been sent before.
4. **Chance.** The share of refusals away from any limit is not held against the rate. Where the share at the limit is no
   higher, the rate is lifted.
5. **Crowd.** Where hardly anything is let in from some number in flight on, that is the window; one more is tried now and
   then, the more seldom the surer that is, and when that has become unlikely the window grows again.
6. **Closed door.** A run of refusals that nothing else explains holds everything back: one request at a time is tried,
   ever more seldom, until one is let in. Then the window starts anew from what is in flight.
7. **Hints.** A Retry-After holds everybody back while refusals are rare, until a later request is let in: then it was
   meant for that row alone.
"""

from __future__ import annotations

import math
from collections import deque
from itertools import takewhile

from llmbatch._request.evidence import HARDLY_ANYTHING, Permit, by_crowd, by_run, by_time, odds, over, since_excess

__all__ = ["FIRST_WINDOW", "Refusals"]

RECORD = 128  # requests that are remembered one by one
FIRST_WINDOW = 8  # requests in flight before the provider has shown anything
FIRST_GRACE, LEAST_GRACE, MOST_GRACE = 0.09, 0.05, 1.0  # seconds after which what is not refused is let in
CONVINCED = 3.5  # log of the odds against chance
RARE = 0.05  # share of refusals by chance below which a single one is news
SOME_REFUSALS, SOME_REQUESTS = 5, 50  # before chance is called a finding
RUN = 5  # refusals in a row that may be a closed door
RECENT_SECONDS, RECENT_REQUESTS = 4.0, 16  # over which the accepted rate is measured, whichever is longer
HEAD_START = 3.0
FIRST_CUT, CUT, BLIND_CUT = 0.33, 0.87, 0.78  # of the accepted rate; of the last rate, where that is not yet known
SHOWN_SECONDS, SHOWN_REQUESTS = 0.5, 8  # after a cut, before the accepted rate is known again
AT_LIMIT = 0.95  # of the last limit
MOST_GROWTH, GROWTH, GROWTH_PER_REQUEST = 0.3, 0.004, 0.01  # a second; the second times (seconds since the last cut)²
PROMPT_SECONDS = 0.08  # after which a refusal has been on its way for long
FIRST_PROBE, PROBE_GROWTH, LONGEST_PROBE, LONGEST_HINT = 0.3, 1.25, 30.0, 120.0
WIDEN_SECONDS, SUREST, NARROWEST = 0.5, 10.5, 0.9


class Refusals:
    """Told what was sent and what became of it; `rate` (a second) and `wait` say what may be sent."""

    def __init__(self, now: float) -> None:
        self.rate = math.inf
        self.window: float = FIRST_WINDOW
        self.crowd = 0  # at which refusals begin; 0 when they do not depend on it
        self.total = 0
        self._lifted = False
        self._record: deque[Permit] = deque()
        self._past = {True: (0.0, 0.0), False: (0.0, 0.0)}  # refused and sent, at a limit and away, before the record
        self._undecided: deque[Permit] = deque()
        self._sent = self._decided_at = 0  # how many; before the last decision
        self._lag = FIRST_GRACE / 2
        self._not_before = 0.0
        # rate
        self._limit = math.inf
        self._cut_at = self._grown_at = self._calm_since = now
        self._interval_rate = math.inf
        self._interval: tuple[int, int] | None = None  # refused and sent before the last cut that had many refusals
        self._patience, self._vain = 1.0, 0
        self._before_cuts = (math.inf, math.inf)
        # crowd
        self._widen_at = 0.0
        # door
        self._closed = 0.0  # seconds until the next probe; 0 when it is open
        self._probe: Permit | None = None
        self._tender = 0  # requests to be let in before an opened door is believed
        self._held_by = 0

    @property
    def finding(self) -> tuple[str, str]:
        """What refusals were found to depend on, as a word and as a line for people; empty before they were."""
        chance = self._chance(self._sent)
        if self._closed:
            return "door", "everything is refused: one request at a time is tried"
        if self.crowd:
            return "crowd", f"requests are refused from {self.crowd} in flight on: no more are sent at once"
        if self.rate < math.inf:
            return "rate", f"refusals depend on the rate: paced at {self.rate:.3g} requests a second"
        if self.total >= SOME_REFUSALS and self._sent >= SOME_REQUESTS and chance > RARE / 5:
            mend = "pacing lifted" if self._lifted else "nothing is held back"
            return "chance", f"refusals do not depend on the rate ({chance:.0%} of requests): {mend}"
        return "", ""

    def wait(self, now: float, in_flight: int) -> float:
        """Seconds until one more may be sent, as far as window and door go; inf: when something has come back."""
        if self._closed and self._probe is not None:
            return max(self._probe.sent_at + self._grace - now, 1e-6)
        if self._not_before > now:
            return self._not_before - now
        if in_flight < self.window:
            return 0.0
        if self.crowd:
            return max(0.0, self._widen_at - now) if in_flight == self.window else math.inf
        return max(self._undecided[0].sent_at + self._grace - now, 1e-6) if self._undecided else math.inf

    def sent(self, permit: Permit, in_flight: int) -> None:
        """One more is sent."""
        permit.number, permit.crowd = self._sent, in_flight
        permit.limited = not self.crowd and AT_LIMIT * self._limit <= self.rate < math.inf
        self._sent += 1
        self._undecided.append(permit)
        if self._closed:
            self._probe = permit
        if self.crowd and in_flight >= self.window:
            permit.trial = permit.limited = True
            self._widen_at = math.inf
        self._record.append(permit)
        if len(self._record) > RECORD:
            old = self._record.popleft()
            refused, sent = self._past[old.limited]
            fade = min(1.0, RECORD / (sent + 1))
            self._past[old.limited] = (fade * (refused + old.refused), fade * (sent + 1))

    def settle(self, now: float, wanted: bool) -> None:
        """Count what has been let in by now, and grow where the rate is what holds requests back."""
        while self._undecided:
            permit = self._undecided[0]
            if permit.open and now - permit.sent_at < self._grace:
                break
            self._undecided.popleft()
            if not permit.refused:
                permit.let_in = True
                self._let_in(permit, now)
        seconds, self._grown_at = min(now - self._grown_at, 1.0), now
        if wanted and self.rate < math.inf:
            calm = max(0.0, now - self._calm_since)
            blind = max(1.0, self._lag / PROMPT_SECONDS)  # the later refusals come back, the slower
            self.rate *= 1 + seconds * min(MOST_GROWTH, GROWTH * calm**2 / blind, GROWTH_PER_REQUEST * self.rate)

    def refused(self, permit: Permit, now: float, hint: float) -> None:
        """The request was refused for a limit; it is closed already."""
        self.total += 1
        permit.refused = True
        self._lag = max(now - permit.sent_at, 0.9 * self._lag)
        for later in reversed(self._record):
            if later.number <= permit.number:
                break
            later.crowd -= 1
        hint = min(hint, LONGEST_HINT)
        if self._closed:
            permit.limited = True
            if permit is self._probe:
                self._probe = None
                self._closed = min(LONGEST_PROBE, self._closed * PROBE_GROWTH)
                self._not_before = now + self._closed
            self._not_before = max(self._not_before, now + hint)
        elif self.crowd and (permit.crowd >= self.crowd or permit.crowd >= NARROWEST * self.crowd < self.window - 1):
            permit.limited = permit.crowd >= self.crowd
            self.window = max(min(self.window, permit.crowd), math.ceil(NARROWEST * self.crowd))
            self._doubt(now)
        else:
            if self.crowd:
                self._doubt(now)
            known = self._known()
            run = sum(1 for _ in takewhile(lambda p: p.refused, reversed(known)))
            if permit.number >= self._decided_at:
                self._decide(permit, known, run, now)
            if hint and (run == len(self._record) or self._chance(known[-run].number) ** run < 1e-4):
                self._not_before, self._held_by = max(self._not_before, now + hint), permit.number

    @property
    def undecided(self) -> int:
        """How many in flight the provider may not have seen yet."""
        return sum(permit.open for permit in self._undecided)

    @property
    def _grace(self) -> float:
        return min(max(2 * self._lag, LEAST_GRACE), MOST_GRACE)

    def _let_in(self, permit: Permit, now: float) -> None:
        if permit is self._probe:
            self._open(permit)
        elif not self._closed and permit.number > self._held_by:
            self._not_before = 0.0
        self._tender = max(0, self._tender - 1)
        if not self.crowd:
            if permit.crowd + 1 >= self.window / 2:
                self.window += 1
        elif permit.trial:
            self.window += permit.crowd >= self.window
            self._doubt(now)

    # -- decisions

    def _known(self) -> list[Permit]:
        """The record up to the latest request that was refused."""
        known = list(self._record)
        while known and not known[-1].refused:
            known.pop()
        return known

    def _counts(self, limited: bool, before: int) -> tuple[float, float]:
        """Refused and sent at a limit or away from it, before the request of that number."""
        refused, sent = self._past[limited]
        found = [
            p.refused for p in self._record if p.limited is limited and p.number < before and (p.refused or p.let_in)
        ]
        return refused + sum(found), sent + len(found)

    def _chance(self, before: int | None = None) -> float:
        """The share of refusals away from any limit; while it paces, before what is in doubt."""
        if before is None:
            before = self._sent if self.rate == math.inf else self._decided_at
        refused, sent = self._counts(limited=False, before=before)
        return (refused + 0.5) / (sent + 20)

    def _convinced(self, chance: float) -> float:
        """Log odds that are enough; where many are refused by chance, runs of them come by chance too."""
        return CONVINCED * (self._patience if chance < RARE else 2 * self._patience)

    def _decide(self, permit: Permit, known: list[Permit], run: int, now: float) -> None:
        recent = [p for p in known if p.number >= self._decided_at]
        if self._tender and self._chance(known[-run].number) < 0.1:
            self._cut(now, CUT, run)
            return
        crowded, crowd = by_crowd(recent)
        timeline = [p for p in known if not p.limited]
        timed, place = by_time(timeline)
        since = timeline[place].number if timeline else 0
        convinced = self._convinced(self._chance(since))
        if run >= RUN and by_run(known, run) > 2.5:
            if crowded > 0:
                self._gather(crowd, now)
            else:
                self._close(run, now)
        elif crowded > max(convinced, timed - 1):
            if sum(p.refused for p in recent if p.crowd >= crowd) >= RUN:
                self._gather(crowd, now)
        elif self.rate == math.inf:
            if timed > convinced and sum(p.refused for p in timeline[place:]) >= 3:
                self._cut(now, FIRST_CUT, self._sent - since)
        elif self._chance() < RARE and self._no_worse():
            self._lift()
        else:
            near = permit.limited and self._chance() < RARE
            if near:
                start = since_excess(recent, self._chance(), 2.0)
            else:
                start = since_excess(recent, self._chance(), CONVINCED)
                if start is not None:
                    chance = self._chance(recent[start].number)
                    later = since_excess(recent[start:], chance, self._convinced(chance))
                    start = None if later is None else start + later
            if start is not None:
                self._cut(now, CUT, self._sent - recent[start].number)
            elif near:
                self._calm_since = now

    def _no_worse(self) -> bool:
        """Whether the share of refusals at the limit is that away from it."""
        away, limited = (self._counts(limited=limited, before=self._sent) for limited in (False, True))
        return away[0] >= 4 and limited[1] > 40 and odds(away, limited) < -0.5

    # -- rate

    def _cut(self, now: float, factor: float, last: int) -> None:
        """Cut the rate, since the last so many requests were sent at too high a one."""
        found = [p.refused for p in self._record if p.number >= self._decided_at]
        interval = sum(found), len(found)
        if min(interval[0] / 4, interval[1] / 20) >= 1:
            rate = min(self.rate, self._accepted(now))
            if self._interval is None or rate < 0.75 * self._interval_rate:
                self._vain = self._vain + 1 if self._interval and odds(self._interval, interval) < 0 else 0
                if self._vain > 1:
                    self._patience = 1.5
                    self._lift()
                    return
                self._interval, self._interval_rate = interval, rate
        for permit in list(self._record)[-last:]:
            permit.limited = True
        if now - self._cut_at > SHOWN_SECONDS:
            self._before_cuts = self.rate, self._limit
        shown = sum(p.number >= self._decided_at for p in self._record) >= SHOWN_REQUESTS
        if self.rate == math.inf or (shown and now - self._cut_at > SHOWN_SECONDS):
            self._calm_since = now - (HEAD_START if self.rate == math.inf else 0.0)
            self._limit = self._accepted(now) / (1 - self._chance())
            self.rate = min(self.rate, self._limit * factor)
        else:
            self._calm_since = now
            self._limit = self.rate = self.rate * BLIND_CUT
        self._cut_at = self._grown_at = now
        self._decided_at = self._sent

    def _accepted(self, now: float) -> float:
        """Requests a second that were let in of late."""
        until = now - self._lag
        shown = [p for p in self._record if p.sent_at <= until]
        since = until - RECENT_SECONDS
        if len(shown) > RECENT_REQUESTS:
            since = min(since, shown[-RECENT_REQUESTS].sent_at)
        since = max(since, self._cut_at, shown[0].sent_at if shown else now)
        return max(0.5, sum(not p.refused for p in shown if p.sent_at >= since)) / max(until - since, 0.25)

    def _lift(self) -> None:
        self.rate = self._limit = math.inf
        self._interval, self._vain, self._lifted = None, 0, True
        for permit in self._record:
            permit.limited = False
        (k, n), (m, o) = self._past[False], self._past[True]
        self._past[False] = (k + m, n + o)
        self._past[True] = (0.0, 0.0)
        self._decided_at = self._sent

    # -- crowd

    def _gather(self, crowd: int, now: float) -> None:
        self._past = {True: (0.0, 0.0), False: self._past[False]}
        for permit in self._record:
            permit.limited = permit.crowd >= crowd
        self.crowd = self.window = crowd
        self._decided_at = self._sent
        self._widen_at = now + WIDEN_SECONDS

    def _doubt(self, now: float) -> None:
        """Try one more after a while, the later the surer it is that the crowd is what counts; or give that up."""
        away, limited = (self._counts(limited=limited, before=self._sent) for limited in (False, True))
        belief = over(away, limited, HARDLY_ANYTHING) - math.log(self.crowd + 1)
        if belief < 0:
            self.crowd = 0
        self._widen_at = now + WIDEN_SECONDS * 2 ** (min(belief, SUREST) - CONVINCED)

    # -- door

    def _close(self, run: int, now: float) -> None:
        for permit in self._known()[-run:]:
            permit.limited = True
            if permit.sent_at <= self._cut_at:
                self.rate, self._limit = self._before_cuts
        self._closed, self._closed_at = FIRST_PROBE, now
        self._not_before = max(self._not_before, now + FIRST_PROBE)
        self.crowd = 0

    def _open(self, probe: Permit) -> None:
        self._closed, self._probe, self._not_before = 0.0, None, 0.0
        self.window = probe.crowd + 2
        self._decided_at = probe.number
        self._tender = 8
        self._cut_at = self._closed_at
