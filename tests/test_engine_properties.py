"""Whatever happens to the requests: one row for each input, in order, within the bounds, and nothing left behind."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import llmbatch
from llmbatch._util.fan_out import fan_out
from tests.effort import examples
from tests.server import Response, Server
from tests.talk import answered, batch, chats, idle, place, question

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.usefixtures("quick_backoff")

RELAXED = {"deadline": None, "suppress_health_check": list(HealthCheck)}
OUTCOMES = {
    "good": Response(200),
    "bad request": Response(400),
    "unknown": Response(404),
    "busy": Response(503),
    "limited": Response(429, {"retry-after-ms": "5"}),
    "limited, no hint": Response(429),
    "garbage": Response(200, body=b"<html>"),
    "reset": Response(reset=True),
    "cut": Response(200, body=b'{"choices": [', cut=5),
    "slow": Response(200, delay=30.0),
}
FINAL = {"bad request", "unknown"}
FAULTS = {"busy", "garbage", "reset", "cut", "slow"}
TIMEOUT = 0.5


@pytest.fixture(scope="module")
def scripted() -> Iterator[Server]:
    with Server() as server:
        batch(server.api_base, chats(1))  # imports what the first attempt would have to wait for
        yield server


class Scripts:
    """Gives each row's requests their outcomes in turn, then the usual answer."""

    def __init__(self, server: Server, outcomes: list[list[str]]) -> None:
        self.left = {question(i): list(script) for i, script in enumerate(outcomes)}
        self.sent = dict.fromkeys(self.left, 0)
        server.reset()
        server.stats.peak_in_flight = 0
        server.handler = self

    def __call__(self, request: Any) -> Response | None:
        self.sent[request.text] += 1
        script = self.left[request.text]
        outcome = script.pop(0) if script else "good"
        return None if outcome == "good" else OUTCOMES[outcome]


def expected(script: list[str], retries: int) -> tuple[bool, int]:
    """Whether a row of these outcomes is answered, and after how many attempts."""
    faults = 0
    for attempt, outcome in enumerate([*script, "good"], 1):
        if outcome == "good" or outcome in FINAL:
            return outcome == "good", attempt
        faults += outcome in FAULTS
        if faults > retries or not retries:  # retries=0 sends each row once, refused or not
            return False, attempt
    raise AssertionError


@pytest.mark.more_at_night
@settings(max_examples=examples(15), **RELAXED)
@given(
    outcomes=st.lists(
        st.lists(st.sampled_from(sorted(OUTCOMES.keys() - {"slow", "limited, no hint"})), max_size=3), max_size=25
    ),
    workers=st.sampled_from([1, 2, 7, 64, "auto"]),
    retries=st.integers(0, 3),
    generated=st.booleans(),
)
def test_any_mix_of_outcomes_gives_each_input_its_row(
    scripted: Server, outcomes: list[list[str]], workers: Any, retries: int, generated: bool
) -> None:
    """Rows in order, each answered or failed as its own outcomes say, with its attempts, within the workers."""
    # Each refusal for a limit slows all that follow, which is test_limits' matter: a few rows have some.
    outcomes = [[o for o in script if o != "limited" or at < 3] for at, script in enumerate(outcomes)]
    scripts = Scripts(scripted, outcomes)
    rows: Any = (chat for chat in chats(len(outcomes))) if generated else chats(len(outcomes))
    options = {"model": f"openai/{id(scripts)}"}  # an account of its own: nothing is learnt from other examples
    # A run of rows that all fail with a fault of the server's stops the sending; that is another test's matter.
    for at in range(0, len(outcomes), 3):
        scripts.left[question(at)] = []
    results = batch(scripted.api_base, rows, max_workers=workers, retries=retries, timeout=5.0, **options)
    assert len(results) == len(outcomes)
    for index, row in enumerate(results):
        good, attempts = expected(outcomes[index] if index % 3 else [], retries)
        if row.get("error_details", {}).get("type") == "NotSent":
            continue
        assert answered(row, index) == good, row
        assert row["attempts"] == attempts == scripts.sent[question(index)]
        if not good:
            assert row["choices"] == []
            assert row["error_details"]["attempts"] == attempts
    if workers != "auto":
        assert scripted.stats.peak_in_flight <= workers


@pytest.mark.more_at_night
@settings(max_examples=examples(6), **RELAXED)
@given(
    outcomes=st.lists(
        st.lists(st.sampled_from(["slow", "good", "limited, no hint"]), max_size=2), min_size=1, max_size=8
    )
)
def test_slow_and_unexplained_refusals_end_well(scripted: Server, outcomes: list[list[str]]) -> None:
    """An attempt beyond its timeout and a 429 without any hint are retried to a good row."""
    scripts = Scripts(scripted, outcomes)
    results = batch(
        scripted.api_base,
        chats(len(outcomes)),
        model=f"openai/{id(scripts)}",
        timeout=TIMEOUT,
        retries=2,
        max_workers=8,
    )
    assert [answered(row, i) for i, row in enumerate(results)] == [True] * len(outcomes)
    assert [row["attempts"] for row in results] == [
        len(script) + 1 if "good" not in script else script.index("good") + 1 for script in outcomes
    ]


@pytest.mark.more_at_night
@settings(max_examples=examples(60), **RELAXED)
@given(
    count=st.integers(0, 60),
    slots=st.lists(st.integers(0, 9), min_size=1, max_size=6),
    naps=st.lists(st.sampled_from([0, 0, 0.001, 0.004]), min_size=1, max_size=9),
    generated=st.booleans(),
)
def test_the_engine_gives_every_index_once_within_its_slots(
    count: int, slots: list[int], naps: list[float], generated: bool
) -> None:
    """However long each takes and however the number of slots changes, never more run than there are slots."""
    allowed = itertools.cycle(slots)
    running, now_allowed, over = 0, max(1, *slots), []

    async def work(index: int, item: int) -> int:
        nonlocal running
        running += 1
        over.append(running > now_allowed)
        await asyncio.sleep(naps[index % len(naps)])
        running -= 1
        return item * 2

    async def run() -> list[tuple[int, int]]:
        items = (i for i in range(count)) if generated else range(count)
        before = asyncio.all_tasks()
        found = [pair async for pair in fan_out(items, work, slots=lambda: next(allowed))]
        assert asyncio.all_tasks() == before, "no task is left behind"
        return found

    found = asyncio.run(run())
    assert sorted(found) == [(i, i * 2) for i in range(count)]
    assert not any(over)


@pytest.mark.more_at_night
@settings(max_examples=examples(40), **RELAXED)
@given(
    taken=st.integers(0, 20),
    slots=st.integers(1, 9),
    how=st.sampled_from(["leave", "cancel", "work fails", "source fails"]),
)
def test_leaving_early_leaves_nothing_running(  # noqa: C901 - four ways of leaving
    taken: int, slots: int, how: str
) -> None:
    """After an early exit, a cancellation or an exception no task runs, and no item is taken any more."""
    started, ended, drawn = [], [], []

    async def work(index: int, item: int) -> int:
        started.append(index)
        try:
            await asyncio.sleep(0 if index < taken else 30)
            if how == "work fails" and index == taken:
                msg = "work"
                raise ValueError(msg)
        finally:
            ended.append(index)
        return item

    def source() -> Iterator[int]:
        for item in range(10_000):
            if how == "source fails" and item == taken:
                msg = "source"
                raise ValueError(msg)
            drawn.append(item)
            yield item

    async def use() -> None:
        async with contextlib.aclosing(fan_out(source(), work, slots=lambda: slots)) as results:
            async for index, _ in results:
                if how == "leave" and index + 1 >= taken:
                    return

    async def run() -> None:
        before = asyncio.all_tasks()
        task = asyncio.ensure_future(use())
        if how in {"cancel", "leave", "work fails"}:
            await asyncio.wait([task], timeout=0.05)
            task.cancel()
        with contextlib.suppress(asyncio.CancelledError, ValueError):
            await task
        assert asyncio.all_tasks() == before

    asyncio.run(run())
    assert sorted(started) == sorted(ended)
    assert len(drawn) <= taken + slots, "a generator is asked for what has a slot, and no more"


def test_a_hundred_thousand_rows_are_never_a_hundred_thousand_tasks() -> None:
    """Tasks are made when they are admitted: as many as there are slots, and no more."""
    most = 0

    async def work(index: int, item: int) -> int:
        nonlocal most
        if index % 997 == 0:
            most = max(most, len(asyncio.all_tasks()))
        return item

    async def run() -> int:
        return sum([1 async for _ in fan_out(range(100_000), work, slots=lambda: 32)])

    assert asyncio.run(run()) == 100_000
    assert most <= 32 + 2


def test_the_input_is_not_changed(scripted: Server) -> None:
    """LiteLLM changes what it is given; the caller's lists and dicts stay as they were."""
    scripted.handler = None
    given, extra = chats(3), {"metadata": {"a": "b"}, "stop": ["x"], "logit_bias": {"5": 1}}
    batch(scripted.api_base, given, **extra)
    assert given == chats(3)
    assert extra == {"metadata": {"a": "b"}, "stop": ["x"], "logit_bias": {"5": 1}}


def test_cancelling_an_async_batch_sends_nothing_more(scripted: Server) -> None:
    """Cancelling the awaiting task cancels the batch on its own loop, and what is in flight."""
    scripted.reset()
    scripted.handler = lambda request: Response(200, delay=30)

    async def run() -> None:
        call = llmbatch.acreate_chat_completions_batch(
            chats(50), **place(scripted.api_base, model="openai/cancelled"), max_workers=4
        )
        task = asyncio.ensure_future(call)
        while len(scripted.requests) < 4 and not task.done():  # noqa: ASYNC110 - the server is another thread
            await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(run())
    interrupted = llmbatch.interrupted_results()
    assert interrupted is not None
    assert len(interrupted) == 50
    assert {row["error_details"]["type"] for row in interrupted} == {"Cancelled"}
    assert idle(scripted)
    assert len(scripted.requests) == 4
