"""A circuit breaker for one account of a batch: hold requests back while they would all meet the same failure.

States and transitions:

- CLOSED: requests flow, at most `max_in_flight()` at once.
- CLOSED to OPEN: `FAILURES_TO_OPEN` rows in a row failed for a reason that is, or may be, shared
  (`FAILURES_TO_OPEN_AFTER_SUCCESS` once a row was answered); or the server is not there (restarting, loading its
  model, connection refused), of which one attempt is enough.
- OPEN to HALF_OPEN: after a pause, one request is let through as a probe. Probes are *other* rows, spread over those
  that wait: a row that failed for its own content says nothing about the rest.
- HALF_OPEN to CLOSED: a probe was answered, or was rejected for its own content: the account works.
- HALF_OPEN to OPEN: the probe failed in the same way.
- given up, for good: too many probes failed, the server did not come back in time, or one failure left no doubt (a
  quota used up for the day). Every request that waits, and every later one, gets NotSentError.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import math
import time
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass, replace
from enum import Enum
from typing import Any, TypeVar

from llmbatch._request.failures import Failure, Scope
from llmbatch._request.retry import AttemptFailedError, NotSentError
from llmbatch._rows.failure_type import FailureType
from llmbatch._util.batch_log import logger

T = TypeVar("T")

# Consecutive rows that fail for a shared reason, before the circuit opens.
FAILURES_TO_OPEN = 5
FAILURES_TO_OPEN_AFTER_SUCCESS = 15
# Probes that fail before the batch is given up: few where the provider names a shared reason, more where it names none.
PROBES_FOR_SHARED_REASON = 3
PROBES_WITHOUT_REASON = 25
# Rows that are taken from the input beyond max_workers while the circuit is open, to choose probes from.
LOOK_AHEAD_ROWS = 200
# Seconds before the first probe after rejections, by which time the look-ahead has been taken.
FIRST_PROBE_SECONDS = 0.05
# Seconds before a probe of a server that was not there; they double with each probe.
INITIAL_RECOVERY_SECONDS = 0.5
MAX_RECOVERY_SECONDS = 5.0
# A server that has never answered in this run gets this share of `server_wait`: its address is probably wrong.
SHARE_FOR_UNKNOWN_SERVER = 0.1
# Outages that one row survives without using up a retry, so that a row that breaks the server cannot go on for ever.
MAX_UNCOUNTED_OUTAGES = 3

# An attempt that waited for a limit while the circuit opened.
_HELD_BACK = Failure(FailureType.NOT_SENT, "held back while other rows are tried", retryable=True, counted=False)
_SPREAD = (math.sqrt(5) - 1) / 2  # fractional parts of its multiples are spread evenly

FIXES = {
    400: "Check the API key and the model's name",
    401: "Check the API key",
    402: "Add credit at the provider",
    403: "Check that the key may use this model",
    404: "Check the model's name and api_base",
    407: "Set HTTPS_PROXY to http://user:password@host:port",
    422: "Check the budget at the provider",
    429: "The quota is used up: wait for its reset, or raise it at the provider",
}
_FIX_FOR_TYPE = {
    FailureType.CERTIFICATE: "Set SSL_CERT_FILE",
    FailureType.PROXY: "Correct HTTPS_PROXY",
    FailureType.REDIRECTED_ELSEWHERE: "Correct api_base",
    FailureType.CHECKPOINT: "Free disk space or give another path",
}
_FIX = "Check api_base and whether the provider is up"


class CircuitState(Enum):
    """Whether requests flow (CLOSED), wait (OPEN), or one of them is tried (HALF_OPEN)."""

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half-open"


@dataclass(slots=True, eq=False)
class Passage:
    """One attempt that the circuit breaker let through; `probe` if it is the one that is tried."""

    order: int
    probe: bool = False
    finished: bool = False


@dataclass(slots=True, eq=False)
class _Waiter:
    order: int
    future: asyncio.Future[Passage]


class CircuitBreaker:
    """Decide whether an attempt may be sent now, has to wait, or will never be sent.

    Each attempt calls `acquire`, and then exactly one of `on_success`, `on_failure` and `release`.

    Attributes:
        state: see the module.
        given_up: the failure that rows get that are not sent any more; None while there is hope.
        on_change: is called when `note` has something new.
    """

    def __init__(
        self,
        *,
        server_wait: float = 300.0,
        max_in_flight: Callable[[], float] = lambda: math.inf,
        place: Mapping[str, str] | None = None,
    ) -> None:
        self.state = CircuitState.CLOSED
        self.given_up: Failure | None = None
        self.on_change: Callable[[], None] = lambda: None
        self._server_wait, self._max_in_flight = server_wait, max_in_flight
        self._log = logger.bind(**(place or {}))
        self._waiters: list[_Waiter] = []
        self._waits: dict[asyncio.Timeout, Passage | None] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._in_flight = 0
        self._any_answer = self._any_success = False
        self._consecutive: list[Failure] = []
        self._failed_probes = 0
        self._probe_count = itertools.count(1)
        self._outage: Failure | None = None
        self._outage_began = 0.0
        self._outage_number = 0
        self._recovery_seconds = INITIAL_RECOVERY_SECONDS

    @property
    def look_ahead(self) -> int:
        """How many more rows than usual may be taken from the input, to choose probes from."""
        probing = self.state is not CircuitState.CLOSED and self._outage is None and self.given_up is None
        return LOOK_AHEAD_ROWS if probing else 0

    @property
    def note(self) -> str:
        """What the progress bar says of the circuit; empty while requests flow."""
        if self._outage is None or self.given_up is not None:
            return ""
        seconds = time.monotonic() - self._outage_began
        return f"waiting for the server: {seconds:.0f} of {self._wait_limit:.0f} s"

    @property
    def _wait_limit(self) -> float:
        return self._server_wait * (1.0 if self._any_answer else SHARE_FOR_UNKNOWN_SERVER)

    async def acquire(self, order: int) -> Passage:
        """Wait until an attempt of this row may be sent. Raises NotSentError once the batch is given up."""
        self._check()
        if self.state is CircuitState.CLOSED and not self._waiters and self._in_flight < self._max_in_flight():
            return self._let_through(order)
        waiter = _Waiter(order, asyncio.get_running_loop().create_future())
        self._waiters.append(waiter)
        if self.state is CircuitState.OPEN and self._timer is None:
            self._reopen(FIRST_PROBE_SECONDS)
        try:
            return await waiter.future
        except asyncio.CancelledError:
            if waiter.future.done() and not waiter.future.cancelled() and waiter.future.exception() is None:
                self.release(waiter.future.result())
            raise
        finally:
            with contextlib.suppress(ValueError):
                self._waiters.remove(waiter)

    def may_send(self, passage: Passage) -> bool:
        """Return whether the attempt may still be sent, after a wait for something else."""
        return passage.probe or self.state is CircuitState.CLOSED

    def release(self, passage: Passage) -> None:
        """End an attempt that says nothing about the account: cancelled, or never sent."""
        if passage.finished:
            return
        passage.finished = True
        self._in_flight -= 1
        if passage.probe and self.state is CircuitState.HALF_OPEN:
            self._reopen(0.0 if self._outage is None else self._back_off())
        self._pump()

    def on_success(self, passage: Passage) -> None:
        """Note that an attempt was answered: the account works."""
        self._any_answer = self._any_success = True
        self._close()
        self.release(passage)

    def on_failure(self, passage: Passage, failure: Failure) -> None:
        """Note how an attempt failed."""
        self._any_answer |= failure.status_code is not None
        if failure.scope is Scope.FINAL:
            self.give_up(failure, f"{failure.type}: {failure.message}")
        elif failure.unavailable and self._server_wait:
            self._server_missing(failure)
        elif self._outage is not None:
            if failure.status_code is not None:
                self._close()
            elif passage.probe:
                self._server_missing(failure)
        elif self.state is CircuitState.HALF_OPEN and passage.probe:
            self._probe_failed(failure)
        self.release(passage)

    def on_row_failed(self, failure: Failure) -> None:
        """Note that a row failed for good."""
        if failure.scope is Scope.ROW:
            if failure.status_code is not None and not failure.retryable:
                self._consecutive.clear()
            return
        if self.state is not CircuitState.CLOSED:
            return
        self._consecutive.append(failure)
        enough = FAILURES_TO_OPEN_AFTER_SUCCESS if self._any_success else FAILURES_TO_OPEN
        if len(self._consecutive) >= enough:
            self._log.warning(
                "{} rows in a row failed with {}; other rows are tried before the batch is given up",
                len(self._consecutive), failure.type,
            )  # fmt: skip
            self._failed_probes = 0
            self._recovery_seconds = INITIAL_RECOVERY_SECONDS
            self._reopen(FIRST_PROBE_SECONDS)

    def uncounted(self, failure: Failure, outages: set[int]) -> Failure:
        """Return the failure as it counts against a row's retries; `outages` are those that the row has met."""
        if not failure.retryable or self.given_up is not None:
            return failure
        probing = self.state is not CircuitState.CLOSED and self._outage is None
        if probing and failure.scope is not Scope.ROW:
            return replace(failure, counted=False)
        if failure.unavailable and self._outage is not None:
            outages.add(self._outage_number)
            return replace(failure, counted=len(outages) > MAX_UNCOUNTED_OUTAGES, retry_after=0.0)
        return failure

    def give_up(self, failure: Failure, why: str) -> None:
        """Stop sending for good."""
        if self.given_up is not None:
            return
        fix = _FIX_FOR_TYPE.get(failure.type) or FIXES.get(failure.status_code or 0, _FIX)  # type: ignore[call-overload]  # a str like its keys
        self.given_up = Failure(
            FailureType.NOT_SENT,
            f"not sent: {why.rstrip('.')}. {fix}, then run again",
            failure.status_code,
            failure.provider,
            retryable=True,
            scope=Scope.SHARED,
        )
        self.state = CircuitState.OPEN
        self._stop_timer()
        for waiter in self._waiters:
            if not waiter.future.done():
                waiter.future.set_exception(NotSentError(self.given_up))
        for wait in self._waits:
            wait.reschedule(0)
        self.on_change()

    async def unless_given_up(self, wait: Coroutine[Any, Any, T], passage: Passage | None = None) -> T:
        """Return what `wait` returns. Raises NotSentError as soon as the batch is given up.

        With a `passage` it raises AttemptFailedError as soon as the circuit opens, so that the attempt waits for that.
        """
        until = asyncio.timeout(None)
        try:
            self._check()
            async with until:
                self._waits[until] = passage
                return await wait
        except TimeoutError:
            self._check()
            if passage is not None and not self.may_send(passage):
                raise AttemptFailedError(_HELD_BACK) from None
            raise
        finally:
            self._waits.pop(until, None)
            wait.close()

    def _check(self) -> None:
        if self.given_up is not None:
            raise NotSentError(self.given_up)

    def _let_through(self, order: int, *, probe: bool = False) -> Passage:
        self._in_flight += 1
        return Passage(order, probe)

    def _pump(self) -> None:
        """Let those through that may go now."""
        if self.state is not CircuitState.CLOSED:
            return
        while self._waiters and self._in_flight < self._max_in_flight():
            waiter = min(self._waiters, key=lambda waiter: waiter.order)
            self._waiters.remove(waiter)
            if not waiter.future.done():
                waiter.future.set_result(self._let_through(waiter.order))

    def _probe(self) -> None:
        """Let one of those through that wait: each time from another part of the list."""
        self._timer = None
        waiting = sorted((w for w in self._waiters if not w.future.done()), key=lambda waiter: waiter.order)
        if not waiting:
            return  # the next one that waits starts the timer
        number = next(self._probe_count)
        # In an outage every other probe is the first row, which may be the one that breaks the server.
        in_order = self._outage is not None and number % 2 == 0
        waiter = waiting[0 if in_order else int(number * _SPREAD % 1 * len(waiting))]
        self._waiters.remove(waiter)
        self.state = CircuitState.HALF_OPEN
        waiter.future.set_result(self._let_through(waiter.order, probe=True))

    def _reopen(self, seconds: float) -> None:
        """Open the circuit, and try a request after `seconds`."""
        if self.given_up is not None:
            return
        if self.state is CircuitState.CLOSED:
            for wait, passage in self._waits.items():
                if passage is not None:
                    wait.reschedule(0)
        self.state = CircuitState.OPEN
        self._stop_timer()
        self._timer = asyncio.get_running_loop().call_later(seconds, self._probe)
        self.on_change()

    def _back_off(self) -> float:
        seconds, self._recovery_seconds = self._recovery_seconds, min(self._recovery_seconds * 2, MAX_RECOVERY_SECONDS)
        return seconds

    def _probe_failed(self, failure: Failure) -> None:
        if failure.scope is Scope.ROW:
            # A rejection of its content shows that the account works; a timeout or a 429 shows nothing.
            if failure.status_code is not None and not failure.retryable:
                self._close()
            return
        self._failed_probes += 1
        self._consecutive.append(failure)
        named = all(known.scope is Scope.SHARED for known in self._consecutive)
        if self._failed_probes >= (PROBES_FOR_SHARED_REASON if named else PROBES_WITHOUT_REASON):
            count = len(self._consecutive)
            self.give_up(failure, f"{count} rows in a row failed with {failure.type}: {failure.message}")
        else:
            self._reopen(self._back_off() if failure.retryable else 0.0)

    def _server_missing(self, failure: Failure) -> None:
        """Wait for a server that is not there, as long as it may take."""
        now = time.monotonic()
        if self._outage is None:
            self._outage, self._outage_began = failure, now
            self._outage_number += 1
            self._recovery_seconds = INITIAL_RECOVERY_SECONDS
            hint = "" if self._any_answer else "; it has never answered in this run, so check api_base"
            self._log.warning(
                "The server is not available: {}. Waiting up to {:.0f} s for it (server_wait={:g}){}",
                failure.message, self._wait_limit, self._server_wait, hint,
            )  # fmt: skip
        elif now - self._outage_began >= self._wait_limit:
            seconds = now - self._outage_began
            self.give_up(failure, f"the server was not available for {seconds:.0f} s: {failure.message}")
            return
        if self._timer is None:
            self._reopen(max(self._back_off(), min(failure.retry_after or 0.0, MAX_RECOVERY_SECONDS)))

    def _close(self) -> None:
        """Let requests flow again."""
        if self.given_up is not None:
            return
        if self._outage is not None:
            seconds = time.monotonic() - self._outage_began
            self._log.info("The server is available again after {:.0f} s", seconds)
        elif self.state is not CircuitState.CLOSED:
            self._log.info("Another row was answered; sending goes on")
        changed = self.state is not CircuitState.CLOSED
        self.state, self._outage = CircuitState.CLOSED, None
        self._consecutive.clear()
        self._stop_timer()
        self._pump()
        if changed:
            self.on_change()

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
