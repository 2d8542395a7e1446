"""The list that a caller gives, and the conversations and texts in it: what can be sent, and in which form.

Misuse of the call as a whole raises TypeError that says what to pass instead. A row that cannot be sent raises
UnsendableError, whose text holds nothing of the row.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Sized
from typing import Any

from llmbatch._util.checks import UnsendableError, check_sendable
from llmbatch._util.plain_values import is_missing, plain, table_kind

_ROLES = frozenset({"system", "developer", "user", "assistant", "tool", "function"})
_SYSTEM_ROLES = frozenset({"system", "developer"})
_NEEDS_CONTENT = frozenset({"system", "developer", "user"})
# Fields whose values are a program's own: a null in them means something.
_OPAQUE = frozenset({"arguments", "input", "parameters", "schema"})
_REQUEST_COLUMNS = frozenset({"body", "messages", "prompt"})

_HELPERS = {"input_audio": "audio_part", "audio_url": "audio_part", "file": "file_part", "document": "file_part"}
_MEDIA_FIELDS = frozenset({
    "audio", "audio_url", "data", "file", "file_data", "file_id", "image", "image_url", "input_audio", "path", "source",
    "url", "video", "video_url",
})  # fmt: skip
_URLS = ("https://", "http://", "data:")
_LOCAL_PATH = re.compile(
    r"file:|~|(?!/9j/)\.{0,2}[/\\]|[A-Za-z]:[/\\]|"  # file://, ~/a, /a, ./a, ../a, C:\a; "/9j/" begins a JPEG in base64
    r"(?![a-z][a-z0-9+.-]*:)[^\n]*\.(png|jpe?g|gif|webp|bmp|tiff?|heic|svg|pdf|docx?|txt|csv|wav|mp3|m4a|flac|ogg|mp4|mov|webm)$",
    re.IGNORECASE,
)
_LONGEST_PATH = 1024  # longer texts are the media themselves in base64, which may begin with a slash


def check_messages_list(messages_list: Any) -> tuple[Iterable[Any], int | None]:
    """Return the requests as an iterable that starts at the first one, and their number where it is known.

    Raises TypeError when the argument as a whole is not a list (or generator) of requests; for a generator, when its
    first item comes.
    """
    kind = type(messages_list).__name__
    fix = 'Pass a list of conversations: [[{"role": "user", "content": "..."}], ...] or ["a prompt", ...]'

    def check(first: Sequence[Any]) -> None:
        if all(_is_message(item) for item in first):
            raise TypeError(f"messages_list is a single conversation ({kind} of messages). Pass a list: [messages]")

    if (table := table_kind(messages_list)) and not _has_request_column(messages_list):
        raise TypeError(
            f"messages_list must be a list of requests, not a {table}. Pass one of its columns (table['prompt']), or "
            "use llmbatch.integrations.frames.complete_frame(table, 'Summarise: {text}')"
        )
    return _checked(messages_list, "messages_list", fix, check)


def check_texts(texts: Any) -> tuple[Iterable[Any], int | None]:
    """Return the texts to embed as an iterable, and their number where it is known. Raises TypeError for misuse."""

    def check(first: Sequence[Any]) -> None:
        if all(isinstance(item, list | tuple | Mapping) for item in first):
            raise TypeError(f'texts holds {type(first[0]).__name__} objects. Pass a list of strings: ["...", ...]')

    if table := table_kind(texts):
        raise TypeError(f"texts must be a list of strings, not a {table}. Pass one of its columns: table['text']")
    return _checked(texts, "texts", 'Pass a list of strings: ["...", ...]', check)


def _has_request_column(table: Any) -> bool:
    """Whether a table's rows come as dicts that are requests: a Dataset with a prompt or messages column."""
    return type(table).__module__.partition(".")[0] == "datasets" and not _REQUEST_COLUMNS.isdisjoint(
        table.column_names or ()
    )


def _checked(
    given: Any, name: str, fix: str, check: Callable[[Sequence[Any]], None]
) -> tuple[Iterable[Any], int | None]:
    """Return the items and their number; `check` sees the first ones, of a generator the very first when it comes."""
    if isinstance(given, str | bytes | Mapping) or not isinstance(given, Iterable):
        raise TypeError(f"{name} must be a list, not {type(given).__name__}. {fix}")
    if isinstance(given, set | frozenset):
        raise TypeError(f"{name} must be a list, not {type(given).__name__}, which has no order. Pass sorted(...)")
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


def checked_messages(conversation: Any) -> list[dict[str, Any]]:
    """Return a conversation as a new list of new dicts.

    Messages may be LiteLLM's or pydantic's objects, and come in arrays and columns of a table: null fields, which such
    tables fill in, are left out. Raises ValueError, whose text holds nothing of the conversation, for one that cannot
    be sent, whatever it is.
    """
    try:
        if not isinstance(conversation, list):
            conversation = _as_list(conversation)
        if conversation:
            return [_checked_message(message, at) for at, message in enumerate(conversation)]
        problem = "the conversation has no messages"
    except UnsendableError:
        raise
    except Exception as exc:  # noqa: BLE001 - what any object may do when it is looked at
        problem = f"the conversation cannot be read ({type(exc).__name__})"
    raise UnsendableError(problem)


def _as_list(conversation: Any) -> Any:
    given = conversation if isinstance(conversation, str | bytes | Mapping) else plain(conversation)
    if is_missing(given):
        raise UnsendableError("prompt is missing")
    if isinstance(given, str | bytes | Mapping) or not isinstance(given, Sequence):
        raise UnsendableError(f"a conversation must be a list of messages, not {type(conversation).__name__}")
    return given


def with_system(system: str | None, messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the messages with the system message first, unless they have a system or developer message already."""
    if system is None or any(message["role"] in _SYSTEM_ROLES for message in messages):
        return messages
    return [{"role": "system", "content": system}, *messages]


def _checked_message(message: Any, at: int) -> dict[str, Any]:
    if not isinstance(message, Mapping):
        dump: Callable[..., Any] | None = getattr(message, "model_dump", None)
        message = plain(message) if dump is None else dump(exclude_none=True)
    if not isinstance(message, Mapping):
        raise UnsendableError(f"message {at} must be a dict with role and content, not {type(message).__name__}")
    role = message.get("role")
    where = f"message {at} ({role})" if isinstance(role, str) and role in _ROLES else f"message {at}"
    if not all(isinstance(name, str) for name in message):
        raise UnsendableError(f"{where} has a key that is not a string")
    fresh: dict[str, Any] = dict(message)
    if any(type(value) is not str for value in fresh.values()):
        fresh = _without_nulls(plain(fresh))
        if "content" in message:
            fresh.setdefault("content", None)
    if problem := _problem(fresh):
        raise UnsendableError(f"{where} {problem}")
    check_sendable(fresh, where)
    return fresh


def _without_nulls(value: Any) -> Any:
    """Return plain containers without the null fields that the structs of a table have."""
    if isinstance(value, dict):
        return {
            name: item if name in _OPAQUE else _without_nulls(item)
            for name, item in value.items()
            if not is_missing(item)
        }
    return [_without_nulls(item) for item in value] if isinstance(value, list) else value


def _problem(message: Mapping[str, Any]) -> str | None:
    """Return what keeps a message from being sent; None if nothing does."""
    role, content, calls = message.get("role"), message.get("content"), message.get("tool_calls")
    if not isinstance(role, str) or not role:
        return "has no role"
    if content is None and (
        role in _NEEDS_CONTENT or not ({"tool_calls", "function_call", "content"} & message.keys())
    ):
        return "has no content"
    if content is not None and not isinstance(content, str | list):
        return f"has a content that is neither text nor a list of parts, but {type(content).__name__}"
    if not isinstance(content, str) and (problem := _part_problem(content or ())):
        return problem
    if calls and not (isinstance(calls, list) and all(isinstance(call, Mapping) for call in calls)):
        return "has tool_calls that are not a list of dicts; give them as an answer has them"
    return None


def _part_problem(content: Sequence[Any]) -> str | None:
    for at, part in enumerate(content):
        if not isinstance(part, Mapping):
            return 'has a part of its content that is not a dict; give {"type": "text", "text": "..."}'
        if _names_local_file(part):
            helper = _HELPERS.get(str(part.get("type")), "image_part")
            return (
                f"names a local file in part {at} of its content, and llmbatch never reads files that messages name; "
                f"build the part with llmbatch.{helper}(path)"
            )
    return None


def _names_local_file(part: Mapping[str, Any]) -> bool:
    """Whether a part has a path or file:// URL where providers take a URL or the data itself."""
    if part.get("type") == "text":
        return False
    for name, value in part.items():
        if isinstance(value, str):
            if (
                name in _MEDIA_FIELDS
                and not value.startswith(_URLS)
                and len(value) <= _LONGEST_PATH
                and _LOCAL_PATH.match(value)
            ):
                return True
        elif name in _MEDIA_FIELDS and isinstance(value, Mapping) and _names_local_file(value):
            return True
    return False


def checked_text(text: Any) -> str:
    """Return one text to embed. Raises ValueError, whose text holds nothing of it, for one that cannot be sent."""
    try:
        given = text if isinstance(text, str) else plain(text)
    except Exception as exc:  # noqa: BLE001 - what any object may do when it is looked at
        raise UnsendableError(f"the text cannot be read ({type(exc).__name__})") from None
    if is_missing(given):
        raise UnsendableError("text is missing")
    if not isinstance(given, str):
        raise UnsendableError(f"a text to embed must be a string, not {type(text).__name__}")
    if not given:
        raise UnsendableError("the text to embed is empty")
    check_sendable(given, "the text")
    return given
