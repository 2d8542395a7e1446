"""How many requests may be in flight at once."""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Callable

from loguru import logger

if sys.platform != "win32":
    import resource

# Of max_workers="auto".
FIRST, MOST = 16, 512
BETTER = 1.1  # a larger number must finish at least this much more rows a second to be kept
DOUBTS = 2  # epochs in a row without gain, before the number is settled
SETTLED_EPOCHS = 8  # before a larger number is tried again

_OTHER_FILES = 64  # that a run may open besides its connections: a checkpoint, modules, logs


class Slots:
    """How many requests may be in flight: a number, or "auto" for as many as make the run faster.

    "auto" doubles it for as long as that pays: an epoch is as many finished rows as there are slots, and its rate is
    compared with the best one before; the first, in which connections are made, says nothing. While rows wait for a
    limit, more slots would only make more of them wait.

    Where each slot is a connection, there are no more than the system lets this process have.
    """

    def __init__(self, max_workers: int | str, waiting: Callable[[], int], *, connections: bool) -> None:
        self._auto = max_workers == "auto"
        wanted = MOST if isinstance(max_workers, str) else max_workers
        self._most = affordable(wanted) if connections else wanted
        self._slots = min(FIRST if self._auto else wanted, self._most)
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
            self._slots = min(self._most, self._slots * 2)
        else:
            self._doubts += 1
            if self._doubts >= DOUBTS:
                self._slots = max(min(FIRST, self._most), self._slots // 2)
                self._settled, self._doubts = SETTLED_EPOCHS, 0


def affordable(wanted: int) -> int:
    """How many of so many connections this process may have; its own limit of open files is raised where it can be."""
    if sys.platform == "win32":  # where files are not limited
        return wanted
    needed = wanted + _OTHER_FILES
    with contextlib.suppress(OSError):
        needed += len(os.listdir("/dev/fd"))  # noqa: PTH208 - their number
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or needed <= soft:
        return wanted
    more = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (more, hard))
        soft = more
    most = max(1, wanted - (needed - soft))
    if most < wanted:
        logger.warning(
            "At most {} requests are in flight, not {}: `ulimit -n {}` would allow them", most, wanted, needed
        )
    return most
