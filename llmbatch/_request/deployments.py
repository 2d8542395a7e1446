"""Deployments: the servers, regions or keys that a batch is spread over, in the terms of LiteLLM's Router.

An item of `deployments=` is a dict of LiteLLM's arguments (`model`, `api_base`, `api_key`, ...), or an item of a
Router's `model_list`. Both are parsed and checked here.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from llmbatch._limits.account import account_at
from llmbatch._util.checks import check_number
from llmbatch._util.identity import is_connection
from llmbatch.options import OWN_OPTIONS

_ITEM_KEYS = frozenset({"blocked", "litellm_params", "model_info", "model_name"})
# What the Router reads of an item, and its calls do not send. Those that are not attributes below have no meaning here.
_ROUTER_KEYS = frozenset({
    "allowed_fails", "budget_duration", "configurable_clientside_auth_params", "cooldown_time",
    "default_api_key_rpm_limit", "default_api_key_tpm_limit", "itpm", "litellm_credential_name", "litellm_trace_id",
    "max_budget", "max_file_size_mb", "max_parallel_requests", "max_retries", "model_info", "name", "num_retries",
    "order", "otpm", "rpd", "rpm", "stream_timeout", "tags", "tag_regex", "timeout", "tpd", "tpm",
    "use_in_pass_through", "weight",
})  # fmt: skip
_ENVIRONMENT = "os.environ/"
_EXAMPLE = '[{"model": "openai/my-model", "api_base": "http://gpu1:8000/v1"}, …]'
# Limits that would have to be kept, and are not.
_UNSUPPORTED = {
    "rpd": "a daily limit", "tpd": "a daily limit", "itpm": "a limit of prompt tokens",
    "otpm": "a limit of answer tokens",
    "max_budget": "a budget of one deployment; pass max_cost= for the batch",
    "litellm_credential_name": "a credential of LiteLLM's proxy; pass api_key",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Deployment:
    """One server, region or key.

    Attributes:
        name: for rows and the log; unique among the deployments of a batch.
        group: the `model_name` that it answers for; None if it answers for the model of the call.
        params: LiteLLM's arguments for it. May hold keys: never print it.
        requests_per_minute, tokens_per_minute: limits configured for it.
        max_in_flight: most requests in flight there.
        weight: how much of the load it gets next to others that would answer as soon.
        order: deployments of a higher order are used only while those of a lower one cannot answer.
        timeout: seconds for one attempt there; None for the call's.
    """

    name: str
    group: str | None
    params: Mapping[str, Any] = field(repr=False)
    requests_per_minute: float | None = None
    tokens_per_minute: float | None = None
    max_in_flight: int | None = None
    weight: float = 1.0
    order: int = 0
    timeout: float | None = None

    @property
    def model(self) -> str | None:
        """The model that requests have there; None for that of the call."""
        return self.params.get("model")


def parse_deployments(given: Any) -> tuple[Deployment, ...]:
    """Return the deployments of a call. Raises TypeError and ValueError for misuse."""
    if isinstance(given, Mapping) and "model_list" in given:
        raise TypeError("deployments must be a list. Pass the model_list of this configuration: config['model_list']")
    if isinstance(given, str | bytes | Mapping) or not isinstance(given, Iterable):
        raise TypeError(f"deployments must be a list of dicts, not {type(given).__name__}: {_EXAMPLE}")
    items = list(given)
    if not items:
        raise ValueError(f"deployments is empty. Name at least one, or leave it out: {_EXAMPLE}")
    parsed = [deployment for at, item in enumerate(items) if (deployment := _parsed(at, item)) is not None]
    named = [deployment.group is not None for deployment in parsed]
    if any(named) and not all(named):
        raise ValueError(
            f"deployments[{named.index(False)}] has no model_name, and others have one. Give each a model_name, or none"
        )
    used = tuple(deployment for deployment in parsed if deployment.weight)
    if not used:
        raise ValueError("every deployment has weight 0 or is blocked, so none may be used. Give one a weight above 0")
    return _uniquely_named(used)


def _parsed(at: int, item: Any) -> Deployment | None:
    """Return one deployment; None if its configuration blocks it."""
    where = f"deployments[{at}]"
    if not isinstance(item, Mapping):
        raise TypeError(f"{where} must be a dict, not {type(item).__name__}: {_EXAMPLE}")
    group, given = item.get("model_name"), dict(item)
    if group is not None and (not isinstance(group, str) or not group or "*" in group):
        raise ValueError(f"{where}: model_name must be a model's name without '*', not {group!r}")
    info = item.get("model_info") or {}
    if not isinstance(info, Mapping):
        raise TypeError(f"{where}: model_info must be a dict, not {type(info).__name__}")
    if "litellm_params" in item:
        params = item["litellm_params"]
        if not isinstance(params, Mapping):
            raise TypeError(f"{where}: litellm_params must be a dict, not {type(params).__name__}")
        outside = {name: item[name] for name in ("rpm", "tpm", "name", "weight", "order") if name in item}
        if unknown := sorted(map(str, item.keys() - _ITEM_KEYS - outside.keys())):
            raise ValueError(f"{where} has an unknown key {unknown[0]!r}. Put LiteLLM's arguments into litellm_params")
        given = {**outside, **params}
    given.pop("model_name", None)
    if item.get("blocked") or given.pop("blocked", False):
        return None
    values = {name: _from_environment(where, name, value) for name, value in given.items() if value is not None}
    _check(where, values)
    return Deployment(
        name=str(values.get("name") or info.get("id") or ""),
        group=group,
        params={name: value for name, value in values.items() if name not in _ROUTER_KEYS},
        requests_per_minute=values.get("rpm"),
        tokens_per_minute=values.get("tpm"),
        max_in_flight=values.get("max_parallel_requests"),
        weight=float(values.get("weight", 1)),
        order=values.get("order", 0),
        timeout=values.get("timeout"),
    )


def _from_environment(where: str, name: str, value: Any) -> Any:
    """Return a value, or what the variable holds that it names as in a Router's configuration."""
    if not (isinstance(value, str) and value.startswith(_ENVIRONMENT)):
        return value
    variable = value.removeprefix(_ENVIRONMENT)
    if variable not in os.environ:
        raise ValueError(f"{where}: {name} is {value!r}, and {variable} is not set. Set it, or give the value itself")
    return os.environ[variable]


def _check(where: str, values: Mapping[str, Any]) -> None:
    if own := sorted(OWN_OPTIONS & values.keys() - {"timeout"}):
        raise ValueError(f"{where}: {own[0]} is an option of the whole batch. Pass it to the function instead")
    if unsupported := sorted(_UNSUPPORTED.keys() & values.keys()):
        raise ValueError(f"{where}: {unsupported[0]} is {_UNSUPPORTED[unsupported[0]]}, which llmbatch cannot keep")
    if "model" in values and (not isinstance(values["model"], str) or not values["model"].strip()):
        raise ValueError(f"{where}: model must be a non-empty string")
    if "model" not in values and not any(map(is_connection, values)):
        keys = ", ".join(map(str, values)) or "none"
        raise ValueError(f"{where} names no server: give it a model, an api_base or an api_key (its keys: {keys})")
    for name, least, whole in (
        ("rpm", None, False), ("tpm", None, False), ("timeout", None, False), ("weight", 0, False),
        ("max_parallel_requests", 1, True), ("order", 0, True),
    ):  # fmt: skip
        if name in values:
            more = {} if least is None else {"least": least}
            check_number(f"{where}: {name}", values[name], "leave it out for the default", whole=whole, **more)


def _uniquely_named(deployments: tuple[Deployment, ...]) -> tuple[Deployment, ...]:
    """Return the deployments with a name each: their own, else made of the address, without keys."""
    own = [deployment.name for deployment in deployments if deployment.name]
    if twice := [name for name, count in Counter(own).items() if count > 1]:
        raise ValueError(f"two deployments have the name {twice[0]!r}. Give each its own")
    addresses = [_address(deployment) for deployment in deployments]
    texts = [
        address if addresses.count(address) == 1 or not deployment.model else f"{deployment.model} at {address}"
        for address, deployment in zip(addresses, deployments, strict=True)
    ]
    seen: Counter[str] = Counter(own)
    named = []
    for text, deployment in zip(texts, deployments, strict=True):
        name = deployment.name
        if not name:
            seen[text] += 1
            name = text if seen[text] == 1 else f"{text} #{seen[text]}"
        values = {attribute: getattr(deployment, attribute) for attribute in deployment.__slots__}
        named.append(Deployment(**{**values, "name": name}))
    return tuple(named)


def _address(deployment: Deployment) -> str:
    """Return where a deployment is, without what may be secret: its base URL, else its model."""
    base = deployment.params.get("api_base") or deployment.params.get("base_url")
    return account_at("", base, None).address if isinstance(base, str) else deployment.model or "the default address"
