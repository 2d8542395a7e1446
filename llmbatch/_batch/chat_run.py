"""A chat batch on its way: from the caller's conversations to finished rows, one for one."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from loguru import logger

from llmbatch._batch.asks import asked_again, judged
from llmbatch._batch.rows import chat_row, failure_row, in_lane, labelled
from llmbatch._batch.run import Run
from llmbatch._leaves.checks import UnsendableError, copied
from llmbatch._leaves.identity import CustomIds, SeenIds, first_id
from llmbatch._leaves.row import NO_USAGE, Row, add_spent
from llmbatch._request.failures import Failure, clean
from llmbatch._request.requests import Asked, Plans, read

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Iterable, Mapping

    from llmbatch._request.guards import Budget
    from llmbatch._request.plans import ChatPlan
    from llmbatch._request.sender import Call, Sender
    from llmbatch.options import Options

__all__ = ["FLEX", "ChatRun", "Way"]

FLEX = "flex"

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
        budget: Budget | None = None,
    ) -> None:
        super().__init__(options, send, budget)
        self.requests = requests

        def way(arguments: dict[str, Any]) -> Way:
            plans = made(arguments)
            return Way(plans, [self.sender_for(plan) for plan in plans])

        self.ways = Plans(call, way, provider_of)
        self.target = self.ways.first.plans[0].target
        self._ids, self._own_ids = CustomIds(), SeenIds()
        for custom_id in options.custom_ids or ():
            self._own_ids.add(custom_id)
        self._warm, self._warming = SeenIds(), dict[bytes, asyncio.Event]()
        self._so_far: dict[int, Row] = {}
        self._firsts: dict[Any, tuple[int, asyncio.Future[Row]]] = {}

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
            self._check_id(index, asked)
            request = way.plans[0].request(asked.messages)
            request_id = self._request_id(index, request)
        except Exception as exc:  # noqa: BLE001 - a row that cannot be sent is that row's error
            custom_id = asked.custom_id or self._row_id(index, None)
            row = failure_row(Failure("InvalidRow", _why(exc, asked)), target, custom_id)
            labelled(row, custom_id, asked.metadata)
            return index, row
        custom_id = asked.custom_id or self._row_id(index, request_id)
        if self.formats is not None and way.plans[0].response_format is not self.ways.first.plans[0].response_format:
            self.formats[custom_id] = way.plans[0].response_format
        known, prints = self._known(request, request_id, custom_id, asked.metadata)
        if known is not None and not self.options.dedupe:
            return index, known
        same = self._same(request_id, way.plans[0])
        first, its_row = self._firsts.get(same, (index, None))
        if its_row is None:
            its_row = asyncio.get_running_loop().create_future()
            if self.options.dedupe:
                self._firsts[same] = index, its_row
            row = known or await self._answered(index, asked, way, request, custom_id)
            row.pop("same_as", None)
            its_row.set_result(copied(row) if self.options.dedupe else row)
        else:
            row = known or _copied(await its_row)
            row["same_as"] = first
        labelled(row, custom_id, asked.metadata)
        if known is None:
            self._record(request_id, prints, row)
        return index, row

    @staticmethod
    def _same(request_id: str, plan: ChatPlan) -> Any:
        """What requests that ask the very same have in common: of two classes with one schema, each has its own."""
        asked_for = plan.response_format
        return first_id(request_id), plan.target, asked_for if isinstance(asked_for, type) else None

    def _request_id(self, index: int, request: Mapping[str, Any]) -> str:  # noqa: ARG002 - a job's rows have another order
        return self._ids(request)

    async def _answered(self, index: int, asked: Asked, way: Way, request: dict[str, Any], custom_id: str) -> Row:
        """The row of a request that is sent, in time or not."""

        def late() -> Row:
            cut, row = self._late(index, custom_id, way.plans[0].target), self._so_far.get(index)
            if row is None:
                return cut
            row["usage"], row["cost"], row["attempts"] = cut["usage"], cut["cost"], cut["attempts"]
            if "error" in row:
                row["error_details"]["attempts"] = row["attempts"]
            return row

        send = partial(self._sent, index, asked, way, request, custom_id)
        row = await self._in_time(send, late)
        self._so_far.pop(index, None)
        return row

    def _check_id(self, index: int, asked: Asked) -> None:
        """Raise ValueError for a request whose own id is another's already, and take it from it."""
        if asked.custom_id is None or (self.options.custom_ids and asked.custom_id == self._row_id(index, None)):
            return
        if not self._own_ids.add(asked.custom_id):
            custom_id, asked.custom_id = asked.custom_id, None
            msg = f"the custom_id {custom_id!r} is there already; give each request its own"
            raise ValueError(msg)

    async def _sent(self, index: int, asked: Asked, way: Way, request: dict[str, Any], custom_id: str) -> Row:
        """The row of the first model that answers, with what all that were asked have used."""
        async with self._turn(request):
            row = await self._by(way, 0, index, asked, request, custom_id)
            for at in range(1, len(way.senders)):
                if "error" not in row or row["error_details"]["type"] in _NO_FALLBACK:
                    break
                before, first_error = row, row["error"]
                logger.warning("{} falls back to {}: {}", custom_id, way.plans[at].target.model, first_error)
                row = await self._by(way, at, index, asked, way.plans[at].request(asked.messages), custom_id)
                row["fallback"] = {"instead_of": way.plans[0].target.model, "error": first_error}
                add_spent(row, before)
        return row

    async def _by(  # noqa: PLR0917 - a request and all that is known of it
        self, way: Way, at: int, index: int, asked: Asked, request: dict[str, Any], custom_id: str
    ) -> Row:
        """The row that one of a way's models makes of a request, asked again while its answer is wrong."""
        plan, sender, most, given = way.plans[at], way.senders[at], self.options.reask, request
        before: Row | None = None
        for asks in range(1, most + 2):
            row = await self._reply(plan, sender, request, index, custom_id)
            labelled(row, custom_id, asked.metadata)
            row, wrong = judged(row, plan, given, self.options.validate)
            if before is not None:
                if not row["choices"]:  # what was answered before stays
                    row, before, wrong = before, row, None
                add_spent(row, before)
            if most:
                row["asks"] = asks
            if wrong is None or asks > most:
                break
            self._so_far[index] = before = row
            plan, request = asked_again(row, wrong, plan, request)
            sender = sender if wrong else self.sender_for(plan)
        return row

    async def _reply(self, plan: ChatPlan, sender: Sender, request: dict[str, Any], index: int, custom_id: str) -> Row:
        """The row that one request makes, sent to one model; again by the standard tier where flex has no resources."""
        call, outcome = self.call_for(index), self._begun(index)
        await sender.send(request, index, call, outcome)
        if sender.gives_up and outcome.failure is not None and outcome.failure.scarce:
            outcome.failure = None
            await sender.send({k: v for k, v in request.items() if k != "service_tier"}, index, call, outcome)
        row = chat_row(outcome, plan, custom_id)
        if outcome.answer is not None and outcome.answer.body.get("service_tier") == FLEX:
            in_lane(row, FLEX, plan.target)
        return row

    @contextlib.asynccontextmanager
    async def _turn(self, request: Mapping[str, Any]) -> AsyncGenerator[None]:
        """With warm_prompt_cache, the first row of each shared beginning goes alone; the others wait for it."""
        if not self.options.warm_prompt_cache:
            yield
            return
        beginning = _beginning(request)
        if not self._warm.add(beginning):
            if (leader := self._warming.get(beginning)) is not None:
                await leader.wait()
            yield
            return
        self._warming[beginning] = answered = asyncio.Event()
        try:
            yield
        finally:
            answered.set()
            del self._warming[beginning]


def _why(exc: Exception, asked: Asked) -> str:
    """What keeps a request from being sent, in words that hold nothing of it."""
    if isinstance(exc, UnsendableError):
        return str(exc)
    with contextlib.suppress(Exception):  # of an object that nobody may read
        if asked.messages is not None:
            return clean(str(exc), {"messages": asked.messages})
    return f"it cannot be read ({type(exc).__name__})"


def _copied(row: Row) -> Row:
    """The row for another input that asks the same: nothing was sent for it, so that it has used nothing."""
    same: Row = copied(row)
    return {**same, "usage": dict(NO_USAGE), "cost": 0.0, "attempts": 0}


def _beginning(request: Mapping[str, Any]) -> bytes:
    """What a model's provider caches by: everything before the last message, or the start of a lone one."""
    messages = request["messages"]
    shared: Any = messages[:-1] or str(messages[0].get("content"))[:_LONE_MESSAGE_BEGINNING]
    return hashlib.blake2b(repr((request["model"], shared)).encode("utf-8", "surrogatepass"), digest_size=8).digest()
