"""What the engine's tests say to a provider: numbered questions, in this process or in one of their own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any

import llmbatch
from tests.server import answer_to

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.server import Server
    from tests.warm import Forked

__all__ = ["KEY", "answered", "batch", "chats", "idle", "lines", "place", "question", "script", "streamed", "until"]

KEY = "sk-adversary-0123456789abcdef"


def question(index: int) -> str:
    """The text of one numbered question."""
    return f"Question number {index}?"


def chats(count: int, start: int = 0) -> list[list[dict[str, str]]]:
    """Conversations of one question each."""
    return [[{"role": "user", "content": question(i)}] for i in range(start, start + count)]


def place(api_base: str, **more: Any) -> dict[str, Any]:
    """What every call to an OpenAI-compatible server names."""
    return {"model": "openai/gpt-4o-mini", "api_base": api_base, "api_key": KEY, **more}


def batch(api_base: str, rows: Any, **options: Any) -> llmbatch.BatchResults:
    """A chat batch against an OpenAI-compatible server."""
    return llmbatch.create_chat_completions_batch(rows, **place(api_base, **{"progress": False, **options}))


def streamed(api_base: str, rows: Any, **options: Any) -> llmbatch.BatchResults:
    """The rows at the end of a batch that is streamed."""
    given = place(api_base, **{"progress": False, **options})
    events = llmbatch.stream_chat_completions_batch(rows, **given)
    rows = {event["index"]: event["row"] for event in events if "row" in event}
    return llmbatch.BatchResults(rows[index] for index in range(len(rows)))


def answered(row: Any, index: int) -> bool:
    """Whether the row holds the answer to the question of that number."""
    return "error" not in row and row["choices"][0]["message"]["content"] == answer_to(question(index))


def lines(path: Path) -> list[dict[str, Any]]:
    """What a file of JSON lines holds."""
    return [json.loads(line) for line in path.read_text().splitlines()]


def idle(server: Server) -> bool:
    """Whether the server comes to have nothing in flight, and nothing on its way to it."""
    end, seen = time.monotonic() + 120, -1
    while (server.stats.in_flight or seen < len(server.requests)) and time.monotonic() < end:
        seen = len(server.requests)
        time.sleep(0.1)
    return not server.stats.in_flight


class _Process(subprocess.Popen[str]):
    def __exit__(self, *exc: object) -> None:
        self.kill()  # a test that fails waits for nobody
        super().__exit__(*exc)  # type: ignore[arg-type]


def script(code: str, *arguments: str, flags: tuple[str, ...] = ("-W", "error"), **how: Any) -> subprocess.Popen[str]:
    """A Python process of its own that runs `code`; its output is piped."""
    command = [sys.executable, *flags, "-c", code, *arguments]
    given: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, **how}
    return _Process(command, env={**os.environ, "PYTHONPATH": "."}, **given)


def until(process: subprocess.Popen[str] | Forked, there: Callable[[], object]) -> None:
    """Wait for what a process is to bring about, while it runs."""
    end = time.monotonic() + 240
    while not there():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < end
        time.sleep(0.01)
