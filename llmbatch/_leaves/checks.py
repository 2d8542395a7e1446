"""What can be sent: checks of the list that a caller gives, and of each row in it.

Misuse of the call as a whole raises TypeError, with the mend. A row that cannot be sent raises ValueError, whose text
holds nothing of the row.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence, Sized
from itertools import chain, islice
from typing import Any

__all__ = [
    "check_messages_list",
    "check_number",
    "check_sendable",
    "check_texts",
    "checked_messages",
    "checked_text",
    "copied",
]


def check_number(
    name: str, value: Any, mend: str, *, whole: bool = False, least: float | None = None, most: float | None = None
) -> None:
    """Raise TypeError or ValueError, with the mend, for what is no number in the range; without `least`, above 0."""
    if not isinstance(value, int if whole else (int, float)) or isinstance(value, bool):
        kind = "a whole number" if whole else "a number"
        msg = f"{name} must be {kind}, not {type(value).__name__} ({value!r}); {mend}"
        raise TypeError(msg)
    if (value <= 0 if least is None else value < least) or (most is not None and value > most):
        limit = "more than 0" if least is None else f"at least {least:g}"
        limit = limit if most is None else f"between {least or 0:g} and {most:g}"
        msg = f"{name} must be {limit}, not {value!r}; {mend}"
        raise ValueError(msg)


def check_messages_list(messages_list: Any) -> tuple[Iterable[Any], int | None]:
    """The requests as an iterable that starts at the first one, and their number where it is known.

    Raises TypeError, with the mend, when the argument as a whole is not a list (or generator) of requests.
    """
    kind = type(messages_list).__name__
    mend = 'pass a list of conversations: [[{"role": "user", "content": "..."}], ...] or ["a prompt", ...]'
    items, count, first = _peeked(messages_list, "messages_list", mend)
    if first and all(_is_message(item) for item in first):
        msg = f"messages_list is one conversation ({kind} of messages), not a list of them; pass [messages]"
        raise TypeError(msg)
    return items, count


def check_texts(texts: Any) -> tuple[Iterable[Any], int | None]:
    """The texts to embed as an iterable, and their number where it is known. Raises TypeError, with the mend."""
    items, count, first = _peeked(texts, "texts", 'pass a list of strings: ["...", ...]')
    if first and all(isinstance(item, list | tuple | Mapping) for item in first):
        msg = f'texts holds {type(first[0]).__name__} objects; pass a list of strings: ["...", ...]'
        raise TypeError(msg)
    return items, count


def _peeked(given: Any, name: str, mend: str) -> tuple[Iterable[Any], int | None, list[Any]]:
    if isinstance(given, str | bytes | Mapping) or not isinstance(given, Iterable):
        msg = f"{name} must be a list, not {type(given).__name__}; {mend}"
        raise TypeError(msg)
    if isinstance(given, Sequence):
        return given, len(given), list(given[:2])
    count = len(given) if isinstance(given, Sized) else None
    iterator = iter(given)
    first = list(islice(iterator, 2))
    return chain(first, iterator), count, first


def _is_message(item: Any) -> bool:
    return (isinstance(item, Mapping) and "role" in item) or isinstance(getattr(item, "role", None), str)


def checked_messages(conversation: Any) -> list[dict[str, Any]]:
    """One conversation as a fresh list of fresh dicts; messages may be LiteLLM's or pydantic's objects too.

    Raises ValueError, whose text holds nothing of the conversation, for one that cannot be sent.
    """
    if isinstance(conversation, str | bytes | Mapping) or not isinstance(conversation, Sequence):
        msg = f"a conversation must be a list of messages, not {type(conversation).__name__}"
        raise ValueError(msg)  # noqa: TRY004 - one row's fault, not the call's
    if not conversation:
        msg = "the conversation has no messages"
        raise ValueError(msg)
    return [_checked_message(message, at) for at, message in enumerate(conversation)]


def _checked_message(message: Any, at: int) -> dict[str, Any]:
    dump: Callable[..., Any] | None = getattr(message, "model_dump", None)
    if not isinstance(message, Mapping) and dump is not None:
        message = dump(exclude_none=True)
    if not isinstance(message, Mapping):
        msg = f"message {at} must be a dict with role and content, not {type(message).__name__}"
        raise ValueError(msg)  # noqa: TRY004 - one row's fault, not the call's
    role = message.get("role")
    if not isinstance(role, str) or not role:
        msg = f"message {at} has no role"
        raise ValueError(msg)
    if message.get("content") is None and not ({"tool_calls", "function_call", "content"} & message.keys()):
        msg = f"message {at} ({role}) has no content"
        raise ValueError(msg)
    check_sendable(message, f"message {at} ({role})")
    return copied(message)  # type: ignore[no-any-return]


def checked_text(text: Any) -> str:
    """One text to embed. Raises ValueError, whose text holds nothing of it, for one that cannot be sent."""
    if not isinstance(text, str):
        msg = f"a text to embed must be a string, not {type(text).__name__}"
        raise ValueError(msg)  # noqa: TRY004 - one row's fault, not the call's
    if not text:
        msg = "the text to embed is empty"
        raise ValueError(msg)
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
    raise ValueError(msg)


def copied(value: Any) -> Any:
    """The value with its containers copied, so that changing them changes nobody else's."""
    if isinstance(value, Mapping):
        return {key: copied(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [copied(item) for item in value]
    return value
