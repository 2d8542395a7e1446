"""What the engine's tests say to a provider: numbered questions, in this process or in one of their own."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Any

import llmbatch
from llmbatch import _retry
from tests.server import answer_to

__all__ = ["KEY", "answered", "batch", "chats", "question", "quick_backoff", "script"]

KEY = "sk-adversary-0123456789abcdef"


def question(index: int) -> str:
    """The text of one numbered question."""
    return f"Question number {index}?"


def chats(count: int, start: int = 0) -> list[list[dict[str, str]]]:
    """Conversations of one question each."""
    return [[{"role": "user", "content": question(i)}] for i in range(start, start + count)]


def batch(api_base: str, rows: Any, **options: Any) -> llmbatch.BatchResults:
    """A chat batch against an OpenAI-compatible server."""
    given = {"model": "openai/gpt-4o-mini", "api_base": api_base, "api_key": KEY, "progress": False, **options}
    return llmbatch.create_chat_completions_batch(rows, **given)


def answered(row: Any, index: int) -> bool:
    """Whether the row holds the answer to the question of that number."""
    return "error" not in row and row["choices"][0]["message"]["content"] == answer_to(question(index))


def quick_backoff(monkeypatch: Any) -> None:
    """Faults are sent again almost at once."""
    monkeypatch.setattr(_retry, "BACKOFF_FIRST", 0.01)


class _Process(subprocess.Popen[str]):
    def __exit__(self, *exc: object) -> None:
        self.kill()  # a test that fails waits for nobody
        super().__exit__(*exc)  # type: ignore[arg-type]


def script(code: str, *arguments: str, flags: tuple[str, ...] = ("-W", "error"), **how: Any) -> subprocess.Popen[str]:
    """A Python process of its own that runs `code`; its output is piped."""
    command = [sys.executable, *flags, "-c", code, *arguments]
    given: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, **how}
    return _Process(command, env={**os.environ, "PYTHONPATH": "."}, **given)
