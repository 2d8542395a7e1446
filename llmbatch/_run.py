"""A chat batch on its way: from the caller's rows to finished rows, one for one.

`ChatRun` joins what the other modules do alone: a plan makes each request (`_requests`), the checkpoint may know its row
(`_checkpoint`), a sender sends it (`_sender`), fallbacks take over, and the row is written, counted and yielded.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
from collections.abc import AsyncIterator, Mapping
from typing import Any

from loguru import logger
from pydantic import BaseModel, ValidationError

from llmbatch import _litellm, _retry
from llmbatch._checkpoint import Checkpoint
from llmbatch._concurrency import Slots
from llmbatch._engine import fan_out
from llmbatch._guards import Breaker, Budget
from llmbatch._limits import limiter_for
from llmbatch._litellm.worst import worst_cost
from llmbatch._options import Options
from llmbatch._requests import ChatPlan, CustomIds, EmbeddingsPlan, fingerprints
from llmbatch._retry import Failure
from llmbatch._sender import CallFor, Credentials, Outcome, Sender
from llmbatch.errors import CheckpointError
from llmbatch.providers import copilot
from llmbatch.results import Row, answer_row, error_row, row_text

__all__ = ["ChatRun", "sender_for"]


def sender_for(
    plan: ChatPlan | EmbeddingsPlan, options: Options, budget: Budget, credentials: Credentials | None = None
) -> Sender:
    """The sender for a plan's target, on the limiter that the process keeps for that account."""
    key = plan.params.get("api_key")
    digest = hashlib.blake2b(key.encode(), digest_size=8).hexdigest() if isinstance(key, str) else None
    limiter = limiter_for(plan.target.provider, plan.target.api_base, digest, plan.target.name)
    return Sender(
        target=plan.target,
        limiter=limiter,
        breaker=Breaker(),
        budget=budget,
        retries=options.retries,
        timeout=options.timeout,
        worst_cost=None if options.max_cost is None else worst_cost(plan),
        credentials=credentials,
        priced=plan.target.provider != copilot.PROVIDER,
        secrets=plan.secrets,
    )


class ChatRun:
    """One batch of chat completions. `plans` holds the model asked for and then its fallbacks.

    `rows()` yields `(index, row)` as they finish, exactly one for each input.
    """

    def __init__(
        self,
        conversations: Any,
        plans: list[tuple[ChatPlan, Credentials | None]],
        options: Options,
    ) -> None:
        self.conversations = conversations
        self.plans = [plan for plan, _ in plans]
        self.options = options
        budget = Budget(options.max_cost)
        self.senders = [sender_for(plan, options, budget, credentials) for plan, credentials in plans]
        self._call_for: CallFor = lambda _: _litellm.chat
        self._ids = CustomIds()
        self._checkpoint: Checkpoint | None = None
        self._deadline: float | None = None
        self._warm: dict[str, asyncio.Event] = {}

    async def rows(self, call_for: CallFor | None = None) -> AsyncIterator[tuple[int, Row]]:
        """Run it. `call_for(index)` gives the function that sends one request once."""
        self._call_for = call_for or self._call_for
        options, limiter = self.options, self.senders[0].limiter
        if options.deadline is not None:
            self._deadline = asyncio.get_running_loop().time() + options.deadline
        slots = Slots(options.max_workers, limiter)
        with contextlib.ExitStack() as stack:
            if options.checkpoint is not None:
                self._checkpoint = Checkpoint(options.checkpoint)
                stack.callback(self._checkpoint.close)
            stack.enter_context(limiter.told(options.requests_per_minute, options.tokens_per_minute))
            async with contextlib.aclosing(fan_out(self.conversations, self._row, slots=slots)) as finished:
                async for index, row in finished:
                    slots.finished()
                    yield index, row
            if self._checkpoint is not None and self._checkpoint.changes:
                logger.info("Sent again, since these fields changed: {}", dict(self._checkpoint.changes))

    async def _row(self, index: int, conversation: Any) -> Row:
        """One input's row, whatever happens."""
        given = self.options.custom_ids
        try:
            request = self.plans[0].request(conversation)
            request_id = self._ids(request)
        except Exception as exc:  # noqa: BLE001 - a row that cannot be sent is that row's error
            return self._refuse(f"row-{index}" if given is None else given[index], "InvalidRow", str(exc))
        custom_id = request_id if given is None else given[index]
        prints = fingerprints(request) if self._checkpoint is not None else {}
        if self._checkpoint is not None:
            row = self._checkpoint.found(request_id, prints, custom_id)
            if row is not None:
                return row
        row = await self._in_time(index, conversation, request, custom_id)
        if self._checkpoint is not None:
            try:
                self._checkpoint.append(request_id, prints, row)
            except CheckpointError as exc:
                for sender in self.senders:
                    sender.breaker.trip(Failure("CheckpointError", str(exc)), str(exc))
        return row

    async def _in_time(self, index: int, conversation: Any, request: dict[str, Any], custom_id: str) -> Row:
        sent, late = False, f"not done within deadline={self.options.deadline} s"
        try:
            if self._deadline is None or self._deadline > asyncio.get_running_loop().time():
                sent = True
                async with asyncio.timeout_at(self._deadline):
                    return await self._sent(index, conversation, request, custom_id)
        except TimeoutError:
            pass
        return self._refuse(custom_id, "DeadlineExceeded", late, cost=None if sent else 0.0)

    async def _sent(self, index: int, conversation: Any, request: dict[str, Any], custom_id: str) -> Row:
        async with self._turn(request):
            row = await self._by(0, index, request, custom_id)
            for at in range(1, len(self.senders)):
                if "error" not in row or row["error_details"]["type"] in {"CassetteMiss", "BudgetExceeded"}:
                    break
                first_error, spent, attempts = row["error"], row["cost"], row["attempts"]
                logger.warning("{} falls back to {}: {}", custom_id, self.plans[at].target.model, first_error)
                row = await self._by(at, index, self.plans[at].request(conversation), custom_id)
                row["fallback"] = {"instead_of": self.plans[0].target.model, "error": first_error}
                row["attempts"] += attempts
                row["cost"] = None if None in {spent, row["cost"]} else spent + row["cost"]
        return row

    async def _by(self, at: int, index: int, request: dict[str, Any], custom_id: str) -> Row:
        """The row that one of the senders makes of a request."""
        outcome = await self.senders[at].send(request, index, self._call_for(index))
        return finished_row(outcome, self.plans[at], custom_id)

    @contextlib.asynccontextmanager
    async def _turn(self, request: Mapping[str, Any]) -> AsyncIterator[None]:
        """With warm_prompt_cache, the first row of each shared beginning goes alone; the others wait for it."""
        if not self.options.warm_prompt_cache:
            yield
            return
        beginning = _beginning(request["messages"])
        leader = self._warm.get(beginning)
        if leader is not None:
            await leader.wait()
            yield
            return
        self._warm[beginning] = answered = asyncio.Event()
        try:
            yield
        finally:
            answered.set()

    def _refuse(self, custom_id: str, kind: str, message: str, cost: float | None = 0.0) -> Row:
        target = self.plans[0].target
        return error_row(
            type=kind, message=_retry.clean(message), model=target.model, custom_id=custom_id,
            provider=target.provider, cost=cost,
        )  # fmt: skip


def finished_row(outcome: Outcome, plan: ChatPlan, custom_id: str) -> Row:
    """The row of an outcome; an answer that does not fit the pydantic model asked for is an error row that keeps it."""
    if outcome.failure is not None:
        return failed_row(outcome, plan.target, custom_id)
    assert outcome.answer is not None  # noqa: S101 - one of the two is always there
    row = answer_row(outcome.answer.body, custom_id=custom_id, cost=outcome.cost, attempts=outcome.attempts)
    problem = _problem(row, plan.response_format)
    if problem is None:
        return row
    bad = error_row(
        type=problem[0], message=problem[1], model=row["model"], custom_id=custom_id, status_code=200,
        provider=plan.target.provider, attempts=outcome.attempts, cost=outcome.cost,
    )  # fmt: skip
    bad["choices"], bad["usage"] = row.get("choices") or [], row["usage"]
    return bad


def failed_row(outcome: Outcome, target: _litellm.Target, custom_id: str) -> Row:
    """The error row of a failed outcome."""
    failure = outcome.failure
    assert failure is not None  # noqa: S101 - the caller has looked
    return error_row(
        type=failure.type, message=failure.message, model=target.model, custom_id=custom_id,
        status_code=failure.status_code, provider=failure.provider or target.provider, retryable=failure.retryable,
        attempts=outcome.attempts, cost=outcome.cost,
    )  # fmt: skip


def _problem(row: Row, model: type[BaseModel] | None) -> tuple[str, str] | None:
    """What keeps an answer from being a good row, as (type, message)."""
    if not row.get("choices"):
        return "EmptyAnswer", "the provider answered without any choice"
    choice = row["choices"][0]
    message = choice.get("message") or {}
    if model is None or message.get("tool_calls"):
        return None
    try:
        model.model_validate_json(row_text(row) or "")
    except ValidationError as exc:
        first = exc.errors(include_input=False, include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        cut = "; the answer was cut off, raise max_tokens" if choice.get("finish_reason") == "length" else ""
        return "ValidationError", f"the answer is no {model.__name__}: {where + ': ' if where else ''}{first['msg']}{cut}"
    return None


def _beginning(messages: list[dict[str, Any]]) -> str:
    """What providers cache by: everything before the last message, or the start of a lone one."""
    lone = 4096
    shared: Any = messages[:-1] or str(messages[0].get("content"))[:lone]
    return hashlib.blake2b(repr(shared).encode(), digest_size=16).hexdigest()
