"""One request on its way: through limits, budget and breaker, again after faults, until it has succeeded or failed."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, replace
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Protocol

from llmbatch._litellm import Answer, Target, unset_keys
from llmbatch._request import failures
from llmbatch._request.failures import Failure
from llmbatch._request.retry import AttemptFailedError, NotSentError, retrying

if TYPE_CHECKING:
    from llmbatch._request.guards import Breaker, Budget
    from llmbatch._request.limits import Limiter, Permit

__all__ = ["Call", "Credentials", "Outcome", "Sender"]

_CHARACTERS_PER_TOKEN = 4

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
    have charged for an attempt whose answer was lost.
    """

    answer: Answer | None
    failure: Failure | None
    attempts: int
    cost: float | None
    renewed: Failure | None = None
    uncertain: bool = False


@dataclass(kw_only=True)
class Sender:
    """Sends requests to one target. `worst_cost` bounds a request's price in USD, where there is a budget."""

    target: Target
    limiter: Limiter
    breaker: Breaker
    budget: Budget
    retries: int
    timeout: float | None
    worst_cost: Callable[[Mapping[str, Any]], float] | None = None
    credentials: Credentials | None = None
    priced: bool = True
    secrets: tuple[str, ...] = ()

    async def send(self, request: dict[str, Any], order: int, call: Call) -> Outcome:
        """Send until answered or failed for good; never raises for what a provider, the network or LiteLLM does.

        `call` sends one request once. `order` decides who goes first where requests wait for a limit.
        """
        outcome = Outcome(None, None, 0, 0.0)
        try:
            answer = await self._attempts(request, order, call, outcome)
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

    async def _attempts(self, request: dict[str, Any], order: int, call: Call, outcome: Outcome) -> Answer:
        """The first attempt, and what the retry policy makes of its failure: most rows need no policy."""
        try:
            return await self._attempt(request, order, call, outcome)
        except AttemptFailedError as exc:
            first = exc
        async for attempt in retrying(self.retries, paced=True):
            with attempt:
                if attempt.retry_state.attempt_number == 1:
                    raise first
                return await self._attempt(request, order, call, outcome)
        raise AssertionError  # unreachable: tenacity ends with a result or an exception

    async def _attempt(self, request: dict[str, Any], order: int, call: Call, outcome: Outcome) -> Answer:
        """One attempt, with its worst case reserved while it runs. Counts itself and its cost in `outcome`."""
        worst = self.worst_cost(request) if self.worst_cost else 0.0
        if not await self.budget.reserve(worst):
            raise NotSentError(self._over_budget())
        cost: float | None = 0.0
        try:
            arguments = await self._arguments(outcome)
            permit = await self.limiter.admit(order, self._tokens(request))
            if self.breaker.stopped is not None:
                self.limiter.faulted(permit)
                raise NotSentError(self.breaker.stopped)
            outcome.attempts += 1
            cost = None  # unknown, should it be cancelled from here on
            result = await self._once({**request, **arguments}, permit, call)
            cost = result.cost if isinstance(result, Answer) else (None if result.billed is None else 0.0)
        finally:
            self.budget.settle(worst, worst if cost is None else cost)
            outcome.uncertain |= cost is None
            outcome.cost = (outcome.cost or 0.0) + (cost or 0.0)
        if isinstance(result, Answer):
            return result
        unauthorised = result.status_code == HTTPStatus.UNAUTHORIZED
        if unauthorised and self.credentials is not None and outcome.renewed is None:
            self.credentials.renew(arguments)
            outcome.renewed = result
            result = replace(result, retryable=True, hint=0.0, mended=True)
        raise AttemptFailedError(result)

    async def _arguments(self, outcome: Outcome) -> dict[str, Any]:
        if self.breaker.stopped is not None:
            raise NotSentError(self.breaker.stopped)
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
            self.limiter.faulted(permit)
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                raise
            return Failure(
                "Cancelled", "the request was cancelled from inside", provider=self.target.provider, billed=None
            )
        except Exception as exc:  # noqa: BLE001 - a failing request becomes a row, whatever it failed with
            failure = failures.classify(exc, self.target.provider)
        else:
            answer = answer if self.priced else replace(answer, cost=None)
            usage = answer.body.get("usage") or {}
            self.limiter.answered(permit, answer.headers, usage.get("total_tokens"))
            self.limiter.used(usage.get("completion_tokens") or 0)
            return answer
        if failure.type == "Timeout" and failure.message == "no message":
            failure = replace(failure, message=f"no answer within {self.timeout:g} s")
        if failure.refused:
            self.limiter.refused(permit, failure.headers, failure.hint)
        else:
            self.limiter.faulted(permit)
        unset = unset_keys(self.target, request) if failure.status_code == HTTPStatus.UNAUTHORIZED else []
        if unset and not any(name in failure.message for name in unset):
            failure = replace(failure, message=f"not set: {', '.join(unset)}; {failure.message}")
        return replace(failure, message=failures.clean(failure.message, (*self.secrets, *_prompts(request))))

    def _tokens(self, request: Mapping[str, Any]) -> float:
        length = sum(len(text) for text in _prompts(request))
        most = request.get("max_tokens") or request.get("max_completion_tokens")
        return self.limiter.estimate(length / _CHARACTERS_PER_TOKEN + 4, most)

    def _over_budget(self) -> Failure:
        message = (
            f"not sent: its worst case would pass max_cost=${self.budget.cap:g} (${self.budget.spent:.6f} are spent)"
        )
        return Failure("BudgetExceeded", message, provider=self.target.provider, retryable=False)


def _prompts(request: Mapping[str, Any]) -> list[str]:
    """The texts of a request: what must not show in an error, and what counts as tokens."""
    given = request.get("input")
    if given is not None:
        return [given] if isinstance(given, str) else [text for text in given if isinstance(text, str)]
    texts: list[str] = []
    for message in request.get("messages") or ():
        content = message.get("content")
        if isinstance(content, str):
            texts.append(content)
        elif isinstance(content, list):
            texts += [part["text"] for part in content if isinstance(part.get("text"), str)]
    return texts
