"""A deadline ends the batch with what is done; Ctrl-C raises at once, keeps what is done and sends nothing more."""

from __future__ import annotations

import os
import signal
import time
from typing import TYPE_CHECKING, Any

import pytest

import llmbatch
from tests.server import Response
from tests.talk import answered, batch, chats, place, question, script, until

if TYPE_CHECKING:
    from pathlib import Path

    from tests.server import Server

KEPT = "30 6 {'Cancelled'}"


def slow_after(count: int) -> Any:
    """Answers the first questions at once, the others never."""
    return lambda request: Response(200, delay=60) if int(request.text.split()[2].rstrip("?")) >= count else None


def test_the_deadline_keeps_what_is_done(server: Server) -> None:
    """Done rows stay, the others are error rows at once, and those not begun cost nothing."""
    batch(server.api_base, chats(1))
    server.reset()
    server.handler = slow_after(6)
    rows = batch(server.api_base, chats(30), max_workers=4, deadline=1.5)
    assert [answered(row, i) for i, row in enumerate(rows)] == [True] * 6 + [False] * 24
    assert {row["error_details"]["type"] for row in rows.failed} == {"DeadlineExceeded"}
    assert len(server.requests) == 6 + 4
    assert [row["cost"] for row in rows[6:]] == [None] * 4 + [0.0] * 20
    assert rows.elapsed < 20


def test_the_deadline_holds_for_embeddings(server: Server) -> None:
    """One error row for each text that is late."""
    server.handler = lambda request: Response(200, delay=60)
    rows = llmbatch.create_embeddings_batch(["a", "b", "c"], **place(server.api_base, model="openai/e"), deadline=0.5)
    assert [row["error_details"]["type"] for row in rows] == ["DeadlineExceeded"] * 3


def test_a_retry_does_not_outlive_the_deadline(server: Server) -> None:
    """A row that waits for its next attempt is late all the same."""
    server.handler = lambda request: Response(429, {"retry-after": "60"})
    rows = batch(server.api_base, chats(3), deadline=1.0, model="openai/a-retry-and-a-deadline")
    assert {row["error_details"]["type"] for row in rows} == {"DeadlineExceeded"}


INTERRUPTED = """
import sys, llmbatch
from tests.talk import batch, chats
try:
    batch(sys.argv[1], chats(30), max_workers=4, checkpoint=sys.argv[2])
except KeyboardInterrupt:
    done = llmbatch.interrupted_results()
    print(len(done), len(done.succeeded), {row["error_details"]["type"] for row in done.failed})
else:
    print("not interrupted")
"""


def interrupted(server: Server, path: Path, code: str) -> str:
    server.handler = slow_after(6)
    with script(code, server.api_base, str(path), start_new_session=True) as process:
        until(process, lambda: len(server.requests) >= 10)
        time.sleep(0.2)
        os.kill(process.pid, signal.SIGINT)
        out, err = process.communicate(timeout=30)
    assert err == ""
    return out.strip()


@pytest.mark.processes
def test_ctrl_c_in_a_script_keeps_what_is_done(server: Server, tmp_path: Path) -> None:
    """KeyboardInterrupt is raised in the call, the partial result is there, nothing more is sent."""
    assert interrupted(server, tmp_path / "run.jsonl", INTERRUPTED) == KEPT
    assert len(server.requests) == 10
    server.handler = None
    server.reset()
    rows = batch(server.api_base, chats(30), checkpoint=tmp_path / "run.jsonl")
    assert all(answered(row, i) for i, row in enumerate(rows))
    assert len(server.requests) == 24, "what was done before Ctrl-C is in the checkpoint"


IN_A_LOOP = """
import asyncio, sys, llmbatch
from tests.talk import batch, chats, place
async def main():
    CALL
try:
    asyncio.run(main())
except KeyboardInterrupt:
    done = llmbatch.interrupted_results()
    print(len(done), len(done.succeeded), {row["error_details"]["type"] for row in done.failed})
"""
INSIDE_A_LOOP = IN_A_LOOP.replace("CALL", "batch(sys.argv[1], chats(30), max_workers=4)")
AWAITED = IN_A_LOOP.replace(
    "CALL",
    "await llmbatch.acreate_chat_completions_batch(chats(30), **place(sys.argv[1]), max_workers=4)",
)

ITERATED = """
import sys, llmbatch
from tests.talk import chats, place
done = 0
try:
    for index, row in llmbatch.as_completed(chats(30), **place(sys.argv[1]), max_workers=4):
        done += 1
except KeyboardInterrupt:
    print(done)
"""
FORMS = {"inside a loop": (INSIDE_A_LOOP, KEPT), "awaited": (AWAITED, KEPT), "iterated": (ITERATED, "6")}


@pytest.mark.processes
@pytest.mark.parametrize(("code", "said"), FORMS.values(), ids=FORMS)
def test_ctrl_c_works_in_every_form(server: Server, tmp_path: Path, code: str, said: str) -> None:
    """In a running loop as in a notebook, awaited, and as an iterator."""
    assert interrupted(server, tmp_path / "unused", code) == said
    assert len(server.requests) == 10
    assert question(0) in {request.text for request in server.requests}
