"""`validate`, `on_result` and the input are the caller's own code: slow, blocking, or calling llmbatch themselves."""

from __future__ import annotations

import threading
import time
import traceback
from typing import TYPE_CHECKING, Any

import pytest

import llmbatch
from tests.server import Response
from tests.talk import answered, batch, chats, idle

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.server import Server

LONG = 60.0  # seconds; more than any test takes


@pytest.fixture
def released() -> Iterator[threading.Event]:
    """What a function that blocks waits for, set when the test is over."""
    event = threading.Event()
    yield event
    event.set()


def test_validate_slow_holds_up_no_other_row(server: Server) -> None:
    """Other rows are answered and done while it runs: their answers would time out, and be paid again."""
    others = threading.Event()

    def validate(row: llmbatch.Row) -> str | None:
        return None if not answered(row, 0) or others.wait(LONG) else "the other rows stood still"

    def on_result(index: int, row: llmbatch.Row) -> None:
        if index:
            others.set()

    rows = batch(server.api_base, chats(6), max_workers=3, validate=validate, on_result=on_result)
    assert [answered(row, index) for index, row in enumerate(rows)] == [True] * 6
    assert len(server.requests) == 6


def test_validate_asks_model_through_llmbatch_answers(server: Server) -> None:
    """Each kind of blocking call works from `validate`, also one whose own `validate` asks a model."""

    def judge(row: llmbatch.Row) -> str | None:
        inner = batch(
            server.api_base, chats(1), validate=lambda _: str(batch(server.api_base, chats(1)).failed or "") or None
        )
        return None if answered(inner[0], 0) else "the judge failed"

    rows = batch(server.api_base, chats(12), max_workers=12, validate=judge)
    assert [answered(row, index) for index, row in enumerate(rows)] == [True] * 12


def test_on_result_and_input_call_llmbatch_answer(server: Server) -> None:
    """A blocking call works from `on_result`, and from the generator that gives the input."""
    seen = []

    def questions() -> Iterator[Any]:
        for at in range(3):
            assert answered(batch(server.api_base, chats(1))[0], 0)
            yield chats(1, start=at)[0]

    def on_result(index: int, row: llmbatch.Row) -> None:
        seen.append((index, answered(batch(server.api_base, chats(1))[0], 0)))

    rows = batch(server.api_base, questions(), on_result=on_result)
    assert [answered(row, index) for index, row in enumerate(rows)] == [True] * 3
    assert sorted(seen) == [(0, True), (1, True), (2, True)]


def test_on_result_stuck_loses_no_answer_at_deadline(server: Server, log: list[str], released: threading.Event) -> None:
    """The deadline ends the wait for it: answers that came in time stay, and the log says how many it has not seen."""
    batch(server.api_base, chats(1))
    seen: list[int] = []

    def on_result(index: int, row: llmbatch.Row) -> None:
        seen.append(index)
        released.wait(LONG)

    rows = batch(server.api_base, chats(4), deadline=4, on_result=on_result)
    assert [answered(row, index) for index, row in enumerate(rows)] == [True] * 4
    assert rows.elapsed < LONG / 2
    assert len(seen) == 1
    assert sum("on_result was too slow" in line for line in log) == 1


def test_on_result_called_once_per_row_one_at_a_time(server: Server) -> None:
    """In the order in which the rows are yielded, late ones included, and never for two rows at once."""
    seen: list[int] = []
    inside = threading.Lock()

    def on_result(index: int, row: llmbatch.Row) -> None:
        assert inside.acquire(blocking=False)
        seen.append(index)
        inside.release()

    given = {"max_workers": 16, "on_result": on_result, "progress": False}
    place = {"model": "openai/gpt-4o-mini", "api_base": server.api_base, "api_key": "k"}
    yielded = [index for index, _ in llmbatch.as_completed(chats(60), **place, **given)]
    assert seen == yielded
    seen.clear()
    server.handler = lambda request: Response(200, delay=60)
    batch(server.api_base, chats(30), deadline=0.5, on_result=on_result)
    assert sorted(seen) == list(range(30))


def test_validate_stuck_is_left_at_deadline(server: Server, released: threading.Event) -> None:
    """Rows whose `validate` has not returned by then are error rows, and what they cost is counted."""
    batch(server.api_base, chats(1))
    rows = batch(server.api_base, chats(12), deadline=1.5, validate=lambda _: released.wait(LONG) and None)
    assert {row["error_details"]["type"] for row in rows} == {"DeadlineExceeded"}
    assert rows.usage["total_tokens"] > 0
    assert rows.elapsed < LONG / 2


def test_input_of_known_length_that_blocks_is_left_at_deadline(server: Server, released: threading.Event) -> None:
    """What it has not given by then are error rows: one for each that its length promises."""

    class Slow:
        def __len__(self) -> int:
            return 5

        def __iter__(self) -> Iterator[Any]:
            yield from chats(3)
            released.wait(LONG)

    class SlowSequence(list[Any]):
        def __iter__(self) -> Iterator[Any]:
            yield from chats(3)
            released.wait(LONG)

    batch(server.api_base, chats(1))
    for given in (Slow(), SlowSequence(chats(5))):
        rows = batch(server.api_base, given, deadline=1.0)
        assert [answered(row, index) for index, row in enumerate(rows)] == [True] * 3 + [False] * 2
        assert {row["error_details"]["type"] for row in rows.failed} == {"DeadlineExceeded"}
        assert rows.elapsed < LONG / 2


def test_exception_of_on_result_keeps_traceback(server: Server) -> None:
    """The frame of the caller's function is in it; StopIteration, which no coroutine may raise, is its cause."""

    def broken(index: int, row: llmbatch.Row) -> None:
        raise error

    for error in (KeyError("mine"), StopIteration("mine")):
        with pytest.raises((KeyError, RuntimeError)) as caught:
            batch(server.api_base, chats(1), on_result=broken)
        found = caught.value if isinstance(error, KeyError) else caught.value.__cause__
        assert found is error
        assert "broken" in [frame.name for frame in traceback.extract_tb(found.__traceback__)]
    rows = batch(server.api_base, chats(1), validate=lambda _: next(iter(())))
    assert "validate raised StopIteration" in rows[0]["error"]


def test_interrupt_ends_calls_of_user_functions(server: Server, released: threading.Event) -> None:
    """When a batch is left, the model calls that its functions make are cancelled, and new ones are not sent."""
    raised: list[type[BaseException]] = []

    def judge(row: llmbatch.Row) -> None:
        try:
            batch(server.api_base, chats(1, start=900))
        except BaseException as exc:
            raised.append(type(exc))
            try:
                batch(server.api_base, chats(1, start=901))
            except BaseException as exc:  # noqa: BLE001 - of any kind
                raised.append(type(exc))
            raise

    server.handler = lambda request: Response(200, delay=60) if "900" in request.text else None
    rows = llmbatch.as_completed(
        chats(2), "openai/gpt-4o-mini", api_base=server.api_base, api_key="k", validate=judge, deadline=1.0
    )
    assert [row["error_details"]["type"] for _, row in rows] == ["DeadlineExceeded"] * 2
    assert idle(server)
    end = time.monotonic() + 20
    while len(raised) < 4 and time.monotonic() < end:
        time.sleep(0.02)
    assert {error.__name__ for error in raised} == {"CancelledError"}
    assert not any("901" in request.text for request in server.requests)
