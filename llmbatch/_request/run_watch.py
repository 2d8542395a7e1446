"""Watches the attempts of one batch: counts and times them, and tells their story in the log.

Retries are summed up every few seconds, and 429s by spell, since a batch may have thousands of each. DEBUG has every
attempt.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

from llmbatch._limits.limiter import Limiter
from llmbatch._limits.throttle import Phase
from llmbatch._litellm import Target
from llmbatch._request.deployment_stats import DeploymentStats
from llmbatch._request.failures import Failure
from llmbatch._request.outcome import Outcome
from llmbatch._util.batch_log import logger, of_row, row_name
from llmbatch.events import Event, LimitsChanged, RequestRateLimited, RequestRetried, RequestSent

# Seconds in which retries are summed up in one line.
RETRIES_LOG_SECONDS = 5.0
# Seconds without a 429 that end a spell of them, and seconds after which a long one is reported again.
SPELL_END_SECONDS = 10.0
SPELL_LOG_SECONDS = 30.0
# Share by which a stated limit must change to be reported again.
CHANGED_SHARE = 0.05


class _Spell:
    """429s of one model that come one after the other."""

    def __init__(self, now: float) -> None:
        self.count, self.began_at, self.last_at, self.reported_at = 0, now, now, now

    def text(self) -> str:
        return f"{self.count:,} requests got 429 in {self.last_at - self.began_at:.1f} s"


class RunWatch:
    """The attempts of one batch. All methods are called on the event loop.

    Attributes:
        emit: takes the events of requests; None if nobody wants them.
        attempts, throttled: number of requests sent, and of those that got a 429.
        retries: number of attempts that were sent again, by the type of their failure.
        answering: seconds that attempts were in flight, all added up; likewise the next three:
        limited: seconds that requests waited for a rate or concurrency limit.
        backing_off: seconds that rows paused after a transient error.
        held_back: seconds that rows waited for a server that was away, or for a probe.
        limiters: the limiters in use, with provider and model, and the deployment where there are several.
        deployments: what each deployment did.
    """

    def __init__(self, batch_id: str = "") -> None:
        self.emit: Callable[[Event], None] | None = None
        self._batch_id = batch_id
        self.attempts = self.throttled = 0
        self.retries: Counter[str] = Counter()
        self.answering = self.limited = self.backing_off = self.held_back = 0.0
        self.limiters: dict[Limiter, dict[str, str]] = {}
        self.deployments: dict[str, DeploymentStats] = {}
        self._spells: dict[Limiter, _Spell] = {}
        self._phases: dict[Limiter, tuple[Phase, float]] = {}
        self._stated: dict[Limiter, dict[str, float]] = {}
        self._recent: Counter[str] = Counter()
        self._example = ""
        self._timers: dict[Callable[..., None], asyncio.TimerHandle] = {}
        self._closed = False

    def sent(self, outcome: Outcome, order: int, target: Target) -> None:
        """Note an attempt that is sent now."""
        self.attempts += 1
        if self.emit is not None:
            self.emit(RequestSent(**self._request(outcome, order, _place(target))))

    def _request(self, outcome: Outcome, order: int, place: dict[str, str]) -> dict[str, Any]:
        """Return what events say of a request."""
        return {
            "batch_id": self._batch_id,
            "index": order,
            "custom_id": outcome.custom_id,
            "attempt": outcome.attempts,
            **place,
        }

    def answered(self, outcome: Outcome, order: int, target: Target, limiter: Limiter) -> None:
        """Note an answer."""
        if limiter.stated is not self._stated.get(limiter):
            self._log_stated(limiter)
        if outcome.deployment is not None:
            self._stats(outcome.deployment).answered(outcome.elapsed)
        of_row(order, outcome.custom_id, **self.limiters.get(limiter, _place(target))).debug(
            "Row {} ({}): answered, attempt {}", order, outcome.custom_id, outcome.attempts
        )

    def failed(self, failure: Failure, outcome: Outcome, order: int, target: Target, limiter: Limiter) -> None:
        """Note an attempt that failed."""
        place = self.limiters.setdefault(limiter, _place(target))
        if outcome.deployment is not None:
            self._stats(outcome.deployment).failed(failure)
        if limiter.stated is not self._stated.get(limiter):
            self._log_stated(limiter)
        of_row(order, outcome.custom_id, **place).debug(
            "Row {} ({}): attempt {} failed with {}: {}",
            order, outcome.custom_id, outcome.attempts, failure.type, failure.message,
        )  # fmt: skip
        if failure.rate_limited:
            self._throttled(failure, outcome, order, limiter)

    def _stats(self, deployment: str) -> DeploymentStats:
        return self.deployments.setdefault(deployment, DeploymentStats())

    def _throttled(self, failure: Failure, outcome: Outcome, order: int, limiter: Limiter) -> None:
        self.throttled += 1
        now, place = time.monotonic(), self.limiters[limiter]
        if self.emit is not None:
            event = self._request(outcome, order, place)
            self.emit(RequestRateLimited(**event, retry_after=failure.retry_after))
        spell = self._spells.get(limiter)
        if spell is None:
            spell = self._spells[limiter] = _Spell(now)
            asked = f"Retry-After {failure.retry_after:.3g} s" if failure.retry_after else "without a Retry-After"
            of_row(order, outcome.custom_id, **place).info(
                "429 (rate-limited) for {}: {}; rate-limited rows are sent again: {}",
                row_name(order, outcome.custom_id), asked, failure.message,
            )  # fmt: skip
            self._later(SPELL_END_SECONDS, self._look_at_spells)
        spell.count, spell.last_at = spell.count + 1, now
        finding = limiter.finding
        phase, logged_at = self._phases.get(limiter, (Phase.UNTHROTTLED, 0.0))
        if finding.phase is not Phase.UNTHROTTLED and (
            finding.phase is not phase or now - logged_at > SPELL_LOG_SECONDS
        ):
            self._phases[limiter] = finding.phase, now
            self._log_limits(limiter, finding.summary, finding.summary)

    def retried(self, outcome: Outcome, order: int, target: Target, seconds: float) -> None:
        """Note that a row pauses for `seconds` before its next attempt; `paused` follows."""
        failure = outcome.last_failure
        if failure is None or outcome.attempts == outcome.counted_attempts:
            return  # it was not sent
        outcome.counted_attempts = outcome.attempts
        self.retries[failure.type] += 1
        if self.emit is not None:
            event = self._request(outcome, order, _place(target))
            self.emit(RequestRetried(**event, cause=str(failure.type), wait=seconds))
        if failure.rate_limited:
            return  # the spell tells it
        if not self._recent:
            self._later(RETRIES_LOG_SECONDS, self._log_retries)
            place = row_name(order, outcome.custom_id)
            self._example = f"{place}, attempt {outcome.attempts}, next in {seconds:.1f} s: {failure.message}"
        self._recent[failure.type] += 1

    def paused(self, outcome: Outcome, seconds: float, *, sent: bool) -> None:
        """Add the seconds of a pause before the next attempt."""
        if not sent:
            self.held_back += seconds
        elif outcome.rate_limited:
            self.limited += seconds
        else:
            self.backing_off += seconds

    def fell_back(self, index: int, custom_id: str, model: str, error: str) -> None:
        """Note that a row is sent to a fallback model."""
        of_row(index, custom_id).debug("Row {} ({}) falls back to {}: {}", index, custom_id, model, error)
        if not self._recent:
            self._later(RETRIES_LOG_SECONDS, self._log_retries)
            self._example = f"{row_name(index, custom_id)}: {error}"
        self._recent[f"fallback to {model}"] += 1

    def close(self) -> None:
        """Log what has not been summed up yet."""
        self._closed = True
        for timer in self._timers.values():
            timer.cancel()
        self._timers.clear()
        self._log_retries()
        for limiter in list(self._spells):
            self._end_spell(limiter)

    def _later(self, seconds: float, function: Callable[[], None]) -> None:
        if self._closed:
            return
        with contextlib.suppress(RuntimeError):  # without a loop there is nothing to wait for
            self._timers[function] = asyncio.get_running_loop().call_later(seconds, function)

    def _log_retries(self) -> None:
        if self._recent:
            causes = ", ".join(f"{count:,} {cause}" for cause, count in self._recent.most_common())
            level = "WARNING" if any(cause.startswith("fallback") for cause in self._recent) else "INFO"
            logger.log(level, "Retries in {:g} s: {} (first: {})", RETRIES_LOG_SECONDS, causes, self._example)
            self._recent.clear()

    def _look_at_spells(self) -> None:
        now = time.monotonic()
        for limiter, spell in list(self._spells.items()):
            if now - spell.last_at >= SPELL_END_SECONDS:
                self._end_spell(limiter)
            elif now - spell.reported_at >= SPELL_LOG_SECONDS:
                spell.reported_at = now
                logger.bind(**self.limiters[limiter]).info(
                    "Still rate-limited: {} so far; {} requests wait to be sent", spell.text(), limiter.waiting
                )
        if self._spells:
            self._later(SPELL_END_SECONDS, self._look_at_spells)

    def _end_spell(self, limiter: Limiter) -> None:
        spell = self._spells.pop(limiter)
        logger.bind(**self.limiters[limiter]).info("429s ended: {}", spell.text())

    def _log_stated(self, limiter: Limiter) -> None:
        before, now = self._stated.get(limiter, {}), limiter.stated
        changed = any(abs(rate - before.get(unit, 0.0)) > CHANGED_SHARE * rate for unit, rate in now.items())
        self._stated[limiter] = now
        if changed:
            text = stated_text(now)
            self._log_limits(limiter, f"The provider states a limit of {text}", text)

    def _log_limits(self, limiter: Limiter, line: str, limits: str) -> None:
        place: Any = self.limiters.get(limiter, {"provider": "", "model": ""})
        logger.bind(**place).info("{}", line)
        if self.emit is not None:
            self.emit(LimitsChanged(batch_id=self._batch_id, limits=limits, **place))

    @property
    def counts(self) -> dict[str, Any]:
        """The counts and sums, as `results.stats` has them."""
        deployments = {name: stats.as_dict() for name, stats in self.deployments.items()}
        return {
            **({"deployments": deployments} if deployments else {}),
            "attempts": self.attempts,
            "retries": dict(self.retries.most_common()),
            "rate_limited": self.throttled,
            "seconds": {
                "answering": round(self.answering, 3),
                "waiting_for_limits": round(self.limited, 3),
                "backing_off": round(self.backing_off, 3),
                "waiting_for_server": round(self.held_back, 3),
            },
        }


def stated_text(stated: dict[str, float]) -> str:
    """Return limits that a provider states, in a line."""
    return ", ".join(f"{60 * rate:,.0f} {unit}/min" for unit, rate in stated.items())


def _place(target: Target) -> dict[str, str]:
    return {"provider": target.provider, "model": target.name}
