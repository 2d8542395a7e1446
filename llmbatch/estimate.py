"""What a batch will ask for and cost, before anything is sent."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from llmbatch._jobs.rendering import BadRow, Filling, line_for
from llmbatch._leaves.checks import UnsendableError, check_messages_list
from llmbatch._leaves.files import json_line
from llmbatch._leaves.identity import SeenIds, custom_id_for
from llmbatch._litellm.prices import batch_cost, count_tokens, has_batch_price, live_cost
from llmbatch._request.plans import DEFAULT_MAX_TOKENS, DEFAULT_TEMPERATURE, ChatPlan, plan_chat
from llmbatch.providers.registry import provider_for

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from llmbatch.providers.base import Provider

__all__ = ["Estimate", "estimate_batch", "estimate_plan"]

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
    plan = plan_chat(model, temperature, max_tokens, **kwargs)
    items, _ = check_messages_list(messages_list)
    return estimate_plan(plan, items)


def estimate_plan(plan: ChatPlan, conversations: Iterable[Any]) -> Estimate:
    """Count and price what a batch with this plan would send."""
    try:
        provider: Provider | None = provider_for(plan.target.provider)
    except NotImplementedError:
        provider = None
    counts = _Counts(plan, provider)
    for conversation in conversations:
        counts.add(conversation)
    return counts.estimate()


class _Counts:
    def __init__(self, plan: ChatPlan, provider: Provider | None) -> None:
        self.plan, self.provider = plan, provider
        self.rows = self.invalid = self.repeats = self.images = 0
        self.files = 0
        self._characters = self._counted_characters = self._counted_tokens = self._counted = 0
        self._seen = SeenIds()
        if provider is not None:
            self._filling = Filling(provider.max_rows, provider.max_bytes)

    def add(self, item: Any) -> None:
        self.rows += 1
        try:
            request = self.plan.request(item)
            custom_id = custom_id_for(request)
            line = None if self.provider is None else line_for(request, custom_id, self.provider)
        except (BadRow, UnsendableError):
            self.invalid += 1
            return
        self.repeats += not self._seen.add(custom_id)
        if line is not None:
            self.files += self._filling.begins_file(len(json_line(line)))
        characters = len(json.dumps(request["messages"], ensure_ascii=False))
        self.images += any(_has_media(message) for message in request["messages"])
        self._characters += characters
        sent = self.rows - self.invalid
        if sent <= _COUNTED or sent % _THEN_EVERY == 0:
            self._counted += 1
            self._counted_characters += characters
            self._counted_tokens += count_tokens(self.plan.target, request)

    def estimate(self) -> Estimate:
        target, sent = self.plan.target, self.rows - self.invalid
        scale = self._characters / self._counted_characters if self._counted_characters else 0.0
        prompt = round(self._counted_tokens * scale)
        limit = self.plan.params.get("max_tokens") or self.plan.params.get("max_completion_tokens")
        answers = None if limit is None else limit * (self.plan.params.get("n") or 1) * sent
        job, job_prompt = (
            (None, None) if self.provider is None else (_job(target, prompt, answers), _job(target, prompt, 0))
        )
        return Estimate(
            model=target.model,
            provider=target.provider,
            rows=self.rows,
            invalid_rows=self.invalid,
            prompt_tokens=prompt,
            completion_tokens=answers,
            live_cost=None if answers is None else live_cost(target, prompt, answers),
            live_prompt_cost=live_cost(target, prompt, 0),
            job_cost=job,
            job_prompt_cost=job_prompt,
            files=self.files,
            caveats=tuple(self._caveats(limit, sent)),
        )

    def _caveats(self, limit: int | None, sent: int) -> Iterable[str]:
        target = self.plan.target
        yield "prompt tokens are counted with a local tokenizer; the provider's own count may differ"
        if self._counted < sent:
            yield f"tokens were counted in {self._counted:,} rows and scaled by length for the others"
        if limit is None:
            yield "no max_tokens: answers, and so the cost, have no upper bound here"
        else:
            yield f"answers are counted at their limit of {limit} tokens each; most will be shorter"
        if live_cost(target, 1, 1) is None:
            yield f"no price is known for {target.model}: costs are unknown, not 0"
        elif self.provider is not None and not has_batch_price(target):
            yield "no batch price is known: half the live price is assumed"
        if self.provider is None:
            yield f"{target.provider} does not support batch jobs through llmbatch"
        if self.images:
            yield f"{self.images} rows hold images or files, whose tokens are a rough guess"
        if self.repeats:
            yield f"{self.repeats} rows ask the very same as an earlier row"
        if self.invalid:
            yield f"{self.invalid} rows cannot be sent and will be error rows"


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
