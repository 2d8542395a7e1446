"""A batch of chats: from the caller's conversations to finished rows, one for one."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from llmbatch._batch.base_run import Run
from llmbatch._batch.cache_warming import CacheWarmer
from llmbatch._batch.dedupe import Dedupe, dedupe_key, duplicate_row
from llmbatch._batch.reask import judged, next_request, still_passes
from llmbatch._batch.routes import Route, RouteBuilder
from llmbatch._batch.row_builder import chat_row, failure_row, in_lane, is_answer, labelled
from llmbatch._batch.row_ids import IdAllocator
from llmbatch._batch.transport import sending
from llmbatch._request.budget import Budget
from llmbatch._request.failures import Failure, clean
from llmbatch._request.parsed_request import ParsedRequest, Plans, parse_request
from llmbatch._request.plans import ChatPlan
from llmbatch._request.sender import Sender
from llmbatch._rows.failure_type import FailureType
from llmbatch._rows.row import Row, add_spent
from llmbatch._util.checks import UnsendableError
from llmbatch._util.identity import upgrade_id
from llmbatch._util.row_tag import RowTag, enter_row
from llmbatch.options import Options

FLEX = "flex"

_NO_FALLBACK = {FailureType.CASSETTE_MISS, FailureType.BUDGET_EXCEEDED, FailureType.CHECKPOINT}


@dataclass(slots=True)
class Input:
    """A request that can be sent.

    Attributes:
        request: LiteLLM's arguments for the model that was asked for.
        request_id: its id in the checkpoint.
        prints: digests of its fields, empty without a checkpoint.
        upgrade_id: its id across upgrades of LiteLLM and pydantic, empty without a checkpoint.
        rechecked: whether the checkpoint has an answer that no longer passes.
        row: the last row that it came to, while it is asked again.
    """

    index: int
    custom_id: str
    parsed: ParsedRequest
    route: Route
    request: dict[str, Any]
    request_id: str
    prints: dict[str, str] = field(default_factory=dict)
    upgrade_id: str = ""
    rechecked: bool = False
    row: Row | None = None

    @property
    def plan(self) -> ChatPlan:
        """The plan for the model that was asked for."""
        return self.route.plans[0]


class ChatRun(Run):
    """One batch of chat completions.

    Attributes:
        routes: the route of each request of `inputs`.
    """

    def __init__(
        self, requests: Iterable[Any], count: int | None, call: dict[str, Any], options: Options, budget: Budget | None
    ) -> None:
        super().__init__(requests, count, options, sending("chat", options), budget)
        self.items = requests
        builder = RouteBuilder(call, options.fallbacks)

        def route(arguments: dict[str, Any]) -> Route:
            plans = builder.plans(arguments)
            return Route(plans, [self.sender_for(plan) for plan in plans])

        self.routes = Plans(builder.call, route, builder.provider_of)
        self.target = self.routes.first.plans[0].target
        self._ids = IdAllocator(options.custom_ids)
        self._dedupe = Dedupe(options.dedupe)
        self._warmer = CacheWarmer(options.warm_prompt_cache)

    async def _process_item(self, index: int, item: Any) -> list[tuple[int, Row]]:
        return [(index, await self._process(index, item))]

    async def _process(self, index: int, item: Any) -> Row:
        """Return one request's row, whatever happens."""
        one = self._prepare(index, item)
        if not isinstance(one, Input):
            return one
        known = await self._resume(one)
        if known is not None and not self.options.dedupe:
            return known
        key = dedupe_key(one.request_id, one.plan)
        original = self._dedupe.original_of(key, index)
        if original is not None:
            row = known or duplicate_row(await original.row, original.index)
            row["same_as"] = original.index
        else:
            row = known or await self._in_time(partial(self._send_with_fallbacks, one)) or self._unfinished_row(one)
            self._dedupe.finish(key, row)
        labelled(row, one.custom_id, one.parsed.metadata)
        if one.rechecked:
            row["rechecked"] = True
        if known is None:
            self._record(one.request_id, one.prints, row, one.upgrade_id)
        return row

    def _prepare(self, index: int, item: Any) -> Input | Row:
        """Return an item of the caller's list as a request that can be sent, or the failed row of one that cannot."""
        parsed, target = ParsedRequest(), self.target
        try:
            parsed = parse_request(item)
            route = self.routes.of(parsed)
            target = route.plans[0].target
            # An id of custom_ids= is taken already.
            if not (self.options.custom_ids and parsed.custom_id == self._row_id(index, None)):
                self._ids.claim(parsed)
            request = route.plans[0].request(parsed.messages)
            request_id = self._request_id(index, request)
        except Exception as exc:  # noqa: BLE001 - a row that cannot be sent is that row's error
            custom_id = parsed.custom_id or self._row_id(index, None)
            row = failure_row(Failure(FailureType.INVALID_ROW, _why(exc, parsed)), target, custom_id)
            labelled(row, custom_id, parsed.metadata)
            return row
        custom_id = parsed.custom_id or self._row_id(index, request_id)
        one = Input(index, custom_id, parsed, route, request, request_id)
        if self.formats is not None and one.plan.response_format is not self.routes.first.plans[0].response_format:
            self.formats[custom_id] = one.plan.response_format
        return one

    def _request_id(self, index: int, request: Mapping[str, Any]) -> str:  # noqa: ARG002 - a job's rows have another order
        """Return a request's id in the checkpoint."""
        return self._ids.request_id(request)

    async def _resume(self, one: Input) -> Row | None:
        """Return the checkpoint's row for a request; None if there is none, or if it no longer passes the checks."""
        if self._checkpoint is None:
            return None
        one.prints = self._prints(one.request)
        one.upgrade_id = upgrade_id(one.request, one.prints, one.plan.untouched)
        known = self._known(one.request_id, one.prints, one.custom_id, one.parsed.metadata, one.upgrade_id)
        one.rechecked = known is not None and not await self._still_passes(one.index, known, one.plan, one.request)
        return None if one.rechecked else known

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

    def _unfinished_row(self, one: Input) -> Row:
        """Return the row of a request that missed the deadline: the last one that it came to, or a failed one."""
        late, row = self._late_row(one.index, one.custom_id, one.plan.target), one.row
        if row is None:
            return late
        row["usage"], row["cost"], row["attempts"] = late["usage"], late["cost"], late["attempts"]
        if "error" in row:
            row["error_details"]["attempts"] = row["attempts"]
        return row

    async def _send_with_fallbacks(self, one: Input) -> Row:
        """Return the row of the first model that answers, with what all models have used."""
        (plan, *fallbacks), (sender, *senders) = one.route.plans, one.route.senders
        async with self._warmer.turn(one.request):
            row = await self._send_with_reasks(plan, sender, one, one.request)
            for fallback, its_sender in zip(fallbacks, senders, strict=True):
                if "error" not in row or row["error_details"]["type"] in _NO_FALLBACK:
                    break
                failed, error = row, row["error"]
                self.watch.fell_back(one.index, one.custom_id, fallback.target.model, error)
                row = await self._send_with_reasks(fallback, its_sender, one, fallback.request(one.parsed.messages))
                row["fallback"] = {"instead_of": plan.target.model, "error": error}
                add_spent(row, failed)
        return row

    async def _send_with_reasks(self, plan: ChatPlan, sender: Sender, one: Input, request: dict[str, Any]) -> Row:
        """Return one model's row for a request, re-asked while its answer is rejected or cut off."""
        first_request, earlier = request, None
        for asks in range(1, self.options.reask + 2):
            row = await self._send_once(plan, sender, one, request)
            labelled(row, one.custom_id, one.parsed.metadata)
            row, complaint = await self._judge(row, plan, first_request)
            if earlier is not None:
                if not is_answer(row):  # what was answered before stays
                    row, earlier, complaint = earlier, row, None
                add_spent(row, earlier)
            if self.options.reask:
                row["asks"] = asks
            if complaint is None or asks > self.options.reask:
                break
            one.row = earlier = row
            plan, request = next_request(row, complaint, plan, request)
            sender = sender if complaint else self.sender_for(plan)
        return row

    async def _judge(self, row: Row, plan: ChatPlan, request: Mapping[str, Any]) -> tuple[Row, str | None]:
        """Check an answer. `validate` may take its time and call llmbatch, so it runs in a thread."""
        judge = partial(judged, row, plan, request, self.options.validate)
        return judge() if self.options.validate is None else await self.validate_threads.run(judge)

    async def _send_once(self, plan: ChatPlan, sender: Sender, one: Input, request: dict[str, Any]) -> Row:
        """Return the row of one request to one model; sent again without flex if flex has no resources for it."""
        call, outcome = self.call_for(one.index), self._begun(one.index, custom_id=one.custom_id)
        enter_row(RowTag(self.batch_id, one.index, one.custom_id, one.parsed.metadata))
        await sender.send(request, one.index, call, outcome)
        if sender.gives_up_without_resources and outcome.failure is not None and outcome.failure.no_resources:
            outcome.failure = None
            await sender.send({k: v for k, v in request.items() if k != "service_tier"}, one.index, call, outcome)
        row = chat_row(outcome, plan, one.custom_id)
        if outcome.answer is not None and outcome.answer.body.get("service_tier") == FLEX:
            in_lane(row, FLEX, plan.target)
        return row


def _why(exc: Exception, parsed: ParsedRequest) -> str:
    """Return why a request cannot be sent, without anything that it holds."""
    if isinstance(exc, UnsendableError):
        return str(exc)
    with contextlib.suppress(Exception):  # of an object that nobody may read
        if parsed.messages is not None:
            return clean(str(exc), {"messages": parsed.messages})
    return f"the request cannot be read ({type(exc).__name__})"
