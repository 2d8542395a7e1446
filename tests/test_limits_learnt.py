"""What is learnt from refusals, rule by rule, on records and times that are made up."""

from __future__ import annotations

import asyncio
import math
import random

import pytest

from llmbatch._limits import learned_rate as rules
from llmbatch._limits import observations
from llmbatch._limits.learned_rate import Pace
from llmbatch._limits.limiter import MOST_TOKENS, Limiter
from llmbatch._limits.observations import Permit
from llmbatch._limits.throttling import FIRST_WINDOW, Refusals
from tests.benchmarks.limiter_lab import VirtualLoop


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


def test_what_is_known_since_the_last_cut() -> None:
    """Only what was let in counts, from that moment on, and as far as refusals could have come back."""
    pace = Pace(0.0)
    pace.measure_since(2.5)
    record = sent(range(6), 1.0, range(3, 4))
    assert [pace.known(record, until) for until in (2.4, 2.5, 4.4, 4.5, 9.0)] == [0, 1, 1, 2, 3]


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


def share(refused: int, sent: int, a: int, b: int) -> float:
    """Log of how likely an outcome is when its share is drawn from Beta(a, b), added up over ten thousand shares."""
    shares = [(i + 0.5) / 10_000 for i in range(10_000)]
    prior = [p ** (a - 1) * (1 - p) ** (b - 1) for p in shares]
    seen = sum(w * p**refused * (1 - p) ** (sent - refused) for w, p in zip(prior, shares, strict=True))
    return math.log(seen / sum(prior))


@pytest.mark.parametrize(
    ("away", "limited"), [((2, 10), (5, 8)), ((0, 30), (3, 3)), ((0, 0), (0, 1)), ((4, 9), (0, 7))]
)
def test_odds_are_what_counting_says(away: tuple[int, int], limited: tuple[int, int]) -> None:
    """Two shares against one, each mostly small; the share above a limit is large."""
    one = share(away[0] + limited[0], away[1] + limited[1], 1, 4)
    two = share(*away, 1, 4) + share(*limited, 1, 4)
    assert observations.odds(away, limited) == pytest.approx(two - one, abs=1e-4)
    for most in (2, 8):
        large = share(*away, 1, 4) + share(*limited, most, 1)
        assert observations.over(away, limited, most) == pytest.approx(large - one, abs=1e-4)
    assert observations.over(away, limited) == observations.over(away, limited, 2)


def outcomes(text: str, crowds: str = "") -> list[Permit]:
    """A record: `x` was refused, `.` let in, `?` is undecided; `crowds` has the crowd that each met."""
    crowds = crowds or "0" * len(text)
    return [
        Permit(1.0, float(at), crowd=int(crowd), refused=mark == "x", let_in=mark == ".")
        for at, (mark, crowd) in enumerate(zip(text, crowds, strict=True))
    ]


def test_the_moment_from_which_on_refusals_are_frequent() -> None:
    """The most likely one, and its odds against chance, less what the choice of it costs."""
    found, place = observations.by_time(outcomes("...x............x.xxxx"))
    assert place == 16
    assert found == pytest.approx(observations.over((1, 16), (5, 6)) - math.log(22))
    assert observations.by_time(outcomes("x")) == (observations.over((0, 0), (1, 1)), 0)
    assert observations.by_time(outcomes("....")) == (-math.inf, 0)
    assert observations.by_time([]) == (-math.inf, 0)


def test_the_rate_of_late() -> None:
    """Of the last second, or of a tenth of it where nothing was sent before."""
    assert observations.sent_rate(sent(range(80), 0.1), 8.0) == pytest.approx(10 / 0.95)
    assert observations.sent_rate(sent(range(80), 0.1), 7.95) == pytest.approx(10 / 0.9)
    assert observations.sent_rate(sent(range(3), 0.01), 0.03) == pytest.approx(3 / 0.1)
    assert observations.sent_rate([Permit(1.0, 2.0)], 3.0) == observations.sent_rate([], 3.0) == 0.0


def at_rates(*given: tuple[str, float]) -> list[Permit]:
    """Requests that were sent at these rates, `x` for those that were refused."""
    return [Permit(1.0, 0.0, rate=rate, refused=mark == "x") for marks, rate in given for mark in marks]


@pytest.mark.parametrize(
    ("record", "chance"),
    [
        (at_rates(("..x.x..x", 60.0), ("x..x....", 20.0), (".x....x.", 10.0)), True),
        (at_rates(("xx.xx..x", 60.0), ("." * 20, 20.0), ("." * 9 + "x", 22.0)), False),
        (at_rates(("xx.xx..x", 60.0), ("." * 40, 20.0), ("xx", 20.0), ("x.", 15.0), ("x.....", 10.0)), False),
        (at_rates(("xxxxxx", 60.0), ("xxxxx.", 20.0)), False),
        (at_rates(("x", 60.0)), False),
    ],
    ids=["the same share everywhere", "a limit", "a limit that fell", "hardly anything is let in", "one"],
)
def test_refusals_that_are_the_same_at_all_rates_have_nothing_to_do_with_them(
    record: list[Permit], chance: bool
) -> None:
    """Unless a limit, or one that fell once, explains them as well."""
    assert (observations.whatever_rate(record) > 1.0) is chance


def limited(record: list[Permit]) -> float:
    """The log probability under the best limit, request by request; a limit is the less likely the lower it is."""
    if not record:
        return -math.inf
    rates = [permit.rate for permit in record]
    limits = [max(rates) / observations.STEP**i for i in range(200)]
    found = []
    for limit in (one for one in limits if one > observations.LOWEST * min(rates)):
        shares = [sorted((observations.SLIP, 1 - limit / rate, 1 - observations.SLIP))[1] for rate in rates]
        each = [math.log(s if p.refused else 1 - s) for p, s in zip(record, shares, strict=True)]
        found.append(sum(each) - math.log(max(rates) / limit))
    return max(found)


def test_the_limit_is_sought_whatever_the_record() -> None:
    """Among all of them; it may have fallen after the longest time without refusals, the first of these."""
    rng = random.Random(5)  # noqa: S311 - reproducible, not secret
    for _ in range(200):
        rates = sorted(rng.choices([2.0, 5.0, 13.0, 40.0], k=rng.randrange(1, 40)), reverse=True)
        record = [Permit(1.0, 0.0, rate=rate, refused=rng.random() < rng.choice([0.1, 0.6])) for rate in rates]
        refused = [at for at, permit in enumerate(record) if permit.refused]
        calm = [at - before for before, at in zip([-1, *refused], refused, strict=False)]
        fell = refused[calm.index(max(calm))] if refused else 0
        fallen = limited(record[:fell]) + limited(record[fell:]) - math.log(len(record))
        chance = share(len(refused), len(record), 1, 4)
        assert observations.whatever_rate(record) == pytest.approx(chance - max(limited(record), fallen), abs=1e-3)


def test_a_run_of_refusals_against_what_was_before() -> None:
    """So many at the end."""
    assert observations.by_run(outcomes(".x...xxx"), 3) == pytest.approx(
        observations.over((1, 5), (3, 3)) - math.log(8)
    )
    assert observations.by_run(outcomes("x"), 1) == observations.over((0, 0), (1, 1))


def test_the_crowd_from_which_on_hardly_anything_is_let_in() -> None:
    """Where four of five are refused; what is undecided there says nothing."""
    found, crowd = observations.by_crowd(outcomes("..........xxxx?x", "0123401234567675"))
    assert crowd == 5
    assert found == pytest.approx(observations.over((0, 10), (5, 5), observations.HARDLY_ANYTHING) - math.log(8))
    assert observations.by_crowd([]) == (-math.inf, 0)


def test_the_crowd_is_found_whatever_the_record() -> None:
    """As by trying each crowd that was met, from the smallest on."""
    rng = random.Random(3)  # noqa: S311 - reproducible, not secret
    for _ in range(300):
        limit, count = rng.randrange(1, 9), rng.randrange(1, 40)
        crowds = [rng.randrange(9) for _ in range(count)]
        marks = "".join(rng.choice("xxxx.?" if crowd >= limit else "....x?") for crowd in crowds)
        record = outcomes(marks, "".join(map(str, crowds)))
        best, found = -math.inf, 0
        for crowd in sorted(set(crowds))[1:]:
            below = [p for p in record if p.crowd < crowd]
            above = [p for p in record if p.crowd >= crowd and (p.refused or p.let_in)]
            refused = sum(p.refused for p in above)
            if refused >= 0.8 * len(above):
                counts = (sum(p.refused for p in below), len(below)), (refused, len(above))
                given = observations.over(*counts, observations.HARDLY_ANYTHING)
                if given > best - 0.5:
                    best, found = max(best, given), crowd
        assert observations.by_crowd(record) == (pytest.approx(best - math.log(len(set(crowds)))), found)


def test_the_place_from_which_on_refusals_exceed_a_share() -> None:
    """Each refusal counts for it and each request let in against it; what was made up for is forgotten."""
    usual, more = 0.05, 0.05 + 0.95 * 0.15
    up, down = math.log(more / usual), math.log((1 - more) / (1 - usual))
    record = outcomes("x" + "." * 40 + "xx.x")
    score = 3 * up + down
    assert observations.since_excess(record, usual, score - 1e-6) == 41
    assert observations.since_excess(record, usual, score + 1e-6) is None
    assert observations.since_excess(outcomes("xx"), usual, 2 * up - 1e-6) == 0
    assert observations.since_excess(outcomes("xx"), usual, 2 * up + 1e-6) is None
    assert observations.since_excess([], usual, 1.0) is None


class Told:
    """Refusals that are told of requests, one after the other unless they are in flight already."""

    def __init__(self) -> None:
        self.refusals = Refusals(0.0)
        self.now = 0.0
        self.in_flight: list[Permit] = []

    def send(self) -> Permit:
        """One more in flight."""
        permit = Permit(1.0, self.now)
        self.refusals.sent(permit, len(self.in_flight))
        self.in_flight.append(permit)
        return permit

    def back(self, permit: Permit, mark: str) -> None:
        """Its answer, or its refusal."""
        self.in_flight.remove(permit)
        permit.open = False
        if mark == "x":
            self.refusals.refused(permit, self.now, 0.0)
        self.refusals.settle(self.now, wanted=True)

    def go(self, marks: str, each: float) -> None:
        """Requests that take so long, one at a time."""
        for mark in marks:
            permit = self.send()
            self.now += each
            self.back(permit, mark)

    @property
    def found(self) -> str:
        """What refusals depend on."""
        return self.refusals.finding[0]


def test_cuts_for_what_was_a_closed_door_are_taken_back() -> None:
    """The rate is what it was before the run of refusals that closed it."""
    told = Told()
    told.go("." * 100, 0.02)
    for _ in range(20):
        if told.found != "rate":
            told.go(".x", 0.02)
    told.go("." * 40, 0.1)
    assert told.found == "rate"
    before = told.refusals.rate
    told.go("xxxx", 0.1)
    assert (told.found, told.refusals.rate < 0.6 * before) == ("rate", True)
    told.go("x", 0.1)
    assert told.found == "door"
    assert told.refusals.rate == pytest.approx(before, rel=0.01)


def test_what_was_refused_has_made_no_crowd() -> None:
    """Those sent after it met one less, which is known once its refusal has come."""
    told = Told()
    sent = [told.send() for _ in range(4)]
    assert [permit.crowd for permit in sent] == [0, 1, 2, 3]
    told.back(sent[1], "x")
    assert [permit.crowd for permit in sent] == [0, 1, 1, 2]


def test_a_rate_that_falls_lets_nobody_go_first() -> None:
    """The next request is as far from the cut as those after it from each other."""
    loop = VirtualLoop()
    limiter = Limiter(clock=loop.time)

    async def work() -> list[float]:
        limiter.answered(await limiter.admit(0, 1.0), {}, 1.0)
        limiter.refusals.pace.cut(loop.time(), 10 / rules.FIRST_CUT, 40, first=True)
        began, after = loop.time(), []
        for row in range(3):
            limiter.answered(await limiter.admit(row, 1.0), {}, 1.0)
            after.append(loop.time() - began)
        return after

    try:
        assert loop.run_until_complete(work()) == pytest.approx([0.1, 0.2, 0.3], rel=0.05)
    finally:
        loop.close()


def test_the_window_grows_by_one_for_each_request_let_in() -> None:
    """From eight; what is in flight unanswered for long counts as let in."""
    told = Told()
    first = [told.send() for _ in range(FIRST_WINDOW)]
    assert told.refusals.wait(told.now, FIRST_WINDOW) == pytest.approx(0.09)
    for permit in first[:3]:
        told.back(permit, ".")
    assert told.refusals.window == FIRST_WINDOW
    told.now += 0.091
    told.refusals.settle(told.now, wanted=True)
    assert told.refusals.window == FIRST_WINDOW + 5
    assert told.refusals.wait(told.now, FIRST_WINDOW) == 0


@pytest.mark.parametrize(("tokens", "believed"), [(MOST_TOKENS - 1, True), (MOST_TOKENS, False)])
def test_tokens_that_no_answer_has_are_not_believed(tokens: int, believed: bool) -> None:
    """Neither for what the next answers may use, nor as a debt that others would wait for."""

    async def debt() -> tuple[float, float]:
        limiter = Limiter()
        with limiter.told(None, 60.0):
            permit = await limiter.admit(0, 1.0)
            before = limiter.account.tokens.level
            limiter.answered(permit, {}, tokens)
            limiter.used(tokens)
            return limiter.estimate(0.0, 5.0), before - limiter.account.tokens.level

    estimate, owed = asyncio.run(debt())
    assert estimate == (tokens if believed else 5.0)
    assert owed == pytest.approx(tokens - 1.0 if believed else 0.0, abs=1.0)
