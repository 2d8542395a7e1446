"""What is learnt from refusals, rule by rule, on records and times that are made up."""

from __future__ import annotations

import math

import pytest

from llmbatch._request import pace as rules
from llmbatch._request.evidence import Permit
from llmbatch._request.pace import Pace


def sent(times: range, each: float, refused: range = range(0)) -> list[Permit]:
    """Requests in the middle of each of these moments; those in `refused` were refused."""
    return [Permit(1.0, (at + 0.5) * each, refused=at in refused) for at in times]


def test_the_accepted_rate_is_that_of_late() -> None:
    """Of the last four seconds, of those not refused, and of those whose refusal could have come back."""
    assert Pace(0.0).accepted(sent(range(80), 0.1), 8.0) == pytest.approx(10)
    assert Pace(0.0).accepted(sent(range(80), 0.1, range(0, 80, 2)), 8.0) == pytest.approx(5)
    assert Pace(0.0).accepted(sent(range(80), 0.1, range(40)), 8.0) == pytest.approx(10)
    assert Pace(0.0).accepted(sent(range(80), 0.1, range(60, 80)), 6.0) == pytest.approx(10)


def test_the_accepted_rate_of_few_requests() -> None:
    """Of the last sixteen where they are far between, from the first one on, and a guess where there is none."""
    assert Pace(0.0).accepted(sent(range(40), 2.0), 80.0) == pytest.approx(16 / 31)
    assert Pace(0.0).accepted(sent(range(70, 80), 0.1), 8.0) == pytest.approx(10 / 0.95)
    assert Pace(0.0).accepted(sent(range(70, 80), 0.1, range(80)), 8.0) == pytest.approx(0.5 / 0.95)
    assert Pace(0.0).accepted([], 8.0) == pytest.approx(0.5 / 0.25)


def test_what_was_accepted_before_the_last_cut_does_not_count() -> None:
    """Nor what was before the moment from which on it is measured."""
    record = sent(range(80), 0.1, range(60))
    assert Pace(0.0).accepted(record, 8.0) == pytest.approx(5)
    pace = Pace(0.0)
    pace.cut(6.0, 5.0, 40, first=True)
    assert pace.accepted(record, 8.0) == pytest.approx(10)
    pace = Pace(0.0)
    pace.measure_since(6.0)
    assert pace.accepted(record, 8.0) == pytest.approx(10)


def test_a_cut_is_below_what_was_accepted() -> None:
    """Far below the first time; never above the last rate; a share of it where little has been shown since."""
    pace = Pace(0.0)
    pace.cut(10.0, 30.0, 40, first=True)
    assert (pace.rate, pace.limit, pace.near) == (pytest.approx(30 * rules.FIRST_CUT), 30.0, False)
    pace.cut(20.0, 9.0, rules.SHOWN_REQUESTS, first=False)
    assert (pace.rate, pace.limit, pace.near) == (pytest.approx(9 * rules.CUT), 9.0, False)
    pace.cut(20.2, 1.0, 40, first=False)
    assert pace.rate == pace.limit == pytest.approx(9 * rules.CUT * rules.BLIND_CUT), "a moment after the last cut"
    assert pace.near
    pace.cut(30.0, 1.0, 3, first=False)
    assert pace.rate == pytest.approx(9 * rules.CUT * rules.BLIND_CUT**2), "after three requests"
    pace.cut(40.0, 100.0, 40, first=False)
    assert (pace.rate, pace.limit) == (pytest.approx(9 * rules.CUT * rules.BLIND_CUT**2), 100.0)
    pace.lift()
    assert (pace.rate, pace.limit, pace.near) == (math.inf, math.inf, False)


def test_cuts_that_had_another_reason_are_taken_back() -> None:
    """All that were made at once, where what was refused had been sent before the last of them."""
    pace = Pace(0.0)
    pace.undo(0.0)
    assert pace.rate == math.inf
    pace.cut(10.0, 30.0, 40, first=True)
    pace.cut(20.0, 9.0, 40, first=False)
    pace.cut(20.2, 9.0, 40, first=False)
    cut = pace.rate
    pace.undo(25.0)
    assert pace.rate == cut
    pace.undo(20.1)
    assert (pace.rate, pace.limit) == (pytest.approx(30 * rules.FIRST_CUT), 30.0)


def grown(pace: Pace, now: float, lag: float = 0.0) -> float:
    """The share by which a rate grows until now."""
    before = pace.rate
    pace.grow(now, lag, wanted=True)
    return pace.rate / before - 1


def paced(accepted: float, *, first: bool = False) -> Pace:
    """Cut at second 100."""
    pace = Pace(0.0)
    pace.cut(50.0 if not first else 100.0, accepted / rules.FIRST_CUT, 40, first=True)
    if not first:
        pace.cut(100.0, accepted / rules.CUT, 40, first=False)
    return pace


def test_growth_is_slow_after_a_cut_and_ever_faster() -> None:
    """With the square of the seconds; sooner after a first cut; a second's at most, however long ago the last was."""
    assert grown(paced(100.0), 100.1) == pytest.approx(rules.GROWTH * 0.1**2 * 0.1)
    assert grown(paced(100.0), 101.0) == pytest.approx(rules.GROWTH)
    assert grown(paced(100.0, first=True), 101.0) == pytest.approx(rules.GROWTH * (rules.HEAD_START_SECONDS + 1) ** 2)
    assert grown(paced(100.0), 105.0) == pytest.approx(rules.GROWTH * 25)
    assert grown(paced(100.0), 200.0) == pytest.approx(rules.MOST_GROWTH)
    assert grown(paced(10.0), 200.0) == pytest.approx(rules.GROWTH_PER_REQUEST * 10)


def test_what_slows_growth_down() -> None:
    """Refusals that are long on their way, a refusal at the limit, and nobody who waits for it."""
    assert grown(paced(100.0), 105.0, lag=10 * rules.PROMPT_SECONDS) == pytest.approx(rules.GROWTH * 25 / 10)
    pace = paced(100.0)
    pace.hesitate(104.0)
    assert grown(pace, 105.0) == pytest.approx(rules.GROWTH)
    pace = paced(100.0)
    pace.grow(105.0, 0.0, wanted=False)
    assert pace.rate == pytest.approx(100.0)


def test_a_rate_that_has_grown_is_near_its_limit() -> None:
    """From nineteen twentieths on."""
    pace = paced(100.0)
    seen = []
    for second in range(101, 140):
        seen.append((pace.rate / pace.limit >= rules.AT_LIMIT, pace.near))
        pace.grow(float(second), 0.0, wanted=True)
    assert set(seen) == {(False, False), (True, True)}
