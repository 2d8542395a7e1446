"""A deadline ends the batch with what is done; Ctrl-C raises at once, keeps what is done and sends nothing more."""

from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING, Any

import pytest
from pydantic import BaseModel

import llmbatch
from tests.server import Response
from tests.talk import answered, batch, chats, place, until

if TYPE_CHECKING:
    from pathlib import Path

    from tests.server import Server
    from tests.warm import Warm

KEPT = "30 6 4 {'Cancelled'}"


def slow_after(count: int) -> Any:
    """Answers the first questions at once, the others never."""
    return lambda request: Response(200, delay=60) if int(request.text.split()[2].rstrip("?")) >= count else None


def test_the_deadline_keeps_what_is_done(server: Server, jump: Any) -> None:
    """Done rows stay, the others are error rows at once, and those not begun cost nothing."""
    server.handler = slow_after(6)
    jump(60, lambda: len(server.requests) == 6 + 4)
    rows = batch(server.api_base, chats(30), max_workers=4, deadline=60)
    assert [answered(row, i) for i, row in enumerate(rows)] == [True] * 6 + [False] * 24
    assert {row["error_details"]["type"] for row in rows.failed} == {"DeadlineExceeded"}
    assert len(server.requests) == 6 + 4
    assert [row["cost"] for row in rows[6:]] == [None] * 4 + [0.0] * 20
    assert (rows.unpriced, rows.truncated) == (4, [])
    assert f"({6 / rows.elapsed:.1f} rows/s)" in rows.summary()
    assert rows.elapsed < 60


def test_rows_that_wait_for_a_limit_have_cost_nothing(server: Server, jump: Any) -> None:
    """Only what was sent may have been paid for; what a first model was paid for stays in the row's sums."""
    done: list[int] = []
    given: dict[str, Any] = {"requests_per_minute": 1, "model": "openai/waits-for-a-limit"}
    jump(30, lambda: done)
    rows = batch(server.api_base, chats(10), deadline=30, on_result=lambda at, _: done.append(at), **given)
    assert len(server.requests) == 1
    assert {(row["cost"], row["attempts"]) for row in rows.failed} == {(0.0, 0)}

    class Shape(BaseModel):
        good: bool

    server.handler = lambda request: Response(200, delay=60) if request.json["model"] == "gpt-4o" else None
    jump(60, lambda: any(request.json["model"] == "gpt-4o" for request in server.requests))
    (row,) = batch(server.api_base, chats(1), deadline=60, fallbacks=["openai/gpt-4o"], response_format=Shape)
    assert row["error_details"]["type"] == "DeadlineExceeded"
    assert (row["cost"], row["attempts"]) == (None, 2)
    assert row["usage"]["completion_tokens"] > 0


def test_the_deadline_holds_for_embeddings(server: Server) -> None:
    """One error row for each text that is late."""
    server.handler = lambda request: Response(200, delay=60)
    rows = llmbatch.create_embeddings_batch(["a", "b", "c"], **place(server.api_base, model="openai/e"), deadline=0.5)
    assert [row["error_details"]["type"] for row in rows] == ["DeadlineExceeded"] * 3
    server.handler = lambda request: (
        Response(400)
        if len(request.json["input"]) > 1
        else Response(delay=60)
        if "b" in request.json["input"]
        else None
    )
    rows = llmbatch.create_embeddings_batch(["a", "b", "c"], **place(server.api_base, model="openai/e"), deadline=5)
    assert ["error" in row for row in rows] == [False, True, False], "paid halves of a chunk are kept"
    assert rows[1]["cost"] is None


def test_a_retry_does_not_outlive_the_deadline(server: Server) -> None:
    """A row that waits for its next attempt is late all the same."""
    server.handler = lambda request: Response(429, {"retry-after": "60"})
    rows = batch(server.api_base, chats(3), deadline=1.0, model="openai/a-retry-and-a-deadline")
    assert {row["error_details"]["type"] for row in rows} == {"DeadlineExceeded"}


INTERRUPTED = """
import asyncio, contextlib, sys, time, llmbatch
from tests.talk import batch, chats, place
base, path = sys.argv[1:]
given = place(base, max_workers=4)
async def inside_a_loop():
    batch(base, chats(30), max_workers=4)
async def awaited():
    await llmbatch.acreate_chat_completions_batch(chats(30), **given)
def awaited_in_a_loop_of_its_own():
    before, loop = llmbatch.interrupted_results(), asyncio.new_event_loop()
    try:
        loop.run_until_complete(awaited())
    finally:  # the loop stands still: nobody awaits any more
        while llmbatch.interrupted_results() is before:
            time.sleep(0.05)
        for task in asyncio.all_tasks(loop):
            with contextlib.suppress(asyncio.CancelledError):
                loop.run_until_complete(task)
        loop.close()
for form in (
    lambda: batch(base, chats(30), max_workers=4, checkpoint=path),
    lambda: asyncio.run(inside_a_loop()),
    lambda: asyncio.run(awaited()),
    awaited_in_a_loop_of_its_own,
):
    input()
    try:
        form()
    except KeyboardInterrupt:
        done = llmbatch.interrupted_results()
        kinds = {row["error_details"]["type"] for row in done.failed}
        print(len(done), len(done.succeeded), done.unpriced, kinds, flush=True)
input()
count = 0
try:
    for _ in llmbatch.as_completed(chats(30), **given):
        count += 1
except KeyboardInterrupt:
    print(count, flush=True)
input()
async def iterated():
    global count
    async for _ in llmbatch.as_completed(chats(30), **given):
        count += 1
try:
    asyncio.run(iterated())
except KeyboardInterrupt:
    print(count - 6, flush=True)
input()
def endless():
    yield from chats(10)
    time.sleep(600)
batch(base, endless(), max_workers=4)
"""


@pytest.mark.processes
def test_ctrl_c_keeps_what_is_done_in_every_form(warm: Warm, server: Server, tmp_path: Path) -> None:
    """KeyboardInterrupt is raised in the call, nothing more is sent, and the same process can go on.

        Only rows that were on their way may have cost money.

    In a plain script, in a running loop as in a notebook, awaited, in a loop that Ctrl-C stops, as an iterator of
    either kind, and with an input that blocks. Uncaught, it ends with a line that says where the rows are.
    """
    path = tmp_path / "run.jsonl"
    server.handler = slow_after(6)
    with warm.script(INTERRUPTED, server.api_base, str(path)) as process:
        for said in (KEPT, KEPT, KEPT, KEPT, "6", "6", ""):
            server.reset()
            process.stdin.write("\n")
            process.stdin.flush()
            until(process, lambda: len(server.requests) >= 10)
            os.kill(process.pid, signal.SIGINT)
            assert process.stdout.readline().strip() == said
            assert len(server.requests) == 10
        _, err = process.communicate()
    assert err.startswith("Traceback")
    assert err.splitlines()[-2:] == [
        "KeyboardInterrupt",
        "6 rows were done: llmbatch.interrupted_results() has them; with checkpoint= a rerun sends only the rest",
    ]
    server.handler = None
    server.reset()
    rows = batch(server.api_base, chats(30), checkpoint=path)
    assert all(answered(row, i) for i, row in enumerate(rows))
    assert len(server.requests) == 24, "what was done before Ctrl-C is in the checkpoint"
