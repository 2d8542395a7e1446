"""Requests, the items of a caller's list: their forms are parsed here and nowhere else.

A request is a prompt (`str`), a list of messages, or a dict `{"messages" | "prompt", "custom_id"?, "metadata"?, any
parameter of the call}`. A line of a batch file (`{custom_id, method, url, body}`) is accepted in place of the dict; it
is a whole request, so it gets no default parameters. The values of a request override those of the call.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from llmbatch import _litellm
from llmbatch._request.plans import default_model
from llmbatch._util.checks import UnsendableError, check_sendable
from llmbatch._util.identity import is_connection, is_price
from llmbatch._util.plain_values import is_missing, plain
from llmbatch.options import OWN_OPTIONS

E = TypeVar("E")

_ADDRESS = frozenset({"api_base", "base_url", "client", "custom_llm_provider"})
_MAX_CACHED_PLANS = 1024
# Options of the whole batch. A request has its own system message, and names those deployments that it may be sent to.
_BATCH_OPTIONS = (OWN_OPTIONS - {"deployments", "system", "transport"}) | {"stream", "completion_window"}
_MISNAMED = {"id": "custom_id", "message": "messages", "prompts": "prompt", "conversation": "messages"}


@dataclass(slots=True)
class ParsedRequest:
    """A request of a caller's list, and what it says itself.

    `problem` says why it cannot be sent, and holds nothing of it.
    """

    messages: Any = None
    custom_id: str | None = None
    metadata: Any = None
    params: dict[str, Any] = field(default_factory=dict)
    problem: str | None = None


Request = str | Sequence[Any] | Mapping[str, Any] | ParsedRequest


def parse_request(item: Any) -> ParsedRequest:
    """Parse one item of a caller's list. Messages are not looked into: plans check them."""
    if isinstance(item, ParsedRequest):
        return item
    try:
        return _parsed(item if isinstance(item, str | list | dict) else plain(item))
    except Exception as exc:  # noqa: BLE001 - what any object may do when it is looked at
        return ParsedRequest(problem=f"the request cannot be read ({type(exc).__name__})")


def _parsed(item: Any) -> ParsedRequest:
    if isinstance(item, str):
        return ParsedRequest([{"role": "user", "content": item}])
    if is_missing(item):
        return ParsedRequest(problem="prompt is missing")
    if not isinstance(item, Mapping):
        return ParsedRequest(item)
    parsed = ParsedRequest()
    try:
        given = _without_missing(item)
        parsed.custom_id = _checked_id(given.pop("custom_id", None))
        metadata = plain(given.pop("metadata", None))
        check_sendable(metadata, "metadata")
        parsed.metadata = metadata
        if isinstance(given.get("body"), Mapping):
            given = _batch_line_request(given)
        parsed.messages = _taken_messages(given)
        parsed.params = _checked_params(given)
    except ValueError as exc:
        parsed.problem = str(exc)
    return parsed


def _without_missing(request: Mapping[Any, Any]) -> dict[Any, Any]:
    """Return a request of plain values, without those that a table has no value for: they are not None, but not given.

    Values that are not of a table, such as a client or a class, stay what they are.
    """
    given = {name: value if isinstance(value, str | list | dict) else plain(value) for name, value in request.items()}
    for name in given.keys() & {"messages", "prompt"}:
        given[name] = None if is_missing(given[name]) else given[name]
    return {name: value for name, value in given.items() if value is None or not is_missing(value)}


def _checked_id(custom_id: Any) -> str | None:
    if custom_id is not None and (not isinstance(custom_id, str) or not custom_id):
        raise ValueError(f"custom_id must be a non-empty string, not {type(custom_id).__name__}")
    return custom_id


def _batch_line_request(line: dict[str, Any]) -> dict[str, Any]:
    body, url = line.pop("body"), line.pop("url", None)
    line.pop("method", None)
    if "messages" not in body or not str(url or "chat/completions").endswith("chat/completions"):
        raise ValueError("not a chat batch line: its body has no messages, or its url is not chat/completions")
    return {"temperature": None, "max_tokens": None, **body, **line}


def _taken_messages(given: dict[str, Any]) -> Any:
    has_prompt = "prompt" in given
    messages, prompt = given.pop("messages", None), given.pop("prompt", None)
    if (messages is None) == (prompt is None):
        if has_prompt and messages is None:
            raise ValueError("prompt is missing")
        others = f"; this one has {', '.join(map(str, given))}" if given and messages is None else ""
        raise ValueError(f"a request needs exactly one of messages and prompt{others}")
    if messages is not None:
        return messages
    if not isinstance(prompt, str):
        raise ValueError(f"prompt must be a string, not {type(prompt).__name__}; pass a conversation as messages")  # noqa: TRY004 - the row fails, and not the call
    return [{"role": "user", "content": prompt}]


def _checked_params(given: dict[str, Any]) -> dict[str, Any]:
    """Return the values that override the call's."""
    if any(not isinstance(name, str) for name in given):
        raise ValueError("the names of a request's parameters must be strings")
    if not given.get("stream"):
        given.pop("stream", None)
    if own := sorted(_BATCH_OPTIONS & given.keys()):
        raise ValueError(f"{own[0]} is an option of the whole batch: pass it to the function, not in a request")
    if wrong := next((name for name in _MISNAMED if name in given), None):
        raise ValueError(f"unknown key {wrong!r} in a request. Use {_MISNAMED[wrong]!r}, or extra_body= to send it")
    if given.get("model") is None:
        given.pop("model", None)
    return given


class Plans(Generic[E]):
    """What each request is sent with: what `make` returns for the call's arguments, overridden by the request's.

    Made once for each distinct set of a request's own parameters.

    Attributes:
        call: the call's arguments.
        first: what `make` returns for the call alone; misuse raises at once.
    """

    def __init__(
        self,
        call: Mapping[str, Any],
        make: Callable[[dict[str, Any]], E],
        provider_of: Callable[[str | None, Mapping[str, Any]], str | None] | None = None,
    ) -> None:
        self.call, self._make = dict(call), make
        self._provider_of = provider_of or provider_in
        self.first = make(self.call)
        self._made: dict[str, tuple[E, Any]] = {}

    def of(self, parsed: ParsedRequest) -> E:
        """Return what a request is sent with.

        Raises ValueError for a request that cannot be sent, UnsendableError if the message holds nothing of it.
        """
        if parsed.problem is not None:
            raise UnsendableError(parsed.problem)
        if not parsed.params:
            return self.first
        try:
            key = json.dumps(parsed.params, sort_keys=True, default=_identity)
            made = self._made.pop(key, None)
            if made is None:
                arguments = merged(self.call, parsed.params, self._provider_of)
                made = self._make(arguments), parsed.params  # keep params alive: the key contains id()
        except (ValueError, NotImplementedError):
            raise
        except Exception as exc:  # noqa: BLE001 - LiteLLM may raise anything for a request's parameters
            raise ValueError(str(exc) or type(exc).__name__) from None
        self._made[key] = made  # keep LRU order
        if len(self._made) > _MAX_CACHED_PLANS:
            del self._made[next(iter(self._made))]
        return made[0]


def _identity(value: Any) -> str:
    return f"{type(value).__qualname__} {id(value)}"


def merged(
    call: Mapping[str, Any], own: Mapping[str, Any], provider_of: Callable[[str | None, Mapping[str, Any]], str | None]
) -> dict[str, Any]:
    """Return the call's arguments, overridden by those of a request or a fallback.

    The call's address, key and headers are used only for its own provider, and for no address that `own` names; its
    prices only for its own model. A key or an organization in `own` is used with the call's address.
    """
    elsewhere = not _ADDRESS.isdisjoint(own)
    if not elsewhere and own.get("model") is not None:
        elsewhere = provider_of(own["model"], call) != provider_of(call.get("model"), call)
    other = own.get("model") not in {None, call.get("model")}
    kept = {
        name: value
        for name, value in call.items()
        if not ((elsewhere and is_connection(name)) or (other and is_price(name)))
    }
    return {**kept, **own}


def provider_in(model: Any, call: Mapping[str, Any]) -> str | None:
    """Return the provider of a model among the call's arguments, None if it cannot be determined."""
    name = default_model(model)
    named = None if "/" in str(name) else call.get("custom_llm_provider")
    try:
        base = call.get("api_base") or call.get("base_url")
        return _litellm.resolve(name, api_base=base, custom_llm_provider=named).provider
    except (ValueError, TypeError, AttributeError):  # the plan says what is wrong with it
        return None
