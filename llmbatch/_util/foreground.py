"""What a calling thread does while it waits: only it can draw in marimo, and only it can be stopped by streamlit.

Neither is imported here. Nothing happens in a process that has not imported them.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from contextvars import ContextVar
from typing import Any

_local = threading.local()
_of_call: ContextVar[Foreground | None] = ContextVar("_of_call", default=None)


class Foreground:
    """The calling thread, for functions that have to run in it."""

    def __init__(self) -> None:
        self._posted: dict[Any, Callable[[], object]] = {}

    def post(self, key: Any, function: Callable[[], object]) -> None:
        """Let the calling thread call the function when it next looks, in place of an earlier one with the same key."""
        self._posted[key] = function

    def run(self) -> None:
        """Call what has been posted, in the order in which it was."""
        while self._posted:
            key = next(iter(self._posted))
            self._posted.pop(key)()


def foreground() -> Foreground | None:
    """Return the current thread as a place to draw in, None if nothing is drawn there: it runs no cell of marimo."""
    running = getattr(sys.modules.get("marimo"), "running_in_notebook", None)
    if running is None or not running():
        return None
    if (found := getattr(_local, "foreground", None)) is None:
        found = _local.foreground = Foreground()
    return found


def remember_caller() -> None:
    """Let the context that is copied for a call know the calling thread."""
    _of_call.set(foreground())


def caller() -> Foreground | None:
    """Return the thread that waits for the current call, if something can be drawn there."""
    return _of_call.get()


def draw() -> None:
    """Draw what the current thread has still to draw."""
    if (place := foreground()) is not None:
        place.run()


def look() -> Callable[[], object] | None:
    """Return what the current thread has to call now and then while it waits, None for nothing.

    In a script of streamlit it raises when the script has to stop: its Stop, a rerun, a closed tab.
    """
    functions: list[Callable[[], object]] = []
    if (place := foreground()) is not None:
        functions.append(place.run)
    state = getattr(sys.modules.get("streamlit"), "session_state", None)
    if state is not None and _in_streamlit():
        functions.append(lambda: "llmbatch" in state)  # streamlit stops a script when it uses the state
    return None if not functions else lambda: [function() for function in functions]


def _in_streamlit() -> bool:
    context = getattr(sys.modules.get("streamlit.runtime.scriptrunner"), "get_script_run_ctx", None)
    return context is not None and context(suppress_warning=True) is not None
