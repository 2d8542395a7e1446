"""Call a function again and again, at growing intervals, until it says that it is done."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable

# Seconds of the first and of the longest pause, and the factor by which each pause is longer than the one before.
FIRST_POLL, _SLOWEST_POLL, _SLOWER = 5.0, 60.0, 1.5


async def polled(look: Callable[[], Awaitable[bool]], pause: float, time_left: Callable[[], float]) -> bool:
    """Look, ever less often, until there is no more to see (True) or no time left (False); times are in seconds."""
    while not await look():
        left = time_left()
        if left <= 0:
            return False
        await asyncio.sleep(min(pause * random.uniform(0.9, 1.1), left))  # noqa: S311 - no secret
        pause = min(pause * _SLOWER, max(pause, _SLOWEST_POLL))
    return True
