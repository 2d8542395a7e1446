"""A chat batch on its way: from the caller's conversations to finished rows, one for one."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
from functools import partial
from typing import TYPE_CHECKING, Any

from loguru import logger

from llmbatch._batch.rows import chat_row
from llmbatch._batch.run import Run, sender_for
from llmbatch._leaves.checks import UnsendableError
from llmbatch._leaves.identity import CustomIds
from llmbatch._leaves.row import Row, add_spent
from llmbatch._request.guards import Budget

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Iterable, Mapping

    from llmbatch._request.plans import ChatPlan
    from llmbatch._request.sender import Call
    from llmbatch.options import Options

__all__ = ["ChatRun"]

_NO_FALLBACK = {"CassetteMiss", "BudgetExceeded", "CheckpointError"}
_LONE_MESSAGE_BEGINNING = 4096  # characters; providers cache from some 1,024 tokens


class ChatRun(Run[Any, tuple[int, Row]]):
    """One batch of chat completions. `plans` holds the model asked for and then its fallbacks."""

    def __init__(self, conversations: Iterable[Any], plans: list[ChatPlan], options: Options, call: Call) -> None:
        budget = Budget(options.max_cost)
        super().__init__(options, [sender_for(plan, options, budget) for plan in plans], call)
        self.conversations, self.plans = conversations, plans
        self._ids = CustomIds()
        self._warm: dict[str, asyncio.Event] = {}

    async def rows(self) -> AsyncGenerator[tuple[int, Row]]:
        """Run it."""
        async with contextlib.aclosing(self._running(self.conversations, self._row)) as finished:
            async for index, row in finished:
                yield index, row

    async def _row(self, index: int, conversation: Any) -> tuple[int, Row]:
        """One input's row, whatever happens."""
        try:
            request = self.plans[0].request(conversation)
            request_id = self._ids(request)
        except UnsendableError as exc:
            return index, self._refused(self._row_id(index, None), "InvalidRow", str(exc))
        custom_id = self._row_id(index, request_id)
        known, prints = self._known(request, request_id, custom_id)
        if known is not None:
            return index, known
        send = partial(self._sent, index, conversation, request, custom_id)
        row = await self._in_time(send, partial(self._late, index, custom_id))
        self._record(request_id, prints, row)
        return index, row

    async def _sent(self, index: int, conversation: Any, request: dict[str, Any], custom_id: str) -> Row:
        """The row of the first model that answers, with what all that were asked have used."""
        async with self._turn(request):
            row = await self._by(0, index, request, custom_id)
            for at in range(1, len(self.senders)):
                if "error" not in row or row["error_details"]["type"] in _NO_FALLBACK:
                    break
                before, first_error = row, row["error"]
                logger.warning("{} falls back to {}: {}", custom_id, self.plans[at].target.model, first_error)
                row = await self._by(at, index, self.plans[at].request(conversation), custom_id)
                row["fallback"] = {"instead_of": self.target.model, "error": first_error}
                add_spent(row, before)
        return row

    async def _by(self, at: int, index: int, request: dict[str, Any], custom_id: str) -> Row:
        """The row that one of the senders makes of a request."""
        outcome = await self.senders[at].send(request, index, self.call_for(index), self._begun(index))
        return chat_row(outcome, self.plans[at], custom_id)

    @contextlib.asynccontextmanager
    async def _turn(self, request: Mapping[str, Any]) -> AsyncGenerator[None]:
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


def _beginning(messages: list[dict[str, Any]]) -> str:
    """What providers cache by: everything before the last message, or the start of a lone one."""
    shared: Any = messages[:-1] or str(messages[0].get("content"))[:_LONE_MESSAGE_BEGINNING]
    return hashlib.blake2b(repr(shared).encode(), digest_size=16).hexdigest()
