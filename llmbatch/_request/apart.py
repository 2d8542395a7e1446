"""What makes a call the same in another process: LiteLLM's settings and prices, and arguments as plain data."""

from __future__ import annotations

import functools
import json
from typing import TYPE_CHECKING, Any

import aiohttp

from llmbatch._litellm import load, provider_of
from llmbatch._litellm.quiet import anybody_listens

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["be_alike", "bound_here", "plain_json", "prices_of", "settings"]

_PLAIN = (bool, int, float, str, type(None))
_OBJECTS = ("cache", "client_session", "aclient_session", "secret_manager_client")


def settings() -> dict[str, Any]:
    """LiteLLM's settings (`litellm.drop_params`, …) as plain data; keys set there are among them."""
    found = {}
    for name, value in vars(load()).items():
        plain = isinstance(value, _PLAIN) or (isinstance(value, list) and all(isinstance(v, _PLAIN) for v in value))
        if plain and not name.startswith("_"):
            found[name] = value
    return found


def prices_of(request: Mapping[str, Any]) -> dict[str, Any]:
    """The entries of LiteLLM's map of prices, in which a user may have registered some, that a request may meet."""
    model, prices = str(request["model"]), load().model_cost
    name = model.removeprefix(f"{provider_of(request)}/")
    names = (model, name, f"{provider_of(request)}/{name}")
    return {name: prices[name] for name in names if name in prices}


def be_alike(alike: Mapping[str, Any]) -> None:
    """Take over another process's `settings` and `prices`."""
    litellm = load()
    for name, value in alike["settings"].items():
        if getattr(litellm, name, None) != value:
            setattr(litellm, name, value)
    litellm.model_cost.update(alike["prices"])


def bound_here(request: Mapping[str, Any]) -> str | None:
    """Why a request can be sent in this process only, None where any would do."""
    litellm = load()
    if anybody_listens(request):
        return "LiteLLM's callbacks live in it"
    if any(getattr(litellm, name, None) is not None for name in _OBJECTS):
        return "LiteLLM has been given a cache or a client in it"
    if hasattr(aiohttp.ClientSession._request, "__wrapped__"):  # noqa: SLF001 - vcrpy's way to replay and record
        return "a cassette is open in it"
    return None


def plain_json(request: Mapping[str, Any]) -> str:
    """The request as JSON, a pydantic class as the response_format that LiteLLM makes of it. Raises TypeError."""
    return json.dumps(request, default=_plain)


@functools.lru_cache(maxsize=64)
def _plain(value: Any) -> Any:
    to_param = getattr(load().utils, "type_to_response_format_param", None)
    if isinstance(value, type) and to_param is not None:
        return to_param(value)
    msg = f"{type(value).__name__} is no plain data"
    raise TypeError(msg)
