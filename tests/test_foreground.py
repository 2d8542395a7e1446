"""Batches in marimo and streamlit, whose calling thread draws and is stopped; stand-ins for both."""

from __future__ import annotations

import asyncio
import sys
import threading
import time
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, Self

import pytest

from llmbatch import acreate_chat_completions_batch, as_completed, create_chat_completions_batch

if TYPE_CHECKING:
    from tests.server import Server

ROWS = [f"q{at}" for at in range(30)]


@pytest.fixture
def options(place: dict[str, Any]) -> dict[str, Any]:
    return {**place, "model": "openai/test-model"}


class Bar:
    """Stands for a progress bar or spinner of marimo, which works in the cell's thread only."""

    def __init__(self, total: int | None = None, **about: Any) -> None:
        self.total, self.about, self.rows, self.state, self.notes = total, about, 0, "made", [""]

    def __enter__(self) -> Self:
        self._check("shown")
        return self

    def __exit__(self, *_: object) -> None:
        self._check("closed")

    def update(self, increment: int = 0, subtitle: str = "") -> None:
        self._check("shown")
        self.rows += increment
        self.notes.append(subtitle)

    def _check(self, state: str) -> None:
        assert threading.current_thread() is threading.main_thread()
        assert self.state != "closed"
        self.state = state


@pytest.fixture
def bars(monkeypatch: pytest.MonkeyPatch) -> list[Bar]:
    """The bars of a marimo notebook, whose kernel is the main thread."""
    made: list[Bar] = []

    def bar(total: int | None = None, **about: Any) -> Bar:
        made.append(Bar(total, **about))
        return made[-1]

    marimo = SimpleNamespace(
        running_in_notebook=lambda: threading.current_thread() is threading.main_thread(),
        status=SimpleNamespace(progress_bar=bar, spinner=bar),
    )
    monkeypatch.setitem(sys.modules, "marimo", marimo)
    return made


def test_marimo_shows_its_own_bar_in_the_cells_thread(
    options: dict[str, Any], bars: list[Bar], capsys: pytest.CaptureFixture[str]
) -> None:
    """Blocking, awaited, row by row and of unknown length; nothing is printed, and `progress=False` shows none."""
    create_chat_completions_batch(ROWS, **options)
    asyncio.run(acreate_chat_completions_batch(ROWS, **options))
    for _ in as_completed(iter(ROWS), **options):
        pass
    create_chat_completions_batch(ROWS, progress=False, **options)
    assert [(bar.total, bar.rows, bar.state) for bar in bars] == [
        (30, 30, "closed"), (30, 30, "closed"), (None, 0, "closed"),
    ]  # fmt: skip
    assert bars[0].notes[-1].startswith("0 failed, ")
    assert bars[2].notes[-1].startswith("30 rows, 0 failed")
    assert capsys.readouterr().err == ""


class StopScriptError(BaseException):
    """What streamlit raises in a script that has to stop."""


@pytest.mark.parametrize("awaits", [False, True], ids=["blocking", "awaiting"])
def test_streamlit_stop_cancels_the_batch(
    server: Server, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch, awaits: bool
) -> None:
    """A rerun or Stop ends a script when it uses its state, which a waiting batch does: the rest is not sent."""
    server.set(latency=0.05)

    class State:
        def __contains__(self, name: str) -> bool:
            if len(server.requests) >= 10:
                raise StopScriptError
            return False

    def context(**_: Any) -> Any:
        return threading.current_thread() is threading.main_thread() or None

    def run() -> None:
        if awaits:
            asyncio.run(acreate_chat_completions_batch(ROWS * 20, **options))
        create_chat_completions_batch(ROWS * 20, **options)

    monkeypatch.setitem(sys.modules, "streamlit", SimpleNamespace(session_state=State()))
    monkeypatch.setitem(sys.modules, "streamlit.runtime.scriptrunner", SimpleNamespace(get_script_run_ctx=context))
    with pytest.raises(StopScriptError):
        run()
    sent = len(server.requests)
    time.sleep(0.1)
    assert len(server.requests) == sent < 300
