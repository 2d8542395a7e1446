"""The budget: a spending cap in USD that reserves the maximum cost of each request before it is sent."""

from __future__ import annotations

import asyncio
import math

from llmbatch._util.batch_log import logger

# Floating-point sums leave a residue, for which nobody must wait.
_RESIDUE = 1e-6
# Shares of the cap that are logged when they are spent.
_LOGGED_SHARES = (0.5, 0.8)


class Budget:
    """A hard spending cap in USD: the cost upper bound of each request is reserved before it is sent.

    An answer can cost more than its upper bound after all, if a provider answers with another model. The upper bounds
    of later requests are then multiplied by the worst such overrun, so that the cap is exceeded by that answer at most.

    Attributes:
        cap: USD that may be spent; inf without a cap.
        spent: USD that finished requests have cost; a request of unknown cost counts with its upper bound.
        reserved: upper bounds of the requests in flight, in USD.
        overrun_factor: the worst ratio of a cost to its upper bound so far, at least 1.
    """

    def __init__(self, cap: float | None) -> None:
        self.cap = math.inf if cap is None else cap
        self.spent = self.reserved = 0.0
        self.overrun_factor = 1.0
        self._settled = asyncio.Event()
        self._marks = [] if cap is None else [share * cap for share in _LOGGED_SHARES]
        self._reached = False

    @property
    def left(self) -> float:
        """USD that are neither spent nor reserved."""
        return max(0.0, self.cap - self.spent - self.reserved * self.overrun_factor)

    def fits(self, upper_bound: float) -> bool:
        """Return whether a request of this upper bound can be sent now."""
        return self.spent + (self.reserved + upper_bound) * self.overrun_factor <= self.cap

    async def reserve(self, upper_bound: float) -> bool:
        """Reserve an upper bound, waiting for requests in flight to finish; return False if it never fits."""
        while not self.fits(upper_bound):
            if not self.reserved:
                self._log_reached(upper_bound)
                return False
            self._settled.clear()
            await self._settled.wait()
        self.reserved += upper_bound
        return True

    def settle(self, upper_bound: float, cost: float | None) -> None:
        """Release a reservation and spend what the request cost; None means unknown, and spends the upper bound."""
        left = self.reserved > upper_bound * (1 + _RESIDUE)
        self.reserved = max(0.0, self.reserved - upper_bound) if left else 0.0
        self.spent += upper_bound * self.overrun_factor if cost is None else cost
        if cost is not None and upper_bound:
            self.overrun_factor = max(self.overrun_factor, cost / upper_bound)
        self._settled.set()
        if self._marks and self.spent >= self._marks[0]:
            self._log_marks()

    def _log_marks(self) -> None:
        self._marks = [mark for mark in self._marks if mark > self.spent]
        logger.info("{:.0%} of max_cost=${:g} are spent (${:.4f})", self.spent / self.cap, self.cap, self.spent)

    def _log_reached(self, upper_bound: float) -> None:
        if self._reached:
            return
        self._reached = True
        logger.warning(
            "max_cost=${:g} is reached: ${:.4f} are spent, and a request may cost up to ${:.4f}; requests that do not "
            "fit are not sent", self.cap, self.spent, upper_bound,
        )  # fmt: skip
