"""A circuit breaker: stop sending when rows keep failing for a reason that every row would meet."""

from __future__ import annotations

import asyncio
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


class CircuitBreaker:
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
