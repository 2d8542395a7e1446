"""How long a limiter lets requests wait, in virtual time: configured limits, stated limits, and what 429s teach."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from llmbatch._limits.concurrency_detector import INITIAL_CONCURRENCY
from llmbatch._limits.configured_limits import CONFIGURED_LIMIT_MARGIN
from llmbatch._limits.learned_rate import FIRST_CUT
from llmbatch._limits.limiter import FORGET_AFTER_SECONDS, MAX_BELIEVED_TOKENS, Limiter
from llmbatch._limits.throttle import Phase
from llmbatch._limits.token_bucket import TokenBucket
from tests.benchmarks.limiter_lab import VirtualLoop

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from llmbatch._limits.permit import Permit


def in_virtual_time(work: Callable[[Limiter], Awaitable[None]]) -> float:
    """Return the seconds that work with a limiter takes."""
    loop = VirtualLoop()
    try:
        began = loop.time()
        loop.run_until_complete(work(Limiter(clock=loop.time)))
        return loop.time() - began
    finally:
        loop.close()


async def send(limiter: Limiter, count: int, headers: dict[str, str] | None = None) -> None:
    """Send a number of requests at once, each answered after half a second."""

    async def one(row: int) -> None:
        permit = await limiter.acquire(row, 10.0)
        await asyncio.sleep(0.5)
        limiter.on_success(permit, headers or {}, 10.0)

    await asyncio.gather(*(one(row) for row in range(count)))


@pytest.mark.parametrize("others", [[600.0], [600.0] * 10, [3000.0, 6000.0]])
def test_configured_limit_several_calls_is_charged_once(others: list[float]) -> None:
    """Several calls that configure a limit share it; the lowest counts."""

    async def work(limiter: Limiter) -> None:
        async def call(rpm: float, count: int) -> None:
            with limiter.configured(rpm, None):
                await send(limiter, count)

        await asyncio.gather(*(call(rpm, 60 // len(others)) for rpm in others))

    shortest = 59 / (min(others) / 60) + 0.5
    assert shortest <= in_virtual_time(work) < 1.1 * shortest


@pytest.mark.parametrize("limits", [(600.0, None), (None, 6000.0)])
def test_configured_limit_after_pause_saves_nothing_up(limits: tuple[float | None, float | None]) -> None:
    """After a pause of 30 s requests go as evenly as before: ten a second, by number or by tokens."""

    async def work(limiter: Limiter) -> None:
        with limiter.configured(*limits):
            await send(limiter, 1)
            await asyncio.sleep(29.5)
            await send(limiter, 31)

    assert in_virtual_time(work) >= 30 + 2.0 + 0.5


@pytest.mark.parametrize("end", ["on_success", "on_rate_limit", "on_error"])
def test_tokens_not_used_are_given_back(end: str) -> None:
    """A request counts as 900 of 1,000 tokens a second until it has used 10, or none."""

    async def work(limiter: Limiter) -> None:
        with limiter.configured(None, 60_000):
            for row in range(5):
                permit = await limiter.acquire(row, 900.0)
                await asyncio.sleep(0.5)
                if end == "on_success":
                    limiter.on_success(permit, {}, 10.0)
                elif end == "on_rate_limit":
                    limiter.on_rate_limit(permit, {}, None)
                else:
                    limiter.on_error(permit)

    assert in_virtual_time(work) < 3.5


def test_stated_daily_limit_much_left_does_not_throttle() -> None:
    """With 9,900 of 10,000 a day left, all requests go at once."""
    day = {
        "x-ratelimit-limit-requests": "10000",
        "x-ratelimit-remaining-requests": "9900",
        "x-ratelimit-reset-requests": "14m24s",
    }

    async def work(limiter: Limiter) -> None:
        await send(limiter, 20, day)
        await send(limiter, 60, day)

    assert in_virtual_time(work) < 3


def test_acquire_after_pause_has_forgotten_outage() -> None:
    """After a minute without a request, a limiter with an open circuit begins anew."""

    async def work(limiter: Limiter) -> None:
        for row in range(12):
            limiter.on_rate_limit(await limiter.acquire(row, 10.0), {}, None)
        assert limiter.finding.phase is Phase.OUTAGE
        await asyncio.sleep(70)
        began = asyncio.get_running_loop().time()
        await send(limiter, 8)
        assert asyncio.get_running_loop().time() - began < 0.6, "all at once, no probe first"
        assert limiter.finding.phase is Phase.UNTHROTTLED

    assert in_virtual_time(work) < 100


def test_headers_out_of_order_never_raise_level() -> None:
    """The answer of an earlier request that comes after a later one's may only lower what remains."""

    def remains(count: int) -> dict[str, str]:
        return {"x-ratelimit-limit-requests": "60", "x-ratelimit-remaining-requests": str(count)}

    async def work(limiter: Limiter) -> None:
        early, late, *others = [await limiter.acquire(row, 10.0) for row in range(4)]
        limiter.on_success(late, remains(4), 10.0)
        limiter.on_success(early, remains(50), 10.0)
        await send(limiter, 2)
        for permit in others:
            limiter.on_success(permit, {}, 10.0)

    assert in_virtual_time(work) > 1.4, "two of the three that remain, but one, are on their way"


def test_acquire_cancelled_while_waiting_takes_no_turn() -> None:
    """Those behind it go in its place."""

    async def work(limiter: Limiter) -> None:
        with limiter.configured(60, None):
            first = await limiter.acquire(0, 10.0)
            waiting = [asyncio.ensure_future(limiter.acquire(row, 10.0)) for row in (1, 2)]
            await asyncio.sleep(0.5)
            waiting[0].cancel()
            limiter.on_success(first, {}, 10.0)
            limiter.on_success(await waiting[1], {}, 10.0)
        assert (limiter.in_flight, limiter.waiting) == (0, 0)

    assert in_virtual_time(work) < 1.1


def test_acquire_cancelled_at_its_turn_releases_permit() -> None:
    """A request that is cancelled in the moment of its turn is not in flight."""

    async def work(limiter: Limiter) -> None:
        permits = [await limiter.acquire(row, 10.0) for row in range(INITIAL_CONCURRENCY)]
        late = asyncio.ensure_future(limiter.acquire(INITIAL_CONCURRENCY, 10.0))
        await asyncio.sleep(0)
        limiter.on_success(permits[0], {}, 10.0)
        late.cancel()
        with pytest.raises(asyncio.CancelledError):
            await late
        for permit in permits[1:]:
            limiter.on_success(permit, {}, 10.0)
        assert (limiter.in_flight, limiter.waiting) == (0, 0)

    assert in_virtual_time(work) < 0.01


def stated(unit: str, per_minute: int, remaining: int) -> dict[str, str]:
    """Return the headers of a limit that is full again within a minute."""
    values = {"limit": str(per_minute), "remaining": str(remaining), "reset": f"{60 - 60 * remaining / per_minute}s"}
    return {f"x-ratelimit-{name}-{unit}": value for name, value in values.items()}


async def at_once(limiter: Limiter, most: int = 20) -> int:
    """Return how many requests go without a wait."""
    waiting = [asyncio.ensure_future(limiter.acquire(row, 1.0)) for row in range(most)]
    await asyncio.sleep(1e-5)
    sent = [task for task in waiting if task.done()]
    for task in waiting:
        task.cancel()
    await asyncio.gather(*waiting, return_exceptions=True)
    for task in sent:
        limiter.on_error(task.result())
    return len(sent)


def test_estimated_tokens_follows_answers() -> None:
    """At first an answer counts as long as it may be, then as a moving average."""
    limiter = Limiter(clock=lambda: 0.0)
    assert (limiter.estimated_tokens(10.0, 200), limiter.estimated_tokens(10.0, None)) == (210.0, 10.0)
    limiter.learn_answer_tokens(100)
    assert (limiter.estimated_tokens(10.0, 200), limiter.estimated_tokens(10.0, None)) == (110.0, 110.0)
    limiter.learn_answer_tokens(200)
    assert limiter.estimated_tokens(10.0, 200) == pytest.approx(10 + 0.9 * 100 + 0.1 * 200)


def test_seconds_for_follows_lowest_limits() -> None:
    """Limits of requests and of tokens, configured, stated or learnt; without any it is 0."""

    async def work(limiter: Limiter) -> None:
        async def states(headers: dict[str, str]) -> None:
            limiter.on_success(await limiter.acquire(0, 1.0), headers, 1.0)

        assert limiter.seconds_for(30, 100.0) == 0
        await states(stated("tokens", 3000, 3000))
        assert limiter.seconds_for(30, 100.0) == 30 * 100 / 50
        limiter.throttle.learned_rate.cut(0.0, 0.25 / FIRST_CUT, 40, first=True)
        assert limiter.seconds_for(30, 100.0) == pytest.approx(30 / 0.25)
        await states(stated("requests", 6, 6))
        assert limiter.seconds_for(30, 100.0) == 30 / 0.1
        with limiter.configured(3.0, 300.0):
            assert limiter.seconds_for(30, 100.0) == pytest.approx(30 * 100 / 5 / CONFIGURED_LIMIT_MARGIN)
            assert limiter.seconds_for(30, 1.0) == pytest.approx(30 / 0.05 / CONFIGURED_LIMIT_MARGIN)

    in_virtual_time(work)


def test_latency_is_moving_average() -> None:
    """Late answers count more."""

    async def work(limiter: Limiter) -> None:
        await asyncio.sleep(5)
        assert limiter.latency is None
        for seconds, learnt in ((2.0, 2.0), (4.0, 0.7 * 2 + 0.3 * 4)):
            permit = await limiter.acquire(0, 1.0)
            await asyncio.sleep(seconds)
            limiter.on_success(permit, {}, None)
            assert limiter.latency == pytest.approx(learnt)

    in_virtual_time(work)


def test_configured_limit_low_saves_up_one_request() -> None:
    """However long nothing was sent before."""

    async def work(limiter: Limiter) -> None:
        with limiter.configured(60, None):
            await asyncio.sleep(9)
            assert await at_once(limiter) == 1

    in_virtual_time(work)


def test_headers_after_pause_are_newest() -> None:
    """The first answer after a minute may raise what remains, however many requests there were before."""

    async def work(limiter: Limiter) -> None:
        await send(limiter, 3, stated("requests", 600, 10))
        await asyncio.sleep(FORGET_AFTER_SECONDS + 1)
        limiter.on_success(await limiter.acquire(0, 1.0), stated("requests", 600, 300), 1.0)
        permits = [await limiter.acquire(0, 1.0) for _ in range(INITIAL_CONCURRENCY)]
        for permit in permits:
            limiter.on_error(permit)
        assert await at_once(limiter) > 10

    in_virtual_time(work)


def test_stated_tokens_undecided_requests_count() -> None:
    """Two others that were sent just before may not have been counted yet."""

    async def work(limiter: Limiter) -> None:
        permits = [await limiter.acquire(0, 10.0) for _ in range(3)]
        limiter.on_success(permits[0], stated("tokens", 60, 100), 10.0)
        began = asyncio.get_running_loop().time()
        limiter.on_success(await limiter.acquire(0, 100.0 - 2 * 10.0 + 1), {}, None)
        assert asyncio.get_running_loop().time() - began == pytest.approx(1.0, abs=0.01)

    in_virtual_time(work)


def test_configured_limit_is_used_up() -> None:
    """But for the margin of half a percent."""

    async def work(limiter: Limiter) -> None:
        with limiter.configured(600, None):
            await send(limiter, 61)

    assert in_virtual_time(work) == pytest.approx(60 / (10 * CONFIGURED_LIMIT_MARGIN) + 0.5, rel=0.002)


def test_configured_limit_ends_with_its_call() -> None:
    """Requests that wait for it already go at once."""

    async def work(limiter: Limiter) -> None:
        with limiter.configured(6, None):
            await send(limiter, 1)
            waiting = asyncio.ensure_future(send(limiter, 3))
            await asyncio.sleep(0.1)
        await waiting
        await send(limiter, 5)

    assert in_virtual_time(work) == pytest.approx(0.5 + 0.1 + 0.5 + 0.5, abs=0.01)


def test_configured_limit_allows_short_burst() -> None:
    """A tenth of a second's requests go at once after a pause; under a new limit only the first."""

    async def work(limiter: Limiter) -> None:
        with limiter.configured(3600, None):
            await send(limiter, 1)
            await asyncio.sleep(1)
            assert await at_once(limiter) == int(6 * CONFIGURED_LIMIT_MARGIN)
        with limiter.configured(3600, None):
            with limiter.configured(6, None):
                await asyncio.sleep(1)
            assert await at_once(limiter) <= 1

    in_virtual_time(work)


@pytest.mark.parametrize("end", ["on_rate_limit", "on_error"])
def test_release_makes_room_at_once(end: str) -> None:
    """For the next request, and with all tokens; a second release changes nothing."""

    def end_of(limiter: Limiter, permit: Permit) -> None:
        if end == "on_rate_limit":
            limiter.on_rate_limit(permit, {}, None)
        else:
            limiter.on_error(permit)

    async def work(limiter: Limiter) -> None:
        with limiter.configured(None, 60_000):
            permits = [await limiter.acquire(row, 10.0) for row in range(INITIAL_CONCURRENCY)]
            level = limiter.account.tokens.level
            late = asyncio.ensure_future(limiter.acquire(INITIAL_CONCURRENCY, 0.0))
            await asyncio.sleep(0)
            assert not late.done()
            end_of(limiter, permits[0])
            await asyncio.sleep(0)
            assert late.done()
            assert limiter.account.tokens.level == pytest.approx(level + 10, abs=0.1)
            assert not permits[0].in_flight
            limiter._release(permits[0], 0.0)
            assert limiter.in_flight == INITIAL_CONCURRENCY

    in_virtual_time(work)


def test_stated_limit_is_used_up_but_for_reserve() -> None:
    """What remains, less two, goes at once; then requests go as the limit refills."""

    async def work(limiter: Limiter) -> None:
        await send(limiter, 1, stated("requests", 600, 10))
        await send(limiter, 20)

    assert in_virtual_time(work) == pytest.approx(0.5 + (20 - (10 - 2)) / 10 + 0.5, abs=0.01)


def test_rate_limit_headers_are_followed() -> None:
    """A 429 that states that nothing remains makes the next request wait for the refill."""

    async def work(limiter: Limiter) -> None:
        limiter.on_rate_limit(await limiter.acquire(0, 1.0), stated("requests", 60, 0), None)
        limiter.on_success(await limiter.acquire(1, 1.0), {}, 1.0)

    assert in_virtual_time(work) >= 1


@pytest.mark.parametrize(("remaining", "in_flight", "waits"), [(10, 0, 0.0), (100, 1, 0.0), (100, 10, 0.9)])
def test_stated_tokens_in_flight_are_subtracted(remaining: int, in_flight: int, waits: float) -> None:
    """The provider may not have counted what is in flight: ten tokens each."""

    async def work(limiter: Limiter) -> None:
        async def one() -> None:
            limiter.on_success(await limiter.acquire(0, 10.0), stated("tokens", 6000, remaining), 10.0)

        others = [await limiter.acquire(0, 10.0) for _ in range(min(in_flight, INITIAL_CONCURRENCY - 1))]
        await asyncio.sleep(0.3)
        others += [await limiter.acquire(0, 10.0) for _ in range(in_flight - len(others))]
        await one()
        began = asyncio.get_running_loop().time()
        limiter.on_success(await limiter.acquire(0, remaining - 10.0 * min(in_flight, 1)), {}, None)
        assert asyncio.get_running_loop().time() - began == pytest.approx(waits, abs=0.01)

    in_virtual_time(work)


def test_token_bucket_follow_keeps_level_within_bounds() -> None:
    """The first headers are taken at their worst; later ones only bound the level that was worked out."""
    bucket = TokenBucket(0.0)
    bucket.follow(1.0, 0.5, in_flight=5.0, undecided=2.0, newest=True)
    assert (bucket.level, bucket.rate, bucket.burst) == (-4.5, 1.0, 1.0)
    bucket.follow(2.0, 10.0, in_flight=5.0, undecided=2.0, newest=True)
    assert (bucket.level, bucket.rate, bucket.burst) == (5.0, 2.0, 10.0)
    bucket.level = 7.0
    bucket.follow(2.0, 10.0, in_flight=5.0, undecided=2.0, newest=True)
    assert bucket.level == 7.0
    bucket.follow(2.0, 8.0, in_flight=5.0, undecided=2.0, newest=True)
    assert bucket.level == 6.0
    bucket.follow(2.0, 20.0, in_flight=5.0, undecided=2.0, newest=False)
    assert (bucket.level, bucket.burst) == (6.0, 8.0)


@pytest.mark.parametrize(("rate", "most"), [(100.0, 5), (10.0, 1)])
def test_learned_rate_saves_up_twentieth_of_second(rate: float, most: int) -> None:
    """But at least one request."""

    async def work(limiter: Limiter) -> None:
        limiter.on_error(await limiter.acquire(0, 1.0))
        limiter.throttle.learned_rate.cut(asyncio.get_running_loop().time(), rate / FIRST_CUT, 40, first=True)
        limiter.on_error(await limiter.acquire(0, 1.0))
        await asyncio.sleep(1)
        assert await at_once(limiter) == most

    in_virtual_time(work)


def test_acquire_without_pause_keeps_what_was_learnt() -> None:
    """However old the limiter is."""

    async def work(limiter: Limiter) -> None:
        await asyncio.sleep(70)
        for row in range(12):
            limiter.on_rate_limit(await limiter.acquire(row, 10.0), {}, None)
        await asyncio.sleep(5)
        limiter.on_rate_limit(await limiter.acquire(0, 10.0), {}, None)
        assert limiter.finding.phase is Phase.OUTAGE

    in_virtual_time(work)


def test_learned_rate_cut_delays_next_request() -> None:
    """The next request is as far from the cut as later ones from each other."""
    loop = VirtualLoop()
    limiter = Limiter(clock=loop.time)

    async def work() -> list[float]:
        limiter.on_success(await limiter.acquire(0, 1.0), {}, 1.0)
        limiter.throttle.learned_rate.cut(loop.time(), 10 / FIRST_CUT, 40, first=True)
        began, after = loop.time(), []
        for row in range(3):
            limiter.on_success(await limiter.acquire(row, 1.0), {}, 1.0)
            after.append(loop.time() - began)
        return after

    try:
        assert loop.run_until_complete(work()) == pytest.approx([0.1, 0.2, 0.3], rel=0.05)
    finally:
        loop.close()


@pytest.mark.parametrize(("tokens", "believed"), [(MAX_BELIEVED_TOKENS - 1, True), (MAX_BELIEVED_TOKENS, False)])
def test_absurd_token_counts_are_not_believed(tokens: int, believed: bool) -> None:
    """Neither as an estimate for the next answers, nor as a debt."""

    async def debt() -> tuple[float, float]:
        limiter = Limiter()
        with limiter.configured(None, 60.0):
            permit = await limiter.acquire(0, 1.0)
            before = limiter.account.tokens.level
            limiter.on_success(permit, {}, tokens)
            limiter.learn_answer_tokens(tokens)
            return limiter.estimated_tokens(0.0, 5.0), before - limiter.account.tokens.level

    estimate, owed = asyncio.run(debt())
    assert estimate == (tokens if believed else 5.0)
    assert owed == pytest.approx(tokens - 1.0 if believed else 0.0, abs=1.0)


def test_pause_ends_when_concurrency_limit_is_found() -> None:
    """A Retry-After of a minute holds neither its row nor others back, once a slot is all that they wait for."""

    async def work(limiter: Limiter) -> None:
        in_flight = 0

        async def one(row: int) -> None:
            nonlocal in_flight
            while True:
                permit = await limiter.acquire(row, 1.0)
                if in_flight < 2:
                    in_flight += 1
                    await asyncio.sleep(3)
                    in_flight -= 1
                    limiter.on_success(permit, {}, 1.0)
                    return
                await asyncio.sleep(0.01)
                limiter.on_rate_limit(permit, {}, 60.0)
                await limiter.pause(60.0)

        await asyncio.gather(*(one(row) for row in range(20)))
        assert limiter.finding.phase is Phase.CONCURRENCY_LIMITED
        await limiter.pause(60.0)

    assert in_virtual_time(work) < 40


def test_pause_otherwise_is_retry_after() -> None:
    """Nothing but a concurrency limit shortens it."""
    assert in_virtual_time(lambda limiter: limiter.pause(60.0)) == pytest.approx(60, abs=0.1)


async def paused(limiter: Limiter, count: int) -> tuple[list[Permit], list[asyncio.Task[None]]]:
    """Return two requests in flight, and rows that got a 429 with a Retry-After of a minute beside them."""
    in_flight = [await limiter.acquire(0, 1.0) for _ in range(2)]
    rows = []
    for _ in range(count):
        limiter.on_rate_limit(await limiter.acquire(0, 1.0), {}, 60.0)
        rows.append(asyncio.ensure_future(limiter.pause(60.0)))
    await asyncio.sleep(5)
    assert not any(row.done() for row in rows)
    return in_flight, rows


def test_pause_answer_frees_slot_for_one_row() -> None:
    """Each answer ends one pause, as long as rows that are tried early are accepted."""

    async def work(limiter: Limiter) -> None:
        in_flight, rows = await paused(limiter, 3)
        limiter.on_success(in_flight[0], {}, 1.0)
        await asyncio.sleep(0.01)
        assert [row.done() for row in rows] == [True, False, False]
        tried = await asyncio.wait_for(limiter.acquire(0, 1.0), 0.1)
        await asyncio.sleep(3)
        limiter.on_success(tried, {}, 1.0)
        await asyncio.sleep(0.01)
        assert [row.done() for row in rows] == [True, True, False]
        await rows[2]

    assert in_virtual_time(work) > 55


def test_pause_early_try_with_429_ends_early_tries() -> None:
    """The Retry-After counts, for everyone."""

    async def work(limiter: Limiter) -> None:
        in_flight, rows = await paused(limiter, 3)
        limiter.on_success(in_flight[0], {}, 1.0)
        limiter.on_rate_limit(await asyncio.wait_for(limiter.acquire(0, 1.0), 0.1), {}, 60.0)
        limiter.on_success(in_flight[1], {}, 1.0)
        await asyncio.sleep(1)
        assert [row.done() for row in rows] == [True, False, False]
        await asyncio.gather(*rows)

    assert in_virtual_time(work) == pytest.approx(60, abs=1)


def test_pause_answer_of_later_request_frees_no_slot() -> None:
    """It was not in flight when the row got its 429: others are accepted at random, say."""

    async def work(limiter: Limiter) -> None:
        limiter.on_rate_limit(await limiter.acquire(0, 1.0), {}, None)
        row = asyncio.ensure_future(limiter.pause(30.0))
        await asyncio.sleep(2)
        await send(limiter, 3)
        assert not row.done()
        await row

    assert in_virtual_time(work) == pytest.approx(30, abs=0.1)
