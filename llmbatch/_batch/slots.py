"""How many requests may be in flight: a number, or "auto" for as many as make the run faster."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Slots"]

FIRST, MOST = 16, 512
BETTER = 1.1  # a larger number must finish at least this much more rows a second to be kept
DOUBTS = 2  # epochs in a row without gain, before the number is settled
SETTLED_EPOCHS = 8  # before a larger number is tried again


class Slots:
    """Called by the engine for the number of slots.

    "auto" doubles it for as long as that pays: an epoch is as many finished rows as there are slots, and its rate is
    compared with the best one before; the first, in which connections are made, says nothing. While rows wait for a
    limit, more slots would only make more of them wait.
    """

    def __init__(self, max_workers: int | str, waiting: Callable[[], int]) -> None:
        self._auto = max_workers == "auto"
        self._slots = FIRST if isinstance(max_workers, str) else max_workers
        self._waiting = waiting
        self._settled = self._doubts = self._count = self._epochs = 0
        self._best = 0.0
        self._since = time.monotonic()

    def __call__(self) -> int:
        return self._slots

    def finished(self) -> None:
        """One more row is done."""
        if not self._auto:
            return
        self._count += 1
        if self._count < self._slots:
            return
        now = time.monotonic()
        rate = self._count / max(now - self._since, 1e-6)
        self._count, self._since = 0, now
        self._epochs += 1
        if self._epochs == 1 or self._waiting():
            return
        if self._settled:
            self._settled -= 1
            self._best = rate
        elif rate > self._best * BETTER:
            self._best, self._doubts = rate, 0
            self._slots = min(MOST, self._slots * 2)
        else:
            self._doubts += 1
            if self._doubts >= DOUBTS:
                self._slots = max(FIRST, self._slots // 2)
                self._settled, self._doubts = SETTLED_EPOCHS, 0
