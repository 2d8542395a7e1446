"""One request on its way: through limits, budget and breaker, again after faults, until it has succeeded or failed."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field, replace
from http import HTTPStatus
from operator import attrgetter
from typing import Any, Protocol

from llmbatch._limits.limiter import Limiter
from llmbatch._limits.permit import Permit
from llmbatch._litellm import Answer, Target, unset_keys
from llmbatch._request import failures
from llmbatch._request.answer_check import answer_failure
from llmbatch._request.budget import Budget
from llmbatch._request.circuit_breaker import CircuitBreaker
from llmbatch._request.failures import Failure
from llmbatch._request.retry import AttemptFailedError, NotSentError, retrying
from llmbatch._rows.row import add_usage
from llmbatch._util.send_times import record_send_times

_CHARACTERS_PER_TOKEN = 4
_SCARCE_ATTEMPTS = 2  # at a tier without resources for a request, before it is given up

Call = Callable[[dict[str, Any]], Awaitable[Answer]]


class Credentials(Protocol):
    """Arguments that change while a batch runs (a token that expires)."""

    async def arguments(self) -> dict[str, Any]:
        """LiteLLM arguments to send the next attempt with."""
        ...

    def renew(self, used: Mapping[str, Any]) -> None:
        """The provider refused these arguments: the next ones must be new."""
        ...


@dataclass(slots=True)
class Outcome:
    """What became of one request: an answer or a failure, after how many attempts, for how many USD (None: unknown).

    `renewed` is the refusal after which the credentials were renewed, once. `uncertain` says that the provider may also
    have charged for an attempt whose answer was lost. `elapsed` is the last attempt's time in seconds, from its HTTP
    request on where that is known, and `waited` what went by before it, since `begun`. `rows` is how many rows the
    request was for. `rejected` is the answer of the last attempt if it did not count as one (broken, empty, filtered),
    and `usage` the tokens of all such answers.
    """

    answer: Answer | None = None
    failure: Failure | None = None
    attempts: int = 0
    cost: float | None = 0.0
    renewed: Failure | None = None
    uncertain: bool = False
    elapsed: float | None = None
    waited: float | None = None
    begun: float = field(default_factory=time.monotonic)
    rows: int = 1
    rejected: Answer | None = None
    usage: dict[str, Any] = field(default_factory=dict)

    def reject(self, answer: Answer) -> None:
        """Keep an answer that does not count as one."""
        self.rejected = answer
        add_usage(self.usage, answer.body.get("usage"))

    def timed(self, sent_at: float | None) -> None:
        """An attempt is over that was sent at this moment, or never."""
        now = time.monotonic()
        if sent_at is not None:
            self.elapsed, self.waited = now - sent_at, sent_at - self.begun
        elif self.elapsed is None:
            self.waited = now - self.begun

    @property
    def spent(self) -> dict[str, Any]:
        """What its row says of it."""
        return {"attempts": self.attempts, "cost": self.cost, "elapsed": self.elapsed, "waited": self.waited}


@dataclass(kw_only=True)
class Sender:
    """Sends requests to one target.

    `price` gives an answer's cost in USD, and `cost_upper_bound` bounds a request's, where there is a budget.
    `longest_answer`, in tokens, is what a request that names no bound counts as until answers have come. `gives_up`
    says that a tier without resources for a request is given up after a few attempts, and teaches nothing about limits.
    """

    target: Target
    limiter: Limiter
    breaker: CircuitBreaker
    budget: Budget
    retries: int
    timeout: float | None
    cost_upper_bound: Callable[[Mapping[str, Any]], float] | None = None
    longest_answer: float = 0.0
    credentials: Credentials | None = None
    gives_up: bool = False
    price: Callable[[Answer], float | None] = attrgetter("cost")

    async def send(self, request: dict[str, Any], order: int, call: Call, outcome: Outcome | None = None) -> Outcome:
        """Send until answered or failed for good; never raises for what a provider, the network or LiteLLM does.

        `call` sends one request once. `order` decides who goes first where requests wait for a limit. An `outcome` that
        is given is filled on the way, for whoever cancels it.
        """
        outcome = outcome or Outcome()
        retried = retrying(self.retries, paced=True, sleep=self._pause)
        try:
            answer: Answer = await retried(self._attempt, request, order, call, outcome)
        except AttemptFailedError as exc:
            outcome.failure = exc.failure
            outcome.cost = None if outcome.uncertain else outcome.cost
            if not isinstance(exc, NotSentError):
                self.breaker.failed(exc.failure)
        else:
            self.breaker.succeeded()
            outcome.answer = answer
            outcome.cost = None if answer.cost is None else outcome.cost
        return outcome

    async def _pause(self, seconds: float) -> None:
        await self.breaker.unless_stopped(asyncio.sleep(seconds))

    async def _attempt(self, request: dict[str, Any], order: int, call: Call, outcome: Outcome) -> Answer:
        """One attempt, with its worst case reserved while it runs. Counts itself and its cost in `outcome`."""
        worst = await self._reserved(request)
        cost: float | None = 0.0
        sent_at = None
        sent_times: list[float] = []
        try:
            arguments = await self.breaker.unless_stopped(self._arguments(outcome))
            permit = await self.breaker.unless_stopped(self.limiter.acquire(order, self._tokens(request)))
            if self.breaker.stopped is not None:
                self.limiter.on_error(permit)
                raise NotSentError(self.breaker.stopped)
            outcome.attempts += 1
            outcome.rejected = None
            cost = None  # unknown, should it be cancelled from here on
            sent_at, sent_times = time.monotonic(), record_send_times()
            result = await self._once({**request, **arguments}, permit, call)
            cost = result.cost if isinstance(result, Answer) else (None if result.billed is None else 0.0)
        finally:
            self.budget.settle(worst, cost)
            outcome.uncertain |= cost is None
            outcome.timed(sent_times[0] if sent_times else sent_at)
            outcome.cost = (outcome.cost or 0.0) + (cost or 0.0)
        if isinstance(result, Answer):
            failure = answer_failure(result.body, self.target.provider, request)
            if failure is None:
                return result
            outcome.reject(result)
            raise AttemptFailedError(failure)
        unauthorised = result.status_code == HTTPStatus.UNAUTHORIZED
        if unauthorised and self.credentials is not None and outcome.renewed is None:
            self.credentials.renew(arguments)
            outcome.renewed = result
            result = replace(result, retryable=True, hint=0.0, mended=True)
        if self.gives_up and result.scarce:
            result = replace(result, retryable=outcome.attempts < _SCARCE_ATTEMPTS)
        raise AttemptFailedError(result)

    async def _arguments(self, outcome: Outcome) -> dict[str, Any]:
        if self.credentials is None:
            return {}
        try:
            return await self.credentials.arguments()
        except Exception as exc:  # noqa: BLE001 - whatever it is, it is this row's failure
            failure = outcome.renewed or replace(failures.classify(exc, self.target.provider), shared=True)
        raise AttemptFailedError(failure)

    async def _once(self, request: dict[str, Any], permit: Permit, call: Call) -> Answer | Failure:
        """One attempt; the provider's exception ends here, since it keeps keys and prompts alive."""
        try:
            async with asyncio.timeout(self.timeout):
                answer = await call(request)
        except asyncio.CancelledError:
            self.limiter.on_error(permit)
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                raise
            return Failure(
                "Cancelled", "the request was cancelled from inside", provider=self.target.provider, billed=None
            )
        except AttemptFailedError as exc:
            failure = exc.failure  # classified where it was sent
        except Exception as exc:  # noqa: BLE001 - a failing request becomes a row, whatever it failed with
            failure = failures.classify(exc, self.target.provider, request)
        else:
            answer = replace(answer, cost=self.price(answer))
            usage = answer.body.get("usage") or {}
            self.limiter.on_success(permit, answer.headers, usage.get("total_tokens"))
            self.limiter.learn_answer_tokens(usage.get("completion_tokens") or 0)
            return answer
        if failure.type == "Timeout" and failure.message == "no message":
            failure = replace(failure, message=f"no answer within {self.timeout:g} s")
        if failure.refused and not (self.gives_up and failure.scarce):
            self.limiter.on_rate_limit(permit, failure.headers, failure.hint)
        else:
            self.limiter.on_error(permit)
        unset = unset_keys(self.target, request) if failure.status_code == HTTPStatus.UNAUTHORIZED else []
        if unset and not any(name in failure.message for name in unset):
            failure = replace(failure, message=f"not set: {', '.join(unset)}; {failure.message}")
        return failure

    def _tokens(self, request: Mapping[str, Any]) -> float:
        prompt = prompt_tokens(request)
        if "input" in request:
            return self.limiter.estimated_tokens(prompt, 0)
        most = request.get("max_tokens") or request.get("max_completion_tokens") or self.longest_answer
        return self.limiter.estimated_tokens(prompt, most)

    async def _reserved(self, request: Mapping[str, Any]) -> float:
        """Worst case, in USD, that the budget now holds for one attempt.

        Raises NotSentError where the budget has not so much left, or nothing bounds what the attempt may cost.
        """
        worst = self.worst(request)
        if not await self.budget.reserve(worst):
            raise NotSentError(self.too_dear(worst))
        return worst

    def worst(self, request: Mapping[str, Any]) -> float:
        """What one attempt may cost in USD, 0 without a budget. Raises NotSentError where nothing bounds it."""
        try:
            return 0.0 if self.cost_upper_bound is None else self.cost_upper_bound(request)
        except ValueError as exc:
            raise NotSentError(self._over_budget(str(exc))) from None

    def too_dear(self, worst: float) -> Failure:
        """That of a request whose worst case the budget cannot hold."""
        left, cap = self.budget.left, self.budget.cap
        return self._over_budget(f"it may cost up to ${worst:.6f}, but only ${left:.6f} of max_cost=${cap:g} is left")

    def _over_budget(self, why: str) -> Failure:
        return Failure("BudgetExceeded", f"not sent: {why}", provider=self.target.provider)


def prompt_tokens(request: Mapping[str, Any]) -> float:
    """About how many tokens the prompt of a request has."""
    return _characters(request.get("messages") or request.get("input")) / _CHARACTERS_PER_TOKEN + 4


def _characters(given: Any) -> int:
    """How many characters of messages, or of texts to embed, count as tokens."""
    if isinstance(given, Mapping):
        given = given.get("content") or given.get("text")
    if isinstance(given, list):
        return sum(map(_characters, given))
    return len(given) if isinstance(given, str) else 0
