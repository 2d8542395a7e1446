"""Ctrl-C may arrive between any two lines of the calling thread: nothing more is sent, and the checkpoint is free."""

from __future__ import annotations

import asyncio
import gc
import sys
from typing import TYPE_CHECKING, Any, Self

import pytest

import llmbatch
from llmbatch._batch.checkpoint import Checkpoint
from llmbatch._util import background_call, background_loop, loop_thread
from tests.talk import batch, chats, place

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.server import Server

pytestmark = [
    pytest.mark.processes,
    # Of a coroutine that was interrupted before it was handed over.
    pytest.mark.filterwarnings("ignore:coroutine .* was never awaited:RuntimeWarning"),
]

BRIDGE = {module.__file__ for module in (background_loop, background_call, loop_thread)}
ROWS = 3


class Interrupter:
    """Raises KeyboardInterrupt in this thread at the `at`th line that it runs of the bridge to the background loop."""

    def __init__(self, at: int) -> None:
        self.at, self.lines = at, 0
        self.place = ""

    def __enter__(self) -> Self:
        sys.settrace(self._called)
        return self

    def __exit__(self, *_: object) -> None:
        sys.settrace(None)

    def _called(self, frame: Any, event: str, argument: Any) -> Any:
        return self._line if frame.f_code.co_filename in BRIDGE else None

    def _line(self, frame: Any, event: str, argument: Any) -> Any:
        if event == "line":
            self.lines += 1
            if self.lines == self.at:
                self.place = f"{frame.f_code.co_filename.rpartition('/')[2]}:{frame.f_lineno}"
                raise KeyboardInterrupt
        return self._line


def collected(given: dict[str, Any]) -> None:
    llmbatch.create_chat_completions_batch(**given)


def iterated(given: dict[str, Any]) -> None:
    for _ in llmbatch.as_completed(**given):
        pass


def left_early(given: dict[str, Any]) -> None:
    for _ in llmbatch.as_completed(**given):
        break


def awaited(given: dict[str, Any]) -> None:
    in_a_plain_loop(llmbatch.acreate_chat_completions_batch(**given))


def in_a_plain_loop(coroutine: Any) -> None:
    """Run it where Ctrl-C is raised, and not taken by `asyncio.run`."""
    loop = asyncio.new_event_loop()
    try:
        loop.run_until_complete(coroutine)
    finally:
        loop.close()


def requests_of(server: Server, at: int) -> int:
    return sum(f"line {at}, " in request.text for request in server.requests)


@pytest.mark.parametrize("form", [collected, iterated, left_early, awaited], ids=lambda form: form.__name__)
def test_interrupt_at_each_line_sends_nothing_more_and_frees_checkpoint(
    form: Callable[[dict[str, Any]], None], server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At every line that the calling thread runs of the bridge, KeyboardInterrupt is what the caller gets."""
    batch(server.api_base, chats(1))
    server.set(latency=0.003)
    lost: list[Any] = []
    monkeypatch.setattr(sys, "unraisablehook", lambda found: lost.append(found.exc_type))
    wrong: list[str] = []
    sent: dict[int, tuple[str, int]] = {}
    swallowed = 0
    at = lines = 0
    while True:
        at += 1
        path = tmp_path / f"{at}.jsonl"
        given = place(server.api_base, messages_list=[f"line {at}, {row}" for row in range(ROWS)], max_workers=1)
        given |= {"checkpoint": path, "progress": False}
        raised: BaseException | None = None
        with Interrupter(at) as interrupter:
            try:
                form(given)
            except BaseException as exc:  # noqa: BLE001 - it must be KeyboardInterrupt
                raised = exc
        if interrupter.lines < at:
            break
        lines = at
        assert raised is None or isinstance(raised, KeyboardInterrupt), f"line {at}: {raised!r}"
        swallowed += raised is None
        try:
            Checkpoint(path).close()
        except llmbatch.CheckpointError:
            wrong.append(f"{at} {interrupter.place}: the checkpoint is in use")
        sent[at] = (interrupter.place, requests_of(server, at))
    assert not batch(server.api_base, chats(5), max_workers=1).failed  # what still ran would have had its turns
    for at, (where, before) in sent.items():
        after = requests_of(server, at)
        if after > before + 1:  # one may have been on its way
            wrong.append(f"{at} {where}: {after - before} requests after Ctrl-C")
    assert not wrong
    assert set(lost) <= {KeyboardInterrupt}
    assert lines > 10
    assert swallowed == 0 or form is left_early
    raised = None
    gc.collect()  # the coroutines that were interrupted before they were handed over: their warnings are this test's
