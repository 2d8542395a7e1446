"""A chat batch on its way: from the caller's conversations to finished rows, one for one."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
from collections.abc import AsyncGenerator, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from loguru import logger

from llmbatch._batch.base_run import Run
from llmbatch._batch.reask import asked_again, judged, still_passes
from llmbatch._batch.row_builder import chat_row, failure_row, in_lane, is_answer, labelled
from llmbatch._batch.transport import sending
from llmbatch._request.account import route_key
from llmbatch._request.budget import Budget
from llmbatch._request.failures import Failure, clean
from llmbatch._request.parsed_request import ParsedRequest, Plans, merged, parse_request, provider_in
from llmbatch._request.plans import ChatPlan, default_model, plan_chat
from llmbatch._request.sender import Sender
from llmbatch._rows.failure_type import FailureType
from llmbatch._rows.row import NO_USAGE, Row, add_spent
from llmbatch._util.checks import UnsendableError, copied
from llmbatch._util.identity import CustomIds, SeenIds, first_id, upgrade_id
from llmbatch.options import Options
from llmbatch.providers import copilot

FLEX = "flex"

_NO_FALLBACK = {FailureType.CASSETTE_MISS, FailureType.BUDGET_EXCEEDED, FailureType.CHECKPOINT}
_LONE_MESSAGE_BEGINNING = 4096  # characters; providers cache from some 1,024 tokens


@dataclass(slots=True)
class Route:
    """How a request goes: by the model asked for, and then by its fallbacks."""

    plans: list[ChatPlan]
    senders: list[Sender]


@dataclass(slots=True)
class Input:
    """An input that is sent, and the row that it has come to so far."""

    index: int
    custom_id: str
    asked: ParsedRequest
    way: Route
    request: dict[str, Any]
    row: Row | None = None


def _provider_in(model: str | None, call: Mapping[str, Any]) -> str | None:
    return copilot.PROVIDER if copilot.is_chosen(model, call) else provider_in(model, call)


class _RouteBuilder:
    """Makes plans for a call's requests: the one asked for, and those of the fallbacks."""

    def __init__(self, call: dict[str, Any], fallbacks: Sequence[str | dict[str, Any]]) -> None:
        self.call, self._fallbacks = call, fallbacks
        self._by_copilot = copilot.is_chosen(call["model"], call)
        self._tokens: dict[Any, copilot.CopilotToken] = {}

    def plans(self, arguments: dict[str, Any]) -> list[ChatPlan]:
        """The plan for these arguments, and then its fallbacks'."""
        if self._by_copilot and self.provider_of(arguments["model"], self.call) == copilot.PROVIDER:
            arguments = {**arguments, "model": copilot.prefixed(default_model(arguments["model"]))}
        entries = ({"model": entry} if isinstance(entry, str) else entry for entry in self._fallbacks)
        given = [merged(arguments, {"model": default_model(None), **entry}, _provider_in) for entry in entries]
        return [self._plan(**one) for one in (arguments, *given)]

    def provider_of(self, model: str | None, call: Mapping[str, Any]) -> str | None:
        """The provider of a request's model; a bare name stays with Copilot where the call is for it."""
        bare = isinstance(model, str) and "/" not in model
        return copilot.PROVIDER if self._by_copilot and bare else _provider_in(model, call)

    def _plan(self, model: str | None, temperature: float | None, max_tokens: int | None, **kwargs: Any) -> ChatPlan:
        if copilot.is_chosen(model, kwargs):
            return copilot.plan(model, temperature, max_tokens, kwargs, self._tokens)
        return plan_chat(model, temperature, max_tokens, **kwargs)


class ChatRun(Run):
    """One batch of chat completions.

    Attributes:
        ways: for each request of `inputs`.
    """

    def __init__(
        self,
        requests: Iterable[Any],
        count: int | None,
        call: dict[str, Any],
        options: Options,
        budget: Budget | None,
    ) -> None:
        super().__init__(requests, count, options, sending("chat", options), budget)
        self.items = requests
        maker = _RouteBuilder(call, options.fallbacks)

        def way(arguments: dict[str, Any]) -> Route:
            plans = maker.plans(arguments)
            return Route(plans, [self.sender_for(plan) for plan in plans])

        self.ways = Plans(call, way, maker.provider_of)
        self.target = self.ways.first.plans[0].target
        self._ids, self._own_ids = CustomIds(), SeenIds()
        for custom_id in options.custom_ids or ():
            self._own_ids.add(custom_id)
        self._warm, self._warming = SeenIds(), dict[bytes, asyncio.Event]()
        self._firsts: dict[Any, tuple[int, asyncio.Future[Row]]] = {}

    async def _done(self, index: int, item: Any) -> list[tuple[int, Row]]:
        return [(index, await self._row(index, item))]

    async def _row(self, index: int, item: Any) -> Row:
        """One input's row, whatever happens."""
        asked, target = ParsedRequest(), self.target
        try:
            asked = parse_request(item)
            way = self.ways.of(asked)
            target = way.plans[0].target
            self._check_id(index, asked)
            request = way.plans[0].request(asked.messages)
            request_id = self._request_id(index, request)
        except Exception as exc:  # noqa: BLE001 - a row that cannot be sent is that row's error
            custom_id = asked.custom_id or self._row_id(index, None)
            row = failure_row(Failure(FailureType.INVALID_ROW, _why(exc, asked)), target, custom_id)
            labelled(row, custom_id, asked.metadata)
            return row
        custom_id = asked.custom_id or self._row_id(index, request_id)
        if self.formats is not None and way.plans[0].response_format is not self.ways.first.plans[0].response_format:
            self.formats[custom_id] = way.plans[0].response_format
        plan = way.plans[0]
        prints = self._prints(request)
        before_upgrade = upgrade_id(request, prints, plan.untouched) if prints else ""
        known = self._known(request_id, prints, custom_id, asked.metadata, before_upgrade)
        rechecked = known is not None and not await self._still_passes(index, known, plan, request)
        if rechecked:
            known = None
        if known is not None and not self.options.dedupe:
            return known
        same = self._same(request_id, way.plans[0])
        first, its_row = self._firsts.get(same, (index, None))
        if its_row is None:
            its_row = asyncio.get_running_loop().create_future()
            if self.options.dedupe:
                self._firsts[same] = index, its_row
            one = Input(index, custom_id, asked, way, request)
            row = known or await self._in_time(partial(self._sent, one)) or self._too_late(one)
            its_row.set_result(copied(row) if self.options.dedupe else row)
        else:
            row = known or _copied(await its_row)
            row["same_as"] = first
        labelled(row, custom_id, asked.metadata)
        if rechecked:
            row["rechecked"] = True
        if known is None:
            self._record(request_id, prints, row, before_upgrade)
        return row

    async def _still_passes(
        self,
        index: int,  # noqa: ARG002 - a job's rows are checked before
        row: Row,
        plan: ChatPlan,
        request: Mapping[str, Any],
    ) -> bool:
        """Return whether a row of the checkpoint passes this run's checks, as far as they end before the deadline."""
        check = partial(still_passes, row, plan, request, self.options)
        if self.options.validate is None:
            return check()
        return await self._in_time(partial(self.validate_threads.run, check)) or False

    @staticmethod
    def _same(request_id: str, plan: ChatPlan) -> Any:
        """Return the deduplication key of a request; two classes with one schema have different keys."""
        asked_for = plan.response_format
        return first_id(request_id), route_key(plan), asked_for if isinstance(asked_for, type) else None

    def _request_id(self, index: int, request: Mapping[str, Any]) -> str:  # noqa: ARG002 - a job's rows have another order
        return self._ids(request)

    def _too_late(self, one: Input) -> Row:
        """The row of an input that was not done in time: what it has come to, with all that was used."""
        cut, row = self._late(one.index, one.custom_id, one.way.plans[0].target), one.row
        if row is None:
            return cut
        row["usage"], row["cost"], row["attempts"] = cut["usage"], cut["cost"], cut["attempts"]
        if "error" in row:
            row["error_details"]["attempts"] = row["attempts"]
        return row

    def _check_id(self, index: int, asked: ParsedRequest) -> None:
        """Raise ValueError for a request whose own id is another's already, and take it from it."""
        if asked.custom_id is None or (self.options.custom_ids and asked.custom_id == self._row_id(index, None)):
            return
        if not self._own_ids.add(asked.custom_id):
            custom_id, asked.custom_id = asked.custom_id, None
            raise ValueError(f"the custom_id {custom_id!r} is there already; give each request its own")

    async def _sent(self, one: Input) -> Row:
        """The row of the first model that answers, with what all that were asked have used."""
        (plan, *others), (sender, *their_senders) = one.way.plans, one.way.senders
        async with self._turn(one.request):
            row = await self._by(plan, sender, one, one.request)
            for other, its_sender in zip(others, their_senders, strict=True):
                if "error" not in row or row["error_details"]["type"] in _NO_FALLBACK:
                    break
                before, first_error = row, row["error"]
                logger.warning("{} falls back to {}: {}", one.custom_id, other.target.model, first_error)
                row = await self._by(other, its_sender, one, other.request(one.asked.messages))
                row["fallback"] = {"instead_of": plan.target.model, "error": first_error}
                add_spent(row, before)
        return row

    async def _by(self, plan: ChatPlan, sender: Sender, one: Input, request: dict[str, Any]) -> Row:
        """The row that one model makes of a request, asked again while its answer is wrong."""
        most, given = self.options.reask, request
        before: Row | None = None
        for asks in range(1, most + 2):
            row = await self._reply(plan, sender, one, request)
            labelled(row, one.custom_id, one.asked.metadata)
            judge = partial(judged, row, plan, given, self.options.validate)
            # `validate` may take its time, and may call llmbatch itself.
            row, wrong = judge() if self.options.validate is None else await self.validate_threads.run(judge)
            if before is not None:
                if not is_answer(row):  # what was answered before stays
                    row, before, wrong = before, row, None
                add_spent(row, before)
            if most:
                row["asks"] = asks
            if wrong is None or asks > most:
                break
            one.row = before = row
            plan, request = asked_again(row, wrong, plan, request)
            sender = sender if wrong else self.sender_for(plan)
        return row

    async def _reply(self, plan: ChatPlan, sender: Sender, one: Input, request: dict[str, Any]) -> Row:
        """The row that one request makes, sent to one model; again by the standard tier where flex has no resources."""
        call, outcome = self.call_for(one.index), self._begun(one.index)
        await sender.send(request, one.index, call, outcome)
        if sender.gives_up_without_resources and outcome.failure is not None and outcome.failure.no_resources:
            outcome.failure = None
            await sender.send({k: v for k, v in request.items() if k != "service_tier"}, one.index, call, outcome)
        row = chat_row(outcome, plan, one.custom_id)
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
        leads = self._warm.add(beginning)
        if leads:
            self._warming[beginning] = asyncio.Event()
        elif beginning in self._warming:
            await self._warming[beginning].wait()
        try:
            yield
        finally:
            if leads:
                self._warming.pop(beginning).set()


def _why(exc: Exception, asked: ParsedRequest) -> str:
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
