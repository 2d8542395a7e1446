"""Which deployments answer for a request's model, and the plan of a request with one plan for each of them."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeVar

from llmbatch._request.deployments import Deployment
from llmbatch._request.parsed_request import merged, provider_in
from llmbatch._request.plans import ChatPlan, DeploymentPlan, EmbeddingsPlan
from llmbatch._util.identity import is_connection, is_price

P = TypeVar("P", ChatPlan, EmbeddingsPlan)

# Arguments of a request that name another server, which it is sent to instead.
_ELSEWHERE = frozenset({"api_base", "base_url", "client", "custom_llm_provider"})


class DeploymentGroups:
    """The deployments of a call, by the model that they answer for."""

    def __init__(self, deployments: Sequence[Deployment], call: Mapping[str, Any], default_model: str) -> None:
        """Raise ValueError if the call contradicts its deployments."""
        if given := sorted(name for name, value in call.items() if value is not None and is_connection(name)):
            raise ValueError(
                f"{given[0]}= and deployments= are both given. Leave {given[0]} out, or put it into each deployment"
            )
        self._all, self._default_model = deployments, default_model
        self._named = deployments[0].group is not None

    def answers_for(self, model: Any) -> bool:
        """Return whether some deployments have this `model_name`."""
        return self._named and any(deployment.group == model for deployment in self._all)

    def plan(self, arguments: Mapping[str, Any], names: Any, make: Callable[..., P]) -> P:
        """Return the plan of a request, with the plans of its deployments; `names` are those it is restricted to.

        Raises ValueError if no deployment answers for its model, and as `make` does.
        """
        if not _ELSEWHERE.isdisjoint(_given(arguments)):
            return make(**arguments)
        if key := next((name for name in _given(arguments) if is_connection(name)), None):
            raise ValueError(f"{key} in a request does not go with deployments=. Name a deployment, or an api_base too")
        group, model = self._group(arguments.get("model"))
        group_plans = [self._made(deployment, arguments, model, make) for deployment in group]
        chosen = _restricted(group_plans, names)
        base: P = group_plans[0].plan
        targets = {(one.plan.target.provider, one.plan.target.name) for one in group_plans}
        if len(targets) > 1:  # the same request wherever it is answered
            params = {name: value for name, value in base.params.items() if name != "custom_llm_provider"}
            base = replace(base, target=replace(base.target, model=model), params={**params, "model": model})
        return replace(base, deployments=tuple(chosen))

    def _made(
        self, deployment: Deployment, arguments: Mapping[str, Any], model: str, make: Callable[..., P]
    ) -> DeploymentPlan:
        own = {"model": model, **deployment.params}
        if not any(map(is_price, own)):  # the call's own prices are for whatever answers for its model
            own |= {name: value for name, value in arguments.items() if is_price(name)}
        plan = make(**merged(arguments, own, provider_in))
        if unknown := sorted(deployment.params.keys() & set(plan.sent_as_is)):
            raise ValueError(
                f"deployment {deployment.name!r} has an unknown key {unknown[0]!r}. Correct it, or put it into "
                "extra_body to send it"
            )
        return DeploymentPlan(deployment, plan)

    def _group(self, model: str | None) -> tuple[Sequence[Deployment], str]:
        """Return the deployments that answer for a model, and the name that rows and the checkpoint have for it."""
        if self._named:
            groups = list(dict.fromkeys(str(deployment.group) for deployment in self._all))
            if model is None:
                chosen = os.environ.get("MODEL_CHOICE")
                model = groups[0] if len(groups) == 1 else chosen if chosen in groups else None
            if model not in groups:
                what = "model= is missing" if model is None else f"no deployment answers for model {model!r}"
                raise ValueError(f"{what}. Pass one that is the model_name of a deployment: {', '.join(groups)}")
            return [deployment for deployment in self._all if deployment.group == model], model
        own = list(dict.fromkeys(deployment.model for deployment in self._all if deployment.model))
        known = model or (own[0] if own else self._default_model)
        models = [known, *own]
        if model is None and all(deployment.model for deployment in self._all):
            models = own
        if len({_bare(name) for name in models}) > 1:
            raise ValueError(
                f"deployments answer for different models ({', '.join(dict.fromkeys(models))}). Give those that answer "
                "for the same one a common model_name, and pass it as model="
            )
        return self._all, model or (own[0] if len(own) == 1 else _bare(known))


def _restricted(plans: list[DeploymentPlan], names: Any) -> Iterable[DeploymentPlan]:
    if names is None:
        return plans
    if isinstance(names, str) or not isinstance(names, Sequence) or not names:
        raise ValueError(f"deployments in a request must be a list of names, not {type(names).__name__}")
    known = [plan.deployment.name for plan in plans]
    if wrong := [name for name in names if name not in known]:
        raise ValueError(f"no deployment {wrong[0]!r} answers for this model. Those that do: {', '.join(known)}")
    return [plan for plan in plans if plan.deployment.name in names]


def _given(arguments: Mapping[str, Any]) -> list[str]:
    return [name for name, value in arguments.items() if value is not None]


def _bare(model: str) -> str:
    """Return a model's name without its provider and path."""
    return model.rpartition("/")[2]
