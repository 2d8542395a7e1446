"""A chat batch on its way: from the caller's conversations to finished rows, one for one."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from loguru import logger

from llmbatch._batch.rows import chat_row, failure_row, labelled
from llmbatch._batch.run import Run
from llmbatch._leaves.identity import CustomIds, SeenIds
from llmbatch._leaves.row import Row
from llmbatch._request.failures import Failure
from llmbatch._request.requests import Asked, Plans, read

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Iterable, Mapping

    from llmbatch._request.plans import ChatPlan
    from llmbatch._request.sender import Call, Sender
    from llmbatch.options import Options

__all__ = ["ChatRun"]

_NO_FALLBACK = {"CassetteMiss", "BudgetExceeded", "CheckpointError"}
_LONE_MESSAGE_BEGINNING = 4096  # characters; providers cache from some 1,024 tokens


@dataclass(slots=True)
class Way:
    """How a request goes: by the model asked for, and then by its fallbacks."""

    plans: list[ChatPlan]
    senders: list[Sender]


class ChatRun(Run[Any, tuple[int, Row]]):
    """One batch of chat completions. `made` gives for a request's arguments its plan, and then its fallbacks'.

    Attributes:
        ways: for each request of `requests`.
    """

    def __init__(  # noqa: PLR0917 - as they are made
        self,
        requests: Iterable[Any],
        call: Mapping[str, Any],
        made: Callable[[dict[str, Any]], list[ChatPlan]],
        provider_of: Callable[[str | None, Mapping[str, Any]], str | None],
        options: Options,
        send: Call,
    ) -> None:
        super().__init__(options, send)
        self.requests = requests

        def way(arguments: dict[str, Any]) -> Way:
            plans = made(arguments)
            return Way(plans, [self.sender_for(plan) for plan in plans])

        self.ways = Plans(call, way, provider_of)
        self.target = self.ways.first.plans[0].target
        self._ids, self._own_ids = CustomIds(), SeenIds()
        self._warm: dict[str, asyncio.Event] = {}

    async def rows(self) -> AsyncGenerator[tuple[int, Row]]:
        """Run it."""
        async with contextlib.aclosing(self._running(self.requests, self._row)) as finished:
            async for index, row in finished:
                yield index, row

    async def _row(self, index: int, item: Any) -> tuple[int, Row]:
        """One input's row, whatever happens."""
        asked, target = Asked(), self.target
        try:
            asked = read(item)
            way = self.ways.of(asked)
            target = way.plans[0].target
            self._check_id(asked)
            request = way.plans[0].request(asked.messages)
            request_id = self._ids(request)
        except Exception as exc:  # noqa: BLE001 - a row that cannot be sent is that row's error
            custom_id = asked.custom_id or self._row_id(index, None)
            row = failure_row(Failure("InvalidRow", str(exc)), target, custom_id)
            labelled(row, custom_id, asked.metadata)
            return index, row
        custom_id = asked.custom_id or self._row_id(index, request_id)
        if self.formats is not None and way.plans[0].response_format is not self.ways.first.plans[0].response_format:
            self.formats[custom_id] = way.plans[0].response_format
        known, prints = self._known(request, request_id, custom_id, asked.metadata)
        if known is not None:
            return index, known
        send = partial(self._sent, index, asked.messages, way, request, custom_id)
        row = await self._in_time(send, partial(self._late, custom_id, target=target))
        labelled(row, custom_id, asked.metadata)
        self._record(request_id, prints, row)
        return index, row

    def _check_id(self, asked: Asked) -> None:
        """Raise ValueError for a request whose own id is another's already, and take it from it."""
        if asked.custom_id is not None and not self._own_ids.add(asked.custom_id):
            custom_id, asked.custom_id = asked.custom_id, None
            msg = f"the custom_id {custom_id!r} is there already; give each request its own"
            raise ValueError(msg)

    async def _sent(self, index: int, messages: Any, way: Way, request: dict[str, Any], custom_id: str) -> Row:
        """The row of the first model that answers."""
        async with self._turn(request):
            row = await self._by(way, 0, index, request, custom_id)
            for at in range(1, len(way.senders)):
                if "error" not in row or row["error_details"]["type"] in _NO_FALLBACK:
                    break
                first_error, spent, attempts = row["error"], row["cost"], row["attempts"]
                logger.warning("{} falls back to {}: {}", custom_id, way.plans[at].target.model, first_error)
                row = await self._by(way, at, index, way.plans[at].request(messages), custom_id)
                row["fallback"] = {"instead_of": way.plans[0].target.model, "error": first_error}
                row["attempts"] += attempts
                if spent is None and "error" in row:
                    row["cost"] = None
                elif row["cost"] is not None:
                    row["cost"] += spent or 0.0
        return row

    async def _by(self, way: Way, at: int, index: int, request: dict[str, Any], custom_id: str) -> Row:
        """The row that one of a way's senders makes of a request."""
        outcome = await way.senders[at].send(request, index, self.call_for(index))
        return chat_row(outcome, way.plans[at], custom_id)

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
