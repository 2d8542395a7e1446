"""What every run of a batch does around its requests: slots, limits, deadline and checkpoint.

`ChatRun` (`chat_run`) and `EmbeddingsRun` (`embeddings_run`) say what one unit of work is and how its rows are made.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Mapping
from operator import attrgetter
from typing import Any, TypeVar

from llmbatch import _litellm
from llmbatch._batch.checkpoint import Checkpoint
from llmbatch._batch.max_workers import Slots
from llmbatch._batch.pools import Pools
from llmbatch._batch.row_builder import failure_row, labelled
from llmbatch._batch.transport import warm_up
from llmbatch._limits.limiter import Limiter
from llmbatch._limits.registry import limiter_for
from llmbatch._litellm import Answer, Target
from llmbatch._litellm.prices import model_info, standard_cost
from llmbatch._output.run_info import RunInfo
from llmbatch._request.account import account_of
from llmbatch._request.budget import Budget
from llmbatch._request.circuit_breaker import CircuitBreaker
from llmbatch._request.failures import Failure
from llmbatch._request.max_cost import CostUpperBound
from llmbatch._request.outcome import Outcome
from llmbatch._request.plans import ChatPlan, EmbeddingsPlan
from llmbatch._request.retry import NotSentError
from llmbatch._request.run_watch import RunWatch
from llmbatch._request.sender import Call, Sender
from llmbatch._rows.failure_type import FailureType
from llmbatch._rows.row import Row, add_usage
from llmbatch._rows.structured_output import ResponseFormat
from llmbatch._util.background_call import NestedCalls
from llmbatch._util.batch_log import logger, new_batch_id
from llmbatch._util.callback_threads import CallbackThreads
from llmbatch._util.cassette_check import cassette_problem
from llmbatch._util.fan_out import Reading, fan_out
from llmbatch._util.identity import fingerprints
from llmbatch._util.secret_values import remember
from llmbatch.errors import CheckpointError
from llmbatch.options import Options
from llmbatch.providers import copilot

GUESSED_ANSWER_TOKENS = 4096  # that an answer may have, where neither the call nor LiteLLM's map bounds it

VALIDATE_THREADS = 8  # rows that `validate` looks at at once
# After the deadline `on_result` has this many seconds, or this share of the deadline.
CALLBACK_GRACE_SECONDS, CALLBACK_GRACE_SHARE = 1.0, 0.1
# Seconds after the deadline in which an input of known length may give its next item, or be left.
INPUT_GRACE_SECONDS = 1.0

T = TypeVar("T")


def _price(target: Target) -> Callable[[Answer], float | None]:
    """Return the function that prices an answer: by the caller's prices, not at all (Copilot), or by LiteLLM."""
    if target.prices:
        return lambda answer: standard_cost(target, answer.body.get("usage"))
    return (lambda _: None) if target.provider == copilot.PROVIDER else attrgetter("cost")


class Run:
    """A run of a batch. `rows()` yields `(index, row)` as they finish, exactly one for each input.

    Attributes:
        target: the target of the call's defaults.
        items: the units of work.
        inputs: the caller's requests.
        call_for: returns, for an input's index, the function that sends one request once.
        under_way: the outcomes so far, one per model, of inputs whose rows have not been taken yet.
        count: number of inputs, None if unknown.
        noted: called when `note` changes.
        formats: the `response_format` of requests with their own, by id; None if they are not collected.
        sent_as_is: names of parameters that LiteLLM does not know for their provider.
        nested: the llmbatch calls that the caller's functions make during the run.
        validate_threads: where `validate` runs.
        on_result_thread: where `on_result` runs, for one row at a time.
        batch_id, watch: its id in the log, and what becomes of its attempts.
        info, stats: what is known of it at its end, and the same in numbers.
    """

    target: Target
    items: Iterable[Any] | AsyncGenerator[Any]

    def __init__(
        self, inputs: Iterable[Any], count: int | None, options: Options, call: Call, budget: Budget | None
    ) -> None:
        self.inputs = inputs
        self.options, self.count = options, count
        self.call_for: Callable[[int], Call] = lambda _: call
        self.noted: Callable[[], None] = lambda: None
        self.formats: dict[str, ResponseFormat | None] | None = None
        self.sent_as_is: set[str] = set()
        self.nested = NestedCalls()
        self.validate_threads = CallbackThreads(VALIDATE_THREADS, self.nested)
        self.on_result_thread = CallbackThreads(1, self.nested)
        self.batch_id = new_batch_id()
        self.watch, self.info = RunWatch(self.batch_id), RunInfo()
        self.stats: dict[str, Any] = {}
        self._budget = budget or Budget(options.max_cost)
        self._breakers: dict[Any, CircuitBreaker] = {}
        self._pools = Pools(self)
        self._max_in_flight: Callable[[], float] = lambda: math.inf
        self._limiters: dict[Limiter, float | None] = {}
        self._configured: contextlib.ExitStack | None = None
        self._unkept: Failure | None = None
        self._checkpoint: Checkpoint | None = None
        self._deadline: float | None = None
        self.under_way: dict[int, list[Outcome]] = {}

    def sender_for(self, plan: ChatPlan | EmbeddingsPlan) -> Sender:
        """Return a sender for a plan's target, or for the deployments that may answer."""
        return self._pools.sender(plan) if plan.deployments else self.single_sender(plan)

    def single_sender(self, plan: ChatPlan | EmbeddingsPlan) -> Sender:
        """Return a sender for a plan's target, with the limiter that the process keeps for the account."""
        limiter = self.limiter_of(plan)
        target = plan.target
        breaker = self.breaker_of(limiter, {"provider": target.provider, "model": target.name})
        return Sender(**self.sender_arguments(plan), limiter=limiter, breaker=breaker)

    def limiter_of(self, plan: ChatPlan | EmbeddingsPlan) -> Limiter:
        """Return the limiter that the process keeps for a plan's account, with the caller's limits applied."""
        self._report_unknown(plan)
        remember(plan.params)
        target = plan.target
        limiter = limiter_for(account_of(plan), target.name)
        if limiter not in self._limiters:
            _litellm.warm_up(target)
            self.watch.limiters[limiter] = {"provider": target.provider, "model": target.name}
            self._limiters[limiter] = copilot.requests_per_minute() if target.provider == copilot.PROVIDER else None
            if self._configured is not None:
                self._apply_limits(limiter, self._configured)
        warm_up(plan, self.options)
        return limiter

    def breaker_of(self, key: Any, place: Mapping[str, str]) -> CircuitBreaker:
        """Return the circuit breaker of a limiter, or of a pool; its log lines carry provider and model."""
        breaker = self._breakers.get(key)
        if breaker is None:
            breaker = self._breakers[key] = CircuitBreaker(
                server_wait=0.0 if self.options.fallbacks else self.options.server_wait,
                max_in_flight=lambda: self._max_in_flight(),  # noqa: PLW0108 - it is set when the run begins
                place=place,
            )
            breaker.on_change = lambda: self.noted()  # noqa: PLW0108 - it is set when the run begins
        if self._unkept is not None:
            breaker.give_up(self._unkept, self._unkept.message)
        return breaker

    def sender_arguments(self, plan: ChatPlan | EmbeddingsPlan) -> dict[str, Any]:
        """Return the arguments of a plan's sender, all but the limiter and the circuit breaker."""
        longest, target = 0.0, plan.target
        if self.options.tokens_per_minute:
            longest = model_info(target.name, target.provider).get("max_output_tokens") or GUESSED_ANSWER_TOKENS
        return {
            "target": target,
            "budget": self._budget,
            "retries": self.options.retries,
            "timeout": self.options.timeout,
            "cost_upper_bound": None if self.options.max_cost is None else CostUpperBound.for_plan(plan).of,
            "credentials": plan.credentials,
            "longest_answer": longest,
            "price": _price(target),
            "gives_up_without_resources": self.options.lane == "flex",
            "watch": self.watch,
        }

    def _report_unknown(self, plan: ChatPlan | EmbeddingsPlan) -> None:
        """Log once which parameters are sent although neither llmbatch nor LiteLLM knows them."""
        new = [name for name in plan.sent_as_is if name not in self.sent_as_is]
        if new:
            self.sent_as_is.update(new)
            logger.info("Sent as is, since LiteLLM does not know it for {}: {}", plan.target.provider, ", ".join(new))

    def _check_cassette(self) -> None:
        """Send nothing into a cassette that would give concurrent rows each other's answers."""
        problem = None if self.options.max_workers == 1 or self.count == 1 else cassette_problem()
        if problem is not None:
            failure = Failure(FailureType.CASSETTE_MISS, problem)

            async def reject(request: dict[str, Any], **_: Any) -> Answer:  # noqa: ARG001 - a Call
                raise NotSentError(failure)

            self.call_for = lambda _: reject

    def _apply_limits(self, limiter: Limiter, configured: contextlib.ExitStack) -> None:
        """Apply the caller's limits to one more limiter."""
        requests_per_minute = self.options.requests_per_minute or self._limiters[limiter]
        configured.enter_context(limiter.configured(requests_per_minute, self.options.tokens_per_minute))

    def limits_found(self) -> str:
        """Return what 429s were found to depend on, in a line; empty before that."""
        return "; ".join(line for limiter in self._limiters if (line := limiter.finding.summary))

    def note(self) -> str:
        """Return what the progress bar says of the run: a server that is waited for, and limits found."""
        waits = [breaker.note for breaker in self._breakers.values() if breaker.note]
        return "; ".join([*waits, *filter(None, [self.limits_found()])])

    def _look_ahead(self) -> int:
        """Return how many more rows are taken from the input, so that a circuit breaker can try other rows.

        With several accounts there are none: their rows together must not exceed `max_workers` in flight.
        """
        return next(iter(self._breakers.values())).look_ahead if len(self._breakers) == 1 else 0

    def left(self, done: int) -> str:
        """Return how to resume after an interruption, with `done` rows finished."""
        path = self.options.checkpoint
        rest = f"with checkpoint={'' if path is None else repr(str(path))} a rerun sends only the rest"
        return f"{done} rows were done: llmbatch.interrupted_results() has them; {rest}"

    async def _process_item(self, at: int, item: Any) -> list[tuple[int, Row]]:
        """Do one unit of work, the `at`th; return its rows, each with the index of its input."""
        raise NotImplementedError

    async def rows(self) -> AsyncGenerator[tuple[int, Row]]:
        """Fan the work out, with the checkpoint open and the caller's limits applied.

        At the deadline an input of unknown length is left. Of a known length each item has a row, even if the input
        blocks. llmbatch's own generators end by themselves.
        """
        options = self.options
        if options.deadline is not None and self._deadline is None:
            self._deadline = asyncio.get_running_loop().time() + options.deadline
        ours = isinstance(self.items, AsyncGenerator)
        reading, done = Reading(nested=self.nested) if ours else self._reading, 0
        self._check_cassette()
        slots = Slots(
            options.max_workers,
            lambda: sum(limiter.waiting for limiter in self._limiters) + self._pools.waiting,
            connections=options.lane != "job",
        )
        self._max_in_flight = slots
        with contextlib.ExitStack() as stack:
            if options.checkpoint is not None:
                self._checkpoint = Checkpoint(options.checkpoint)
                stack.callback(self._checkpoint.close)
                self._budget.spent += self._checkpoint.spent
            self._configured = stack.enter_context(contextlib.ExitStack())
            for limiter in self._limiters:
                self._apply_limits(limiter, self._configured)
            self._configured.callback(self._pools.close)
            self._pools.configure(self._configured)
            stack.callback(self._close_callbacks)
            fanned_out = fan_out(
                self.items, self._process_item, slots=lambda: slots() + self._look_ahead(), reading=reading
            )
            async with contextlib.aclosing(fanned_out) as finished:
                async for _, rows in finished:
                    slots.finished()
                    for index, row in rows:
                        done += 1
                        yield index, row
            for index in range(done, self._promised_rows()):
                yield index, self._late_row(index, self._row_id(index, None))
            if self._checkpoint is not None and self._checkpoint.changes:
                changes = dict(self._checkpoint.changes)
                logger.info("Checkpoint: re-sent rows whose request changed (by field): {}", changes)

    @property
    def callback_deadline(self) -> float | None:
        """The loop's time at which `on_result` is no longer waited for; it is called with late rows too."""
        if self._deadline is None or self.options.deadline is None:
            return None
        return self._deadline + max(CALLBACK_GRACE_SECONDS, CALLBACK_GRACE_SHARE * self.options.deadline)

    def _close_callbacks(self) -> None:
        for threads in (self.validate_threads, self.on_result_thread):
            threads.close()
        self.nested.close()

    @property
    def _reading(self) -> Reading:
        return Reading(self._deadline, 0.0 if self.count is None else INPUT_GRACE_SECONDS, self.nested)

    def _promised_rows(self) -> int:
        """Return how many rows there have to be when the input has ended, or was left at the deadline."""
        late = self._deadline is not None and asyncio.get_running_loop().time() >= self._deadline
        return self.count if late and self.count is not None else 0

    async def _in_time(self, work: Callable[[], Awaitable[T]]) -> T | None:
        """Run `work()`; return None if the deadline passes first."""
        if self._deadline is None or asyncio.get_running_loop().time() < self._deadline:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout_at(self._deadline):
                    return await work()
        return None

    def _known(
        self, request_id: str, prints: dict[str, str], custom_id: str, metadata: Any = None, upgrade_id: str = ""
    ) -> Row | None:
        """Return the checkpoint's row for a request, with the id and metadata of this run; None if it has none."""
        if self._checkpoint is None:
            return None
        row = self._checkpoint.found(request_id, prints, upgrade_id)
        if row is None:
            self._checkpoint.note_change(prints)
            return None
        row.pop("same_as", None)  # a place in another run's input
        if (row["custom_id"], row.get("metadata")) != (custom_id, metadata):
            labelled(row, custom_id, metadata)
            self._record(request_id, prints, row, upgrade_id)
        row["resumed"] = True
        return row

    def _prints(self, request: Mapping[str, Any]) -> dict[str, str]:
        """Return the digests of a request's fields that its line in the checkpoint has; empty without a checkpoint."""
        return {} if self._checkpoint is None else fingerprints(request)

    def _record(self, request_id: str, prints: dict[str, str], row: Row, upgrade_id: str = "") -> None:
        """Write a finished row; when that fails, nothing more is sent, since it could not be kept."""
        if self._checkpoint is None:
            return
        try:
            self._checkpoint.append(request_id, prints, row, upgrade_id)
        except CheckpointError as exc:
            self._unkept = Failure(FailureType.CHECKPOINT, str(exc))
            for breaker in self._breakers.values():
                breaker.give_up(self._unkept, str(exc))

    def _row_id(self, index: int, request_id: str | None) -> str:
        """Return the row's id: the caller's, or its request's, or one made of its index."""
        ids = self.options.custom_ids
        if ids is not None:
            if index >= len(ids):
                raise ValueError(f"custom_ids has {len(ids)} ids, fewer than there are rows. Give each row one.")
            return ids[index]
        return request_id or f"row-{index}"

    def _late_row(self, index: int, custom_id: str, target: Target | None = None) -> Row:
        message = f"not done within deadline={self.options.deadline} s"
        outcomes = self.under_way.get(index, [])
        if last := next((outcome.last_failure for outcome in reversed(outcomes) if outcome.last_failure), None):
            message += f"; the last attempt failed with {last.type}: {last.message}"
        return self.cut(Failure(FailureType.DEADLINE_EXCEEDED, message), index, custom_id, target)

    def _begun(self, *indices: int, custom_id: str = "") -> Outcome:
        """Return a new outcome, to be filled, for a request of these inputs."""
        before = self.under_way.get(indices[0])
        outcome = Outcome(rows=len(indices), custom_id=custom_id)
        if before:
            outcome.begun = before[0].begun
        for index in indices:
            self.under_way.setdefault(index, []).append(outcome)
        return outcome

    def cut(self, failure: Failure, index: int, custom_id: str | None = None, target: Target | None = None) -> Row:
        """Return the error row of an unfinished input, with the attempts and cost of what was sent for it."""
        outcomes = self.under_way.get(index) or [Outcome()]
        lost = any(outcome.uncertain for outcome in outcomes)
        spent = {
            **outcomes[-1].spent,
            "attempts": sum(outcome.attempts for outcome in outcomes),
            "cost": None if lost else sum((outcome.cost or 0.0) / outcome.rows for outcome in outcomes),
        }
        row = failure_row(failure, target or self.target, custom_id or self._row_id(index, None), **spent)
        for outcome in outcomes:
            add_usage(row["usage"], outcome.answer.body.get("usage") if outcome.answer else None)
            add_usage(row["usage"], outcome.usage)
        return row
