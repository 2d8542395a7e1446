"""What a batch will ask for, cost and take by each lane, before anything is sent."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

from llmbatch import _litellm
from llmbatch._jobs.input_files import payload_of
from llmbatch._jobs.model_costs import Counts, answer_limit
from llmbatch._litellm.prices import has_batch_price, live_cost
from llmbatch._request.messages import check_messages_list
from llmbatch._request.parsed_request import Plans, parse_request
from llmbatch._request.plans import DEFAULT_MAX_TOKENS, DEFAULT_TEMPERATURE, ChatPlan, plan_chat
from llmbatch._util.checks import check_number
from llmbatch._util.identity import SeenIds, custom_id_for
from llmbatch.options import Options
from llmbatch.providers.base import Provider
from llmbatch.providers.registry import provider_for

__all__ = ["Estimate", "LaneEstimate", "estimate_batch"]

_DAY = 86_400.0
_UNITS = ((_DAY, "days"), (3600, "h"), (60, "min"))


@dataclass(frozen=True)
class LaneEstimate:
    """One way to have the rows answered; costs in USD, None where unknown.

    Attributes:
        prompt_cost: the part of the cost that is certain, the prompts'.
        cost: at most, at the lane's own price.
        seconds: how long it likely takes, None where nothing says so; `time` says it in words.
        risk: what may come otherwise, or why the lane is `missing`.
    """

    prompt_cost: float | None
    cost: float | None
    seconds: float | None
    time: str
    risk: str
    missing: bool = False


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
        lanes: `live`, `flex`, `job` and `cheapest`, side by side.
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
    lanes: dict[str, LaneEstimate]
    caveats: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """As JSON-serialisable data."""
        return {**asdict(self), "caveats": list(self.caveats)}

    def __str__(self) -> str:
        answers = "unlimited" if self.completion_tokens is None else f"at most {self.completion_tokens:,}"
        table = [("lane", "cost", "time", "risk")]
        for name, its in self.lanes.items():
            table.append((name, "-" if its.missing else _range(its.prompt_cost, its.cost), its.time, its.risk))
        widths = [max(map(len, column)) for column in zip(*table, strict=True)]
        lines = [
            f"{self.rows:,} rows for {self.model}: {self.prompt_tokens:,} prompt tokens, {answers} completion tokens",
            *("  ".join(map(str.ljust, cells, widths)).rstrip() for cells in table),
        ]
        return "\n".join([*lines, *(f"- {caveat}" for caveat in self.caveats)])


def estimate_batch(
    messages_list: Iterable[Any],
    model: str | None = None,
    temperature: float | None = DEFAULT_TEMPERATURE,
    max_tokens: int | None = DEFAULT_MAX_TOKENS,
    max_workers: int | Literal["auto"] = 10,
    *,
    latency: float | None = None,
    **kwargs: Any,
) -> Estimate:
    """Count and price what `create_chat_completions_batch` with the same arguments would send. Nothing is sent.

    How long live calls take follows from `max_workers`, `requests_per_minute` and `tokens_per_minute`, as far as they
    are given, and from `latency`: seconds of one answer, such as the `latency["p50"]` of earlier results.

    Returns an Estimate: rows, tokens, cost and time by each lane, input files of a job, and caveats. Raises ValueError
    and TypeError for misuse.

    Example:
        print(estimate_batch([[{"role": "user", "content": "Hi"}]] * 1000, model="gpt-4o-mini", latency=0.8))
    """
    requests, _ = check_messages_list(messages_list)
    call = {"model": model, "temperature": temperature, "max_tokens": max_tokens, **kwargs}
    options = Options.among(call, max_workers=max_workers, count=None)
    if latency is not None:
        check_number("latency", latency, "it is in seconds; leave it out where it is unknown")
    counts: dict[_litellm.Target, Counts] = {}

    def way(arguments: dict[str, Any]) -> tuple[ChatPlan, Provider | None, Counts]:
        plan = plan_chat(**arguments)
        try:
            provider: Provider | None = provider_for(plan.target.provider)
        except NotImplementedError:
            provider = None
        return plan, provider, counts.setdefault(plan.target, Counts(plan.target, provider))

    plans = Plans(call, way)
    rows, seen = _Rows(), SeenIds()
    for item in requests:
        rows.all += 1
        asked = parse_request(item)
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
    its.limits = its.limits or {answer_limit(first)}
    return _estimate([one for one in counts.values() if one.sent] or [its], rows, options, latency)


@dataclass(slots=True)
class _Rows:
    """Rows: all of them, those that cannot be sent, those that ask the very same as an earlier one."""

    all: int = 0
    invalid: int = 0
    repeats: int = 0


def _estimate(counts: list[Counts], rows: _Rows, options: Options, latency: float | None) -> Estimate:
    """The sums over models; unknown where any part is."""
    prompt, answers = sum(its.prompt for its in counts), _sum(its.answers for its in counts)
    time = _live_time(rows.all - rows.invalid, prompt, answers, options, latency)
    lanes = _lanes(counts, time, options.deadline)
    return Estimate(
        model=", ".join(its.target.model for its in counts),
        provider=", ".join(dict.fromkeys(its.target.provider for its in counts)),
        rows=rows.all,
        invalid_rows=rows.invalid,
        prompt_tokens=prompt,
        completion_tokens=answers,
        live_cost=lanes["live"].cost,
        live_prompt_cost=lanes["live"].prompt_cost,
        job_cost=lanes["job"].cost,
        job_prompt_cost=lanes["job"].prompt_cost,
        files=sum(its.files for its in counts),
        lanes=lanes,
        caveats=tuple(dict.fromkeys(_caveats(counts, rows))),
    )


def _live_time(
    rows: int, prompt: int, answers: int | None, options: Options, latency: float | None
) -> tuple[float | None, str]:
    """Seconds of live requests, also in words: the most that what is known of limits and latency makes it."""
    paces = {
        "requests": (rows, options.requests_per_minute),
        "tokens": (prompt + (answers or 0), options.tokens_per_minute),
    }
    known = {name: 60 * amount / a_minute for name, (amount, a_minute) in paces.items() if a_minute}
    if latency is not None and options.max_workers != "auto":
        known["latency"] = math.ceil(rows / options.max_workers) * latency
    if not known:
        return None, "unknown without limits and latency"
    longest = max(known, key=known.__getitem__)
    vague = "at least" if latency is None or (answers is None and "tokens" in known) else "about"
    full = " with answers at their limit" if longest == "tokens" and answers is not None else ""
    return known[longest], f"{vague} {_span(known[longest])}{full}"


def _lanes(
    counts: list[Counts], live_time: tuple[float | None, str], deadline: float | None
) -> dict[str, LaneEstimate]:
    lanes: dict[str, LaneEstimate] = {}
    for name, cost, (seconds, words), risk in (
        ("live", Counts.live, live_time, "limits that nobody stated may slow it down"),
        ("flex", Counts.flex, (None, "longer than live"), "rows refused for want of resources go at the live price"),
        ("job", Counts.job, (_DAY, "up to 24 h"), "rows that expire there are error rows"),
    ):
        least, most = _sum(cost(its, 0) for its in counts), _sum(cost(its, its.answers) for its in counts)
        late = "" if deadline is None or (seconds or _DAY) <= deadline else ", and those past the deadline fail"
        missing = next(filter(None, (its.missing(name) for its in counts)), "")
        lanes[name] = (
            LaneEstimate(None, None, None, "-", missing, missing=True)
            if missing
            else LaneEstimate(least, most, seconds, words, risk + late)
        )
    live, job = lanes["live"], lanes["job"]
    end = deadline or _DAY
    risk = "what the job has not answered by then goes at the live price"
    cheapest = LaneEstimate(job.prompt_cost, live.cost, end, f"up to {_span(end)}", risk)
    return {**lanes, "cheapest": replace(live, risk=f"all goes live: {job.risk}") if job.missing else cheapest}


def _sum(parts: Iterable[Any]) -> Any:
    known = list(parts)
    return None if None in known else sum(known)


def _caveats(counts: list[Counts], rows: _Rows) -> Iterable[str]:
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
    if images := sum(its.images for its in counts):
        yield f"{images} rows hold images or files, whose tokens are a rough guess"
    if rows.repeats:
        yield f"{rows.repeats} rows ask the very same as an earlier row"
    if rows.invalid:
        yield f"{rows.invalid} rows cannot be sent and will be error rows"


def _span(seconds: float) -> str:
    size, unit = next((one for one in _UNITS if seconds >= 2 * one[0]), (1, "s"))
    return f"{round(seconds / size, 1):,g} {unit}"


def _range(least: float | None, most: float | None) -> str:
    if least is None:
        return "cost unknown"
    return f"{_usd(least)} for the prompts, and the answers" if most is None else f"{_usd(least)} to {_usd(most)}"


def _usd(cost: float) -> str:
    return f"${cost:,.2f}" if cost >= 1 else f"${cost:.6f}"
