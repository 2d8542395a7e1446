"""The statistics of 429s, compared with what counting by hand gives."""

from __future__ import annotations

import math
import random

import pytest

from llmbatch._limits import log_odds
from llmbatch._limits.permit import Permit


def sent(times: range, each: float) -> list[Permit]:
    """Return requests in the middle of each of these moments."""
    return [Permit(1.0, (at + 0.5) * each) for at in times]


def share(limited: int, sent: int, a: int, b: int) -> float:
    """Return the log probability of an outcome whose share is drawn from Beta(a, b), summed over 10,000 shares."""
    shares = [(i + 0.5) / 10_000 for i in range(10_000)]
    prior = [p ** (a - 1) * (1 - p) ** (b - 1) for p in shares]
    seen = sum(w * p**limited * (1 - p) ** (sent - limited) for w, p in zip(prior, shares, strict=True))
    return math.log(seen / sum(prior))


@pytest.mark.parametrize(
    ("away", "limited"), [((2, 10), (5, 8)), ((0, 30), (3, 3)), ((0, 0), (0, 1)), ((4, 9), (0, 7))]
)
def test_shares_differ_is_beta_binomial_odds(away: tuple[int, int], limited: tuple[int, int]) -> None:
    """Two shares are compared with one, each mostly small; `share_is_large` expects the second to be large."""
    one = share(away[0] + limited[0], away[1] + limited[1], 1, 4)
    two = share(*away, 1, 4) + share(*limited, 1, 4)
    assert log_odds.shares_differ(away, limited) == pytest.approx(two - one, abs=1e-4)
    for most in (2, 8):
        large = share(*away, 1, 4) + share(*limited, most, 1)
        assert log_odds.share_is_large(away, limited, most) == pytest.approx(large - one, abs=1e-4)
    assert log_odds.share_is_large(away, limited) == log_odds.share_is_large(away, limited, 2)


def outcomes(text: str, levels: str = "") -> list[Permit]:
    """Return a record: `x` got a 429, `.` was accepted, `?` is open; `levels`: how many were in flight."""
    levels = levels or "0" * len(text)
    return [
        Permit(1.0, float(at), in_flight_at_send=int(level), rate_limited=mark == "x", accepted=mark == ".")
        for at, (mark, level) in enumerate(zip(text, levels, strict=True))
    ]


def test_change_point_is_most_likely_moment() -> None:
    """Its odds against chance are lowered by the number of moments that were tried."""
    found, place = log_odds.change_point(outcomes("...x............x.xxxx"))
    assert place == 16
    assert found == pytest.approx(log_odds.share_is_large((1, 16), (5, 6)) - math.log(22))
    assert log_odds.change_point(outcomes("x")) == (log_odds.share_is_large((0, 0), (1, 1)), 0)
    assert log_odds.change_point(outcomes("....")) == (-math.inf, 0)
    assert log_odds.change_point([]) == (-math.inf, 0)


def test_sent_rate_is_measured_over_last_second() -> None:
    """Or over a tenth of it if nothing was sent before."""
    assert log_odds.sent_rate(sent(range(80), 0.1), 8.0) == pytest.approx(10 / 0.95)
    assert log_odds.sent_rate(sent(range(80), 0.1), 7.95) == pytest.approx(10 / 0.9)
    assert log_odds.sent_rate(sent(range(3), 0.01), 0.03) == pytest.approx(3 / 0.1)
    assert log_odds.sent_rate([Permit(1.0, 2.0)], 3.0) == log_odds.sent_rate([], 3.0) == 0.0


def at_rates(*given: tuple[str, float]) -> list[Permit]:
    """Return requests that were sent at these rates; `x` got a 429."""
    return [Permit(1.0, 0.0, rate=rate, rate_limited=mark == "x") for marks, rate in given for mark in marks]


@pytest.mark.parametrize(
    ("record", "chance"),
    [
        (at_rates(("..x.x..x", 60.0), ("x..x....", 20.0), (".x....x.", 10.0)), True),
        (at_rates(("xx.xx..x", 60.0), ("." * 20, 20.0), ("." * 9 + "x", 22.0)), False),
        (at_rates(("xx.xx..x", 60.0), ("." * 40, 20.0), ("xx", 20.0), ("x.", 15.0), ("x.....", 10.0)), False),
        (at_rates(("xxxxxx", 60.0), ("xxxxx.", 20.0)), False),
        (at_rates(("x", 60.0)), False),
    ],
    ids=["same share everywhere", "limit", "limit that fell", "hardly any accepted", "one"],
)
def test_independent_of_rate_same_share_at_all_rates_is_believed(record: list[Permit], chance: bool) -> None:
    """Unless a limit, or one that fell once, explains the 429s as well."""
    assert (log_odds.independent_of_rate(record) > 1.0) is chance


def best_limit(record: list[Permit]) -> float:
    """Return the log probability under the best limit, request by request; low limits are less likely."""
    if not record:
        return -math.inf
    rates = [permit.rate for permit in record]
    limits = [max(rates) / log_odds.LIMIT_STEP**i for i in range(200)]
    found = []
    for limit in (one for one in limits if one > log_odds.MIN_LIMIT_SHARE * min(rates)):
        shares = [sorted((log_odds.SLIP, 1 - limit / rate, 1 - log_odds.SLIP))[1] for rate in rates]
        each = [math.log(s if p.rate_limited else 1 - s) for p, s in zip(record, shares, strict=True)]
        found.append(sum(each) - math.log(max(rates) / limit))
    return max(found)


def test_independent_of_rate_random_record_matches_brute_force() -> None:
    """All limits are tried; the limit may have fallen after the first of the longest times without a 429."""
    rng = random.Random(5)  # noqa: S311 - reproducible, not secret
    for _ in range(200):
        rates = sorted(rng.choices([2.0, 5.0, 13.0, 40.0], k=rng.randrange(1, 40)), reverse=True)
        record = [Permit(1.0, 0.0, rate=rate, rate_limited=rng.random() < rng.choice([0.1, 0.6])) for rate in rates]
        limited = [at for at, permit in enumerate(record) if permit.rate_limited]
        calm = [at - before for before, at in zip([-1, *limited], limited, strict=False)]
        fell = limited[calm.index(max(calm))] if limited else 0
        fallen = best_limit(record[:fell]) + best_limit(record[fell:]) - math.log(len(record))
        chance = share(len(limited), len(record), 1, 4)
        assert log_odds.independent_of_rate(record) == pytest.approx(chance - max(best_limit(record), fallen), abs=1e-3)


def test_run_is_unusual_compares_with_what_was_before() -> None:
    """The last three against the five before."""
    assert log_odds.run_is_unusual(outcomes(".x...xxx"), 3) == pytest.approx(
        log_odds.share_is_large((1, 5), (3, 3)) - math.log(8)
    )
    assert log_odds.run_is_unusual(outcomes("x"), 1) == log_odds.share_is_large((0, 0), (1, 1))


def test_concurrency_limit_is_where_four_of_five_get_429() -> None:
    """Requests whose outcome is open do not count above it."""
    found, level = log_odds.concurrency_limit(outcomes("..........xxxx?x", "0123401234567675"))
    assert level == 5
    assert found == pytest.approx(log_odds.share_is_large((0, 10), (5, 5), log_odds.HARDLY_ANY_ACCEPTED) - math.log(8))
    assert log_odds.concurrency_limit([]) == (-math.inf, 0)


def test_concurrency_limit_random_record_matches_brute_force() -> None:
    """Each number in flight is tried, from the smallest on."""
    rng = random.Random(3)  # noqa: S311 - reproducible, not secret
    for _ in range(300):
        limit, count = rng.randrange(1, 9), rng.randrange(1, 40)
        levels = [rng.randrange(9) for _ in range(count)]
        marks = "".join(rng.choice("xxxx.?" if level >= limit else "....x?") for level in levels)
        record = outcomes(marks, "".join(map(str, levels)))
        best, found = -math.inf, 0
        for level in sorted(set(levels))[1:]:
            below = [p for p in record if p.in_flight_at_send < level]
            above = [p for p in record if p.in_flight_at_send >= level and (p.rate_limited or p.accepted)]
            hits = sum(p.rate_limited for p in above)
            if hits >= 0.8 * len(above):
                counts = (sum(p.rate_limited for p in below), len(below)), (hits, len(above))
                given = log_odds.share_is_large(*counts, log_odds.HARDLY_ANY_ACCEPTED)
                if given > best - 0.5:
                    best, found = max(best, given), level
        assert log_odds.concurrency_limit(record) == (pytest.approx(best - math.log(len(set(levels)))), found)


def test_excess_start_is_where_score_began() -> None:
    """Each 429 raises the score and each accepted request lowers it; at 0 it begins anew."""
    usual, more = 0.05, 0.05 + 0.95 * 0.15
    up, down = math.log(more / usual), math.log((1 - more) / (1 - usual))
    record = outcomes("x" + "." * 40 + "xx.x")
    score = 3 * up + down
    assert log_odds.excess_start(record, usual, score - 1e-6) == 41
    assert log_odds.excess_start(record, usual, score + 1e-6) is None
    assert log_odds.excess_start(outcomes("xx"), usual, 2 * up - 1e-6) == 0
    assert log_odds.excess_start(outcomes("xx"), usual, 2 * up + 1e-6) is None
    assert log_odds.excess_start([], usual, 1.0) is None
