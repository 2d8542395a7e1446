"""Servers, workers and consoles: who sees a bar, where the log goes, and what the first request finds loaded."""

from __future__ import annotations

import asyncio
import io
import signal
import sys
import threading
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

import llmbatch
from tests.replies import reply
from tests.talk import batch, chats, place, script

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.server import Server
    from tests.warm import Warm


class Terminal(io.StringIO):
    """Somebody watches."""

    def isatty(self) -> bool:
        return True


def on_a_thread(call: Callable[[], object]) -> None:
    worker = threading.Thread(target=call)
    worker.start()
    worker.join()


def in_a_loop(call: Callable[[], object]) -> None:
    async def handler() -> None:
        call()

    asyncio.run(handler())


def in_a_service(call: Callable[[], object]) -> None:
    before = signal.signal(signal.SIGTERM, lambda *_: None)
    try:
        call()
    finally:
        signal.signal(signal.SIGTERM, before)


@pytest.mark.parametrize(
    ("where", "shown"),
    [(lambda call: call(), True), (on_a_thread, False), (in_a_loop, False), (in_a_service, False)],
    ids=["script", "thread", "loop", "service"],
)
def test_a_bar_is_for_the_program_in_front(
    server: Server, monkeypatch: pytest.MonkeyPatch, where: Callable[[Callable[[], object]], None], shown: bool
) -> None:
    """In one terminal: a script's call draws one, a server's or a worker's does not unless told to."""
    for progress, expected in ((None, shown), (True, True), (False, False)):
        monkeypatch.setattr("sys.stderr", screen := Terminal())
        where(lambda progress=progress: batch(server.api_base, chats(3), progress=progress))
        assert ("3/3" in screen.getvalue()) is expected, progress


def test_an_awaited_call_draws_no_bar(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """A coroutine may be anybody's, as in a web server."""
    monkeypatch.setattr("sys.stderr", screen := Terminal())
    asyncio.run(llmbatch.acreate_chat_completions_batch(chats(3), **place(server.api_base)))
    assert screen.getvalue() == ""


_FEW_FILES = """
import resource, sys
import llmbatch
from tests.talk import batch, chats
most = int(sys.argv[2])
resource.setrlimit(resource.RLIMIT_NOFILE, (200, most))
rows = batch(sys.argv[1], chats(300), max_workers=most, retries=0, deadline=200)
print(len(rows.failed), resource.getrlimit(resource.RLIMIT_NOFILE)[1])
"""


@pytest.mark.processes
@pytest.mark.skipif(sys.platform == "win32", reason="Windows limits no files")
@pytest.mark.parametrize("allowed", [200, 400])
def test_workers_beyond_the_files_that_may_be_open_lose_no_row(
    provider: Callable[..., Server], warm: Warm, allowed: int
) -> None:
    """The process's own limit is raised as far as it may be, and no more are in flight than that."""
    server = provider(latency=0.5)
    if allowed > 200:
        server.handler = lambda request: replace(reply(request), until=lambda: len(server.requests) > 250)
    with warm.script(_FEW_FILES, server.api_base, str(allowed)) as process:
        assert process.communicate() == (f"0 {allowed}\n", "")
    assert (server.stats.peak_in_flight > 200) is (allowed > 200)


@pytest.mark.processes
def test_an_application_with_stdlib_logging_hears_each_thing_once(server: Server) -> None:
    """After enable_logging() its handlers have llmbatch's lines, loguru prints none, and LiteLLM's say nothing new.

    And what warm_up has loaded is all that the first request needs; it sends nothing.
    """
    code = """
import logging, sys
logging.basicConfig(level=logging.INFO, stream=sys.stdout, format="%(name)s %(message)s")
import llmbatch
llmbatch.enable_logging()
place = {"model": "openai/gpt-4o-mini", "api_base": sys.argv[1], "api_key": "k"}
llmbatch.warm_up(**place)
print("warm")
before = set(sys.modules)
row = llmbatch.create_chat_completion([{"role": "user", "content": "Hi"}], **place)
assert row["cost"] > 0
print("imported", sorted(set(sys.modules) - before))
"""
    with script(code, server.api_base) as process:
        out, err = process.communicate(timeout=500)
    lines = out.splitlines()
    assert err == ""
    assert lines[0] == "warm"
    assert [line.partition("] ")[2].partition(":")[0] for line in lines[1:3]] == [
        "Chat completion batch",
        "Chat completion batch finished",
    ]
    assert all(line.startswith("llmbatch._batch.batch_story [") for line in lines[1:3])
    assert lines[3:] == ["imported []"]
    assert len(server.requests) == 1


def test_warming_up_is_checked_like_a_call() -> None:
    """Misuse raises there already."""
    with pytest.raises(ValueError, match="Did you mean temperature"):
        llmbatch.warm_up("gpt-4o-mini", temprature=1)  # type: ignore[call-arg]
    with pytest.raises(ValueError, match="cannot be determined"):
        asyncio.run(llmbatch.awarm_up("no-such-model"))
