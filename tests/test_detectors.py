"""What each detector concludes from evidence, rule by rule."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from llmbatch._limits import learned_rate as rates
from llmbatch._limits import random_rejection_detector as random_rejections
from llmbatch._limits.concurrency_detector import ConcurrencyDetector
from llmbatch._limits.detector import (
    RARE,
    SIGNIFICANT,
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
from llmbatch._limits.learned_rate import LearnedRate
from llmbatch._limits.log_odds import sent_rate
from llmbatch._limits.observations import MAX_RECENT, Observations
from llmbatch._limits.outage_detector import OUTAGE_ODDS, RARE_IN_RECOVERY, Cooldown, OutageDetector
from llmbatch._limits.permit import Permit
from llmbatch._limits.quota_window_detector import MIN_RETRY_AFTER_SECONDS, QuotaWindowDetector
from llmbatch._limits.random_rejection_detector import RandomRejectionDetector
from llmbatch._limits.rate_detector import RateDetector

Counts = tuple[float, float]


def record(marks: str, each: float = 0.02, level: int = 4) -> list[Permit]:
    """Return requests that were all decided: `x` got a 429, `.` was accepted, `?` is open."""
    return [
        Permit(
            1.0,
            (number + 0.5) * each,
            number=number,
            in_flight_at_send=level,
            in_flight=mark == "?",
            accepted=mark == ".",
            rate_limited=mark == "x",
        )
        for number, mark in enumerate(marks)
    ]


def observed(marks: str, each: float = 0.02, level: int = 4) -> Observations:
    """Return the observations of such requests."""
    seen = Observations()
    for permit in record(marks, each, level):
        seen.on_sent(permit)
    return seen


def counted(away: Counts, at_limit: Counts = (0.0, 0.0)) -> Observations:
    """Return observations of older requests, as counts of 429s and of all: away from a limit, and at it."""
    seen = Observations()
    seen.faded = {False: away, True: at_limit}
    return seen


def evidence(marks: str, **known: float) -> Evidence:
    """Return evidence about the last of these requests, in which nothing is significant unless said."""
    recent = record(marks)
    run = recent[len(marks.rstrip("x")) :]
    plain = Evidence(
        permit=recent[-1],
        known=recent,
        recent=recent,
        run=run,
        retry_after=0.0,
        is_improbable_run=False,
        share_before_run=0.02,
        run_odds=-math.inf,
        concurrency=0,
        concurrency_odds=-math.inf,
        change=recent,
        change_odds=-math.inf,
        threshold=SIGNIFICANT,
    )
    return replace(plain, **known)  # type: ignore[arg-type]


def test_significant_needs_more_where_429s_are_frequent() -> None:
    """Twice the log odds, from one in twenty on."""
    assert (significant(RARE - 0.001), significant(RARE)) == (SIGNIFICANT, 2 * SIGNIFICANT)


# -- quota windows


@pytest.mark.parametrize(
    ("accepted", "run", "late", "retry_after", "waits"),
    [
        (16, "xx", 0, 3.0, True),
        (15, "x", 0, 3.0, False),
        (23, "xxx", 0, 3.0, False),
        (24, "xxx", 0, 3.0, True),
        (39, "xx", 5, 3.0, False),
        (40, "xx", 5, 3.0, True),
        (40, "xx", 0, MIN_RETRY_AFTER_SECONDS, True),
        (40, "xx", 0, MIN_RETRY_AFTER_SECONDS - 0.01, False),
    ],
)
def test_quota_window_detector_waits_for_next_window(
    accepted: int, run: str, late: int, retry_after: float, waits: bool
) -> None:
    """If windows let many through for each 429, those that came late after the last one's end included."""
    detector = QuotaWindowDetector()
    detector.begin(100)
    for number in range(accepted):
        detector.observe(Permit(1.0, 0.0, number=100 + number, accepted=True), 1.0)
    for number in range(late):
        detector.observe(Permit(1.0, 0.0, number=number, rate_limited=True), 1.0)
    given = evidence(".." + run, retry_after=retry_after, is_improbable_run=True)
    assert detector.decide(given) == (WaitForWindow() if waits else None)
    assert detector.decide(replace(given, is_improbable_run=False)) is None
    detector.begin(200)
    assert detector.decide(given) is None


# -- outages


@pytest.mark.parametrize(
    ("given", "verdict"),
    [
        (evidence("." * 9 + "xxxxx", run_odds=OUTAGE_ODDS + 0.1), OpenCircuit),
        (evidence("." * 9 + "xxxxx", run_odds=OUTAGE_ODDS), type(None)),
        (evidence("." * 9 + "xxxx", run_odds=9.0), type(None)),
        (evidence("." * 9 + "xxxxx", run_odds=9.0, concurrency_odds=0.5, concurrency=4), LimitConcurrency),
        (evidence("." * 9 + "xxxxx", run_odds=9.0, concurrency_odds=-0.5, concurrency=4), OpenCircuit),
    ],
)
def test_outage_detector_run_opens_circuit(given: Evidence, verdict: type) -> None:
    """Five 429s in a row do, unless a concurrency limit is likelier than chance."""
    assert isinstance(OutageDetector(Cooldown(), 0.0).decide(given), verdict)


@pytest.mark.parametrize(("share", "cut"), [(RARE_IN_RECOVERY - 0.01, True), (RARE_IN_RECOVERY, False)])
def test_outage_detector_recovering_first_429_cuts_rate(share: float, cut: bool) -> None:
    """Where fewer than one in ten got a 429 before it."""
    detector = OutageDetector(Cooldown(), 0.0)
    detector.close()
    verdict = detector.decide(evidence("...xx", share_before_run=share))
    assert verdict == (CutRate(3) if cut else None)


# -- concurrency


@pytest.mark.parametrize(
    ("given", "verdict"),
    [
        (evidence(".x" * 5, concurrency_odds=6.0, concurrency=4), LimitConcurrency(4)),
        (evidence(".x" * 4, concurrency_odds=6.0, concurrency=4), Undecided()),
        (evidence(".x" * 9, concurrency_odds=6.0, concurrency=5), Undecided()),
        (evidence(".x" * 9, concurrency_odds=5.0, concurrency=4, change_odds=6.2), None),
        (evidence(".x" * 9, concurrency_odds=5.0, concurrency=4, change_odds=5.9), LimitConcurrency(4)),
        (evidence(".x" * 9, concurrency_odds=3.4, concurrency=4), None),
    ],
)
def test_concurrency_detector_needs_five_429s_at_limit(given: Evidence, verdict: Verdict | None) -> None:
    """And odds that are enough, and about as high as those of a change in time."""
    assert ConcurrencyDetector(Observations()).decide(given) == verdict


def test_concurrency_detector_begin_counts_at_limit_anew() -> None:
    """What was counted away from a limit stays; requests that had as many in flight were at it."""
    seen = counted((1.0, 30.0), (7.0, 50.0))
    for level in (3, 4, 5):
        seen.on_sent(Permit(1.0, 0.0, in_flight_at_send=level))
    ConcurrencyDetector(seen).begin(4, 1.0)
    assert seen.faded == {False: (1.0, 30.0), True: (0.0, 0.0)}
    assert [permit.at_limit for permit in seen.recent] == [False, True, True]


@pytest.mark.parametrize(
    ("limit", "window", "level", "explained", "narrowed"),
    [
        (10, 10, 10, True, 10),
        (10, 11, 10, True, 10),
        (10, 12, 9, True, 9),
        (10, 10, 9, False, 10),
        (10, 11, 8, False, 11),
    ],
)
def test_concurrency_detector_429_about_limit_is_explained(
    limit: int, window: int, level: int, explained: bool, narrowed: int
) -> None:
    """At the limit, or a little below it if the window had grown beyond it."""
    detector = ConcurrencyDetector(counted((0.0, 200.0), (60.0, 60.0)))
    detector.begin(limit, 0.0)
    detector.window = window
    assert detector.observe(Permit(1.0, 0.0, in_flight_at_send=level, rate_limited=True), 1.0) is explained
    assert detector.window == narrowed


def test_concurrency_detector_unlikely_limit_is_forgotten() -> None:
    """When 429s away from it are frequent, too."""
    seen = Observations()
    detector = ConcurrencyDetector(seen)
    detector.begin(10, 0.0)
    seen.faded = {False: (20.0, 60.0), True: (3.0, 4.0)}
    detector.observe(Permit(1.0, 0.0, in_flight_at_send=3, rate_limited=True), 1.0)
    assert detector.limit == 0


# -- random rejections


@pytest.mark.parametrize(
    ("away", "at_limit", "same"),
    [
        ((4.0, 400.0), (1.0, 41.0), True),
        ((4.0, 400.0), (1.0, 59.0), True),
        ((3.0, 400.0), (1.0, 41.0), False),
        ((4.0, 400.0), (1.0, 40.0), False),
        ((4.0, 400.0), (20.0, 41.0), False),
        ((40.0, 400.0), (4.0, 41.0), False),
    ],
)
def test_random_detector_same_share_at_limit_stops_throttling(away: Counts, at_limit: Counts, same: bool) -> None:
    """Once four 429s came away from it and more than forty were sent at it; not where 429s are frequent."""
    rate = LearnedRate(0.0)
    rate.cut(1.0, 30.0, 40, first=True)
    given = evidence("..x")
    given.permit.at_limit = True
    verdict = RandomRejectionDetector(counted(away, at_limit), rate).decide(given)
    assert verdict == (StopThrottling() if same else None)
    given.permit.at_limit = False
    assert RandomRejectionDetector(counted(away, at_limit), rate).decide(given) is None


@pytest.mark.parametrize(("since", "faded"), [(0, (6.0, 100.0)), (1, (0.0, 0.0))])
def test_random_detector_stop_throttling_forgets_limit(since: int, faded: Counts) -> None:
    """429s at the limit were random: with the share of all, or of what was sent since it has risen."""
    seen, rate = observed("...", level=0), LearnedRate(0.0)
    seen.faded = {False: (1.0, 30.0), True: (5.0, 70.0)}
    seen.recent[1].at_limit = True
    rate.cut(1.0, 30.0, 40, first=True)
    RandomRejectionDetector(seen, rate).stop_throttling(since)
    assert seen.faded == {False: faded, True: (0.0, 0.0)}
    assert [permit.number for permit in seen.recent] == list(range(since, 3))
    assert not any(permit.at_limit for permit in seen.recent)
    assert not rate.throttles


def test_random_detector_cuts_are_ineffective_at_same_share() -> None:
    """As soon as enough was sent at the lower rate."""
    detector = RandomRejectionDetector(Observations(), LearnedRate(0.0))
    same = record("..x." * 12)
    fewer = record("xx.x" * 6 + "." * 24)
    for permits in (same, fewer):
        for permit in permits:
            permit.rate = 60.0 if permit.number < 24 else 20.0
    enough = random_rejections.MIN_SENT_SINCE_CUT
    assert detector.cuts_are_ineffective(same, enough)
    assert not detector.cuts_are_ineffective(same, enough - 1)
    assert not detector.cuts_are_ineffective(fewer, enough)


# -- rates


def throttled(seen: Observations, rate: float = 8.0) -> tuple[LearnedRate, RandomRejectionDetector, RateDetector]:
    """Return a learned rate that was cut at second 0, and its detectors."""
    learned = LearnedRate(0.0)
    learned.cut(0.0, rate / rates.FIRST_CUT, 40, first=True)
    random = RandomRejectionDetector(seen, learned)
    return learned, random, RateDetector(seen, learned, random)


@pytest.mark.parametrize(
    ("given", "verdict"),
    [
        (evidence("..xxx", change_odds=SIGNIFICANT + 0.1), CutRate(0, first=True)),
        (evidence("..xx", change_odds=9.0), None),
        (evidence("..xxx", change_odds=SIGNIFICANT), None),
    ],
)
def test_rate_detector_unthrottled_change_in_time_cuts(given: Evidence, verdict: Verdict | None) -> None:
    """Three 429s since it, and odds that are enough."""
    seen, rate = Observations(), LearnedRate(0.0)
    assert RateDetector(seen, rate, RandomRejectionDetector(seen, rate)).decide(given) == verdict


@pytest.mark.parametrize(
    ("marks", "at_limit", "share", "verdict"),
    [
        ("." * 20 + "x", True, (3.0, 100.0), SlowGrowth()),
        ("." * 20 + "xx", True, (3.0, 100.0), CutRate(20)),
        ("." * 20 + "x", False, (3.0, 100.0), None),
        ("." * 20 + "xx", False, (12.0, 300.0), None),
        ("." * 20 + "xxxxx", False, (12.0, 300.0), CutRate(20)),
        ("." * 20 + "xxxxx", True, (80.0, 400.0), None),
    ],
)
def test_rate_detector_throttled_needs_more_than_chance(
    marks: str, at_limit: bool, share: Counts, verdict: Verdict | None
) -> None:
    """Less is needed at the last limit, more where 429s are frequent anyway."""
    given = evidence(marks)
    given.permit.at_limit = at_limit
    _, _, detector = throttled(counted(share))
    assert detector.decide(given) == verdict


def test_rate_detector_cut_is_below_accepted_rate() -> None:
    """As far as 429s can have come back; what is rate-limited at random is made up for."""
    seen = observed("." * 28 + "x" * 12, each=0.1)
    rate, random, detector = throttled(seen)
    seen.delay, share = 1.0, random.share()
    accepted, _, _ = detector.measure(30, 4.0)
    assert accepted == LearnedRate(0.0).accepted_rate(seen.recent, 3.0)
    rate.value = 1000.0
    detector.cut(CutRate(30), accepted, 4.0)
    assert rate.value == pytest.approx(accepted / (1 - share) * rates.CUT)
    assert [permit.at_limit for permit in seen.recent] == [number >= 30 for number in range(40)]


@pytest.mark.parametrize(
    ("count", "blind"), [(rates.MIN_OBSERVED_REQUESTS, False), (rates.MIN_OBSERVED_REQUESTS - 1, True)]
)
def test_rate_detector_cut_with_few_requests_is_blind(count: int, blind: bool) -> None:
    """Those since the last decision count, the first of them too."""
    rate, _, detector = throttled(observed("." * (count - 1) + "x", each=0.1))
    detector.cut(CutRate(0), 6.0, 5.0)
    assert (rate.value == pytest.approx(8.0 * rates.BLIND_CUT)) is blind


def test_rate_detector_measure_names_rate_of_each_request() -> None:
    """Requests before the first cut were sent at the rate of late; those before 429s rose do not count."""
    seen, rate = observed("." * 25 + "xxxxx", each=0.1), LearnedRate(0.0)
    seen.delay = 0.0
    detector = RateDetector(seen, rate, RandomRejectionDetector(seen, rate))
    accepted, since, after = detector.measure(25, 3.0)
    late = sent_rate(seen.recent, 3.0)
    assert late > accepted
    assert ([(p.number, p.rate) for p in since], after) == ([(number, late) for number in range(25, 30)], 0)
    detector.cut(CutRate(25, first=True), accepted, 3.0)
    for mark in ".x?":
        (permit,) = record(mark)
        permit.sent_at, permit.rate = 3.5, rate.value
        seen.on_sent(permit)
    _, since, after = detector.measure(30, 3.6)
    assert [(p.number, p.rate) for p in since][5:] == [(30, rate.value), (31, rate.value)]
    assert after == 2


@pytest.mark.parametrize(("accepted", "until"), [(rates.RECENT_REQUESTS - 1, 3.9), (rates.RECENT_REQUESTS, 3.0)])
def test_rate_detector_first_cut_after_outage_looks_to_last_429(accepted: int, until: float) -> None:
    """Little is known yet, and what was sent before a 429 that has come back got none."""
    seen, rate = Observations(), LearnedRate(0.0)
    seen.delay = 1.0
    moments = [3.0 - 0.1 * number for number in range(accepted)][::-1]
    for at, mark in [*((at, ".") for at in moments), (3.8, "x"), (3.9, "x"), (3.95, ".")]:
        (permit,) = record(mark)
        permit.sent_at = at
        seen.on_sent(permit)
    found, _, _ = RateDetector(seen, rate, RandomRejectionDetector(seen, rate)).measure(accepted, 4.0)
    assert found == LearnedRate(0.0).accepted_rate(seen.recent, until)


def test_rate_detector_later_cut_is_measured_up_to_delay() -> None:
    """However little is known."""
    seen = observed("." * 8 + "xx", each=0.1)
    _, _, detector = throttled(seen)
    seen.delay = 0.4
    accepted, _, _ = detector.measure(8, 1.0)
    assert accepted == LearnedRate(0.0).accepted_rate(seen.recent, 0.6)


# -- observations


def test_observations_older_requests_fade() -> None:
    """The last ones are remembered one by one."""
    seen = observed("." * 400)
    assert [permit.number for permit in seen.recent] == list(range(400 - MAX_RECENT, 400))
    assert seen.faded == {True: (0.0, 0.0), False: (0.0, pytest.approx(MAX_RECENT))}


@pytest.mark.parametrize(
    ("at_limit", "faded"),
    [(False, {False: (5.0, 100.0), True: (6.0, 70.0)}), (True, {False: (4.0, 100.0), True: (7.0, 70.0)})],
)
def test_observations_late_429_counts_where_its_request_counted(at_limit: bool, faded: dict[bool, Counts]) -> None:
    """Also when the request is no longer remembered by itself; never more than were sent."""
    seen = counted((4.0, 100.0), (6.0, 70.0))
    for permit in record("." * 3):
        seen.on_sent(permit)
    late = Permit(1.0, 0.0, number=-1, at_limit=at_limit)
    seen.on_rate_limit(late, 9.0)
    assert seen.faded == faded
    seen.faded = {False: (0.0, 0.0), True: (0.0, 0.0)}
    seen.on_rate_limit(late, 9.0)
    assert seen.faded == {False: (0.0, 0.0), True: (0.0, 0.0)}
    seen.on_rate_limit(seen.recent[0], 9.0)
    assert seen.faded == {False: (0.0, 0.0), True: (0.0, 0.0)}
