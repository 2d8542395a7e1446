"""What every run of a batch does around its requests: slots, limits, deadline and checkpoint.

`ChatRun` (`_chat_run`) and `EmbeddingsRun` (`embeddings`) say what one unit of work is and how its rows are made.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
from operator import attrgetter
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from loguru import logger

from llmbatch import _litellm
from llmbatch._batch.checkpoint import Checkpoint
from llmbatch._batch.rows import failure_row
from llmbatch._batch.slots import Slots
from llmbatch._leaves.fan_out import fan_out
from llmbatch._leaves.identity import fingerprints
from llmbatch._leaves.row import add_usage
from llmbatch._litellm.prices import model_info, own_cost
from llmbatch._litellm.worst import worst_cost
from llmbatch._request.failures import Failure
from llmbatch._request.guards import Breaker
from llmbatch._request.limits import limiter_for
from llmbatch._request.sender import Outcome, Sender
from llmbatch.errors import CheckpointError
from llmbatch.providers import copilot

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Mapping

    from llmbatch._leaves.row import Row
    from llmbatch._litellm import Answer, Target
    from llmbatch._request.guards import Budget
    from llmbatch._request.limits import Limiter
    from llmbatch._request.plans import ChatPlan, EmbeddingsPlan
    from llmbatch._request.sender import Call
    from llmbatch.options import Options

__all__ = ["Run", "sender_for"]

GUESSED_ANSWER_TOKENS = 4096  # that an answer may have, where neither the call nor LiteLLM's map bounds it

T = TypeVar("T")
R = TypeVar("R")
S = TypeVar("S")


def sender_for(plan: ChatPlan | EmbeddingsPlan, options: Options, budget: Budget) -> Sender:
    """The sender for a plan's target, on the limiter that the process keeps for that account."""
    _litellm.warm_up(plan.target)
    key = plan.params.get("api_key")
    digest = hashlib.blake2b(key.encode(), digest_size=8).hexdigest() if isinstance(key, str) else None
    return Sender(
        target=plan.target,
        limiter=limiter_for(plan.target.provider, plan.target.api_base, digest, plan.target.name),
        breaker=Breaker(),
        budget=budget,
        retries=options.retries,
        timeout=options.timeout,
        worst_cost=None if options.max_cost is None else worst_cost(plan),
        longest_answer=_longest_answer(plan.target) if options.tokens_per_minute else 0.0,
        credentials=plan.credentials,
        price=_price(plan.target),
    )


def _longest_answer(target: Target) -> float:
    """In tokens: the model's own limit, else a guess."""
    return model_info(target.name, target.provider).get("max_output_tokens") or GUESSED_ANSWER_TOKENS


def _price(target: Target) -> Callable[[Answer], float | None]:
    """What gives an answer's cost: the caller's own prices, nothing (Copilot is a subscription), or LiteLLM."""
    if target.prices:
        return lambda answer: own_cost(target, answer.body.get("usage"))
    return (lambda _: None) if target.provider == copilot.PROVIDER else attrgetter("cost")


class Run(Generic[T, R]):
    """One batch on its way. `rows()` yields `(index, row)` as they finish, exactly one for each input.

    Attributes:
        senders: for the model asked for, and then its fallbacks.
        call_for: gives, for an input's index, the function that sends one request once.
        under_way: what has become so far of the inputs whose rows have not been taken yet, one outcome a model.
        count: how many inputs there are, None where nobody knows.
    """

    def __init__(self, options: Options, senders: list[Sender], call: Call) -> None:
        self.options = options
        self.senders = senders
        self.call_for: Callable[[int], Call] = lambda _: call
        self.count: int | None = None
        self._checkpoint: Checkpoint | None = None
        self._deadline: float | None = None
        self.under_way: dict[int, list[Outcome]] = {}

    @property
    def target(self) -> Target:
        """The target that was asked for."""
        return self.senders[0].target

    def limits_found(self) -> str:
        """What refusals of the target were found to depend on, in a line; empty before that."""
        return self.senders[0].limiter.refusals.finding[1]

    def share(self, budget: Budget) -> None:
        """Spend out of a budget that other runs spend out of too."""
        for sender in self.senders:
            sender.budget = budget

    def rows(self) -> AsyncGenerator[tuple[int, Row]]:
        """Run it."""
        raise NotImplementedError

    async def _running(self, items: Iterable[T], work: Callable[[int, T], Awaitable[R]]) -> AsyncGenerator[R]:
        """Fan `work` out over the items, with the checkpoint open and the caller's limits in force.

        At the deadline nobody waits for the next item of an input of unknown length; of a known one each item is a row.
        """
        options, limiter = self.options, self.senders[0].limiter
        if options.deadline is not None:
            self._deadline = asyncio.get_running_loop().time() + options.deadline
        until = self._deadline if self.count is None else None
        slots = Slots(options.max_workers, limiter)
        with contextlib.ExitStack() as stack:
            if options.checkpoint is not None:
                self._checkpoint = Checkpoint(options.checkpoint)
                stack.callback(self._checkpoint.close)
            for limiter in self._limiters():
                stack.enter_context(limiter.told(options.requests_per_minute, options.tokens_per_minute))
            async with contextlib.aclosing(fan_out(items, work, slots=slots, until=until)) as finished:
                async for _, result in finished:
                    slots.finished()
                    yield result
            if self._checkpoint is not None and self._checkpoint.changes:
                logger.info("Sent again, since these fields changed: {}", dict(self._checkpoint.changes))

    async def _in_time(self, work: Callable[[], Awaitable[S]], late: Callable[[], S]) -> S:
        """The work's result, or `late()` at the deadline; what has not begun by then is not begun."""
        if self._deadline is None:
            return await work()
        if self._deadline <= asyncio.get_running_loop().time():
            return late()
        try:
            async with asyncio.timeout_at(self._deadline):
                return await work()
        except TimeoutError:
            return late()

    def _limiters(self) -> list[Limiter]:
        """Those that the caller's limits bind: of all senders at the account that was asked for."""
        return list(
            dict.fromkeys(s.limiter for s in self.senders if s.limiter.account is self.senders[0].limiter.account)
        )

    def _known(self, request: Mapping[str, Any], request_id: str, custom_id: str) -> tuple[Row | None, dict[str, str]]:
        """The row that the checkpoint holds for a request, and the digests to write it with."""
        if self._checkpoint is None:
            return None, {}
        prints = fingerprints(request)
        row = self._checkpoint.found(request_id)
        if row is None:
            self._checkpoint.note_change(prints)
            return None, prints
        if row["custom_id"] != custom_id:
            row["custom_id"] = custom_id
            self._record(request_id, prints, row)
        row["resumed"] = True
        return row, prints

    def _record(self, request_id: str, prints: dict[str, str], row: Row) -> None:
        """Write a finished row; when that fails, nothing more is sent, since it could not be kept."""
        if self._checkpoint is None:
            return
        try:
            self._checkpoint.append(request_id, prints, row)
        except CheckpointError as exc:
            for sender in self.senders:
                sender.breaker.trip(Failure("CheckpointError", str(exc)), str(exc))

    def _row_id(self, index: int, request_id: str | None) -> str:
        """The row's id: the caller's, else its request's, else its place."""
        ids = self.options.custom_ids
        if ids is not None:
            if index >= len(ids):
                msg = f"custom_ids holds {len(ids)} ids, fewer than there are rows; give one each"
                raise ValueError(msg)
            return ids[index]
        return request_id or f"row-{index}"

    def _refused(self, custom_id: str, kind: str, message: str, **spent: Any) -> Row:
        """The error row of an input that no provider has answered for."""
        return failure_row(Failure(kind, message), self.target, custom_id, **spent)

    def _late(self, index: int, custom_id: str) -> Row:
        failure = Failure("DeadlineExceeded", f"not done within deadline={self.options.deadline} s")
        return self.cut(failure, index, custom_id)

    def _begun(self, *indices: int) -> Outcome:
        """The outcome, to be filled, of a request for these inputs."""
        before = self.under_way.get(indices[0])
        outcome = Outcome(None, None, 0, 0.0, rows=len(indices))
        if before:
            outcome.begun = before[0].begun
        for index in indices:
            self.under_way.setdefault(index, []).append(outcome)
        return outcome

    def cut(self, failure: Failure, index: int, custom_id: str | None = None) -> Row:
        """The error row of an input that was not done in time, with what was sent for it and may have been charged."""
        outcomes = self.under_way.get(index) or [Outcome(None, None, 0, 0.0)]
        lost = any(outcome.uncertain for outcome in outcomes)
        spent = {
            **outcomes[-1].spent,
            "attempts": sum(outcome.attempts for outcome in outcomes),
            "cost": None if lost else sum((outcome.cost or 0.0) / outcome.rows for outcome in outcomes),
        }
        row = failure_row(failure, self.target, custom_id or self._row_id(index, None), **spent)
        for outcome in outcomes:
            add_usage(row["usage"], outcome.answer.body.get("usage") if outcome.answer else None)
        return row
