"""How long a limiter lets requests wait, in virtual time: what callers told, what providers state, what is learnt."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from llmbatch._limits import learned_rate as rules
from llmbatch._limits import limiter as module
from llmbatch._limits.limiter import Limiter
from llmbatch._limits.throttling import FIRST_WINDOW
from tests.test_limiter_lab import in_virtual_time, send

if TYPE_CHECKING:
    from llmbatch._limits.observations import Permit


def stated(unit: str, per_minute: int, remaining: int) -> dict[str, str]:
    """Headers of a limit; it is full again within a minute."""
    values = {"limit": str(per_minute), "remaining": str(remaining), "reset": f"{60 - 60 * remaining / per_minute}s"}
    return {f"x-ratelimit-{name}-{unit}": value for name, value in values.items()}


async def at_once(limiter: Limiter, most: int = 20) -> int:
    """How many are let in without any wait."""
    waiting = [asyncio.ensure_future(limiter.admit(row, 1.0)) for row in range(most)]
    await asyncio.sleep(1e-5)
    let_in = [task for task in waiting if task.done()]
    for task in waiting:
        task.cancel()
    await asyncio.gather(*waiting, return_exceptions=True)
    for task in let_in:
        limiter.faulted(task.result())
    return len(let_in)


def test_an_answers_length_is_learnt() -> None:
    """At first the most that it may have, then what answers had, those of late the more."""
    limiter = Limiter(clock=lambda: 0.0)
    assert (limiter.estimate(10.0, 200), limiter.estimate(10.0, None)) == (210.0, 10.0)
    limiter.used(100)
    assert (limiter.estimate(10.0, 200), limiter.estimate(10.0, None)) == (110.0, 110.0)
    limiter.used(200)
    assert limiter.estimate(10.0, 200) == pytest.approx(10 + 0.9 * 100 + 0.1 * 200)


def test_how_long_so_many_take_follows_from_the_lowest_limits() -> None:
    """Of requests and of tokens: told, stated or learnt; nothing holds where there is none."""
    limiter = Limiter(clock=lambda: 0.0)
    assert limiter.seconds_for(30, 100.0) == 0
    limiter.tokens.rate = 50.0
    assert limiter.seconds_for(30, 100.0) == 30 * 100 / 50
    limiter.refusals.pace.rate = 0.25
    assert limiter.seconds_for(30, 100.0) == 30 / 0.25
    limiter.requests.rate = 0.125
    assert limiter.seconds_for(30, 100.0) == 30 / 0.125
    limiter.account.requests.rate, limiter.account.tokens.rate = 0.0625, 5.0
    assert limiter.seconds_for(30, 100.0) == 30 * 100 / 5
    assert limiter.seconds_for(30, 1.0) == 30 / 0.0625


def test_how_long_answers_take_is_learnt() -> None:
    """Those of late count the more."""

    async def work(limiter: Limiter) -> None:
        await asyncio.sleep(5)
        assert limiter.latency is None
        for seconds, learnt in ((2.0, 2.0), (4.0, 0.7 * 2 + 0.3 * 4)):
            permit = await limiter.admit(0, 1.0)
            await asyncio.sleep(seconds)
            limiter.answered(permit, {}, None)
            assert limiter.latency == pytest.approx(learnt)

    in_virtual_time(work)


def test_a_low_told_limit_saves_up_one() -> None:
    """However long nothing was sent."""

    async def work(limiter: Limiter) -> None:
        with limiter.told(60, None):
            await asyncio.sleep(9)
            assert await at_once(limiter) == 1

    in_virtual_time(work)


def test_after_a_minute_of_rest_the_first_answer_is_the_newest() -> None:
    """What it states is taken over, however many requests there were before."""

    async def work(limiter: Limiter) -> None:
        await send(limiter, 3, stated("requests", 600, 10))
        await asyncio.sleep(module.FORGOTTEN_SECONDS + 1)
        limiter.answered(await limiter.admit(0, 1.0), stated("requests", 600, 300), 1.0)
        assert limiter.requests.burst == 300 - 2

    in_virtual_time(work)


def test_what_is_undecided_may_have_been_counted_with_its_tokens() -> None:
    """Two others were sent just before the answer was read."""

    async def work(limiter: Limiter) -> None:
        permits = [await limiter.admit(0, 10.0) for _ in range(3)]
        bucket = limiter.tokens
        bucket.rate, bucket.burst, bucket.level = 1.0, 200.0, 95.0  # as worked out since an earlier statement
        limiter.answered(permits[0], stated("tokens", 6000, 100), 10.0)
        assert bucket.level == 100 - 2 * 10

    in_virtual_time(work)


def test_a_told_limit_is_used_up() -> None:
    """But for half a hundredth."""

    async def work(limiter: Limiter) -> None:
        with limiter.told(600, None):
            await send(limiter, 61)

    assert in_virtual_time(work) == pytest.approx(60 / (10 * module.TOLD_MARGIN) + 0.5, rel=0.002)


def test_a_told_limit_ends_with_its_call() -> None:
    """Nobody waits for it any longer, those included who wait already."""

    async def work(limiter: Limiter) -> None:
        with limiter.told(6, None):
            await send(limiter, 1)
            waiting = asyncio.ensure_future(send(limiter, 3))
            await asyncio.sleep(0.1)
        await waiting
        await send(limiter, 5)

    assert in_virtual_time(work) == pytest.approx(0.5 + 0.1 + 0.5 + 0.5, abs=0.01)


def test_a_moment_may_be_caught_up_with() -> None:
    """A tenth of a second's requests go at once after a pause; of a limit that is new, none but the first."""

    async def work(limiter: Limiter) -> None:
        with limiter.told(3600, None):
            await send(limiter, 1)
            await asyncio.sleep(1)
            assert await at_once(limiter) == int(6 * module.TOLD_MARGIN)
        with limiter.told(3600, None):
            with limiter.told(6, None):
                await asyncio.sleep(1)
            assert await at_once(limiter) <= 1

    in_virtual_time(work)


@pytest.mark.parametrize("end", ["refused", "faulted"])
def test_who_is_over_makes_room_at_once(end: str) -> None:
    """For the next one, and with all its tokens; to be over twice is to be over once."""

    def over(limiter: Limiter, permit: Permit) -> None:
        if end == "refused":
            limiter.refused(permit, {}, None)
        else:
            limiter.faulted(permit)

    async def work(limiter: Limiter) -> None:
        with limiter.told(None, 60_000):
            permits = [await limiter.admit(row, 10.0) for row in range(FIRST_WINDOW)]
            level = limiter.account.tokens.level
            late = asyncio.ensure_future(limiter.admit(FIRST_WINDOW, 0.0))
            await asyncio.sleep(0)
            assert not late.done()
            over(limiter, permits[0])
            await asyncio.sleep(0)
            assert late.done()
            assert limiter.account.tokens.level == pytest.approx(level + 10, abs=0.1)
            assert not permits[0].open
            limiter._back(permits[0], 0.0)
            assert limiter.in_flight == FIRST_WINDOW

    in_virtual_time(work)


def test_a_stated_limit_is_used_up_but_for_two() -> None:
    """What remains goes at once, then as it comes back."""

    async def work(limiter: Limiter) -> None:
        await send(limiter, 1, stated("requests", 600, 10))
        await send(limiter, 20)

    assert in_virtual_time(work) == pytest.approx(0.5 + (20 - (10 - 2)) / 10 + 0.5, abs=0.01)


def test_a_refusal_states_a_limit_too() -> None:
    """Nothing remains: the next one waits for the first that comes back, and one in flight."""

    async def work(limiter: Limiter) -> None:
        limiter.refused(await limiter.admit(0, 1.0), stated("requests", 60, 0), None)
        limiter.answered(await limiter.admit(1, 1.0), {}, 1.0)

    assert in_virtual_time(work) >= 1


@pytest.mark.parametrize(("remaining", "in_flight", "waits"), [(10, 0, 0.0), (100, 1, 0.0), (100, 10, 0.9)])
def test_stated_tokens_are_used_up(remaining: int, in_flight: int, waits: float) -> None:
    """Less what is in flight, which the provider may not have counted: each with its ten tokens."""

    async def work(limiter: Limiter) -> None:
        async def one() -> None:
            limiter.answered(await limiter.admit(0, 10.0), stated("tokens", 6000, remaining), 10.0)

        others = [await limiter.admit(0, 10.0) for _ in range(min(in_flight, FIRST_WINDOW - 1))]
        await asyncio.sleep(0.3)
        others += [await limiter.admit(0, 10.0) for _ in range(in_flight - len(others))]
        await one()
        began = asyncio.get_running_loop().time()
        limiter.answered(await limiter.admit(0, remaining - 10.0 * min(in_flight, 1)), {}, None)
        assert asyncio.get_running_loop().time() - began == pytest.approx(waits, abs=0.01)

    in_virtual_time(work)


def test_what_has_been_counted_is_what_was_let_in_at_least_and_all_in_flight_at_most() -> None:
    """The first statement is taken as it is, at its worst; later ones keep what has been worked out, within these."""
    bucket = module._Bucket(0.0)
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
def test_a_learnt_rate_saves_up_a_twentieth_of_a_second(rate: float, most: int) -> None:
    """One at least."""

    async def work(limiter: Limiter) -> None:
        limiter.faulted(await limiter.admit(0, 1.0))
        limiter.refusals.pace.cut(asyncio.get_running_loop().time(), rate / rules.FIRST_CUT, 40, first=True)
        limiter.faulted(await limiter.admit(0, 1.0))
        await asyncio.sleep(1)
        assert await at_once(limiter) == most

    in_virtual_time(work)


def test_what_was_learnt_is_kept_while_requests_go() -> None:
    """However old the limiter is."""

    async def work(limiter: Limiter) -> None:
        await asyncio.sleep(70)
        for row in range(12):
            limiter.refused(await limiter.admit(row, 10.0), {}, None)
        await asyncio.sleep(5)
        limiter.refused(await limiter.admit(0, 10.0), {}, None)
        assert limiter.refusals.finding[0] == "door"

    in_virtual_time(work)


def test_a_finding_is_told_once_in_a_while(log: list[str]) -> None:
    """Not with each refusal; again when it is found again later."""

    async def work(limiter: Limiter) -> None:
        for _ in range(12):
            limiter.refused(await limiter.admit(0, 10.0), {}, None)
        assert len(log) == 1
        assert "everything is refused" in log[0]
        await asyncio.sleep(40)
        for _ in range(2):
            limiter.refused(await limiter.admit(0, 10.0), {}, None)
        assert len(log) == 2

    in_virtual_time(work)
