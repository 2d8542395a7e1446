"""Sends one request until it is answered or failed for good: through circuit breaker, budget, limiter and retries."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from http import HTTPStatus
from operator import attrgetter
from typing import Any, Protocol

from llmbatch._limits.limiter import Limiter
from llmbatch._limits.permit import Permit
from llmbatch._litellm import Answer, Target, unset_keys
from llmbatch._request.answer_check import answer_failure
from llmbatch._request.budget import Budget
from llmbatch._request.circuit_breaker import Passage
from llmbatch._request.classify import classify
from llmbatch._request.failures import Failure, Scope
from llmbatch._request.outcome import Outcome
from llmbatch._request.retry import AttemptFailedError, NotSentError, retrying
from llmbatch._request.run_watch import RunWatch
from llmbatch._rows.failure_type import FailureType
from llmbatch._util.send_times import record_send_times

_CHARACTERS_PER_TOKEN = 4
# Attempts at a service tier that has no resources for a request, before it is given up.
_ATTEMPTS_WITHOUT_RESOURCES = 2

Call = Callable[[dict[str, Any]], Awaitable[Answer]]


class Credentials(Protocol):
    """Arguments that change while a batch runs (a token that expires)."""

    async def arguments(self) -> dict[str, Any]:
        """Return LiteLLM's arguments for the next attempt."""
        ...

    def renew(self, used: Mapping[str, Any]) -> None:
        """Note that the provider rejected these arguments, so that the next ones are new."""
        ...


@dataclass(kw_only=True)
class Sender:
    """Sends requests to one target.

    Attributes:
        price: returns an answer's cost in USD.
        cost_upper_bound: returns the most that a request may cost, where there is a budget.
        longest_answer: tokens that a request without a token limit counts as, until answers have come.
        gives_up_without_resources: whether to give up soon where a service tier has no resources (flex).
        deployment: name of the deployment that it sends to, where the caller has named several.
    """

    target: Target
    limiter: Limiter
    breaker: Any
    budget: Budget
    retries: int
    timeout: float | None
    cost_upper_bound: Callable[[Mapping[str, Any]], float] | None = None
    longest_answer: float = 0.0
    credentials: Credentials | None = None
    gives_up_without_resources: bool = False
    price: Callable[[Answer], float | None] = attrgetter("cost")
    deployment: str | None = None
    watch: RunWatch = field(default_factory=RunWatch)

    async def send(self, request: dict[str, Any], order: int, call: Call, outcome: Outcome | None = None) -> Outcome:
        """Send until answered or failed for good; never raises for what a provider, the network or LiteLLM does.

        `call` sends one request once. Requests with a lower `order` go first where they wait for a limit. An `outcome`
        that is given is filled on the way, for a caller that may cancel this.
        """
        outcome = outcome or Outcome()
        retried = retrying(self.retries, paced=True, sleep=partial(self._pause, outcome, order))
        try:
            answer: Answer = await retried(self._attempt, request, order, call, outcome)
        except AttemptFailedError as exc:
            outcome.failure = exc.failure
            outcome.cost = None if outcome.uncertain else outcome.cost
            if not isinstance(exc, NotSentError):
                self.breaker.on_row_failed(exc.failure)
        else:
            outcome.answer = answer
            outcome.cost = None if answer.cost is None else outcome.cost
        return outcome

    async def _pause(self, outcome: Outcome, order: int, seconds: float) -> None:
        began, sent = time.monotonic(), outcome.attempts > outcome.counted_attempts
        self.watch.retried(outcome, order, self.target, seconds)
        try:
            await self.breaker.unless_given_up(self._sleep(outcome, seconds))
        finally:
            self.watch.paused(outcome, time.monotonic() - began, sent=sent)

    def _sleep(self, outcome: Outcome, seconds: float) -> Awaitable[None]:
        return self.limiter.pause(seconds) if outcome.rate_limited else asyncio.sleep(seconds)

    async def _attempt(self, request: dict[str, Any], order: int, call: Call, outcome: Outcome) -> Answer:
        """Wait for the circuit breaker, and make one attempt."""
        began = time.monotonic()
        try:
            passage = await self.breaker.acquire(order)
        finally:
            self.watch.held_back += time.monotonic() - began
        try:
            return await self.attempt(passage, request, call, outcome)
        finally:
            self.breaker.release(passage)

    async def attempt(self, passage: Passage, request: dict[str, Any], call: Call, outcome: Outcome) -> Answer:
        """Make one attempt, with its cost upper bound reserved meanwhile. Counts it and its cost in `outcome`."""
        bound = await self._reserved(request, passage)
        cost: float | None = 0.0
        sent_at = None
        sent_times: list[float] = []
        try:
            arguments = await self.breaker.unless_given_up(self._arguments(outcome, passage))
            permit = await self._permit(request, passage)
            outcome.attempts += 1
            outcome.deployment = self.deployment
            self.watch.sent(outcome, passage.order, self.target)
            outcome.rejected = None
            cost = None  # unknown, should it be cancelled from here on
            sent_at, sent_times = time.monotonic(), record_send_times()
            result = await self._once({**request, **arguments}, permit, call)
            cost = result.cost if isinstance(result, Answer) else (None if result.billed is None else 0.0)
            outcome.rate_limited = isinstance(result, Failure) and result.rate_limited
        finally:
            self.budget.settle(bound, cost)
            outcome.uncertain |= cost is None
            outcome.timed(sent_times[0] if sent_times else sent_at)
            if sent_at is not None:
                self.watch.answering += time.monotonic() - sent_at
            outcome.cost = (outcome.cost or 0.0) + (cost or 0.0)
        if isinstance(result, Answer):
            self.breaker.on_success(passage)
            failure = answer_failure(result.body, self.target.provider, request)
            if failure is None:
                self.watch.answered(outcome, passage.order, self.target, self.limiter)
                return result
            outcome.reject(result, failure)
            self.watch.failed(failure, outcome, passage.order, self.target, self.limiter)
            raise AttemptFailedError(failure)
        raise self._failed(result, outcome, passage, arguments)

    def _failed(
        self, result: Failure, outcome: Outcome, passage: Passage, arguments: Mapping[str, Any]
    ) -> AttemptFailedError:
        """Note how an attempt failed, and return the error that decides about the next one."""
        outcome.last_failure = result
        self.watch.failed(result, outcome, passage.order, self.target, self.limiter)
        unauthorised = result.status_code == HTTPStatus.UNAUTHORIZED
        if unauthorised and self.credentials is not None and outcome.renewed is None:
            self.credentials.renew(arguments)
            outcome.renewed = result
            if passage.probe:  # other rows have met it with a new token
                self.breaker.on_failure(passage, result)
            return AttemptFailedError(replace(result, retryable=True, retry_after=0.0, counted=False))
        if self.gives_up_without_resources and result.no_resources:
            result = replace(result, retryable=outcome.attempts < _ATTEMPTS_WITHOUT_RESOURCES)
        if self.retries:
            before = self.breaker.given_up
            self.breaker.on_failure(passage, result)
            if self.breaker.given_up is not before:
                return AttemptFailedError(result, final=True)
            result = self.breaker.uncounted(result, outcome.outages)
        else:
            self.breaker.on_failure(passage, replace(result, unavailable=False))
        return AttemptFailedError(result)

    async def _permit(self, request: Mapping[str, Any], passage: Passage) -> Permit:
        """Wait until the limiter lets the request go. Raises NotSentError if the batch is given up meanwhile."""
        turn, began = self.limiter.acquire(passage.order, self.tokens(request)), time.monotonic()
        try:
            permit: Permit = await self.breaker.unless_given_up(turn, passage)
        finally:
            self.watch.limited += time.monotonic() - began
        if self.breaker.given_up is not None:
            self.limiter.on_error(permit)
            raise NotSentError(self.breaker.given_up)
        return permit

    async def _arguments(self, outcome: Outcome, passage: Passage) -> dict[str, Any]:
        if self.credentials is None:
            return {}
        try:
            return await self.credentials.arguments()
        except Exception as exc:  # noqa: BLE001 - whatever it is, it is this row's failure
            failure = outcome.renewed or replace(classify(exc, self.target.provider), scope=Scope.SHARED)
            self.breaker.on_failure(passage, failure)
        raise AttemptFailedError(failure)

    async def _once(self, request: dict[str, Any], permit: Permit, call: Call) -> Answer | Failure:
        """Send once; the provider's exception ends here, since it keeps keys and prompts alive."""
        try:
            async with asyncio.timeout(self.timeout):
                answer = await call(request)
        except asyncio.CancelledError:
            self.limiter.on_error(permit)
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                raise
            message = "the request was cancelled from inside"
            return Failure(FailureType.CANCELLED, message, provider=self.target.provider, billed=None)
        except AttemptFailedError as exc:
            failure = exc.failure  # classified where it was sent
        except Exception as exc:  # noqa: BLE001 - a failing request becomes a row, whatever it failed with
            failure = classify(exc, self.target.provider, request)
        else:
            answer = replace(answer, cost=self.price(answer))
            usage = answer.body.get("usage") or {}
            self.limiter.on_success(permit, answer.headers, usage.get("total_tokens"))
            self.limiter.learn_answer_tokens(usage.get("completion_tokens") or 0)
            return answer
        if failure.type == FailureType.TIMEOUT and failure.message == "no message":
            failure = replace(failure, message=f"no answer within {self.timeout:g} s")
        if failure.rate_limited and not (self.gives_up_without_resources and failure.no_resources):
            self.limiter.on_rate_limit(permit, failure.headers, failure.retry_after)
        else:
            self.limiter.on_error(permit)
        unset = unset_keys(self.target, request) if failure.status_code == HTTPStatus.UNAUTHORIZED else []
        if unset and not any(name in failure.message for name in unset):
            failure = replace(failure, message=f"not set: {', '.join(unset)}; {failure.message}")
        return failure

    def tokens(self, request: Mapping[str, Any]) -> float:
        """Estimate the tokens of a request."""
        prompt = prompt_tokens(request)
        if "input" in request:
            return self.limiter.estimated_tokens(prompt, 0)
        most = request.get("max_tokens") or request.get("max_completion_tokens") or self.longest_answer
        return self.limiter.estimated_tokens(prompt, most)

    async def _reserved(self, request: Mapping[str, Any], passage: Passage) -> float:  # noqa: ARG002 - for subclasses
        """Reserve the cost upper bound of one attempt in the budget, and return it in USD.

        Raises NotSentError if the budget has less left, or if nothing bounds what the attempt may cost.
        """
        bound = self.cost_bound(request)
        if not await self.budget.reserve(bound):
            raise NotSentError(self.over_budget(bound))
        return bound

    def cost_bound(self, request: Mapping[str, Any]) -> float:
        """Return the most that one attempt may cost in USD, 0 without a budget. Raises NotSentError without a bound."""
        try:
            return 0.0 if self.cost_upper_bound is None else self.cost_upper_bound(request)
        except ValueError as exc:
            raise NotSentError(self._skipped(str(exc))) from None

    def over_budget(self, bound: float) -> Failure:
        """Return the failure of a request that may cost more than is left of the budget."""
        left, cap = self.budget.left, self.budget.cap
        return self._skipped(f"may cost up to ${bound:.6f}, but only ${left:.6f} of max_cost=${cap:g} is left")

    def _skipped(self, why: str) -> Failure:
        return Failure(FailureType.BUDGET_EXCEEDED, f"skipped: {why}", provider=self.target.provider)


def prompt_tokens(request: Mapping[str, Any]) -> float:
    """Return about how many tokens the prompt of a request has."""
    return _characters(request.get("messages") or request.get("input")) / _CHARACTERS_PER_TOKEN + 4


def _characters(given: Any) -> int:
    """Count the characters of messages, or of texts to embed."""
    if isinstance(given, Mapping):
        given = given.get("content") or given.get("text")
    if isinstance(given, list):
        return sum(map(_characters, given))
    return len(given) if isinstance(given, str) else 0
