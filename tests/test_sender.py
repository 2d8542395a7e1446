"""One request on its way: what its limiter is told, what it cost, and what its row will say of it."""

from __future__ import annotations

import asyncio
import dataclasses
from typing import TYPE_CHECKING, Any

import pytest

from llmbatch._limits.permit import Permit
from llmbatch._limits.throttle import Finding, Phase
from llmbatch._litellm import Answer, Target
from llmbatch._request import retry
from llmbatch._request.budget import Budget
from llmbatch._request.circuit_breaker import CircuitBreaker, CircuitState
from llmbatch._request.failures import Failure, Scope
from llmbatch._request.outcome import Outcome
from llmbatch._request.retry import AttemptFailedError
from llmbatch._request.sender import Sender

if TYPE_CHECKING:
    from collections.abc import Mapping

OPENAI = Target("openai/gpt-4o-mini", "gpt-4o-mini", "openai", "http://127.0.0.1:1/v1")
HEADERS = {"x-ratelimit-limit-requests": "60"}
USAGE = {"prompt_tokens": 7, "completion_tokens": 5, "total_tokens": 12}
CHOICES = [{"index": 0, "message": {"role": "assistant", "content": "hi"}, "finish_reason": "stop"}]
GOOD = Answer({"choices": CHOICES, "usage": USAGE}, HEADERS, 0.25)
REQUEST = {"messages": [{"role": "user", "content": "x" * 40}], "max_tokens": 30}
DOWN = Failure("ServiceUnavailableError", "down", 503, "openai", retryable=True)
LOST = Failure("ConnectionError", "cut off", None, "openai", retryable=True, billed=None)
BAD = Failure("BadRequestError", "no message", 400, "openai")
LIMITED = Failure(
    "RateLimitError", "slow", 429, "openai", retryable=True, rate_limited=True, retry_after=0.5, headers=HEADERS
)


class Told:
    """A limiter that lets everybody in, and remembers what it was told."""

    def __init__(self) -> None:
        self.events: list[tuple[Any, ...]] = []
        self.stated: dict[str, float] = {}
        self.finding = Finding(Phase.UNTHROTTLED)

    def estimated_tokens(self, prompt: float, most: float | None) -> float:
        self.events.append(("estimated_tokens", prompt, most))
        return 100.0

    def try_acquire(self, tokens: float) -> None:
        return

    async def acquire(self, order: int, tokens: float) -> Permit:
        self.events.append(("acquire", order, tokens))
        return Permit(tokens, 0.0)

    def on_success(self, permit: Permit, headers: Mapping[str, str], used: float | None) -> None:
        self.events.append(("on_success", headers, used))

    def learn_answer_tokens(self, tokens: float) -> None:
        self.events.append(("learn_answer_tokens", tokens))

    def on_rate_limit(self, permit: Permit, headers: Mapping[str, str], hint: float | None) -> None:
        self.events.append(("on_rate_limit", headers, hint))

    async def pause(self, seconds: float) -> None:
        self.events.append(("pause", seconds))

    def on_error(self, permit: Permit) -> None:
        self.events.append(("on_error",))


class Provider:
    """What comes of each attempt in turn: an answer, a failure, an exception, or a wait for ever."""

    def __init__(self, *replies: Any) -> None:
        self.replies = list(replies)
        self.asked: list[dict[str, Any]] = []

    async def __call__(self, request: dict[str, Any]) -> Answer:
        self.asked.append(request)
        reply = self.replies.pop(0)
        if reply is None:
            await asyncio.Event().wait()
        if isinstance(reply, Failure):
            raise AttemptFailedError(reply)
        if isinstance(reply, BaseException):
            raise reply
        return reply  # type: ignore[no-any-return]


@pytest.fixture
def told() -> Told:
    return Told()


@pytest.fixture
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """How long it rested between attempts; there are none, and no jitter."""
    seen: list[float] = []

    async def pause(self: Sender, outcome: Outcome, order: int, seconds: float) -> None:
        seen.append(seconds)

    monkeypatch.setattr(Sender, "_pause", pause)
    monkeypatch.setattr("random.uniform", lambda least, most: least)
    return seen


def sender(limiter: Any, **given: Any) -> Sender:
    """One to OpenAI, without a budget or retries unless given."""
    how = {
        "target": OPENAI,
        "breaker": CircuitBreaker(),
        "budget": Budget(None),
        "retries": 0,
        "timeout": 60.0,
        **given,
    }
    return Sender(limiter=limiter, **how)


def sent(limiter: Any, *replies: Any, request: dict[str, Any] | None = None, **given: Any) -> Outcome:
    """What becomes of a request of order 7."""
    outcome = given.pop("outcome", None)
    return asyncio.run(sender(limiter, **given).send(request or REQUEST, 7, Provider(*replies), outcome))


def test_send_answer_reports_usage_to_limiter(told: Told) -> None:
    """And what the headers state."""
    outcome = sent(told, GOOD)
    assert told.events == [
        ("estimated_tokens", 40 / 4 + 4, 30),
        ("acquire", 7, 100.0),
        ("on_success", HEADERS, 12),
        ("learn_answer_tokens", 5),
    ]
    assert (outcome.answer, outcome.attempts, outcome.cost, outcome.uncertain) == (GOOD, 1, 0.25, False)
    assert outcome.elapsed is not None
    assert outcome.waited is not None
    assert 0 <= outcome.elapsed + outcome.waited < 60
    assert 0 <= outcome.waited < 60
    told.events.clear()
    sent(told, Answer({"choices": CHOICES}, {}, None))
    assert told.events[2:] == [("on_success", {}, None), ("learn_answer_tokens", 0)]


TEXTS = [
    {"role": "system", "content": "x" * 40},
    {"role": "user", "content": [{"type": "text", "text": "y" * 20}, {"type": "image_url"}, {"text": "z" * 20}]},
    {"role": "assistant", "content": None},
    {"role": "user", "content": [{"type": "text", "text": "y" * 4}]},
]


@pytest.mark.parametrize(
    ("request_", "expected"),
    [
        ({"messages": TEXTS, "max_tokens": 30}, (84 / 4 + 4, 30)),
        ({"messages": TEXTS, "max_completion_tokens": 50}, (84 / 4 + 4, 50)),
        ({"messages": TEXTS, "max_tokens": 30, "max_completion_tokens": 50}, (84 / 4 + 4, 30)),
        ({"messages": TEXTS}, (84 / 4 + 4, 777.0)),
        ({"input": "x" * 40}, (40 / 4 + 4, 0)),
        ({"input": ["x" * 40, [1, 2, 3], "y" * 4]}, (44 / 4 + 4, 0)),
    ],
    ids=lambda given: ", ".join(given) if isinstance(given, dict) else "",
)
def test_send_estimates_tokens_of_request(told: Told, request_: dict[str, Any], expected: tuple[float, float]) -> None:
    """A quarter of the letters of its texts, and its longest answer; vectors have none."""
    sent(told, GOOD, request=request_, longest_answer=777.0)
    assert told.events[0] == ("estimated_tokens", *expected)


def test_send_429_reports_to_limiter_and_pauses(
    told: Told, pauses: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It waits for its turn again, before those that come after it."""
    monkeypatch.setattr(retry, "throttle_pause", lambda refusals, hint, jitter: 10.0 * refusals + hint)
    outcome = sent(told, LIMITED, LIMITED, GOOD, retries=1)
    assert [event for event in told.events if event[0] in {"acquire", "on_rate_limit"}] == [
        ("acquire", 7, 100.0), ("on_rate_limit", HEADERS, 0.5), ("acquire", 7, 100.0), ("on_rate_limit", HEADERS, 0.5),
        ("acquire", 7, 100.0),
    ]  # fmt: skip
    assert ("on_error",) not in told.events
    assert pauses == [10.5, 20.5]
    assert (outcome.answer, outcome.attempts) == (GOOD, 3)


def test_send_transient_error_says_nothing_about_limits(told: Told, pauses: list[float]) -> None:
    """Its place is free again."""
    outcome = sent(told, DOWN, GOOD, retries=1)
    assert [event[0] for event in told.events] == [
        "estimated_tokens", "acquire", "on_error", "estimated_tokens", "acquire", "on_success", "learn_answer_tokens",
    ]  # fmt: skip
    assert (outcome.answer, outcome.cost, outcome.uncertain) == (GOOD, 0.25, False)


def test_send_failed_attempt_has_cost_or_none(told: Told, pauses: list[float]) -> None:
    """Nothing where it was refused; unknown where it was lost; beside what was spent before."""
    unpriced = Answer({"choices": CHOICES}, {}, None)
    assert [sent(told, reply).cost for reply in (BAD, LOST, unpriced)] == [0.0, None, None]
    failed = sent(told, LOST, BAD, retries=1)
    assert (failed.failure, failed.cost, failed.uncertain) == (BAD, None, True)
    answered = sent(told, LOST, GOOD, retries=1)
    assert (answered.cost, answered.uncertain) == (0.25, True)
    assert sent(told, GOOD, outcome=Outcome(None, None, 1, 0.5)).cost == 0.75
    assert sent(told, GOOD, price=lambda answer: 2 * (answer.cost or 0)).cost == 0.5
    assert sent(told, BAD, outcome=Outcome(None, None, 1, 0.5)).cost == 0.5


def test_send_timeout_names_its_length(told: Told) -> None:
    """Where nobody else has words for it."""
    outcome = sent(told, None, timeout=0.05)
    assert outcome.failure is not None
    assert (outcome.failure.type, outcome.failure.message) == ("Timeout", "no answer within 0.05 s")
    assert (outcome.cost, told.events[-1]) == (None, ("on_error",))
    worded = Failure("Timeout", "its own words", None, "openai")
    assert (sent(told, worded).failure, sent(told, BAD).failure) == (worded, BAD)


def test_send_cancelled_releases_permit(told: Told) -> None:
    """And may have been charged for; whoever cancels it has what became of it until then."""
    outcome = Outcome(None, None, 0, 0.0)

    async def main() -> None:
        task = asyncio.ensure_future(sender(told).send(REQUEST, 7, Provider(None), outcome))
        while outcome.attempts == 0:  # noqa: ASYNC110 - nobody says so
            await asyncio.sleep(0)
        task.cancel()
        await task

    with pytest.raises(asyncio.CancelledError):
        asyncio.run(main())
    assert told.events[-1] == ("on_error",)
    assert (outcome.attempts, outcome.uncertain, outcome.answer, outcome.failure) == (1, True, None, None)
    assert outcome.elapsed is not None


def test_send_cancelled_from_inside_is_failure(told: Told) -> None:
    """A provider's library that cancels its own work cancels nobody else's."""
    outcome = sent(told, asyncio.CancelledError())
    assert outcome.failure == Failure(
        "Cancelled", "the request was cancelled from inside", provider="openai", billed=None
    )
    assert (outcome.cost, told.events[-1]) == (None, ("on_error",))


def test_send_exception_message_hides_prompt(told: Told) -> None:
    """It names the provider, and repeats nothing of the prompt."""
    text = "a prompt that nobody is to read in a log"
    request = {"messages": [{"role": "user", "content": text}]}
    failure = sent(told, RuntimeError(f"cannot send {text!r}"), request=request).failure
    assert failure is not None
    assert (failure.type, failure.provider) == ("RuntimeError", "openai")
    assert text not in failure.message


def test_send_permit_given_at_give_up_is_released(told: Told) -> None:
    """Whoever is let in at the very moment in which the sending stops sends nothing, and holds no place."""
    breaker = CircuitBreaker()

    class Stopping(Told):
        async def acquire(self, order: int, tokens: float) -> Permit:
            breaker.give_up(BAD, "of a test")
            return await super().acquire(order, tokens)

    limiter = Stopping()
    outcome = sent(limiter, GOOD, breaker=breaker)
    assert [event[0] for event in limiter.events] == ["estimated_tokens", "acquire", "on_error"]
    assert outcome.failure is not None
    assert (outcome.failure.type, outcome.attempts, outcome.cost) == ("NotSent", 0, 0.0)
    assert outcome.elapsed is None
    assert outcome.waited is not None
    assert 0 <= outcome.waited < 60


class Tokens:
    """Credentials that are a number, one more after each renewal."""

    def __init__(self) -> None:
        self.now = 0

    async def arguments(self) -> dict[str, Any]:
        if self.now > 1:
            msg = "no more of them"
            raise ValueError(msg)
        return {"api_key": f"token-{self.now}"}

    def renew(self, used: Mapping[str, Any]) -> None:
        assert used == {"api_key": f"token-{self.now}"}
        self.now += 1


def test_send_401_renews_credentials_once(told: Told, pauses: list[float]) -> None:
    """Without a retry and without a backoff; the second refusal is the row's failure."""
    refused = Failure("AuthenticationError", "expired", 401, "openai")
    tokens = Tokens()
    assert sent(told, refused, GOOD, credentials=tokens).answer == GOOD
    assert (tokens.now, pauses) == (1, [retry.MIN_RETRY_AFTER_SECONDS])
    failed = sent(told, refused, GOOD, credentials=tokens)
    assert failed.failure == refused, "there is no third token: the refusal is what the row says"
    alone = sent(told, credentials=tokens).failure
    assert alone is not None
    assert (alone.type, alone.provider, alone.shared) == ("ValueError", "openai", True)


def test_send_over_budget_is_skipped(told: Told) -> None:
    """With the words of whoever refuses it, unless those might repeat the row."""

    def raising(error: Exception) -> Any:
        def worst(request: Mapping[str, Any]) -> float:
            raise error

        return worst

    for worst, said in (
        (raising(ValueError("nothing bounds it")), "skipped: nothing bounds it"),
        (lambda _: 1.5, "skipped: may cost up to $1.500000, but only $1.000000 of max_cost=$1 is left"),
    ):
        failure = sent(told, cost_upper_bound=worst, budget=Budget(1.0)).failure
        assert failure is not None
        assert (failure.type, failure.provider) == ("BudgetExceeded", "openai")
        assert said in failure.message
    assert not told.events


def test_send_401_names_unset_variables(told: Told) -> None:
    """The variables that could hold one are named for a 401, and for nothing else."""
    nowhere = Target("gpt-4o-mini", "gpt-4o-mini", "openai")
    refused = Failure("AuthenticationError", "no", 401, "openai")
    for failure, words in ((refused, "not set: OPENAI_API_KEY; no"), (BAD, BAD.message)):
        found = sent(told, failure, target=nowhere).failure
        assert found is not None
        assert found.message == words


def test_send_settles_budget_after_each_outcome(told: Told, pauses: list[float]) -> None:
    """What an answer cost is spent, nothing for a refusal, and the worst for what was lost."""
    for reply, spent in ((GOOD, 0.25), (BAD, 0.0), (LOST, 0.5)):
        budget = Budget(1.0)
        sent(told, reply, cost_upper_bound=lambda request: 0.5, budget=budget)
        assert (budget.spent, budget.reserved) == (spent, 0.0)


def test_send_reports_answers_and_failures_to_breaker(told: Told) -> None:
    """An answer starts the count of shared faults anew."""
    breaker = CircuitBreaker()
    shared = Failure("AuthenticationError", "no", 401, "openai", scope=Scope.SHARED)
    for reply in (*[shared] * 4, GOOD, *[shared] * 14):
        sent(told, reply, breaker=breaker)
    assert breaker.given_up is None
    sent(told, shared, breaker=breaker)
    assert breaker.state is CircuitState.OPEN
    assert breaker.given_up is None


def test_pause_lasts_as_long_as_given(told: Told) -> None:
    """It lasts as long as it is told."""

    async def main() -> float:
        began = asyncio.get_running_loop().time()
        await sender(told)._pause(Outcome(), 0, 0.05)
        return asyncio.get_running_loop().time() - began

    assert asyncio.run(main()) >= 0.049


def test_pause_after_429_is_limiters(told: Told) -> None:
    """A concurrency limit that is found meanwhile ends it."""
    asyncio.run(sender(told)._pause(Outcome(rate_limited=True), 0, 60.0))
    assert told.events == [("pause", 60.0)]


@pytest.mark.parametrize(
    ("scarce", "gives_up", "heard", "attempts"),
    [
        (True, True, "on_error", 2),
        (True, False, "on_rate_limit", 4),
        (False, True, "on_rate_limit", 4),
        (False, False, "on_rate_limit", 4),
    ],
)
@pytest.mark.usefixtures("pauses")
def test_send_tier_without_resources_says_nothing_about_limits(
    told: Told, scarce: bool, gives_up: bool, heard: str, attempts: int
) -> None:
    """And only where it has no resources: any other refusal is its limiter's, and is waited out."""
    refusal = dataclasses.replace(LIMITED, no_resources=scarce)
    outcome = sent(told, refusal, refusal, refusal, GOOD, gives_up_without_resources=gives_up, retries=9)
    assert outcome.attempts == attempts
    assert [event[0] for event in told.events if event[0] in {"on_error", "on_rate_limit"}] == [heard] * min(
        attempts, 3
    )
    assert (outcome.failure is None) == (attempts == 4)
