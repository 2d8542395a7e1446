"""The progress bar: tqdm's, with failures, tokens and cost."""

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

__all__ = ["ProgressBar"]


class ProgressBar:
    """Counts rows as they finish. `show=None` shows it in a notebook, and in a terminal to a program in front.

    Where a server, a worker or another thread calls, the terminal is not the call's own.

    `note` gives what else stands in its tail.
    """

    def __init__(self, total: int | None, show: bool | None, note: Callable[[], str] = str) -> None:
        self.tally = RunStats()
        self._note = note
        self._bar: Any = None
        if show if show is not None else _watched():
            self._bar = _tqdm()(total=total, unit="row", dynamic_ncols=True, mininterval=0.2)

    def add(self, row: Row) -> None:
        """One more row is done."""
        self.tally.add(row)
        if self._bar is not None:
            self._bar.set_postfix_str(self._tail(), refresh=False)
            self._bar.update(1)

    def _tail(self) -> str:
        tally = self.tally
        cost = "" if tally.cost is None else f", ${tally.cost:.4f}"
        note = f"; {note}" if (note := self._note()) else ""
        return f"{tally.failed} failed, {tally.usage['total_tokens']:,} tokens{cost}{note}"

    def redraw(self) -> None:
        """Show what `note` gives now."""
        if self._bar is not None:
            self._bar.set_postfix_str(self._tail())

    def reach(self, done: int, note: str) -> None:
        """So many rows are done, as somebody else counts them."""
        if self._bar is not None:
            self._bar.set_postfix_str(note, refresh=False)
            self._bar.n = done
            self._bar.refresh()

    def aside(self) -> AbstractContextManager[None]:
        """Within it other lines may be written to the terminal: the bar is taken away and drawn again."""
        return nullcontext() if self._bar is None else self._bar.external_write_mode(file=sys.stderr)

    def close(self) -> None:
        """Leave the bar as it stands."""
        if self._bar is not None:
            self._bar.close()


def _in_notebook() -> bool:
    shell = sys.modules.get("IPython")
    return shell is not None and type(shell.get_ipython()).__name__ == "ZMQInteractiveShell"


def _watched() -> bool:
    return _in_notebook() or (in_front() and sys.stderr is not None and sys.stderr.isatty())


def _tqdm() -> Any:
    """The widget where there is one; tqdm.auto warns where a notebook has no ipywidgets, so ask first."""
    widget = _in_notebook() and importlib.util.find_spec("ipywidgets")
    return importlib.import_module("tqdm.notebook" if widget else "tqdm").tqdm
