"""Routes: the plan and sender of the model that a request names, and those of its fallbacks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from llmbatch._deployments.groups import DeploymentGroups
from llmbatch._request.deployments import parse_deployments
from llmbatch._request.parsed_request import merged, provider_in
from llmbatch._request.plans import ChatPlan, default_model, plan_chat
from llmbatch._request.sender import Sender
from llmbatch.providers import copilot


@dataclass(slots=True)
class Route:
    """Plans and senders of one request: those of its model first, then those of the fallbacks."""

    plans: list[ChatPlan]
    senders: list[Sender]


class RouteBuilder:
    """Makes the plans of a call's requests and of their fallbacks."""

    def __init__(self, call: dict[str, Any], fallbacks: Sequence[str | dict[str, Any]]) -> None:
        given = call.get("deployments")
        self.call = {name: value for name, value in call.items() if name != "deployments"}
        self._fallbacks = fallbacks
        self._uses_copilot = copilot.is_chosen(call["model"], self.call)
        self._groups = None
        if given is not None:
            self._groups = DeploymentGroups(parse_deployments(given), self.call, default_model(None))
        self._tokens: dict[Any, copilot.CopilotToken] = {}

    def plans(self, arguments: dict[str, Any]) -> list[ChatPlan]:
        """Return the plan for these arguments, and then its fallbacks'."""
        names = arguments.get("deployments")
        arguments = {name: value for name, value in arguments.items() if name != "deployments"}
        if self._uses_copilot and self.provider_of(arguments["model"], self.call) == copilot.PROVIDER:
            arguments = {**arguments, "model": copilot.prefixed(default_model(arguments["model"]))}
        entries = [{"model": entry} if isinstance(entry, str) else entry for entry in self._fallbacks]
        fallbacks = [merged(arguments, {"model": default_model(None), **entry}, _provider_in) for entry in entries]
        if self._groups is None:
            if names is not None:
                raise ValueError("a request names deployments, and the call has none. Pass deployments= too")
            return [self._plan(**one) for one in (arguments, *fallbacks)]
        groups = self._groups
        return [
            groups.plan(arguments, names, self._plan),
            *(groups.plan(one, None, self._plan) if groups.answers_for(one["model"]) else self._plan(**one)
              for one in fallbacks),
        ]  # fmt: skip

    def provider_of(self, model: str | None, call: Mapping[str, Any]) -> str | None:
        """Return the provider of a request's model. A bare name stays with Copilot if the call uses it."""
        bare = isinstance(model, str) and "/" not in model
        return copilot.PROVIDER if self._uses_copilot and bare else _provider_in(model, call)

    def _plan(self, model: str | None, temperature: float | None, max_tokens: int | None, **kwargs: Any) -> ChatPlan:
        if copilot.is_chosen(model, kwargs):
            return copilot.plan(model, temperature, max_tokens, kwargs, self._tokens)
        return plan_chat(model, temperature, max_tokens, **kwargs)


def _provider_in(model: str | None, call: Mapping[str, Any]) -> str | None:
    return copilot.PROVIDER if copilot.is_chosen(model, call) else provider_in(model, call)
