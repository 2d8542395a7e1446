"""How many requests may be in flight at once."""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Callable

from llmbatch._util.batch_log import logger

if sys.platform != "win32":
    import resource

# For max_workers="auto".
INITIAL_WORKERS = 16
MAX_WORKERS = 512
MIN_GAIN = 1.1  # times the rows per second that a larger number must reach to be kept
MAX_EPOCHS_WITHOUT_GAIN = 2  # in a row, before the number is settled
SETTLED_EPOCHS = 8  # before a larger number is tried again

_OTHER_FILES = 64  # that a run may open besides its connections: checkpoint, modules, logs


class Slots:
    """How many requests may be in flight: a fixed number, or "auto" to raise it while that makes the run faster.

    "auto" works in epochs of as many finished rows as there are slots. It doubles the number while the rows per second
    rise. The first epoch, in which connections are made, does not count; nor do epochs in which rows wait for a rate
    limit.

    If each slot is a connection, the limit of open files of this process is kept.
    """

    def __init__(self, max_workers: int | str, waiting: Callable[[], int], *, connections: bool) -> None:
        self._auto = max_workers == "auto"
        wanted = MAX_WORKERS if isinstance(max_workers, str) else max_workers
        self._most = affordable(wanted) if connections else wanted
        self._slots = min(INITIAL_WORKERS if self._auto else wanted, self._most)
        self._waiting = waiting
        self._settled = self._without_gain = self._count = self._epochs = 0
        self._best = 0.0
        self._since = time.monotonic()

    def __call__(self) -> int:
        return self._slots

    def finished(self) -> None:
        """Count a finished row."""
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
        elif rate > self._best * MIN_GAIN:
            self._best, self._without_gain = rate, 0
            self._slots = min(self._most, self._slots * 2)
        else:
            self._without_gain += 1
            if self._without_gain >= MAX_EPOCHS_WITHOUT_GAIN:
                self._slots = max(min(INITIAL_WORKERS, self._most), self._slots // 2)
                self._settled, self._without_gain = SETTLED_EPOCHS, 0


def affordable(wanted: int) -> int:
    """Return how many of `wanted` connections this process may have, raising its limit of open files if it can."""
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
            "max_workers is lowered to {} from {}: the process may not open more files. `ulimit -n {}` allows them",
            most,
            wanted,
            needed,
        )
    return most
