"""What stops a run before it burns anything: a budget in USD, and a breaker for faults that every row would meet."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Coroutine
from typing import Any, TypeVar

from llmbatch._request.failures import Failure
from llmbatch._request.retry import NotSentError

T = TypeVar("T")

# Rows in a row that fail with a fault that the others would meet too, before the rest is not sent.
FEW, FEW_AFTER_SUCCESS = 5, 15

_MENDS = {
    401: "check the API key",
    402: "add credit at the provider",
    403: "check that the key may use this model",
    404: "check the model's name and api_base",
    429: "the quota is spent: wait for its reset, or raise it at the provider",
}


class Breaker:
    """Trips when rows fail one after the other with a shared fault; any success starts the count anew."""

    def __init__(self) -> None:
        self.stopped: Failure | None = None
        self._in_a_row = 0
        self._any_success = False
        self._waits: set[asyncio.Timeout] = set()

    async def unless_stopped(self, wait: Coroutine[Any, Any, T]) -> T:
        """What `wait` comes to; raises NotSentError as soon as the sending is stopped."""
        until = asyncio.timeout(None)
        try:
            self._check()
            async with until:
                self._waits.add(until)
                return await wait
        except TimeoutError:
            self._check()
            raise
        finally:
            self._waits.discard(until)
            wait.close()

    def _check(self) -> None:
        if self.stopped is not None:
            raise NotSentError(self.stopped)

    def succeeded(self) -> None:
        """A row was answered."""
        self._in_a_row, self._any_success = 0, True

    def failed(self, failure: Failure) -> None:
        """A row failed for good."""
        if not failure.shared:
            return
        self._in_a_row += 1
        if self._in_a_row >= (FEW_AFTER_SUCCESS if self._any_success else FEW) and self.stopped is None:
            mend = _MENDS.get(failure.status_code or 0, "check api_base and whether the provider is up")
            self.trip(
                failure,
                f"{self._in_a_row} rows in a row failed with {failure.type}: {failure.message}; {mend}, then run again",
            )

    def trip(self, failure: Failure, why: str) -> None:
        """Stop the sending now."""
        self.stopped = Failure(
            "NotSent", f"not sent, since {why}", failure.status_code, failure.provider, retryable=True, shared=True
        )
        for until in self._waits:
            until.reschedule(0)


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
