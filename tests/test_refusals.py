"""What the limiter makes of refusals: what it says, when the next request may go, and what a refusal decides."""

from __future__ import annotations

import math
from typing import Any

import pytest

from llmbatch._limits import learned_rate as rates
from llmbatch._limits import observations
from llmbatch._limits import throttling as rules
from llmbatch._limits.learned_rate import Pace
from llmbatch._limits.observations import HARDLY_ANYTHING, Permit, over
from llmbatch._limits.throttling import FIRST_GRACE, RECORD, Refusals
from tests.test_limits_learnt import Told

Counts = tuple[float, float]


def counted(away: Counts = (0.0, 0.0), limited: Counts = (0.0, 0.0)) -> Refusals:
    """With so many refused and sent in the past, away from a limit and at it."""
    refusals = Refusals(0.0)
    refusals._past = {False: away, True: limited}
    return refusals


def crowded(crowd: int, window: int, away: Counts = (0.0, 200.0), limited: Counts = (60.0, 60.0)) -> Refusals:
    """Where refusals were found to begin at so many in flight."""
    refusals = counted(away, limited)
    refusals.crowd, refusals.window = crowd, window
    return refusals


def met(refusals: Refusals, crowd: int, at: float = 0.0) -> Permit:
    """A request that met so many in flight."""
    permit = Permit(1.0, at)
    refusals.sent(permit, crowd)
    return permit


def refuse(refusals: Refusals, permit: Permit, now: float = 0.01, hint: float = 0.0) -> None:
    permit.open = False
    refusals.refused(permit, now, hint)


# -- what is said


@pytest.mark.parametrize(
    ("marks", "said"),
    [
        (("." * 9 + "x") * 5, "refusals do not depend on the rate (8% of requests): nothing is held back"),
        (("." * 9 + "x") * 4 + "." * 10, ""),
        (("." * 8 + "x") * 5 + "." * 4, ""),
    ],
)
def test_chance_is_a_finding_after_five_refusals_of_fifty(marks: str, said: str) -> None:
    """It says how many are refused."""
    told = Told()
    told.go(marks, 0.02)
    assert told.refusals.finding[1] == said


@pytest.mark.parametrize(("sent", "found"), [(1070.0, "chance"), (1080.0, ""), (1130.0, "")])
def test_a_share_that_is_hardly_any_is_no_finding(sent: float, found: str) -> None:
    """One in two hundred."""
    refusals = counted((5.0, sent))
    refusals.total, refusals._sent = 5, 50
    assert refusals.finding[0] == found


def test_what_else_is_said() -> None:
    """Of a crowd, a rate, a closed door, and of pacing that was lifted."""
    refusals = crowded(12, 12)
    assert refusals.finding == ("crowd", "requests are refused from 12 in flight on: no more are sent at once")
    refusals.crowd, refusals.pace.rate = 0, 12.3456
    assert refusals.finding == ("rate", "refusals depend on the rate: paced at 12.3 requests a second")
    refusals._closed = 1.0
    assert refusals.finding == ("door", "everything is refused: one request at a time is tried")
    refusals = counted((20.0, 180.0))
    refusals.total, refusals._sent = 20, 180
    refusals._lift()
    assert refusals.finding[1] == "refusals do not depend on the rate (10% of requests): pacing lifted"


# -- when the next may go


def test_one_more_goes_when_the_oldest_in_flight_counts_as_let_in() -> None:
    """While the window is full; nobody knows when, where nothing is in flight."""
    refusals = Refusals(0.0)
    refusals.window = 2
    assert refusals.wait(0.0, 2) == math.inf
    met(refusals, 0, at=1.0)
    met(refusals, 1, at=1.05)
    assert refusals.wait(1.05, 1) == 0.0
    assert refusals.wait(1.05, 2) == pytest.approx(FIRST_GRACE - 0.05)
    assert refusals.wait(1.2, 2) == 1e-6
    refusals.settle(1.0 + FIRST_GRACE, wanted=True)
    assert refusals.window == 3


def test_what_has_been_out_for_twice_the_slowest_refusal_is_let_in() -> None:
    """At that very moment."""
    refusals = Refusals(0.0)
    permit = met(refusals, 7)
    refusals.settle(FIRST_GRACE - 0.001, wanted=True)
    assert (permit.let_in, refusals.window) == (False, 8)
    refusals.settle(FIRST_GRACE, wanted=True)
    assert (permit.let_in, refusals.window) == (True, 9)


def test_a_crowds_window_is_widened_now_and_then() -> None:
    """By one, in time; while that one is on its way, nobody else tries."""
    refusals = Refusals(0.0)
    refusals._gather(4, 10.0)
    assert refusals.wait(10.0, 3) == 0.0
    assert refusals.wait(10.0, 4) == rules.WIDEN_SECONDS
    assert refusals.wait(10.1, 4) == pytest.approx(rules.WIDEN_SECONDS - 0.1)
    assert refusals.wait(20.0, 5) == math.inf
    permit = met(refusals, 4, at=10.5)
    assert (permit.trial, permit.limited) == (True, True)
    assert refusals.wait(20.0, 4) == math.inf
    assert not met(refusals, 3, at=10.5).trial


def test_a_trial_that_is_let_in_widens_the_window_and_the_next_comes_later() -> None:
    """As the belief in the crowd says."""
    refusals = crowded(4, 4)
    permit = met(refusals, 4, at=1.0)
    refusals.settle(2.0, wanted=True)
    assert permit.let_in
    assert refusals.window == 5
    assert 0.0 < refusals.wait(2.0, 5) < math.inf


def test_requests_are_counted_and_the_last_ones_remembered() -> None:
    """What is older fades."""
    refusals = Refusals(0.0)
    permits = [met(refusals, at % 3) for at in range(400)]
    assert [(permit.number, permit.crowd) for permit in permits] == [(at, at % 3) for at in range(400)]
    assert list(refusals._record) == permits[-RECORD:]
    assert refusals._past == {True: (0.0, 0.0), False: (0.0, pytest.approx(RECORD))}


# -- a crowd


@pytest.mark.parametrize(
    ("window", "met_crowd", "expected", "limited"),
    [(10, 10, 10, True), (11, 10, 10, True), (11, 9, 9, False), (12, 9, 9, False)],
)
def test_a_refusal_at_about_the_crowd_narrows_the_window(
    window: int, met_crowd: int, expected: int, limited: bool
) -> None:
    """To where it was met; it says when one more is tried."""
    refusals = crowded(10, window)
    permit = met(refusals, met_crowd)
    refusals._widen_at = -1.0
    refuse(refusals, permit)
    assert (refusals.crowd, refusals.window, permit.limited) == (10, expected, limited)
    assert refusals._widen_at > 0
    assert refusals._decided_at == 0


def test_refusals_at_the_crowd_decide_nothing_anew() -> None:
    """However many come in a row."""
    refusals = crowded(10, 10)
    for at in range(40):
        met(refusals, 5, at=0.01 * at).open = False
    refusals.settle(10.0, wanted=True)
    for _ in range(8):
        refuse(refusals, met(refusals, 10, at=10.0), 10.1)
    assert (refusals.finding[0], refusals.crowd, refusals._decided_at) == ("crowd", 10, 0)


@pytest.mark.parametrize(("window", "met_crowd"), [(10, 9), (11, 8), (12, 3)])
def test_a_refusal_far_below_the_crowd_has_another_reason(window: int, met_crowd: int) -> None:
    """The window stays, and where the belief in the crowd is too small now, it is given up."""
    refusals = crowded(10, window)
    refuse(refusals, met(refusals, met_crowd))
    assert (refusals.crowd, refusals.window) == (10, window)
    refusals = crowded(10, window, away=(20.0, 60.0), limited=(3.0, 4.0))
    refuse(refusals, met(refusals, met_crowd))
    assert refusals.crowd == 0


@pytest.mark.parametrize(
    ("away", "limited", "kept"),
    [((0.0, 60.0), (5.0, 5.0), True), ((0.0, 60.0), (60.0, 60.0), True), ((6.0, 60.0), (3.0, 5.0), False)],
)
def test_the_surer_a_crowd_the_later_one_more_is_tried(away: Counts, limited: Counts, kept: bool) -> None:
    """Twice as late for each unit of the log odds, which pay for the choice of the crowd; at most so late."""
    refusals = crowded(10, 10, away, limited)
    belief = over(away, limited, HARDLY_ANYTHING) - math.log(11)
    refusals._doubt(100.0)
    assert (refusals.crowd == 10, belief >= 0) == (kept, kept)
    seconds = rules.WIDEN_SECONDS * 2 ** (min(belief, rules.SUREST) - rules.CONVINCED)
    assert refusals._widen_at == pytest.approx(100.0 + seconds)


def test_a_belief_that_is_small_keeps_the_crowd() -> None:
    """Any above nothing does."""
    away, limited = next(
        (a, b)
        for a in ((k / 10, 60.0) for k in range(300))
        for b in ((5.0, 5.0), (6.0, 6.0), (7.0, 7.0))
        if 0.1 < over(a, b, HARDLY_ANYTHING) - math.log(11) < 0.9
    )
    refusals = crowded(10, 10, away, limited)
    refusals._doubt(0.0)
    assert refusals.crowd == 10


def test_a_crowd_that_is_found_starts_the_count_at_it_anew() -> None:
    """What was away from a limit stays; those that met the crowd were at it."""
    refusals = counted((1.0, 30.0), (7.0, 50.0))
    permits = [met(refusals, crowd) for crowd in (3, 4, 5)]
    refusals._gather(4, 1.0)
    assert refusals._past == {False: (1.0, 30.0), True: (0.0, 0.0)}
    assert [permit.limited for permit in permits] == [False, True, True]
    assert (refusals.crowd, refusals.window, refusals._decided_at) == (4, 4, 3)


# -- a hint, a closed door


def test_a_hint_holds_everybody_back_until_a_later_request_is_let_in() -> None:
    """One that was sent before says nothing; refusals were rare before."""
    told = Told()
    told.go("." * 30, 0.02)
    early, late = told.send(), told.send()
    refused = [told.send() for _ in range(3)]
    later = told.send()
    for permit in refused:
        told.in_flight.remove(permit)
        refuse(told.refusals, permit, told.now, hint=9.0)
    assert told.refusals.wait(told.now, 0) == 9.0
    told.now += 0.5
    for permit in (early, late):
        told.refusals._let_in(permit, told.now)
    assert told.refusals.wait(told.now, 0) == 8.5
    told.refusals._closed = 1.0
    told.refusals._let_in(later, told.now)
    assert told.refusals.wait(told.now, 0) == 8.5
    told.refusals._closed = 0.0
    told.refusals._let_in(later, told.now)
    assert told.refusals.wait(told.now, 0) == 0.0


def test_a_hint_counts_where_such_a_run_is_unheard_of() -> None:
    """By the share before the run, not with it; where refusals are frequent it is that row's own."""
    told = Told()
    told.go("." * 30, 0.02)
    for hint in (0.0, 0.0, 5.0):
        permit = told.send()
        told.in_flight.remove(permit)
        refuse(told.refusals, permit, told.now, hint)
    assert told.refusals.wait(told.now, 0) == 5.0
    told = Told()
    told.go("...x" * 10, 0.02)
    permit = told.send()
    told.in_flight.remove(permit)
    refuse(told.refusals, permit, told.now, hint=5.0)
    assert told.refusals.wait(told.now, 0) == 0.0


def test_a_closed_door_is_tried_by_one_ever_more_seldom() -> None:
    """A hint that comes meanwhile is kept; what lets the probe in opens it."""
    refusals = counted((0.0, 20.0))
    refusals.crowd = 5
    run = [met(refusals, at, at=1.0) for at in range(5)]
    for permit in run:
        permit.open, permit.refused = False, True
    refusals._close(run, 2.0)
    assert (refusals.finding[0], refusals.crowd) == ("door", 0)
    assert refusals.wait(2.0, 0) == pytest.approx(rules.FIRST_PROBE)
    probe = met(refusals, 3, at=2.3)
    refusals._lag = 0.1
    assert refusals.wait(2.35, 4) == pytest.approx(0.15)
    assert refusals.wait(9.0, 4) == 1e-6
    refuse(refusals, probe, 2.4)
    assert refusals.wait(2.4, 0) == pytest.approx(rules.FIRST_PROBE * rules.PROBE_GROWTH)
    other = met(refusals, 3, at=2.5)
    refusals._probe = None
    refuse(refusals, other, 2.5, hint=7.0)
    assert refusals.wait(2.5, 0) == pytest.approx(7.0)
    probe = met(refusals, 4, at=9.5)
    refusals.settle(20.0, wanted=True)
    assert (refusals.finding[0], refusals.window) == ("", probe.crowd + 3)
    assert refusals.wait(20.0, 5) == refusals.wait(0.5, 5) == 0.0
    assert refusals._decided_at == probe.number


def test_a_door_that_closes_takes_back_the_cuts_since_its_first_refusal() -> None:
    """Not since its second."""
    refusals = Refusals(0.0)
    refusals.pace.cut(10.0, 30.0, 40, first=True)
    before = refusals.pace.rate
    refusals.pace.cut(20.0, 9.0, 40, first=False)
    refusals._close([Permit(1.0, 19.0), Permit(1.0, 21.0)], 22.0)
    assert refusals.pace.rate == before


# -- decisions


def test_a_refusal_that_comes_late_counts_where_its_request_was_counted() -> None:
    """Which is no longer remembered by itself: not among those sent at a limit, say, and never more than were sent."""
    for limited, past in (
        (False, {False: (5.0, 100.0), True: (6.0, 70.0)}),
        (True, {False: (4.0, 100.0), True: (7.0, 70.0)}),
    ):
        refusals = counted((4.0, 100.0), (6.0, 70.0))
        refusals._sent = 10
        met(refusals, 1)
        refuse(refusals, Permit(1.0, 0.0, number=9, limited=limited), 9.0, hint=3.0)
        assert refusals._past == past
        assert (refusals.rate, refusals.wait(9.0, 0)) == (math.inf, 0.0)
    refusals = counted()
    refusals._sent = 10
    first = met(refusals, 1)
    refuse(refusals, Permit(1.0, 0.0, number=9))
    assert refusals._past == {False: (0.0, 0.0), True: (0.0, 0.0)}
    refusals._past[False] = (4.0, 100.0)
    refuse(refusals, first)
    assert refusals._past[False] == (4.0, 100.0)


def test_more_odds_are_asked_for_where_many_are_refused_by_chance() -> None:
    """Twice as many."""
    refusals = Refusals(0.0)
    assert (refusals._convinced(0.049), refusals._convinced(0.05)) == (rules.CONVINCED, 2 * rules.CONVINCED)


@pytest.mark.parametrize(
    ("marks", "cut"),
    [("x", True), (".xxx..", False), ("xx...", False), ("x.x..." + "." * 10, True), ("xx...x.x", False)],
)
def test_a_door_that_has_just_opened_takes_the_first_refusal_for_the_rate(marks: str, cut: bool) -> None:
    """Where fewer than one in ten was refused before it."""
    told = Told()
    told.go(marks, 0.02)
    told.refusals._tender = 8
    told.go("x", 0.02)
    assert (told.refusals.rate < math.inf) is cut


@pytest.mark.parametrize(("let_in", "cut"), [(7, True), (8, False)])
def test_a_door_is_believed_to_be_open_after_eight(let_in: int, cut: bool) -> None:
    """From then on a refusal is one like any other."""
    told = Told()
    told.refusals._tender = rules.TENDER
    told.go("." * let_in + "x", 0.02)
    assert (told.refusals.rate < math.inf) is cut


def test_what_was_sent_before_a_decision_is_no_news(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first request after it is."""
    seen: list[list[int]] = []
    monkeypatch.setattr(rules, "by_crowd", lambda recent: (seen.append([p.number for p in recent]), (-math.inf, 0))[1])
    told = Told()
    told.go("....", 0.02)
    told.refusals._decided_at = 4
    told.go("..x", 0.02)
    assert seen == [[4, 5, 6]]


def decided(
    monkeypatch: pytest.MonkeyPatch, marks: str, crowd: tuple[float, int], timed: tuple[float, int] = (-math.inf, 0)
) -> str:
    """What the last of these refusals decides, with such evidence for a crowd and for a moment."""
    monkeypatch.setattr(rules, "by_crowd", lambda _: crowd)
    monkeypatch.setattr(rules, "by_time", lambda _: timed)
    refusals = Refusals(0.0)
    for number, mark in enumerate(marks):
        permit = met(refusals, 4, at=0.02 * number)
        permit.open, permit.refused, permit.let_in = False, mark == "x", mark == "."
    known = refusals._known()
    run = len(marks) - len(marks.rstrip("x"))
    refusals._decide(permit, known, run, 1.0)
    return refusals.finding[0]


@pytest.mark.parametrize(("belief", "found"), [(0.5, "crowd"), (1.5, "crowd"), (-0.5, "door")])
def test_a_run_of_refusals_is_a_crowd_or_a_closed_door(
    monkeypatch: pytest.MonkeyPatch, belief: float, found: str
) -> None:
    """A crowd as soon as that is likelier than chance."""
    assert decided(monkeypatch, "." * 40 + "x" * 5, (belief, 4)) == found


@pytest.mark.parametrize(
    ("marks", "crowd", "timed", "found"),
    [
        (".x" * 5, (6.0, 4), -math.inf, "crowd"),
        (".x" * 4, (6.0, 4), -math.inf, ""),
        (".x" * 9, (6.0, 5), -math.inf, ""),
        (".x" * 9, (5.0, 4), 6.2, "rate"),
        (".x" * 9, (5.0, 4), 5.9, "crowd"),
        (".x" * 9, (3.4, 4), 2.0, ""),
    ],
)
def test_a_crowd_is_found_where_five_were_refused_at_it(
    monkeypatch: pytest.MonkeyPatch, marks: str, crowd: tuple[float, int], timed: float, found: str
) -> None:
    """And where it explains more than a moment does."""
    monkeypatch.setattr(Refusals, "_convinced", lambda *_: rules.CONVINCED)
    assert decided(monkeypatch, marks, crowd, (timed, 0)) == found


# -- a rate


@pytest.mark.parametrize(
    ("away", "limited", "no_worse"),
    [
        ((4.0, 40.0), (4.0, 41.0), True),
        ((4.0, 40.0), (4.0, 59.0), True),
        ((3.0, 40.0), (4.0, 41.0), False),
        ((4.0, 40.0), (4.0, 40.0), False),
        ((4.0, 40.0), (1.0, 10.0), False),
        ((4.0, 40.0), (20.0, 41.0), False),
        ((3.0, 40.0), (1.0, 10.0), False),
    ],
)
def test_the_share_at_the_limit_is_no_worse_than_elsewhere(away: Counts, limited: Counts, no_worse: bool) -> None:
    """Once four were refused away from it, and more than forty sent at it."""
    assert counted(away, limited)._no_worse() is no_worse


def test_lifting_forgets_what_the_limit_was() -> None:
    """What was refused at it was chance, too: at the share of all, or of what was sent since that has risen."""
    for since, past in ((0, (6.0, 100.0)), (1, (0.0, 0.0))):
        refusals = counted((1.0, 30.0), (5.0, 70.0))
        permits = [met(refusals, 1) for _ in range(3)]
        permits[1].limited = True
        refusals.pace.cut(1.0, 30.0, 40, first=True)
        assert not refusals._lifted
        refusals._lift(since)
        assert refusals._past == {False: past, True: (0.0, 0.0)}
        assert list(refusals._record) == permits[since:]
        assert not any(permit.limited for permit in refusals._record)
        assert (refusals.rate, refusals._lifted, refusals._decided_at) == (math.inf, True, 3)


def paced(count: int, refused: int, each: float = 0.1, rate: float = 8.0) -> Refusals:
    """At such a rate, and so many sent since, the last ones refused."""
    refusals = Refusals(0.0)
    refusals.pace.cut(0.0, rate / rates.FIRST_CUT, 40, first=True)
    for number in range(count):
        permit = met(refusals, 1, at=(number + 0.5) * each)
        permit.open, permit.refused, permit.let_in = False, number >= count - refused, number < count - refused
    return refusals


def test_a_cut_is_below_what_was_let_in() -> None:
    """As far as what was refused can have come back; what is refused by chance is made up for."""
    refusals = paced(40, 12)
    refusals._lag = 1.0
    accepted = Pace(0.0).accepted(refusals._record, 3.0)
    assert accepted != Pace(0.0).accepted(refusals._record, 5.0)
    chance = refusals._chance()
    refusals.pace.rate = 1000.0
    refusals._cut(30, 4.0)
    assert refusals.rate == pytest.approx(accepted / (1 - chance) * rates.CUT)
    assert [permit.limited for permit in refusals._record] == [number >= 30 for number in range(40)]
    assert refusals._decided_at == 40


@pytest.mark.parametrize(("count", "blind"), [(rates.SHOWN_REQUESTS, False), (rates.SHOWN_REQUESTS - 1, True)])
def test_few_requests_since_the_last_cut_show_nothing(count: int, blind: bool) -> None:
    """The first one after it counts too."""
    refusals = paced(count, 1)
    refusals._cut(0, 5.0)
    assert (refusals.rate == pytest.approx(8.0 * rates.BLIND_CUT)) is blind


def unpaced(count: int, refused: int) -> Refusals:
    """Ten a second, the last ones refused."""
    refusals = Refusals(0.0)
    for number in range(count):
        permit = met(refusals, 1, at=(number + 0.5) / 10)
        permit.open, permit.refused, permit.let_in = False, number >= count - refused, number < count - refused
    return refusals


def test_each_request_is_known_by_the_rate_that_it_was_sent_at(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of those before the first cut by the rate of late; what was sent before refusals rose does not count."""
    monkeypatch.setattr(rules, "TRIED", 0)
    seen: list[list[tuple[int, float]]] = []
    monkeypatch.setattr(
        observations, "whatever_rate", lambda cuts: seen.append([(p.number, p.rate) for p in cuts]) or -math.inf
    )
    refusals = unpaced(30, 5)
    refusals._lag = 0.0
    refusals._cut(25, 3.0, first=True)
    late = observations.sent_rate(refusals._record, 3.0)
    assert late > Pace(0.0).accepted(refusals._record, 3.0)
    assert seen[0] == [(number, late) for number in range(25, 30)]
    rate = refusals.rate
    for outcome in ("refused", "let_in", "open"):
        setattr(met(refusals, 1, at=3.5), outcome, True)
    refusals._cut(30, 3.6)
    assert seen[1] == [*seen[0], (30, rate), (31, rate)]
    refusals = unpaced(30, 0)
    refusals._lag = 0.0
    met(refusals, 1, at=5.5).refused = True
    refusals._cut(30, 6.0, first=True)
    assert seen[2] == [(30, Pace(0.0).accepted(refusals._record, 6.0))]


@pytest.mark.parametrize(
    ("let_in", "until"), [(rates.RECENT_REQUESTS - 1, 3.9), (rates.RECENT_REQUESTS, 3.0)], ids=["fewer", "enough"]
)
def test_a_first_cut_where_little_is_known_yet_trusts_what_was_sent_before_a_refusal(let_in: int, until: float) -> None:
    """It came back, and they did not: a door that has just opened would else be all but closed again."""
    refusals = Refusals(0.0)
    refusals._lag = 1.0
    for at in [*(3.0 - 0.1 * number for number in range(let_in))][::-1]:
        met(refusals, 1, at=at).let_in = True
    for at in (3.8, 3.9):
        met(refusals, 1, at=at).refused = True
    met(refusals, 1, at=3.95).let_in = True
    refusals._cut(let_in, 4.0, first=True)
    accepted = Pace(0.0).accepted(refusals._record, until) / (1 - refusals._chance())
    assert refusals.rate == pytest.approx(accepted * rates.FIRST_CUT)


@pytest.mark.parametrize(("refused_at", "until"), [(2.9, 3.0), (3.5, 3.5)])
def test_a_first_cut_is_measured_at_least_as_far_as_refusals_have_come_back(refused_at: float, until: float) -> None:
    """Whatever was refused last."""
    refusals = Refusals(0.0)
    refusals._lag = 1.0
    for at in (2.0, 2.2, refused_at):
        met(refusals, 1, at=at).let_in = True
    refusals._record[-1].refused, refusals._record[-1].let_in = True, False
    refusals._cut(2, 4.0, first=True)
    accepted = Pace(0.0).accepted(refusals._record, until) / (1 - refusals._chance())
    assert refusals.rate == pytest.approx(accepted * rates.FIRST_CUT)


def test_later_cuts_are_measured_as_far_as_refusals_have_come_back() -> None:
    """However little is known."""
    refusals = paced(10, 2)
    refusals._lag = 0.4
    accepted = Pace(0.0).accepted(refusals._record, 0.6) / (1 - refusals._chance())
    refusals.pace.rate = 1000.0
    refusals._cut(8, 1.0)
    assert refusals.rate == pytest.approx(accepted * rates.CUT)


@pytest.mark.parametrize(("belief", "lifted"), [(1.0, False), (1.01, True)])
def test_cuts_in_vain_are_taken_back(monkeypatch: pytest.MonkeyPatch, belief: float, lifted: bool) -> None:
    """As soon as it is clearly likelier that the rate has nothing to do with it, and enough was sent at a lower one."""
    monkeypatch.setattr(observations, "whatever_rate", lambda _: belief)
    refusals = unpaced(30, 5)
    refusals._cut(25, 3.1, first=True)
    for number in range(rules.TRIED):
        assert refusals.rate < math.inf
        refusals._cut(25, 3.2 + 0.1 * number)
        met(refusals, 1, at=3.2 + 0.1 * number).let_in = True
    refusals._cut(25, 5.0)
    assert (refusals.rate == math.inf, refusals._lifted) == (lifted, lifted)
    assert len(refusals._record) == rules.TRIED + (5 if lifted else 30)


def asked(monkeypatch: pytest.MonkeyPatch, refusals: Refusals, *answers: int | None) -> list[tuple[Any, ...]]:
    """What `since_excess` is asked for when the last request is refused, with these answers."""
    calls: list[tuple[Any, ...]] = []
    left = list(answers)

    def since_excess(record: list[Permit], share: float, enough: float) -> int | None:
        calls.append((record, share, enough))
        return left.pop(0)

    monkeypatch.setattr(rules, "since_excess", since_excess)
    recent = list(refusals._record)
    refusals._keep_pace(recent[-1], recent, 9.0)
    return calls


def test_what_is_refused_by_chance_is_not_held_against_the_rate(monkeypatch: pytest.MonkeyPatch) -> None:
    """Until refusals are clearly more frequent: what had been refused until then may have been chance."""
    refusals = paced(30, 6)
    refusals._past[False] = 3.0, 20.0
    calls = asked(monkeypatch, refusals, 26, None)
    known = list(refusals._record)
    assert calls[0] == (known, refusals._chance(), rules.CONVINCED)
    before = refusals._chance(26)
    assert before != refusals._chance()
    assert calls[1] == (known[26:], before, refusals._convinced(before))
    assert refusals.rate == 8.0
    asked(monkeypatch, refusals, 26, 1)
    assert refusals.rate < 8.0
    assert [permit.limited for permit in known] == [False] * 27 + [True] * 3


@pytest.mark.parametrize(("past", "near"), [((1.0, 10.0), False), ((0.9, 10.0), True)])
def test_at_the_limit_less_is_asked_for(monkeypatch: pytest.MonkeyPatch, past: Counts, near: bool) -> None:
    """Where fewer than one in twenty is refused elsewhere; and the rate grows slowly from there."""
    refusals = paced(30, 6)
    refusals._past[False] = past
    for permit in refusals._record:
        permit.limited = True
    (call,) = asked(monkeypatch, refusals, None)
    assert call[2] == (rules.NEAR_ODDS if near else rules.CONVINCED)
    assert (refusals.pace._calm_since == 9.0) is near
