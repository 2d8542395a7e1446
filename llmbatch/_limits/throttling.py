"""What refusals depend on: the rate, the crowd in flight, or neither; and what follows for the next request.

The rules, each of which can be checked in `tests/benchmarks/limiter_lab.py`:

1. **Evidence** (`evidence`). The last requests are kept in the order in which they were sent, each with the crowd that
   it met, and compared with what refusals may depend on. A decision is judged by what is sent later.
2. **Admission by time.** What is not refused within twice the slowest recent refusal has been let in, long before its
   answer comes. The window starts at 8 and is one larger for each request so let in.
3. **Rate** (`pace`). Where refusals are more frequent since some moment, the rate is cut to a third of what was let
   in of late. Once paced, a refusal at about the last limit, or more of them than chance explains, cuts
   it to somewhat less than what is let in. Growth follows, slow at first and then ever faster.
4. **Chance.** The share of refusals away from any limit is not held against the rate. Where it is the same at the
   limit, or at all the rates that were tried since it rose, pacing is lifted.
5. **Crowd.** Where hardly anything is let in from some number in flight on, that is the window; one more is tried now
   and then, the more seldom the surer that is, and when that has become unlikely the window grows again.
6. **Closed door.** A run of refusals that nothing else explains holds everything back: one request at a time is tried,
   ever more seldom, until one is let in. Then the window starts anew from what is in flight.
7. **Hints.** A Retry-After holds everybody back while refusals are rare, until a later request is let in: then it was
   meant for that row alone. Any refused row rests by itself (`retry.throttle_pause`).
"""

from __future__ import annotations

import math
from collections import deque
from itertools import takewhile

from llmbatch._limits import observations
from llmbatch._limits.learned_rate import RECENT_REQUESTS, RECENT_SECONDS, Pace
from llmbatch._limits.observations import HARDLY_ANYTHING, Permit, by_crowd, by_run, by_time, odds, over, since_excess

RECORD = 128  # requests that are remembered one by one
FIRST_WINDOW = 8  # requests in flight before the provider has shown anything
FIRST_GRACE, LEAST_GRACE, MOST_GRACE = 0.09, 0.05, 1.0  # seconds after which what is not refused is let in
# Log odds against chance that are enough: in general, for a closed door (which costs little to try), at about the last
# limit (where a refusal is expected), and that a share at the limit is no higher than elsewhere.
CONVINCED, DOOR_ODDS, NEAR_ODDS, NO_WORSE_ODDS = 3.5, 2.5, 2.0, -0.5
RUN, FEW = 5, 3  # refusals that may be a closed door or a crowd; that may be a rate
RARE, UNHEARD_OF = 0.05, 1e-4  # shares of refusals by chance: below which one is news; of a run that holds all back
SOME_REFUSALS, SOME_REQUESTS = 5, 50  # before chance is called a finding
PRIOR = 0.5, 20  # refused and sent by chance, before anything is known
FEW_AWAY, MANY_AT = 4, 40  # refused away from a limit, and sent at it, before the shares are compared
TRIED, IN_VAIN = 16, 1.0  # requests after a cut, and log odds, that say that cuts are in vain
FIRST_PROBE, PROBE_GROWTH, LONGEST_PROBE, LONGEST_HINT, TENDER = 0.3, 1.25, 30.0, 120.0, 8
WIDEN_SECONDS, SUREST, NARROWEST = 0.5, 10.5, 0.9  # one more is tried; log odds; of the crowd found


class Refusals:
    """Told what was sent and what became of it; `rate` (a second) and `wait` say what may be sent."""

    def __init__(self, now: float) -> None:
        self.pace = Pace(now)
        self.window: float = FIRST_WINDOW
        self.crowd = 0  # at which refusals begin; 0 when they do not depend on it
        self.total = 0
        self._record: deque[Permit] = deque()
        self._past = {True: (0.0, 0.0), False: (0.0, 0.0)}  # refused and sent, at a limit and away, before the record
        self._undecided: deque[Permit] = deque()
        self._sent = self._decided_at = 0  # how many; before the last decision
        self._lag = FIRST_GRACE / 2
        self._not_before = 0.0
        self._cuts_since = self._paced_from = 0  # where the rate was too high, or so it seems; the first paced request
        self._lifted = False
        self._widen_at = 0.0
        self._closed_at = now
        self._closed = 0.0  # seconds until the next probe; 0 when it is open
        self._probe: Permit | None = None
        self._tender = 0  # requests to be let in before an opened door is believed
        self._held_by = 0

    @property
    def finding(self) -> tuple[str, str]:
        """What refusals were found to depend on, as a word and as a line for people; empty before they were."""
        if self._closed:
            return "door", "everything is refused: one request at a time is tried"
        if self.crowd:
            return "crowd", f"requests are refused from {self.crowd} in flight on: no more are sent at once"
        if self.rate < math.inf:
            return "rate", f"refusals depend on the rate: paced at {self.rate:.3g} requests a second"
        if self.total >= SOME_REFUSALS and self._sent >= SOME_REQUESTS and (chance := self._chance()) > RARE / 10:
            mend = "pacing lifted" if self._lifted else "nothing is held back"
            return "chance", f"refusals do not depend on the rate ({chance:.0%} of requests): {mend}"
        return "", ""

    @property
    def rate(self) -> float:
        """Requests a second, inf where none is held back for it."""
        return self.pace.rate

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
        permit.number, permit.crowd, permit.rate = self._sent, in_flight, self.rate
        permit.limited = not self.crowd and self.pace.near
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
        self.pace.grow(now, self._lag, wanted=wanted)

    def refused(self, permit: Permit, now: float, hint: float) -> None:
        """The request was refused for a limit; it is closed already."""
        self.total += 1
        permit.refused = True
        if self._record and permit.number < self._record[0].number:
            refused, sent = self._past[permit.limited]
            self._past[permit.limited] = min(refused + 1, sent), sent
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
            self.window = min(self.window, permit.crowd)
            self._doubt(now)
        else:
            if self.crowd:
                self._doubt(now)
            self._weigh(permit, now, hint)

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
        return (refused + PRIOR[0]) / (sent + PRIOR[1])

    def _convinced(self, chance: float) -> float:
        """Log odds that are enough; where many are refused by chance, runs of them come by chance too."""
        return CONVINCED if chance < RARE else 2 * CONVINCED

    def _weigh(self, permit: Permit, now: float, hint: float) -> None:
        """What a refusal means for the others: nothing, where its request was sent so long ago."""
        known = self._known()
        if not known:
            return
        run = sum(1 for _ in takewhile(lambda p: p.refused, reversed(known)))
        if permit.number >= self._decided_at:
            self._decide(permit, known, run, now)
        if hint and (run == len(self._record) or self._chance(known[-run].number) ** run < UNHEARD_OF):
            self._not_before, self._held_by = max(self._not_before, now + hint), permit.number

    def _decide(self, permit: Permit, known: list[Permit], run: int, now: float) -> None:
        """What a refusal that may be news means."""
        recent = [p for p in known if p.number >= self._decided_at]
        if self._tender and self._chance(known[-run].number) < 2 * RARE:
            self._cut(known[-run].number, now)
            return
        crowded, crowd = by_crowd(recent)
        unlimited = [p for p in known if not p.limited]
        timed, place = by_time(unlimited)
        since = unlimited[place].number if unlimited else self._sent
        convinced = self._convinced(self._chance(since))
        if run >= RUN and by_run(known, run) > DOOR_ODDS:
            if crowded > 0:
                self._gather(crowd, now)
            else:
                self._close(known[-run:], now)
        elif crowded > max(convinced, timed - 1):
            if sum(p.refused for p in recent if p.crowd >= crowd) >= RUN:
                self._gather(crowd, now)
        elif self.rate < math.inf:
            self._keep_pace(permit, recent, now)
        elif timed > convinced and sum(p.refused for p in unlimited[place:]) >= FEW:
            self._cut(since, now, first=True)

    # -- rate

    def _keep_pace(self, permit: Permit, recent: list[Permit], now: float) -> None:
        """Whether a refusal is one too many for the rate, or has nothing to do with it."""
        chance = self._chance()
        if chance >= RARE or not permit.limited:
            start = since_excess(recent, chance, CONVINCED)
            if start is not None:
                # What had been refused until then may have been chance.
                recent, chance = recent[start:], self._chance(recent[start].number)
                start = since_excess(recent, chance, self._convinced(chance))
        elif self._no_worse():
            self._lift()
            return
        else:
            start = since_excess(recent, chance, NEAR_ODDS)
            self.pace.hesitate(now)
        if start is not None:
            self._cut(recent[start].number, now)

    def _no_worse(self) -> bool:
        """Whether the share of refusals at the limit is that away from it."""
        away, limited = (self._counts(limited=limited, before=self._sent) for limited in (False, True))
        return away[0] >= FEW_AWAY and limited[1] > MANY_AT and odds(away, limited) < NO_WORSE_ODDS

    def _cut(self, since: int, now: float, *, first: bool = False) -> None:
        """Cut the rate, which was too high for the requests from that number on, unless cuts are in vain."""
        until = now - self._lag
        if self.rate == math.inf:
            if self.pace.known(self._record, until) < RECENT_REQUESTS:  # a door was opened just now
                until = max([until, *(permit.sent_at for permit in self._record if permit.refused)])
            self._cuts_since, self._paced_from = since, self._sent
        accepted = self.pace.accepted(self._record, until)
        unpaced = max(accepted, observations.sent_rate(self._record, until))
        cuts = [p for p in self._record if p.number >= self._cuts_since and (p.refused or p.let_in)]
        for permit in cuts:
            if permit.rate == math.inf:
                permit.rate = unpaced
        # What is refused just after a cut may still be due to what was sent before it.
        tried = sum(permit.number >= self._paced_from for permit in cuts)
        if tried >= TRIED and observations.whatever_rate(cuts) > IN_VAIN:
            self._lift(self._cuts_since)
            return
        for permit in self._record:
            permit.limited |= permit.number >= since
        shown = sum(permit.number >= self._decided_at for permit in self._record)
        self.pace.cut(now, accepted / (1 - self._chance()), shown, first=first)
        self._decided_at = self._sent

    def _lift(self, since: int = 0) -> None:
        """Pace no more: refusals at the limit were chance, too, whose share is what it has been since a request."""
        self.pace.lift()
        self._lifted = True
        (k, n), (m, o) = self._past[False], self._past[True]
        self._past = {False: (0.0, 0.0) if since else (k + m, n + o), True: (0.0, 0.0)}
        self._record = deque(permit for permit in self._record if permit.number >= since)
        for permit in self._record:
            permit.limited = False
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

    def _close(self, run: list[Permit], now: float) -> None:
        for permit in run:
            permit.limited = True
        self.pace.undo(run[0].sent_at)
        self._closed, self._closed_at = FIRST_PROBE, now
        self._not_before = max(self._not_before, now + FIRST_PROBE)
        self.crowd = 0

    def _open(self, probe: Permit) -> None:
        self._closed, self._probe, self._not_before = 0.0, None, 0.0
        self.window = probe.crowd + 2
        self._decided_at = probe.number
        self._tender = TENDER
        # What was let in while it was closed says little of a limit, and nothing where that was long.
        self.pace.measure_since(max(self._closed_at, probe.sent_at - RECENT_SECONDS))
