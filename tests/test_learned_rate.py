"""The rate limit that is learnt from 429s: how it is cut, and how it grows again."""

from __future__ import annotations

import math

import pytest

from llmbatch._limits import learned_rate as rules
from llmbatch._limits.learned_rate import LearnedRate
from llmbatch._limits.permit import Permit


def sent(times: range, each: float, limited: range = range(0)) -> list[Permit]:
    """Return requests in the middle of each of these moments; those in `limited` got a 429."""
    return [Permit(1.0, (at + 0.5) * each, rate_limited=at in limited) for at in times]


def test_accepted_rate_is_that_of_last_seconds() -> None:
    """Of the last four seconds, without 429s, up to the moment for which 429s have come back."""
    assert LearnedRate(0.0).accepted_rate(sent(range(80), 0.1), 8.0) == pytest.approx(10)
    assert LearnedRate(0.0).accepted_rate(sent(range(80), 0.1, range(0, 80, 2)), 8.0) == pytest.approx(5)
    assert LearnedRate(0.0).accepted_rate(sent(range(80), 0.1, range(40)), 8.0) == pytest.approx(10)
    assert LearnedRate(0.0).accepted_rate(sent(range(80), 0.1, range(60, 80)), 6.0) == pytest.approx(10)


def test_accepted_rate_few_requests_looks_further_back() -> None:
    """Over the last sixteen if they are far apart, from the first one on; without any it is a guess."""
    assert LearnedRate(0.0).accepted_rate(sent(range(40), 2.0), 80.0) == pytest.approx(16 / 31)
    assert LearnedRate(0.0).accepted_rate(sent(range(70, 80), 0.1), 8.0) == pytest.approx(10 / 0.95)
    assert LearnedRate(0.0).accepted_rate(sent(range(70, 80), 0.1, range(80)), 8.0) == pytest.approx(0.5 / 0.95)
    assert LearnedRate(0.0).accepted_rate([], 8.0) == pytest.approx(0.5 / 0.25)


def test_accepted_rate_ignores_requests_before_last_cut() -> None:
    """And those before `measure_since`."""
    record = sent(range(80), 0.1, range(60))
    assert LearnedRate(0.0).accepted_rate(record, 8.0) == pytest.approx(5)
    rate = LearnedRate(0.0)
    rate.cut(6.0, 5.0, 40, first=True)
    assert rate.accepted_rate(record, 8.0) == pytest.approx(10)
    rate = LearnedRate(0.0)
    rate.measure_since(6.0)
    assert rate.accepted_rate(record, 8.0) == pytest.approx(10)


def test_accepted_since_cut_counts_without_429s() -> None:
    """From the cut on, up to the moment for which 429s have come back."""
    rate = LearnedRate(0.0)
    rate.measure_since(2.5)
    record = sent(range(6), 1.0, range(3, 4))
    assert [rate.accepted_since_cut(record, until) for until in (2.4, 2.5, 4.4, 4.5, 9.0)] == [0, 1, 1, 2, 3]


def test_cut_is_below_accepted_rate() -> None:
    """Far below it the first time; never above the last rate; a share of the last rate if little is known since."""
    rate = LearnedRate(0.0)
    rate.cut(10.0, 30.0, 40, first=True)
    assert (rate.value, rate.last_limit, rate.is_near_limit) == (pytest.approx(30 * rules.FIRST_CUT), 30.0, False)
    rate.cut(20.0, 9.0, rules.MIN_OBSERVED_REQUESTS, first=False)
    assert (rate.value, rate.last_limit, rate.is_near_limit) == (pytest.approx(9 * rules.CUT), 9.0, False)
    rate.cut(20.2, 1.0, 40, first=False)
    assert rate.value == rate.last_limit == pytest.approx(9 * rules.CUT * rules.BLIND_CUT), (
        "a moment after the last cut"
    )
    assert rate.is_near_limit
    rate.cut(30.0, 1.0, 3, first=False)
    assert rate.value == pytest.approx(9 * rules.CUT * rules.BLIND_CUT**2), "after three requests"
    rate.cut(40.0, 100.0, 40, first=False)
    assert (rate.value, rate.last_limit) == (pytest.approx(9 * rules.CUT * rules.BLIND_CUT**2), 100.0)
    rate.remove()
    assert (rate.value, rate.last_limit, rate.is_near_limit) == (math.inf, math.inf, False)


def test_undo_cuts_restores_rate_before_them() -> None:
    """All cuts of one moment, for a request that was sent before the last of them."""
    rate = LearnedRate(0.0)
    rate.undo_cuts(0.0)
    assert rate.value == math.inf
    rate.cut(10.0, 30.0, 40, first=True)
    rate.cut(20.0, 9.0, 40, first=False)
    rate.cut(20.2, 9.0, 40, first=False)
    cut = rate.value
    rate.undo_cuts(25.0)
    assert rate.value == cut
    rate.undo_cuts(20.1)
    assert (rate.value, rate.last_limit) == (pytest.approx(30 * rules.FIRST_CUT), 30.0)


def grown(rate: LearnedRate, now: float, lag: float = 0.0) -> float:
    """Return the share by which a rate grows until now."""
    before = rate.value
    rate.grow(now, lag, wanted=True)
    return rate.value / before - 1


def cut_rate(accepted: float, *, first: bool = False) -> LearnedRate:
    """Return a rate that was cut at second 100."""
    rate = LearnedRate(0.0)
    rate.cut(50.0 if not first else 100.0, accepted / rules.FIRST_CUT, 40, first=True)
    if not first:
        rate.cut(100.0, accepted / rules.CUT, 40, first=False)
    return rate


def test_grow_after_cut_accelerates() -> None:
    """Growth rises with the square of the seconds, earlier after a first cut, and is capped."""
    assert grown(cut_rate(100.0), 100.1) == pytest.approx(rules.GROWTH * 0.1**2 * 0.1)
    assert grown(cut_rate(100.0), 101.0) == pytest.approx(rules.GROWTH)
    assert grown(cut_rate(100.0, first=True), 101.0) == pytest.approx(
        rules.GROWTH * (rules.HEAD_START_SECONDS + 1) ** 2
    )
    assert grown(cut_rate(100.0), 105.0) == pytest.approx(rules.GROWTH * 25)
    assert grown(cut_rate(100.0), 200.0) == pytest.approx(rules.MAX_GROWTH)
    assert grown(cut_rate(10.0), 200.0) == pytest.approx(rules.MAX_GROWTH_PER_REQUEST * 10)


def test_grow_slows_down_near_limit() -> None:
    """For 429s that come late, after a 429 at the limit, and while no request waits."""
    assert grown(cut_rate(100.0), 105.0, lag=10 * rules.PROMPT_SECONDS) == pytest.approx(rules.GROWTH * 25 / 10)
    rate = cut_rate(100.0)
    rate.slow_growth(104.0)
    assert grown(rate, 105.0) == pytest.approx(rules.GROWTH)
    rate = cut_rate(100.0)
    rate.grow(105.0, 0.0, wanted=False)
    assert rate.value == pytest.approx(100.0)


def test_is_near_limit_from_nineteen_twentieths() -> None:
    """A rate that has grown back."""
    rate = cut_rate(100.0)
    seen = []
    for second in range(101, 140):
        seen.append((rate.value / rate.last_limit >= rules.NEAR_LIMIT, rate.is_near_limit))
        rate.grow(float(second), 0.0, wanted=True)
    assert set(seen) == {(False, False), (True, True)}
