"""What a throttle makes of 429s, driven by requests in virtual time: phases, decisions, and what ends them."""

from __future__ import annotations

import math

import pytest

from llmbatch._limits import concurrency_detector as concurrency
from llmbatch._limits import outage_detector as outage
from llmbatch._limits.learned_rate import FIRST_CUT
from llmbatch._limits.observations import MAX_RECENT
from llmbatch._limits.outage_detector import CircuitState
from llmbatch._limits.permit import Permit
from llmbatch._limits.throttle import Phase, Throttle

GRACE = 0.09  # seconds after which a request counts as accepted, before any 429 has come


class Script:
    """A throttle that is fed by hand."""

    def __init__(self) -> None:
        self.throttle = Throttle(0.0)
        self.now = 0.0
        self.in_flight: list[Permit] = []

    def send(self) -> Permit:
        """Send one more request."""
        permit = Permit(1.0, self.now)
        self.throttle.on_sent(permit, len(self.in_flight))
        self.in_flight.append(permit)
        return permit

    def back(self, permit: Permit, mark: str = ".", retry_after: float = 0.0) -> None:
        """Answer a request, or give it a 429 (`x`)."""
        self.in_flight.remove(permit)
        permit.in_flight = False
        if mark == "x":
            self.throttle.on_rate_limit(permit, self.now, retry_after)
        self.settle()

    def settle(self, seconds: float = 0.0) -> None:
        """Let time go by."""
        self.now += seconds
        self.throttle.settle(self.now, wanted=True)

    def go(self, marks: str, each: float = 0.02, retry_after: float = 0.0) -> None:
        """Send requests that take this long, one at a time."""
        for mark in marks:
            permit = self.send()
            self.now += each
            self.back(permit, mark, retry_after)

    def saturate(self, limit: int, rounds: int) -> None:
        """Send rounds of requests to a provider that accepts `limit` at once."""
        for _ in range(rounds):
            accepted = [self.send() for _ in range(limit)]
            self.settle(GRACE)
            for permit in [self.send() for _ in range(2)]:
                self.back(permit, "x")
            self.settle(0.5)
            for permit in accepted:
                self.back(permit)

    def wait(self, in_flight: int = 0) -> float | None:
        """Return the seconds until the throttle is to be asked again."""
        return self.throttle.decide(self.now, in_flight).retry_in

    def until(self, phase: Phase, marks: str, each: float = 0.02) -> None:
        """Send such requests until a phase is reached."""
        for _ in range(40):
            if self.phase is phase:
                return
            self.go(marks, each)
        pytest.fail(f"{self.phase}, not {phase}")

    @property
    def phase(self) -> Phase:
        """What 429s were found to depend on."""
        return self.throttle.phase

    @property
    def summary(self) -> str:
        """The line about it."""
        return self.throttle.finding.summary


# -- what is reported


@pytest.mark.parametrize(
    ("marks", "reported"),
    [
        (("." * 9 + "x") * 5, "8% of requests got 429, independent of our rate; not throttling"),
        (("." * 9 + "x") * 4 + "." * 10, ""),
        (("." * 8 + "x") * 5 + "." * 4, ""),
        (("." * 9 + "x") * 5 + "." * 900, ""),
    ],
)
def test_finding_random_rejections_needs_five_of_fifty(marks: str, reported: str) -> None:
    """Five 429s and fifty requests are needed, and a share of more than one in two hundred."""
    script = Script()
    script.go(marks)
    assert script.summary == reported
    assert script.phase is (Phase.RANDOM_REJECTIONS if reported else Phase.UNTHROTTLED)


def test_finding_names_outage() -> None:
    """An open circuit comes before all else."""
    script = Script()
    script.go("x" * 12)
    assert script.phase is Phase.OUTAGE
    assert script.summary == "every request gets 429; probing with one request at a time"


def test_finding_names_concurrency_limit() -> None:
    """With its number."""
    script = Script()
    script.saturate(4, rounds=8)
    assert script.phase is Phase.CONCURRENCY_LIMITED
    assert script.summary == "concurrency limit found: at most 4 in flight"


def test_finding_names_rate_limit() -> None:
    """With the rate."""
    script = Script()
    script.go("." * 100)
    script.until(Phase.RATE_LIMITED, ".x")
    assert script.summary == f"429s depend on our rate; throttling to {script.throttle.rate:.3g} requests/s"


def test_finding_after_stopped_throttling_says_so() -> None:
    """A rate limit that proved useless is mentioned."""
    script = Script()
    script.go("." * 60 + ".x" * 10)
    script.throttle.random.stop_throttling(0)
    assert script.summary.endswith("independent of our rate; throttling stopped")


# -- when the next request may go


def test_decide_full_window_waits_for_oldest_to_be_accepted() -> None:
    """With nothing in flight that could change it, only an event can."""
    script = Script()
    first = [script.send() for _ in range(concurrency.INITIAL_CONCURRENCY)]
    assert script.throttle.decide(script.now, len(first) - 1).allowed
    decision = script.throttle.decide(script.now, len(first))
    assert not decision.allowed
    assert decision.retry_in == pytest.approx(GRACE)
    script.now += 2 * GRACE
    assert script.wait(len(first)) == pytest.approx(1e-6)
    script.settle()
    assert script.wait(len(first)) == 0
    assert script.wait(10**6) is None


def test_window_grows_by_one_for_each_request_accepted() -> None:
    """If at least half of it was in use; what is in flight for twice the slowest 429 counts as accepted."""
    script = Script()
    first = [script.send() for _ in range(concurrency.INITIAL_CONCURRENCY)]
    for permit in first[:3]:
        script.back(permit)
    assert script.throttle.concurrency.window == concurrency.INITIAL_CONCURRENCY
    script.settle(GRACE - 0.001)
    assert not first[-1].accepted
    script.settle(0.001)
    assert first[-1].accepted
    assert script.throttle.concurrency.window == concurrency.INITIAL_CONCURRENCY + 5


def test_rate_limited_request_was_not_in_flight_beside_others() -> None:
    """Requests that were sent after it had one less in flight, which is known once its 429 has come."""
    script = Script()
    sent = [script.send() for _ in range(4)]
    assert [permit.in_flight_at_send for permit in sent] == [0, 1, 2, 3]
    script.back(sent[1], "x")
    assert [permit.in_flight_at_send for permit in sent] == [0, 1, 1, 2]


# -- concurrency limits


def limited_to(limit: int, rounds: int = 8) -> Script:
    """Return a script that has found a concurrency limit and has nothing in flight."""
    script = Script()
    script.saturate(limit, rounds)
    assert script.throttle.concurrency.limit == limit
    return script


def full(script: Script) -> list[Permit]:
    """Fill the window."""
    return [script.send() for _ in range(int(script.throttle.concurrency.window))]


def test_concurrency_limit_is_tested_by_one_request_now_and_then() -> None:
    """While that one is undecided no other tests it; if it is accepted, the window is one wider."""
    script = limited_to(4)
    permits = full(script)
    wait = script.wait(4)
    assert wait is not None
    assert script.wait(3) == 0
    script.settle(wait)
    assert script.wait(4) == 0
    test = script.send()
    assert (test.widens, test.at_limit) == (True, True)
    assert not permits[-1].widens
    assert script.wait(4) is None
    assert script.wait(5) is None
    script.settle(1.0)
    assert script.throttle.concurrency.window == 5
    assert 0 < (script.wait(5) or 0) < math.inf


def test_concurrency_limit_is_tested_more_seldom_while_tests_fail() -> None:
    """The time between tests doubles, up to a bound; after a test that succeeds it is short again."""
    script = Script()
    script.saturate(4, rounds=3)
    waits = []
    for _ in range(12):
        permits = full(script)
        waits.append(script.wait(4) or 0.0)
        script.settle(waits[-1])
        script.back(script.send(), "x")
        script.settle(0.5)
        for permit in permits:
            script.back(permit)
    assert waits[2] + 0.5 == pytest.approx(2 * (waits[1] + 0.5)), "half a second has passed already"
    assert waits[-1] <= concurrency.WIDEN_SECONDS * 2 ** (concurrency.MAX_CERTAINTY - concurrency.SIGNIFICANT)
    full(script)
    script.settle(waits[-1] * 2)
    script.send()
    script.settle(1.0)
    assert script.throttle.concurrency.window == 5
    assert (script.wait(5) or 0.0) <= concurrency.WIDEN_SECONDS


def test_concurrency_limit_429_at_limit_narrows_window() -> None:
    """A window that was widened goes back; nothing is decided anew, however many come in a row."""
    script = limited_to(4)
    script.throttle.concurrency.window = 6
    for _ in range(8):
        permits = full(script)
        for permit in permits[4:]:
            script.back(permit, "x")
        script.settle(0.5)
        for permit in permits[:4]:
            script.back(permit)
        assert script.throttle.concurrency.window <= 5
    assert script.phase is Phase.CONCURRENCY_LIMITED
    assert script.throttle.concurrency.limit == 4


def test_concurrency_limit_429s_below_it_end_it() -> None:
    """They have another reason, and the limit becomes unlikely."""
    script = limited_to(6, rounds=4)
    script.go(".x" * 40)
    assert script.phase is not Phase.CONCURRENCY_LIMITED


# -- Retry-After


def test_retry_after_holds_all_back_while_429s_are_rare() -> None:
    """Until a request that was sent later is accepted: then it was meant for that row alone."""
    script = Script()
    script.go("." * 30)
    earlier, limited, later = script.send(), [script.send() for _ in range(3)], script.send()
    for permit in limited:
        script.back(permit, "x", retry_after=9.0)
    assert script.wait() == 9.0
    script.back(earlier)
    assert script.wait() == 9.0
    script.back(later)
    assert script.wait() == 0


def test_retry_after_is_judged_by_429s_before_its_run() -> None:
    """One 429 among many accepted does not hold all back, three in a row do."""
    script = Script()
    script.go("." * 30 + "x")
    script.go("x", retry_after=5.0)
    assert script.wait() == 0
    script.go("x", retry_after=5.0)
    assert script.wait() == 5.0


def test_retry_after_frequent_429s_is_its_rows_own() -> None:
    """Where a quarter gets 429, each Retry-After is for its row."""
    script = Script()
    script.go("...x" * 10)
    script.go("x", retry_after=5.0)
    assert script.wait() == 0


def test_retry_after_is_capped() -> None:
    """Two minutes at most."""
    script = Script()
    script.go("." * 30 + "xx")
    script.go("x", retry_after=3600.0)
    assert script.wait() == 120.0


@pytest.mark.parametrize(("mark", "wait"), [("x", 20.0), (".", 0.0)])
def test_retry_after_allow_one_tests_it(mark: str, wait: float) -> None:
    """One request is let through: if it is accepted all may go, and its 429 confirms the Retry-After."""
    script = Script()
    script.go("." * 30 + "xx")
    script.go("x", retry_after=9.0)
    script.throttle.allow_one()
    assert script.wait() == 0
    permit = script.send()
    assert script.wait(1) == 9.0
    script.back(permit, mark, retry_after=20.0)
    assert script.wait() == wait
    assert script.phase is Phase.UNTHROTTLED


def test_rate_limit_that_comes_very_late_changes_nothing() -> None:
    """Its request is no longer remembered by itself."""
    script = Script()
    late = script.send()
    script.go("." * (MAX_RECENT + 1))
    script.back(late, "x", retry_after=60.0)
    assert script.phase is Phase.UNTHROTTLED
    assert script.wait() == 0


# -- outages


def in_outage() -> Script:
    """Return a script whose circuit has just opened."""
    script = Script()
    script.go("." * 40)
    script.until(Phase.OUTAGE, "x")
    return script


def test_circuit_open_probes_one_at_a_time_ever_more_seldom() -> None:
    """OPEN waits, HALF_OPEN has a probe in flight, and a 429 opens the circuit for longer, at most so long."""
    script = in_outage()
    circuit, expected = script.throttle.outage, outage.INITIAL_RECOVERY_SECONDS
    for _ in range(30):
        assert circuit.state is CircuitState.OPEN
        assert script.wait() == pytest.approx(expected)
        script.settle(script.wait() or 0.0)
        assert script.wait() == 0
        probe = script.send()
        assert circuit.state is CircuitState.HALF_OPEN
        assert (script.wait(1) or 0.0) > 0, "no second probe"
        script.now += 0.02
        script.back(probe, "x")
        expected = min(expected * outage.RECOVERY_GROWTH, outage.MAX_RECOVERY_SECONDS)
    assert expected == outage.MAX_RECOVERY_SECONDS


def test_circuit_open_retry_after_of_others_is_obeyed() -> None:
    """A 429 that comes while the circuit is open may ask for more time."""
    script = Script()
    other = script.send()
    script.go("." * 40)
    script.until(Phase.OUTAGE, "x")
    script.back(other, "x", retry_after=7.0)
    assert script.wait() == 7.0


def test_circuit_closes_when_probe_is_accepted() -> None:
    """The window begins anew from what is in flight."""
    script = in_outage()
    script.settle(1.0)
    script.send()
    script.settle(1.0)
    assert script.throttle.outage.state is CircuitState.CLOSED
    assert script.phase is not Phase.OUTAGE
    assert script.throttle.concurrency.window == 3
    assert script.wait(2) == 0


def test_circuit_that_opens_takes_back_cuts_since_its_first_429() -> None:
    """The rate is what it was before the run that opened it."""
    script = Script()
    script.go("." * 100)
    script.until(Phase.RATE_LIMITED, ".x")
    script.go("." * 40, 0.1)
    before = script.throttle.rate
    script.go("xxxx", 0.1)
    assert script.phase is Phase.RATE_LIMITED
    assert script.throttle.rate < 0.6 * before
    script.go("x", 0.1)
    assert script.phase is Phase.OUTAGE
    assert script.throttle.rate == pytest.approx(before, rel=0.01)


def test_circuit_that_opens_forgets_concurrency_limit() -> None:
    """A limit that was found during the outage says nothing."""
    script = limited_to(4)
    for _ in range(30):
        script.go("x")
    assert script.phase is Phase.OUTAGE
    assert script.throttle.concurrency.limit == 0


@pytest.mark.parametrize(("fewer", "cut"), [(2, True), (1, False)])
def test_circuit_just_closed_first_429_cuts_rate(fewer: int, cut: bool) -> None:
    """Among the first requests after an outage, a single 429 is put down to the rate."""
    script = in_outage()
    script.settle(1.0)
    script.go("." * (1 + outage.RECOVERY_REQUESTS - fewer) + "x")
    assert (script.throttle.rate < math.inf) is cut


# -- rates


def test_rate_is_cut_to_third_of_accepted_rate_first() -> None:
    """Since what had been saved up was accepted too."""
    script = Script()
    script.go("." * 100)
    script.until(Phase.RATE_LIMITED, ".x")
    assert script.throttle.rate == pytest.approx(50 * FIRST_CUT, rel=0.1)


def test_rate_is_not_cut_for_random_rejections() -> None:
    """As long as they are no more frequent than before, however long a run may be now and then."""
    script = Script()
    script.go(("...." + "x") * 40 + ".xx." * 2 + ("...." + "x") * 20)
    assert script.phase is Phase.RANDOM_REJECTIONS
    assert script.throttle.rate == math.inf


def test_rate_that_grows_back_is_near_limit_again() -> None:
    """From there on requests count as sent at the limit, and a 429 there slows the growth down."""
    script = Script()
    script.go("." * 100)
    script.until(Phase.RATE_LIMITED, ".x")
    rate = script.throttle.learned_rate
    for _ in range(500):
        if not rate.is_near_limit:
            script.go(".", 0.1)
    assert script.send().at_limit
    before = rate.value
    script.settle(1.0)
    grown = rate.value / before
    script.back(script.in_flight[0], "x")
    before = rate.value
    script.settle(1.0)
    assert rate.value / before < 1 + (grown - 1) / 2
