"""Raw answers in LiteLLM's shape: converted by LiteLLM once for each kind of answer, by its pattern from then on.

LiteLLM's conversion takes about a millisecond. Answers of one server differ in few values (id, time, text, token
counts), so a pattern records where these values go. Anything that LiteLLM might look into (reasoning tags, tool calls,
several kinds of parts) is left to LiteLLM, answer by answer.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from llmbatch._litellm.convert_response import answer_body

MAX_PATTERNS = 256
_PLAIN_MESSAGE = {"role", "content", "refusal", "annotations", "tool_calls", "function_call", "audio", "reasoning"}
# Their value decides how LiteLLM converts the rest, so each value has a pattern of its own.
_DECISIVE = {"finish_reason", "object", "role"}
_Path = tuple[str | int, ...]


class AnswerPatterns:
    """Converts chat answers of one target; the result equals that of `exact`."""

    def __init__(self, exact: Callable[[Mapping[str, Any]], dict[str, Any]] = answer_body) -> None:
        self._exact = exact
        self._known: dict[Any, _Pattern | None] = {}

    def __call__(self, raw: Mapping[str, Any]) -> dict[str, Any]:
        """Convert an answer. Raises for a body that is not an answer."""
        kind = _kind(raw)
        if kind is None:
            return self._exact(raw)
        if kind not in self._known:
            whole = self._exact(raw)
            if len(self._known) < MAX_PATTERNS:
                self._known[kind] = _Pattern.learn(raw, whole)
            return whole
        pattern = self._known[kind]
        return self._exact(raw) if pattern is None else pattern.fill(raw)


class _Pattern:
    """Where the values of one kind of answer go, and what stays the same."""

    def __init__(self, constant: Any, copied: list[_Path]) -> None:
        self._constant, self._copied = constant, copied

    @classmethod
    def learn(cls, raw: Mapping[str, Any], whole: Mapping[str, Any]) -> _Pattern | None:
        """Compare an answer with its conversion; None if the conversion does more than copy and drop values."""
        given, made = dict(_leaves(raw)), dict(_leaves(whole))
        copied = []
        for path, value in made.items():
            if path in given and path[-1] not in _DECISIVE:
                if given[path] != value or type(given[path]) is not type(value):
                    return None
                copied.append(path)
            elif path not in given and value:
                return None
        return cls(whole, copied)

    def fill(self, raw: Mapping[str, Any]) -> dict[str, Any]:
        """The conversion of another answer of this kind."""
        made: dict[str, Any] = _copied(self._constant)
        for *way, last in self._copied:
            source: Any = raw
            target: Any = made
            for step in way:
                source, target = source[step], target[step]
            target[last] = source[last]
        return made


def _leaves(value: Any, path: _Path = ()) -> Iterator[tuple[_Path, Any]]:
    if isinstance(value, Mapping) and value:
        for name, item in value.items():
            yield from _leaves(item, (*path, name))
    elif isinstance(value, list) and value:
        for at, item in enumerate(value):
            yield from _leaves(item, (*path, at))
    else:
        yield path, value


def _copied(value: Any) -> Any:
    if type(value) is dict:
        return {name: _copied(item) for name, item in value.items()}
    if type(value) is list:
        return [_copied(item) for item in value]
    return value


def _kind(raw: Mapping[str, Any]) -> Any:
    """What LiteLLM may look at besides copying values; None where it may look at more."""
    choices, usage = raw.get("choices"), raw.get("usage")
    if not isinstance(choices, list) or len(choices) != 1 or not isinstance(usage, dict) or "error" in raw:
        return None
    choice = choices[0]
    message = choice.get("message") if isinstance(choice, dict) else None
    if not isinstance(message, dict) or not message.keys() <= _PLAIN_MESSAGE:
        return None
    text = message.get("content")
    # LiteLLM moves reasoning tags at the beginning of a text into a field of their own.
    if not isinstance(text, str) or not text or text[0] == "<" or text[0].isspace() or not _is_utf8(text):
        return None
    return _shape(raw)


def _is_utf8(text: str) -> bool:
    if text.isascii():
        return True
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _shape(value: Any, name: str = "") -> Any:
    """Names and types; for what decides, and for what is not a plain value, the value."""
    if type(value) is dict:
        return tuple((key, _shape(item, key)) for key, item in value.items())
    if type(value) is list:
        return tuple(_shape(item) for item in value)
    if name in _DECISIVE or value is None or type(value) is bool:
        return value
    odd = (
        (isinstance(value, float) and not math.isfinite(value))
        or (isinstance(value, int | float) and value < 0)
        or (isinstance(value, str) and not _is_utf8(value))
    )
    return repr(value) if odd else type(value)
