"""What a caller's list holds: requests, in one of their forms, read here and nowhere else.

A request is a prompt (`str`), a list of messages, or a dict `{"messages" | "prompt", "custom_id"?, "metadata"?, any
parameter of the call}`. A line of a batch file (`{custom_id, method, url, body}`) is one more spelling of the dict; it
is a whole request, so that it gets no default parameters. What a request says stands before what the call says.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from llmbatch import _litellm
from llmbatch._request.plans import default_model
from llmbatch._util.checks import UnsendableError, check_sendable, copied
from llmbatch._util.identity import is_connection, is_price
from llmbatch.options import OWN_OPTIONS

E = TypeVar("E")

_ADDRESS = frozenset({"api_base", "base_url", "client", "custom_llm_provider"})
_MOST_PLANS = 1024  # kept for sets of parameters that come again
_OWN_OPTIONS = OWN_OPTIONS | {"stream", "completion_window"}


@dataclass(slots=True)
class ParsedRequest:
    """A request that has been read: what it asks, and what it says itself.

    `problem` says why it cannot be sent, and holds nothing of it.
    """

    messages: Any = None
    custom_id: str | None = None
    metadata: Any = None
    params: dict[str, Any] = field(default_factory=dict)
    problem: str | None = None


Request = str | Sequence[Any] | Mapping[str, Any] | ParsedRequest


def read(item: Any) -> ParsedRequest:
    """Read one item of a caller's list. Messages are not looked into: plans check them."""
    if isinstance(item, ParsedRequest):
        return item
    if isinstance(item, str):
        return ParsedRequest([{"role": "user", "content": item}])
    if not isinstance(item, Mapping):
        return ParsedRequest(item)
    asked, given = ParsedRequest(), dict(item)
    try:
        asked.custom_id = _checked_id(given.pop("custom_id", None))
        metadata = given.pop("metadata", None)
        check_sendable(metadata, "metadata")
        asked.metadata = copied(metadata)
        if isinstance(given.get("body"), Mapping):
            given = _of_batch_line(given)
        asked.messages = _taken_messages(given)
        asked.params = _checked_params(given)
    except ValueError as exc:
        asked.problem = str(exc)
    return asked


def _checked_id(custom_id: Any) -> str | None:
    if custom_id is not None and (not isinstance(custom_id, str) or not custom_id):
        raise ValueError(f"custom_id must be a string that is not empty, not {type(custom_id).__name__}")
    return custom_id


def _of_batch_line(line: dict[str, Any]) -> dict[str, Any]:
    body, url = line.pop("body"), line.pop("url", None)
    line.pop("method", None)
    if "messages" not in body or not str(url or "chat/completions").endswith("chat/completions"):
        raise ValueError("a batch line that is for no chat; only chats, whose body has messages, can be asked")
    return {"temperature": None, "max_tokens": None, **body, **line}


def _taken_messages(given: dict[str, Any]) -> Any:
    messages, prompt = given.pop("messages", None), given.pop("prompt", None)
    if (messages is None) == (prompt is None):
        raise ValueError(
            'a request needs messages or a prompt, and one of them: {"prompt": "..."} or {"messages": [...]}'
        )
    if messages is not None:
        return messages
    if not isinstance(prompt, str):
        raise ValueError(f"prompt must be a string, not {type(prompt).__name__}; give a conversation as messages")  # noqa: TRY004 - one row's fault, not the call's
    return [{"role": "user", "content": prompt}]


def _checked_params(given: dict[str, Any]) -> dict[str, Any]:
    """What a request says in place of the call's arguments."""
    if any(not isinstance(name, str) for name in given):
        raise ValueError("the names of a request's parameters must be strings")
    if not given.get("stream"):
        given.pop("stream", None)
    if own := sorted(_OWN_OPTIONS & given.keys()):
        raise ValueError(f"{own[0]} is an option of the whole batch: pass it to the function, not in a request")
    if given.get("model") is None:
        given.pop("model", None)
    return given


class Plans(Generic[E]):
    """What each request is sent with: what `make` gives for the call's arguments, those of the request on top.

    Made once for each distinct set of a request's own parameters.

    Attributes:
        call: the call's arguments.
        first: what `make` gives for the call alone, whose misuse raises at once.
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

    def of(self, asked: ParsedRequest) -> E:
        """Raises ValueError for a request that cannot be sent, UnsendableError where its words hold nothing of it."""
        if asked.problem is not None:
            raise UnsendableError(asked.problem)
        if not asked.params:
            return self.first
        try:
            key = json.dumps(asked.params, sort_keys=True, default=_identity)
            made = self._made.pop(key, None)
            if made is None:
                arguments = over(self.call, asked.params, self._provider_of)
                made = self._make(arguments), asked.params  # what is known by its identity must not be another's
        except (ValueError, NotImplementedError):
            raise
        except Exception as exc:  # noqa: BLE001 - whatever its parameters do to LiteLLM is this request's fault
            raise ValueError(str(exc) or type(exc).__name__) from None
        self._made[key] = made  # the last one used is the last one
        if len(self._made) > _MOST_PLANS:
            del self._made[next(iter(self._made))]
        return made[0]


def _identity(value: Any) -> str:
    return f"{type(value).__qualname__} {id(value)}"


def over(
    call: Mapping[str, Any], own: Mapping[str, Any], provider_of: Callable[[str | None, Mapping[str, Any]], str | None]
) -> dict[str, Any]:
    """The call's arguments with others on top: a request's, or a fallback's.

    The call's address, key and headers go to no other provider than its own, and to no address that the others name;
    its own prices are of its own model. A key or an organization of their own goes to the call's address.
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
    """The provider of a model among the call's arguments, None for one that cannot be placed."""
    name = default_model(model)
    named = None if "/" in str(name) else call.get("custom_llm_provider")
    try:
        base = call.get("api_base") or call.get("base_url")
        return _litellm.resolve(name, api_base=base, custom_llm_provider=named).provider
    except (ValueError, TypeError, AttributeError):  # the plan says what is wrong with it
        return None
