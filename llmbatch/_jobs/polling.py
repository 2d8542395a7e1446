"""Poll a function at growing intervals until it says that it is done."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable

FIRST_POLL = 5.0  # seconds of the first pause
_LONGEST_POLL = 60.0  # seconds
_FACTOR = 1.5  # by which each pause is longer than the one before


async def poll_until(look: Callable[[], Awaitable[bool]], pause: float, time_left: Callable[[], float]) -> bool:
    """Call `look` until it returns True (then True) or no seconds are left (then False)."""
    while not await look():
        left = time_left()
        if left <= 0:
            return False
        await asyncio.sleep(min(pause * random.uniform(0.9, 1.1), left))  # noqa: S311 - not a secret
        pause = min(pause * _FACTOR, max(pause, _LONGEST_POLL))
    return True
