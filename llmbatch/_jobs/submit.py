"""Turn what a user submits into input files and a job's state."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache, partial
from itertools import chain, islice
from pathlib import Path
from typing import Any

from llmbatch._jobs.input_files import Line, PayloadChecks, chat_plans, read_payloads, rendered, write_input_files
from llmbatch._jobs.job_state import JobState
from llmbatch._litellm.provider_files import Access
from llmbatch._request.max_cost import CostUpperBound
from llmbatch._request.messages import check_messages_list
from llmbatch._request.parsed_request import Plans, parse_request
from llmbatch._request.plans import ChatPlan, check_names, plan_chat
from llmbatch._rows.structured_output import ResponseFormat
from llmbatch._util.checks import check_number
from llmbatch.options import OWN_OPTIONS
from llmbatch.providers.registry import provider_for

_ACCESS = ("api_key", "api_version", "organization", "azure_ad_token", "extra_headers")
_ADDRESS = ("api_base", "base_url", "custom_llm_provider")
_MOST_METADATA = 14  # OpenAI accepts 16, two are llmbatch's


@dataclass(frozen=True)
class Submission:
    """Checked requests that are to be submitted."""

    state: JobState
    access: Access
    lines: Iterable[Line]
    response_format: ResponseFormat | None = None

    def write(
        self,
        directory: Path,
        *,
        completion_window: str,
        metadata: Mapping[str, str] | None = None,
        max_rows: int | None = None,
        max_bytes: int | None = None,
    ) -> tuple[JobState, list[Path]]:
        """Write the input files to `directory`. Returns the state of the new job, and their paths."""
        metadata = metadata or {}
        for name, limit in (("max_rows", max_rows), ("max_bytes", max_bytes)):
            if limit is not None:
                check_number(name, limit, "leave it out for the provider's limit", whole=True, least=1)
        if len(metadata) > _MOST_METADATA or not all(isinstance(item, str) for kv in metadata.items() for item in kv):
            raise ValueError(
                f"metadata must be a dict of at most {_MOST_METADATA} strings; leave some out, or write them as strings"
            )
        state = self.state
        state.completion_window, state.metadata = completion_window, dict(metadata)
        state.max_rows, state.max_bytes = max_rows or state.max_rows, max_bytes or state.max_bytes

        def rows() -> Iterator[tuple[int, Line]]:
            for position, line in enumerate(self.lines):
                state.custom_ids.append(line.custom_id)
                if line.metadata is not None:
                    state.row_metadata[line.custom_id] = line.metadata
                yield position, line

        return state, write_input_files(state, rows(), directory)


def prepare(  # noqa: PLR0917 - the public function's own order
    requests: Any,
    model: str | None,
    temperature: float | None,
    max_tokens: int | None,
    custom_ids: Iterable[str] | None,
    kwargs: Mapping[str, Any],
) -> Submission:
    """Check what a user submits. Raises as `plan_chat`, and NotImplementedError for providers without batch support."""
    check_names(kwargs, model=model)
    if kwargs.get("dry_run"):
        raise ValueError("dry_run=True is for the list functions. Use render_batch_requests and estimate_batch")
    is_path = isinstance(requests, str | os.PathLike)
    iterator = read_payloads(requests) if is_path else iter(check_messages_list(requests)[0])
    first = list(islice(iterator, 1))
    items: Iterable[Any] = chain(first, iterator)
    if is_path or (first and isinstance(first[0], Mapping) and "body" in first[0]):
        return _of_payloads(first, items, model, custom_ids, kwargs)
    call = {"model": model, "temperature": temperature, "max_tokens": max_tokens, **kwargs}
    if call.get("max_cost") is not None:
        items = list(items)
        check_cost(call, items, call["max_cost"])
    return of_call(call, items, custom_ids)


def check_cost(call: Mapping[str, Any], requests: Iterable[Any], max_cost: float, spent: float = 0.0) -> list[float]:
    """Return the cost upper bound of each request in a job, in USD.

    Raises ValueError if their sum is more than `max_cost` less what earlier runs have spent, or if a request has no
    upper bound.
    """
    plans, costs = Plans(call, lambda arguments: plan_chat(**arguments)), list[float]()
    bound_of = cache(partial(CostUpperBound.for_plan, job=True))
    for asked in map(parse_request, requests):
        try:
            plan = plans.of(asked)
            request = plan.request(asked.messages)
        except ValueError:  # it is not sent, and becomes an error row
            costs.append(0.0)
            continue
        costs.append(bound_of(plan).of(request))
    if (most := sum(costs)) > max_cost - spent:
        before = f" less ${spent:.4f} that earlier runs have spent" if spent else ""
        raise ValueError(
            f"the job may cost ${most:.4f}, more than max_cost=${max_cost:.4f}{before}. Raise it, or lower max_tokens"
        )
    return costs


def of_call(call: Mapping[str, Any], requests: Iterable[Any], custom_ids: Iterable[str] | None) -> Submission:
    """Return the submission of what a live batch with these arguments sends.

    Raises NotImplementedError for a provider without batch support.
    """
    if live_only := [name for name in ("reask", "validate", "dedupe") if call.get(name)]:
        raise ValueError(
            f"{live_only[0]} is for live requests. Pass it to job.run_failed_live() after the job instead, or use "
            "create_chat_completions_batch(lane='job')"
        )
    plans = chat_plans(call)
    first, _ = plans.first
    lines = rendered(plans.of, requests, custom_ids, lambda plan: _why_not(plan, first))
    return Submission(*_new_state(first), lines, first.response_format)


def _why_not(plan: ChatPlan, first: ChatPlan) -> str | None:
    """Return why a request cannot be in the same job as the others."""
    one, other = plan.target, first.target
    if (one.provider, one.api_base) != (other.provider, other.api_base):
        return f"{one.model!r} is not at {other.provider}, the job's provider; submit a job for each provider"
    if access_from(plan.params) != access_from(first.params):
        return "the request has another key or header than the call; submit a job for each account"
    if plan.response_format is not first.response_format:
        return "the request has another response_format than the call; submit a job for each"
    return None


def _of_payloads(
    first: list[Any], payloads: Iterable[Any], model: str | None, custom_ids: Any, given: Mapping[str, Any]
) -> Submission:
    if given.get("max_cost") is not None:
        raise ValueError(
            "max_cost is not checked for payloads. Leave it out, or submit the conversations instead of payloads"
        )
    extra = sorted(given.keys() - {*_ACCESS, *_ADDRESS, *(OWN_OPTIONS - {"system"})})
    if extra or custom_ids is not None:
        raise ValueError(
            f"payloads have their own parameters. Leave out {', '.join(extra or ['custom_ids'])}, or render them again"
        )
    if not first:
        raise ValueError("there is no payload to submit; pass at least one")
    state, access = empty_state(model or (first[0]["body"] or {}).get("model"), given)
    return Submission(state, access, _lines_of(payloads, state.name))


def _lines_of(payloads: Iterable[Any], model: str) -> Iterator[Line]:
    """Yield payloads as lines. Raises ValueError for what is not a payload, and for payloads of another model."""
    check = PayloadChecks()
    for index, payload in enumerate(payloads):
        check(payload, f"row {index}")
        if payload["body"]["model"] != model:
            raise ValueError(
                f"the payloads are for model {payload['body']['model']!r}, not {model!r}; pass the model they are for"
            )
        yield Line(payload["custom_id"], payload)


def access_from(given: Mapping[str, Any]) -> Access:
    """Return how to reach the provider, from LiteLLM's arguments."""
    return Access(**{name: given.get(name) for name in _ACCESS})


def check_access_names(given: Mapping[str, Any], model: str | None) -> None:
    """Raise ValueError for an argument that says nothing about how to reach a provider."""
    check_names(given, model=model)
    if others := sorted(given.keys() - {*_ACCESS, *_ADDRESS}):
        names = ", ".join(_ACCESS + _ADDRESS)
        raise ValueError(f"unknown option {others[0]}=. A job is found with model=, response_format=, {names}")


def empty_state(model: str | None, given: Mapping[str, Any]) -> tuple[JobState, Access]:
    """Return the state of a job of which only the account is known, and how to reach it."""
    return _new_state(plan_chat(model, None, None, **{k: v for k, v in given.items() if k in {*_ACCESS, *_ADDRESS}}))


def _new_state(plan: ChatPlan) -> tuple[JobState, Access]:
    target, access, provider = plan.target, access_from(plan.params), provider_for(plan.target.provider)
    state = JobState(
        model=target.model, name=target.name, provider=target.provider, api_base=target.api_base,
        prices=dict(target.prices), api_version=access.api_version, endpoint="/v1/chat/completions",
        completion_window="24h", metadata={}, max_rows=provider.max_rows, max_bytes=provider.max_bytes,
    )  # fmt: skip
    return state, access


def known_state(path: str | os.PathLike[str] | None, made: JobState) -> JobState:
    """Return the state that an earlier call left at `path` for the same requests, else `made`.

    Raises ValueError if the file belongs to other requests.
    """
    if path is None or not Path(path).exists():
        return made
    known = JobState.load(path)
    if not known.has_same_requests(made):
        raise ValueError(f"{os.fspath(path)} is the state of a job with other requests; give another path")
    known.row_metadata = made.row_metadata
    return known
