"""The progress bar: tqdm with failures, tokens and cost."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from llmbatch._output.stats import RunStats
from llmbatch._rows.row import Row
from llmbatch._util.background_call import in_front
from llmbatch._util.foreground import Foreground, caller

__all__ = ["ProgressBar"]


class ProgressBar:
    """A bar that counts rows as they finish.

    `show=None` shows it in notebooks and in terminal scripts, but not to servers, workers and threads, which share the
    terminal with others. `note` returns what else to show after the numbers.
    """

    def __init__(self, total: int | None, show: bool | None, note: Callable[[], str] = str) -> None:
        self.row_stats = RunStats()
        self._note = note
        self._bar: Any = None
        if show if show is not None else _watched():
            place = caller()
            self._bar = (
                _tqdm()(total=total, unit="row", dynamic_ncols=True, mininterval=0.2)
                if place is None
                else _MarimoBar(total, place)
            )

    def add(self, row: Row) -> None:
        """Count a finished row."""
        self.row_stats.add(row)
        if self._bar is not None:
            self._bar.set_postfix_str(self._tail(), refresh=False)
            self._bar.update(1)

    def _tail(self) -> str:
        row_stats = self.row_stats
        cost = "" if row_stats.cost is None else f", ${row_stats.cost:.4f}"
        note = f"; {note}" if (note := self._note()) else ""
        return f"{row_stats.failed} failed, {row_stats.usage['total_tokens']:,} tokens{cost}{note}"

    def redraw(self) -> None:
        """Show what `note` returns now."""
        if self._bar is not None:
            self._bar.set_postfix_str(self._tail())

    def reach(self, done: int, note: str) -> None:
        """Show that `done` rows are finished, by another count than the bar's own."""
        if self._bar is not None:
            self._bar.set_postfix_str(note, refresh=False)
            self._bar.n = done
            self._bar.refresh()

    def aside(self) -> AbstractContextManager[None]:
        """Return a context in which other lines may be written: the bar is removed and drawn again."""
        return nullcontext() if self._bar is None else self._bar.external_write_mode(file=sys.stderr)

    def close(self) -> None:
        """End the bar and leave it on the screen."""
        if self._bar is not None:
            self._bar.close()


class _MarimoBar:
    """A bar of marimo with the methods of tqdm that are used here; it is drawn in the thread that runs the cell."""

    def __init__(self, total: int | None, place: Foreground) -> None:
        self.n = self._drawn = 0
        self._total, self._place, self._note = total, place, ""
        self._context: Any = None
        self._closed = False
        self.refresh()

    def set_postfix_str(self, note: str, *, refresh: bool = True) -> None:
        self._note = note
        if refresh:
            self.refresh()

    def update(self, rows: int) -> None:
        self.n += rows
        self.refresh()

    def refresh(self) -> None:
        self._place.post(id(self), self._draw)

    def external_write_mode(self, file: Any) -> AbstractContextManager[None]:  # noqa: ARG002 - tqdm's signature
        return nullcontext()

    def close(self) -> None:
        self._closed = True
        self.refresh()

    def _draw(self) -> None:
        if self._context is None:
            status = sys.modules["marimo"].status
            title = {"title": "llmbatch", "remove_on_exit": False}
            self._context = status.progress_bar(total=self._total, **title) if self._total else status.spinner(**title)
            self._bar = self._context.__enter__()
        rows = {"increment": self.n - self._drawn} if self._total else {}
        self._bar.update(**rows, subtitle=self._note if self._total else f"{self.n:,} rows, {self._note}")
        self._drawn = self.n
        if self._closed:
            self._context.__exit__(None, None, None)


def _in_notebook() -> bool:
    shell = sys.modules.get("IPython")
    return shell is not None and type(shell.get_ipython()).__name__ == "ZMQInteractiveShell"


def _watched() -> bool:
    return caller() is not None or _in_notebook() or (in_front() and sys.stderr is not None and sys.stderr.isatty())


def _tqdm() -> Any:
    """Return the widget class if ipywidgets is installed: tqdm.auto would warn if it is not."""
    widget = _in_notebook() and importlib.util.find_spec("ipywidgets")
    return importlib.import_module("tqdm.notebook" if widget else "tqdm").tqdm
