"""When the HTTP requests of an attempt were sent: what a library does before them is not the provider's time."""

from __future__ import annotations

import time
from contextvars import ContextVar

_times: ContextVar[list[float] | None] = ContextVar("_times", default=None)


def record_send_times() -> list[float]:
    """Return a list that fills with the times (`time.monotonic()`) of the requests sent in this context."""
    times: list[float] = []
    _times.set(times)
    return times


def note_sent(at: float | None = None) -> None:
    """Note that a request is sent now, or was at that time."""
    if (times := _times.get()) is not None:
        times.append(time.monotonic() if at is None else at)
