"""Throttling: what 429s depend on, and what follows for the next request.

Each detector stands for one explanation. When a request gets a 429, they are asked in this order, and the first
verdict counts:

1. `QuotaWindowDetector`: the quota of a fixed window is used up. Its Retry-After is waited for.
2. `OutageDetector`: everything gets a 429. The circuit opens; one probe at a time is sent.
3. `ConcurrencyDetector`: 429s begin at some number in flight. No more are sent at once.
4. `RandomRejectionDetector`: 429s come at random. Nothing is throttled for them.
5. `RateDetector`: the rate is too high. It is cut, and grows again.

`Phase` names the state that this leads to. Transitions:

- UNTHROTTLED -> RATE_LIMITED at the first cut; back when 429s prove to be random.
- any -> OUTAGE when the circuit opens; when it closes, back to what was known of the rate before. A concurrency limit
  is forgotten.
- any but OUTAGE -> CONCURRENCY_LIMITED when a limit is found; back when it has become unlikely.
- UNTHROTTLED -> RANDOM_REJECTIONS when their share is known well enough to be reported; nothing else depends on it.

A Retry-After holds every request back while 429s are rare, until a later request is accepted: then it was meant for
that row alone. Every rate-limited row waits by itself too (`retry`). `tests/benchmarks/limiter_lab.py` checks all this
against models of providers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from itertools import takewhile

from llmbatch._limits.concurrency_detector import ConcurrencyDetector
from llmbatch._limits.detector import (
    CutRate,
    Evidence,
    LimitConcurrency,
    OpenCircuit,
    SlowGrowth,
    StopThrottling,
    Undecided,
    Verdict,
    WaitForWindow,
    significant,
)
from llmbatch._limits.learned_rate import RECENT_SECONDS, LearnedRate
from llmbatch._limits.log_odds import change_point, concurrency_limit, run_is_unusual
from llmbatch._limits.observations import Observations
from llmbatch._limits.outage_detector import Cooldown, OutageDetector
from llmbatch._limits.permit import Permit
from llmbatch._limits.quota_window_detector import QuotaWindowDetector
from llmbatch._limits.random_rejection_detector import RandomRejectionDetector
from llmbatch._limits.rate_detector import RateDetector

# The longest Retry-After that is obeyed, in seconds.
MAX_RETRY_AFTER_SECONDS = 120.0
# Probability of a run of 429s at random, below which its Retry-After holds every request back.
IMPROBABLE_RUN = 1e-4
# The shortest wait for something that is due now, in seconds: the loop must get on.
MIN_WAIT_SECONDS = 1e-6


class Phase(Enum):
    """What 429s were found to depend on."""

    UNTHROTTLED = "unthrottled"
    RATE_LIMITED = "rate-limited"
    CONCURRENCY_LIMITED = "concurrency-limited"
    RANDOM_REJECTIONS = "random rejections"
    OUTAGE = "outage"


@dataclass(frozen=True, slots=True)
class Finding:
    """What 429s were found to depend on, and a line about it for people; no line in the phase UNTHROTTLED."""

    phase: Phase
    summary: str = ""


@dataclass(frozen=True, slots=True)
class ThrottleDecision:
    """Whether one more request may be sent.

    Attributes:
        allowed: whether it may be sent now.
        retry_in: seconds after which to ask again; None if only an answer, or a 429, can change the decision.
    """

    allowed: bool
    retry_in: float | None = 0.0

    @classmethod
    def after(cls, seconds: float | None) -> ThrottleDecision:
        """Return the decision to wait this long; 0 is no wait, and None a wait for an answer."""
        return cls(seconds == 0, seconds)


class Throttle:
    """Decides from past requests when the next may be sent, as far as 429s tell.

    Feed it with `on_sent`, `on_rate_limit` and `settle`; ask `decide`. Permits must be marked as no longer in flight
    when anything has come back.
    """

    def __init__(self, now: float) -> None:
        self.observations = Observations()
        self.learned_rate = LearnedRate(now)
        self._cooldown = Cooldown()
        self._one_allowed = False  # in spite of the cooldown
        self._sent_early: Permit | None = None
        self.outage = OutageDetector(self._cooldown, now)
        self.concurrency = ConcurrencyDetector(self.observations)
        self.random = RandomRejectionDetector(self.observations, self.learned_rate)
        self._rate = RateDetector(self.observations, self.learned_rate, self.random)
        self._quota_window = QuotaWindowDetector()
        self._detectors = (self._quota_window, self.outage, self.concurrency, self.random, self._rate)

    @property
    def rate(self) -> float:
        """The learnt rate limit in requests a second; inf if there is none."""
        return self.learned_rate.value

    @property
    def phase(self) -> Phase:
        """What 429s were found to depend on."""
        if not self.outage.is_closed:
            return Phase.OUTAGE
        if self.concurrency.limit:
            return Phase.CONCURRENCY_LIMITED
        if self.learned_rate.throttles:
            return Phase.RATE_LIMITED
        return Phase.UNTHROTTLED if self.random.reported_share is None else Phase.RANDOM_REJECTIONS

    @property
    def finding(self) -> Finding:
        """The phase with a line for people."""
        match phase := self.phase:
            case Phase.OUTAGE:
                summary = "every request gets 429; probing with one request at a time"
            case Phase.CONCURRENCY_LIMITED:
                summary = f"concurrency limit found: at most {self.concurrency.limit} in flight"
            case Phase.RATE_LIMITED:
                summary = f"429s depend on our rate; throttling to {self.rate:.3g} requests/s"
            case Phase.RANDOM_REJECTIONS:
                then = "throttling stopped" if self.random.stopped_throttling else "not throttling"
                summary = f"{self.random.share():.0%} of requests got 429, independent of our rate; {then}"
            case Phase.UNTHROTTLED:
                summary = ""
        return Finding(phase, summary)

    def decide(self, now: float, in_flight: int) -> ThrottleDecision:
        """Decide whether one more may be sent, apart from the learnt rate: the limiter has a bucket for that."""
        if self.outage.probe is not None:
            decided_in = self.outage.probe.sent_at + self.observations.grace - now
            return ThrottleDecision.after(max(decided_in, MIN_WAIT_SECONDS))
        if self._cooldown.until > now and not self._one_allowed:
            return ThrottleDecision.after(self._cooldown.until - now)
        return ThrottleDecision.after(self.concurrency.seconds_until_room(now, in_flight))

    def allow_one(self) -> None:
        """Let one request through a Retry-After that holds all back: if it is accepted, the others may go."""
        self._one_allowed = self.outage.is_closed

    def on_sent(self, permit: Permit, in_flight: int) -> None:
        """Note that a request is sent beside `in_flight` others."""
        if self._one_allowed and self._cooldown.until > permit.sent_at:
            self._sent_early = permit
        self._one_allowed = False
        permit.in_flight_at_send, permit.rate = in_flight, self.rate
        permit.at_limit = not self.concurrency.limit and self.learned_rate.is_near_limit
        self.outage.on_sent(permit)
        self.concurrency.on_sent(permit)
        self.observations.on_sent(permit)

    def settle(self, now: float, *, wanted: bool) -> None:
        """Take in what counts as accepted by now; let the rate grow if requests wait (`wanted`)."""
        for permit in self.observations.newly_accepted(now):
            if permit is self.outage.probe:
                self._close_circuit(permit)
            elif self.outage.is_closed and permit.number > self._cooldown.set_by:
                self._cooldown.until = 0.0
            for detector in self._detectors:
                detector.observe(permit, now)
        self.learned_rate.grow(now, self.observations.delay, wanted=wanted)

    def on_rate_limit(self, permit: Permit, now: float, retry_after: float) -> None:
        """Note that a request, which is no longer in flight, got a 429; `retry_after` is 0 if it named no time."""
        retry_after = min(retry_after, MAX_RETRY_AFTER_SECONDS)
        self.observations.on_rate_limit(permit, now)
        if any(detector.observe(permit, now) for detector in self._detectors):
            if not self.outage.is_closed:
                self._cooldown.extend(now + retry_after)
            return
        if permit is self._sent_early:  # the Retry-After counts: nothing new
            permit.at_limit = True
            self._cooldown.extend(now + retry_after)
            self._cooldown.set_by = permit.number
            return
        if known := self.observations.up_to_last_rate_limit():
            run = list(takewhile(lambda p: p.rate_limited, reversed(known)))[::-1]
            new = permit.number >= self.observations.decided_at
            verdict = self._decide(permit, known, run, now, retry_after) if new else None
            if retry_after and not isinstance(verdict, LimitConcurrency) and self._is_improbable(run):
                self._cooldown.extend(now + retry_after)
                self._cooldown.set_by = permit.number

    def _is_improbable(self, run: list[Permit]) -> bool:
        """Return whether 429s at random hardly ever come in such a run."""
        share = self.random.share(run[0].number)
        return len(run) == len(self.observations.recent) or share ** len(run) < IMPROBABLE_RUN

    def _decide(
        self, permit: Permit, known: list[Permit], run: list[Permit], now: float, retry_after: float
    ) -> Verdict | None:
        """Act on the first verdict about a 429, and return it."""
        evidence = self._evidence(permit, known, run, retry_after)
        for detector in self._detectors:
            if (verdict := detector.decide(evidence)) is not None:
                self._act_on(verdict, now)
                return verdict
        return None

    def _evidence(self, permit: Permit, known: list[Permit], run: list[Permit], retry_after: float) -> Evidence:
        recent = [p for p in known if p.number >= self.observations.decided_at]
        concurrency_odds, concurrency = concurrency_limit(recent)
        away = [p for p in known if not p.at_limit]
        change_odds, place = change_point(away)
        change = away[place:]
        return Evidence(
            permit=permit,
            known=known,
            recent=recent,
            run=run,
            retry_after=retry_after,
            is_improbable_run=self._is_improbable(run),
            share_before_run=self.random.share(run[0].number),
            run_odds=run_is_unusual(known, len(run)),
            concurrency=concurrency,
            concurrency_odds=concurrency_odds,
            change=change,
            change_odds=change_odds,
            threshold=significant(self.random.share(change[0].number if change else self.observations.sent)),
        )

    def _act_on(self, verdict: Verdict, now: float) -> None:
        match verdict:
            case CutRate():
                self._cut_rate(verdict, now)
            case SlowGrowth():
                self.learned_rate.slow_growth(now)
            case StopThrottling(since):
                self._stop_throttling(since)
            case LimitConcurrency(limit):
                self.concurrency.begin(limit, now)
                self._cooldown.until = 0.0  # a slot is free when an answer has come, whatever a Retry-After said
                self._decided()
            case OpenCircuit(run):
                self._open_circuit(run, now)
            case WaitForWindow():
                self._quota_window.begin(self.observations.sent)
                self._decided()
            case Undecided():
                pass

    def _decided(self) -> None:
        self.observations.decided_at = self.observations.sent

    def _cut_rate(self, verdict: CutRate, now: float) -> None:
        """Cut the rate, unless earlier cuts were ineffective."""
        accepted, since_first_cut, sent_since = self._rate.measure(verdict.since, now)
        if self.random.cuts_are_ineffective(since_first_cut, sent_since):
            self._stop_throttling(self._rate.cuts_since)
        else:
            self._rate.cut(verdict, accepted, now)
            self._decided()

    def _stop_throttling(self, since: int) -> None:
        self.random.stop_throttling(since)
        self._decided()

    def _open_circuit(self, run: Sequence[Permit], now: float) -> None:
        """Open the circuit; cuts and concurrency limits that were concluded from the outage are taken back."""
        for permit in run:
            permit.at_limit = True
        self.learned_rate.undo_cuts(run[0].sent_at)
        self.concurrency.forget()
        self.outage.open(now)

    def _close_circuit(self, probe: Permit) -> None:
        """Begin again from what is in flight beside the probe that was accepted."""
        self.outage.close()
        self.concurrency.window = probe.in_flight_at_send + 2
        self.observations.decided_at = probe.number
        # What was accepted while it was open says little of a limit, and nothing if that was long.
        self.learned_rate.measure_since(max(self.outage.opened_at, probe.sent_at - RECENT_SECONDS))
