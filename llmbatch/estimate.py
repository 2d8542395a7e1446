"""What a batch will ask for and cost, before anything is sent."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from llmbatch._jobs.rendering import Filling, payload_of
from llmbatch._leaves.checks import check_messages_list
from llmbatch._leaves.files import json_line
from llmbatch._leaves.identity import SeenIds, custom_id_for
from llmbatch._litellm.prices import batch_cost, count_tokens, has_batch_price, live_cost
from llmbatch._request.plans import DEFAULT_MAX_TOKENS, DEFAULT_TEMPERATURE, ChatPlan, plan_chat
from llmbatch._request.requests import Plans, read
from llmbatch.providers.registry import provider_for

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from llmbatch import _litellm
    from llmbatch.providers.base import Payload, Provider

__all__ = ["Estimate", "estimate_batch", "estimate_call"]

# Rows whose tokens are counted one by one (0.1 ms and more each); of the rest, every so manieth.
_COUNTED, _THEN_EVERY = 1000, 50


@dataclass(frozen=True)
class Estimate:
    """What `estimate_batch` found; costs in USD, None where unknown.

    Attributes:
        rows: all rows, those that cannot be sent (`invalid_rows`) included.
        prompt_tokens: of all rows together.
        completion_tokens: at most, every answer at its limit; None without a limit.
        live_cost: at most, as live requests.
        live_prompt_cost: the part of it that is certain, the prompts'.
        job_cost: at most, as a batch job; None also where the provider takes none.
        job_prompt_cost: the part of it that is certain.
        files: input files of the batch job, 0 where the provider takes none.
        caveats: what the numbers leave open, in words.
    """

    model: str
    provider: str
    rows: int
    invalid_rows: int
    prompt_tokens: int
    completion_tokens: int | None
    live_cost: float | None
    live_prompt_cost: float | None
    job_cost: float | None
    job_prompt_cost: float | None
    files: int
    caveats: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """As JSON-serialisable data."""
        return {**asdict(self), "caveats": list(self.caveats)}

    def __str__(self) -> str:
        answers = "unlimited" if self.completion_tokens is None else f"at most {self.completion_tokens:,}"
        lines = [
            f"{self.rows:,} rows for {self.model}: {self.prompt_tokens:,} prompt tokens, {answers} completion tokens",
            f"live: {_range(self.live_prompt_cost, self.live_cost)}",
            f"as a batch job: {_range(self.job_prompt_cost, self.job_cost)} ({self.files} input files)"
            if self.files
            else "as a batch job: not supported",
        ]
        return "\n".join([*lines, *(f"- {caveat}" for caveat in self.caveats)])


def estimate_batch(
    messages_list: Iterable[Any],
    model: str | None = None,
    temperature: float | None = DEFAULT_TEMPERATURE,
    max_tokens: int | None = DEFAULT_MAX_TOKENS,
    **kwargs: Any,
) -> Estimate:
    """Count and price what `create_chat_completions_batch` with the same arguments would send. Nothing is sent.

    Returns an Estimate: rows, tokens, cost live and as a batch job, input files, and caveats. Raises ValueError and
    TypeError for misuse.

    Example:
        print(estimate_batch([[{"role": "user", "content": "Hi"}]] * 1000, model="gpt-4o-mini"))
    """
    items, _ = check_messages_list(messages_list)
    return estimate_call({"model": model, "temperature": temperature, "max_tokens": max_tokens, **kwargs}, items)


def estimate_call(call: Mapping[str, Any], requests: Iterable[Any]) -> Estimate:
    """Count and price what a batch with these arguments would send."""
    counts: dict[_litellm.Target, _Counts] = {}

    def way(arguments: dict[str, Any]) -> tuple[ChatPlan, Provider | None, _Counts]:
        plan = plan_chat(**arguments)
        try:
            provider: Provider | None = provider_for(plan.target.provider)
        except NotImplementedError:
            provider = None
        return plan, provider, counts.setdefault(plan.target, _Counts(plan.target, provider))

    plans = Plans(call, way)
    rows, seen = _Rows(), SeenIds()
    for item in requests:
        rows.all += 1
        asked = read(item)
        try:
            plan, provider, its = plans.of(asked)
            request = plan.request(asked.messages)
            custom_id = custom_id_for(request)
            payload = None if provider is None else payload_of(asked, provider, request, custom_id)
        except ValueError:
            rows.invalid += 1
            continue
        rows.repeats += not seen.add(custom_id)
        its.add(plan, request, payload)
    first, _, its = plans.first
    its.limits = its.limits or {_limit(first)}
    return _estimate([one for one in counts.values() if one.sent] or [its], rows)


@dataclass(slots=True)
class _Rows:
    """Rows: all of them, those that cannot be sent, those that ask the very same as an earlier one."""

    all: int = 0
    invalid: int = 0
    repeats: int = 0


class _Counts:
    """What goes to one model."""

    def __init__(self, target: _litellm.Target, provider: Provider | None) -> None:
        self.target, self.provider = target, provider
        self.sent = self.counted = self.images = self.files = 0
        self.limits: set[int | None] = set()
        self.answers: int | None = 0
        self._characters = self._counted_characters = self._counted_tokens = 0
        if provider is not None:
            self._filling = Filling(provider.max_rows, provider.max_bytes)

    def add(self, plan: ChatPlan, request: Mapping[str, Any], payload: Payload | None) -> None:
        self.sent += 1
        limit = _limit(plan)
        self.limits.add(limit)
        if limit is None or self.answers is None:
            self.answers = None
        else:
            self.answers += limit * (plan.params.get("n") or 1)
        if payload is not None:
            self.files += self._filling.begins_file(len(json_line(payload)))
        characters = len(json.dumps(request["messages"], ensure_ascii=False))
        self.images += any(_has_media(message) for message in request["messages"])
        self._characters += characters
        if self.sent <= _COUNTED or self.sent % _THEN_EVERY == 0:
            self.counted += 1
            self._counted_characters += characters
            self._counted_tokens += count_tokens(self.target, request)

    @property
    def prompt(self) -> int:
        """Tokens of all prompts."""
        scale = self._characters / self._counted_characters if self._counted_characters else 0.0
        return round(self._counted_tokens * scale)

    def live(self, answers: int | None) -> float | None:
        """USD as live requests, with so many tokens answered."""
        return None if answers is None else live_cost(self.target, self.prompt, answers)

    def job(self, answers: int | None) -> float | None:
        """USD as a batch job, likewise."""
        return None if self.provider is None else _job(self.target, self.prompt, answers)


def _limit(plan: ChatPlan) -> int | None:
    return plan.params.get("max_tokens") or plan.params.get("max_completion_tokens")


def _estimate(counts: list[_Counts], rows: _Rows) -> Estimate:
    """The sums over models; unknown where any part is."""
    return Estimate(
        model=", ".join(its.target.model for its in counts),
        provider=", ".join(dict.fromkeys(its.target.provider for its in counts)),
        rows=rows.all,
        invalid_rows=rows.invalid,
        prompt_tokens=sum(its.prompt for its in counts),
        completion_tokens=_sum(its.answers for its in counts),
        live_cost=_sum(its.live(its.answers) for its in counts),
        live_prompt_cost=_sum(its.live(0) for its in counts),
        job_cost=_sum(its.job(its.answers) for its in counts),
        job_prompt_cost=_sum(its.job(0) for its in counts),
        files=sum(its.files for its in counts),
        caveats=tuple(dict.fromkeys(_caveats(counts, rows))),
    )


def _sum(parts: Iterable[Any]) -> Any:
    known = list(parts)
    return None if None in known else sum(known)


def _caveats(counts: list[_Counts], rows: _Rows) -> Iterable[str]:
    yield "prompt tokens are counted with a local tokenizer; the provider's own count may differ"
    sent, counted = sum(its.sent for its in counts), sum(its.counted for its in counts)
    limits = {limit for its in counts for limit in its.limits}
    if counted < sent:
        yield f"tokens were counted in {counted:,} rows and scaled by length for the others"
    if None in limits:
        yield "no max_tokens: answers, and so the cost, have no upper bound here"
    else:
        said = " or ".join(str(limit) for limit in sorted(limit or 0 for limit in limits))
        yield f"answers are counted at their limit of {said} tokens each; most will be shorter"
    for its in counts:
        if live_cost(its.target, 1, 1) is None:
            yield f"no price is known for {its.target.model}: costs are unknown, not 0"
        elif its.provider is not None and not has_batch_price(its.target):
            yield "no batch price is known: half the live price is assumed"
        if its.provider is None:
            yield f"{its.target.provider} does not support batch jobs through llmbatch"
    if images := sum(its.images for its in counts):
        yield f"{images} rows hold images or files, whose tokens are a rough guess"
    if rows.repeats:
        yield f"{rows.repeats} rows ask the very same as an earlier row"
    if rows.invalid:
        yield f"{rows.invalid} rows cannot be sent and will be error rows"


def _job(target: Any, prompt: int, answers: int | None) -> float | None:
    if answers is None:
        return None
    return batch_cost(target, {"prompt_tokens": prompt, "completion_tokens": answers, "total_tokens": prompt + answers})


def _has_media(message: Mapping[str, Any]) -> bool:
    content = message.get("content")
    return isinstance(content, list) and any(part.get("type") != "text" for part in content)


def _range(least: float | None, most: float | None) -> str:
    if least is None:
        return "cost unknown"
    return f"{_usd(least)} for the prompts, and the answers" if most is None else f"{_usd(least)} to {_usd(most)}"


def _usd(cost: float) -> str:
    return f"${cost:,.2f}" if cost >= 1 else f"${cost:.6f}"
