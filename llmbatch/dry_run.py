"""What a batch would send and cost, with nothing sent: the result of `dry_run=True`."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from llmbatch._jobs.input_files import payload_of
from llmbatch._request.parsed_request import ParsedRequest, parse_request
from llmbatch._request.plans import ChatPlan, EmbeddingsPlan
from llmbatch._util.identity import CustomIds, is_connection
from llmbatch.estimate import Estimate
from llmbatch.providers.base import Provider
from llmbatch.providers.registry import provider_for

__all__ = ["DryRun"]

_SHOWN_CHARACTERS = 1000


@dataclass(frozen=True, repr=False)
class DryRun:
    """What a batch would send and cost. Nothing was sent.

    Attributes:
        payloads: one for each request that can be sent, in order: `{custom_id, method, url, body}`, or `{custom_id,
            arguments}` with LiteLLM's arguments (without keys and addresses) for a provider without batch lines.
        estimate: tokens, cost and time; see `estimate_batch`.
        invalid: why a request cannot be sent, by its index in the list.

    Example:
        dry = create_chat_completions_batch(chats, "gpt-4o-mini", dry_run=True)
        print(dry)                        # the first payload and the estimate
        dry.payloads[0]["body"], dry.estimate.live_cost
    """

    payloads: list[dict[str, Any]]
    estimate: Estimate
    invalid: dict[int, str] = field(default_factory=dict)

    def __str__(self) -> str:
        lines = [f"Dry run: {len(self.payloads):,} requests would be sent, nothing was sent."]
        if self.payloads:
            first = json.dumps(self.payloads[0], ensure_ascii=False, indent=2, default=repr)
            lines.append(first if len(first) <= _SHOWN_CHARACTERS else f"{first[:_SHOWN_CHARACTERS]}…")
        lines += [f"Request {index} cannot be sent: {why}" for index, why in list(self.invalid.items())[:5]]
        return "\n".join([*lines, str(self.estimate)])

    __repr__ = __str__


def dry_payloads(
    plan_of: Callable[[ParsedRequest], ChatPlan | EmbeddingsPlan],
    items: Iterable[Any],
    custom_ids: Sequence[str] | None,
) -> tuple[list[dict[str, Any]], dict[int, str]]:
    """Return the payloads of a list's requests, and why others cannot be sent, by their index."""
    payloads: list[dict[str, Any]] = []
    invalid: dict[int, str] = {}
    derived, providers = CustomIds(), dict[ChatPlan | EmbeddingsPlan, Provider | None]()
    for index, item in enumerate(items):
        parsed = parse_request(item)
        try:
            plan = plan_of(parsed)
            request = plan.request(parsed.messages)
            called = parsed.custom_id or (custom_ids[index] if custom_ids else derived(request))
            if plan not in providers:  # a provider's renderer serves one set of parameters
                providers[plan] = _provider(plan.target.provider)
            payloads.append(_payload(parsed, providers[plan], request, called))
        except ValueError as exc:
            invalid[index] = str(exc)
    return payloads, invalid


def _provider(name: str) -> Provider | None:
    try:
        return provider_for(name)
    except NotImplementedError:
        return None


def _payload(
    parsed: ParsedRequest, provider: Provider | None, request: dict[str, Any], custom_id: str
) -> dict[str, Any]:
    if provider is not None:
        return dict(payload_of(parsed, provider, request, custom_id))
    arguments = {name: value for name, value in request.items() if not is_connection(name)}
    return {"custom_id": custom_id, "arguments": arguments}
