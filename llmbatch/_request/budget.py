"""The budget: a spending cap in USD that reserves the maximum cost of each request before it is sent."""

from __future__ import annotations

import asyncio
import math


class Budget:
    """A hard cap in USD: each request's worst case is reserved before it is sent.

    Where an answer has cost more than its worst case after all (a provider that answers by another model), those after
    it count as so many times more too.
    """

    def __init__(self, cap: float | None) -> None:
        self.cap = math.inf if cap is None else cap
        self.spent = self.reserved = 0.0
        self._dearer = 1.0
        self._settled = asyncio.Event()

    def fits(self, worst: float) -> bool:
        """Whether so much is left now."""
        return self.spent + (self.reserved + worst) * self._dearer <= self.cap

    async def reserve(self, worst: float) -> bool:
        """Take `worst` out of what is left, waiting for requests in flight to settle; False when it never fits."""
        while not self.fits(worst):
            if not self.reserved:
                return False
            self._settled.clear()
            await self._settled.wait()
        self.reserved += worst
        return True

    def settle(self, worst: float, cost: float | None) -> None:
        """The request is over: its worst case comes back, and what it cost is spent; all of it where nobody knows."""
        # Sums of floats leave a trace, which nobody is to wait for.
        self.reserved = max(0.0, self.reserved - worst) if self.reserved > worst * 1.000001 else 0.0
        self.spent += worst * self._dearer if cost is None else cost
        if cost is not None and worst:
            self._dearer = max(self._dearer, cost / worst)
        self._settled.set()
