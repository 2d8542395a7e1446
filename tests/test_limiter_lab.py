"""The limiter against models of providers, in virtual time: no later change may trade one of them for another."""

from __future__ import annotations

import asyncio
import math
from typing import TYPE_CHECKING

import pytest

from llmbatch._limits.limiter import Limiter
from llmbatch._limits.throttling import FIRST_WINDOW
from tests.benchmarks.limiter_lab import SCENARIOS, Scenario, VirtualLoop, measure
from tests.effort import effort

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

# The median of three is good when two are.
SEEDS, MOST = {"quick": (3, 2), "mutants": (5, 3), "nightly": (25, 13)}[effort()]


@pytest.mark.more_at_night
@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.name)
def test_the_bar_is_held(scenario: Scenario) -> None:
    """The share of the ideal and the refusals, as medians; never less than half of what the SDK's backoff reaches."""
    most_refusals = math.inf if scenario.refusals is None else scenario.refusals
    quick = rare = 0
    for seed in range(SEEDS):
        run = measure(scenario, "llmbatch", seed)
        assert run.ended
        assert run.share >= 0.5 or run.share >= measure(scenario, "sdk", seed).share / 2
        quick += run.share >= scenario.share
        rare += run.refusals <= most_refusals
        if min(quick, rare) == MOST:
            return
    pytest.fail(f"of {SEEDS} seeds {quick} reach {scenario.share} of the ideal, {rare} have {most_refusals} refusals")


def test_the_lab_repeats_itself() -> None:
    """Virtual time and a seed: the same run each time, whatever the machine does."""
    (scenario,) = [scenario for scenario in SCENARIOS if scenario.name == "rpm, blind"]
    assert measure(scenario, "llmbatch", 0) == measure(scenario, "llmbatch", 0)


def in_virtual_time(work: Callable[[Limiter], Awaitable[None]]) -> float:
    """The seconds that work with a limiter takes."""
    loop = VirtualLoop()
    try:
        began = loop.time()
        loop.run_until_complete(work(Limiter(clock=loop.time)))
        return loop.time() - began
    finally:
        loop.close()


async def send(limiter: Limiter, count: int, headers: dict[str, str] | None = None) -> None:
    """So many requests at once, each answered after half a second."""

    async def one(row: int) -> None:
        permit = await limiter.admit(row, 10.0)
        await asyncio.sleep(0.5)
        limiter.answered(permit, headers or {}, 10.0)

    await asyncio.gather(*(one(row) for row in range(count)))


@pytest.mark.parametrize("others", [[600.0], [600.0] * 10, [3000.0, 6000.0]])
def test_a_told_limit_is_charged_once(others: list[float]) -> None:
    """However many calls state it at the same time, and the lowest of several numbers."""

    async def work(limiter: Limiter) -> None:
        async def call(rpm: float, count: int) -> None:
            with limiter.told(rpm, None):
                await send(limiter, count)

        await asyncio.gather(*(call(rpm, 60 // len(others)) for rpm in others))

    shortest = 59 / (min(others) / 60) + 0.5
    assert shortest <= in_virtual_time(work) < 1.1 * shortest


@pytest.mark.parametrize("told", [(600.0, None), (None, 6000.0)])
def test_a_told_limit_saves_nothing_up(told: tuple[float | None, float | None]) -> None:
    """After a pause of 30 s requests go as evenly as before: ten a second by number, or by ten tokens each."""

    async def work(limiter: Limiter) -> None:
        with limiter.told(*told):
            await send(limiter, 1)
            await asyncio.sleep(29.5)
            await send(limiter, 31)

    assert in_virtual_time(work) >= 30 + 2.0 + 0.5


@pytest.mark.parametrize("end", ["answered", "refused", "faulted"])
def test_tokens_that_were_not_used_come_back(end: str) -> None:
    """A request counts as 900 of 1,000 tokens a second until it has used 10, or none."""

    async def work(limiter: Limiter) -> None:
        with limiter.told(None, 60_000):
            for row in range(5):
                permit = await limiter.admit(row, 900.0)
                await asyncio.sleep(0.5)
                if end == "answered":
                    limiter.answered(permit, {}, 10.0)
                elif end == "refused":
                    limiter.refused(permit, {}, None)
                else:
                    limiter.faulted(permit)

    assert in_virtual_time(work) < 3.5


def test_a_daily_limit_with_much_left_holds_nobody_back() -> None:
    """10,000 a day, one back each 8.64 s, 9,900 left: as many go at once as there are."""
    day = {
        "x-ratelimit-limit-requests": "10000",
        "x-ratelimit-remaining-requests": "9900",
        "x-ratelimit-reset-requests": "14m24s",
    }

    async def work(limiter: Limiter) -> None:
        await send(limiter, 20, day)
        await send(limiter, 60, day)

    assert in_virtual_time(work) < 3


def test_what_was_learnt_is_forgotten_after_a_pause() -> None:
    """A minute without a request, and a limiter that had closed its door begins anew."""

    async def work(limiter: Limiter) -> None:
        for row in range(12):
            limiter.refused(await limiter.admit(row, 10.0), {}, None)
        assert limiter.refusals.finding[0] == "door"
        await asyncio.sleep(70)
        began = asyncio.get_running_loop().time()
        await send(limiter, 8)
        assert asyncio.get_running_loop().time() - began < 0.6, "all at once, no probe first"
        assert limiter.refusals.finding == ("", "")

    assert in_virtual_time(work) < 100


def test_what_a_request_sent_earlier_is_told_is_past() -> None:
    """Its answer comes after a later one's: what remained then gives nothing, what does not remain takes."""

    def remains(count: int) -> dict[str, str]:
        return {"x-ratelimit-limit-requests": "60", "x-ratelimit-remaining-requests": str(count)}

    async def work(limiter: Limiter) -> None:
        early, late, *others = [await limiter.admit(row, 10.0) for row in range(4)]
        limiter.answered(late, remains(4), 10.0)
        limiter.answered(early, remains(50), 10.0)
        await send(limiter, 2)
        for permit in others:
            limiter.answered(permit, {}, 10.0)

    assert in_virtual_time(work) > 1.4, "two of the three that remain, but one, are on their way"


def test_a_cancelled_waiter_takes_nothing_with_it() -> None:
    """Those behind it are admitted in its stead."""

    async def work(limiter: Limiter) -> None:
        with limiter.told(60, None):
            first = await limiter.admit(0, 10.0)
            waiting = [asyncio.ensure_future(limiter.admit(row, 10.0)) for row in (1, 2)]
            await asyncio.sleep(0.5)
            waiting[0].cancel()
            limiter.answered(first, {}, 10.0)
            limiter.answered(await waiting[1], {}, 10.0)
        assert (limiter.in_flight, limiter.waiting) == (0, 0)

    assert in_virtual_time(work) < 1.1


def test_a_permit_that_comes_too_late_goes_back() -> None:
    """A request that is cancelled in the very moment of its turn holds no place."""

    async def work(limiter: Limiter) -> None:
        permits = [await limiter.admit(row, 10.0) for row in range(FIRST_WINDOW)]
        late = asyncio.ensure_future(limiter.admit(FIRST_WINDOW, 10.0))
        await asyncio.sleep(0)
        limiter.answered(permits[0], {}, 10.0)
        late.cancel()
        with pytest.raises(asyncio.CancelledError):
            await late
        for permit in permits[1:]:
            limiter.answered(permit, {}, 10.0)
        assert (limiter.in_flight, limiter.waiting) == (0, 0)

    assert in_virtual_time(work) < 0.01
