"""What can be sent: checks of the list that a caller gives, and of each row in it.

Misuse of the call as a whole raises TypeError, with the mend. A row that cannot be sent raises ValueError, whose text
holds nothing of the row.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Sized
from typing import Any

from llmbatch._util.identity import SeenIds

_ROLES = frozenset({"system", "developer", "user", "assistant", "tool", "function"})


def check_number(
    name: str, value: Any, mend: str, *, whole: bool = False, least: float | None = None, most: float | None = None
) -> None:
    """Raise TypeError or ValueError, with the mend, for what is no number in the range; without `least`, above 0."""
    if not isinstance(value, int if whole else (int, float)) or isinstance(value, bool):
        kind = "a whole number" if whole else "a number"
        raise TypeError(f"{name} must be {kind}, not {type(value).__name__} ({value!r}); {mend}")
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"{name} must be a finite number, not {value!r}; {mend}")
    if (value <= 0 if least is None else value < least) or (most is not None and value > most):
        limit = "more than 0" if least is None else f"at least {least:g}"
        limit = limit if most is None else f"between {least or 0:g} and {most:g}"
        raise ValueError(f"{name} must be {limit}, not {value!r}; {mend}")


def check_messages_list(messages_list: Any) -> tuple[Iterable[Any], int | None]:
    """The requests as an iterable that starts at the first one, and their number where it is known.

    Raises TypeError, with the mend, when the argument as a whole is not a list (or generator) of requests; of a
    generator that shows when its first item comes.
    """
    kind = type(messages_list).__name__
    mend = 'pass a list of conversations: [[{"role": "user", "content": "..."}], ...] or ["a prompt", ...]'

    def check(first: Sequence[Any]) -> None:
        if all(_is_message(item) for item in first):
            raise TypeError(
                f"messages_list is one conversation ({kind} of messages), not a list of them; pass [messages]"
            )

    return _checked(messages_list, "messages_list", mend, check)


def check_texts(texts: Any) -> tuple[Iterable[Any], int | None]:
    """The texts to embed as an iterable, and their number where it is known. Raises TypeError, with the mend."""

    def check(first: Sequence[Any]) -> None:
        if all(isinstance(item, list | tuple | Mapping) for item in first):
            raise TypeError(f'texts holds {type(first[0]).__name__} objects; pass a list of strings: ["...", ...]')

    return _checked(texts, "texts", 'pass a list of strings: ["...", ...]', check)


def _checked(
    given: Any, name: str, mend: str, check: Callable[[Sequence[Any]], None]
) -> tuple[Iterable[Any], int | None]:
    """The items and their number; `check` sees the first ones, of a generator the very first when it comes."""
    if isinstance(given, str | bytes | Mapping) or not isinstance(given, Iterable):
        raise TypeError(f"{name} must be a list, not {type(given).__name__}; {mend}")
    if isinstance(given, Sequence):
        if first := list(given[:2]):
            check(first)
        return given, len(given)
    return _checked_later(given, check), len(given) if isinstance(given, Sized) else None


def _checked_later(items: Iterable[Any], check: Callable[[Sequence[Any]], None]) -> Iterator[Any]:
    for at, item in enumerate(items):
        if not at:
            check([item])
        yield item


def _is_message(item: Any) -> bool:
    try:
        return (isinstance(item, Mapping) and "role" in item) or isinstance(getattr(item, "role", None), str)
    except Exception:  # noqa: BLE001 - an object of any kind; its row says what is wrong
        return False


def checked_ids(custom_ids: Iterable[Any]) -> Iterator[str]:
    """A caller's ids for rows, one by one. Raises ValueError, with the mend, for what cannot tell rows apart."""
    seen = SeenIds()
    for at, custom_id in enumerate(custom_ids):
        if not isinstance(custom_id, str) or not custom_id:
            raise ValueError(
                f"custom_ids[{at}] must be a string that is not empty, not {custom_id!r}; write str(id) for each"
            )
        if not seen.add(custom_id):
            raise ValueError(
                f"custom_ids[{at}] is {custom_id!r}, an id twice; answers are joined by id, so each row needs its own"
            )
        yield custom_id


class UnsendableError(ValueError):
    """Says what is wrong with a row, and holds nothing of it."""


def checked_messages(conversation: Any) -> list[dict[str, Any]]:
    """One conversation as a fresh list of fresh dicts; messages may be LiteLLM's or pydantic's objects too.

    Raises ValueError, whose text holds nothing of the conversation, for one that cannot be sent, whatever it is.
    """
    try:
        if isinstance(conversation, str | bytes | Mapping) or not isinstance(conversation, Sequence):
            problem = f"a conversation must be a list of messages, not {type(conversation).__name__}"
        elif conversation:
            return [_checked_message(message, at) for at, message in enumerate(conversation)]
        else:
            problem = "the conversation has no messages"
    except UnsendableError:
        raise
    except Exception as exc:  # noqa: BLE001 - what any object may do when it is looked at
        problem = f"the conversation cannot be read ({type(exc).__name__})"
    raise UnsendableError(problem)


def _checked_message(message: Any, at: int) -> dict[str, Any]:
    dump: Callable[..., Any] | None = getattr(message, "model_dump", None)
    if not isinstance(message, Mapping) and dump is not None:
        message = dump(exclude_none=True)
    if not isinstance(message, Mapping):
        raise UnsendableError(f"message {at} must be a dict with role and content, not {type(message).__name__}")
    role = message.get("role")
    where = f"message {at} ({role})" if isinstance(role, str) and role in _ROLES else f"message {at}"
    named = all(isinstance(name, str) for name in message)
    if problem := _problem(message) if named else "has a key that is no string":
        raise UnsendableError(f"{where} {problem}")
    fresh: dict[str, Any] = copied(message)
    check_sendable(fresh, where)
    return fresh


def _problem(message: Mapping[str, Any]) -> str | None:
    """What keeps it from being a chat's message."""
    role, content, calls = message.get("role"), message.get("content"), message.get("tool_calls")
    if not isinstance(role, str) or not role:
        return "has no role"
    if content is None and not ({"tool_calls", "function_call", "content"} & message.keys()):
        return "has no content"
    if content is not None and not isinstance(content, str | list | tuple):
        return f"has a content that is neither text nor a list of parts, but {type(content).__name__}"
    if not isinstance(content, str) and not all(isinstance(part, Mapping) for part in content or ()):
        return 'has a part of its content that is no dict; give {"type": "text", "text": "..."}'
    if calls and not (isinstance(calls, list | tuple) and all(isinstance(call, Mapping) for call in calls)):
        return "has tool_calls that are no list of dicts; give them as an answer has them"
    return None


def checked_text(text: Any) -> str:
    """One text to embed. Raises ValueError, whose text holds nothing of it, for one that cannot be sent."""
    if not isinstance(text, str):
        raise UnsendableError(f"a text to embed must be a string, not {type(text).__name__}")
    if not text:
        raise UnsendableError("the text to embed is empty")
    check_sendable(text, "the text")
    return text


def check_sendable(value: Any, what: str) -> None:
    """Raise ValueError, whose text holds nothing of the value, for what JSON cannot carry."""
    try:
        json.dumps(value, allow_nan=False, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        msg = f"{what} holds half of a surrogate pair, which no JSON request can carry"
    except (TypeError, ValueError, RecursionError) as exc:
        # "Object of type X is not JSON serializable" names the type only.
        msg = f"{what} cannot be sent as JSON: {exc}"
    else:
        return
    raise UnsendableError(msg)


def copied(value: Any) -> Any:
    """The value with its containers copied, so that changing them changes nobody else's."""
    if isinstance(value, Mapping):
        return {key: copied(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [copied(item) for item in value]
    return value
