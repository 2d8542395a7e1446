"""Checks of values that callers give: numbers, ids, and what JSON can carry."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from llmbatch._util.identity import SeenIds


def check_number(
    name: str, value: Any, fix: str, *, whole: bool = False, least: float | None = None, most: float | None = None
) -> None:
    """Raise TypeError or ValueError for a value that is not a number in the range; without `least`, above 0."""
    if not isinstance(value, int if whole else (int, float)) or isinstance(value, bool):
        kind = "a whole number" if whole else "a number"
        raise TypeError(f"{name} must be {kind}, not {type(value).__name__} ({value!r}); {fix}")
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"{name} must be a finite number, not {value!r}; {fix}")
    if (value <= 0 if least is None else value < least) or (most is not None and value > most):
        limit = "more than 0" if least is None else f"at least {least:g}"
        limit = limit if most is None else f"between {least or 0:g} and {most:g}"
        raise ValueError(f"{name} must be {limit}, not {value!r}; {fix}")


def checked_ids(custom_ids: Iterable[Any]) -> Iterator[str]:
    """Yield a caller's ids for rows. Raises ValueError for an id that is not a non-empty string, or a duplicate."""
    seen = SeenIds()
    for at, custom_id in enumerate(custom_ids):
        if not isinstance(custom_id, str) or not custom_id:
            raise ValueError(f"custom_ids[{at}] must be a non-empty string, not {custom_id!r}. Pass str(id) for each")
        if not seen.add(custom_id):
            raise ValueError(
                f"duplicate custom_id {custom_id!r} in custom_ids[{at}]. Pass a different id for each row: answers are "
                "joined by id"
            )
        yield custom_id


class UnsendableError(ValueError):
    """An error whose message says what is wrong with a row and holds nothing of it."""


def check_sendable(value: Any, what: str) -> None:
    """Raise UnsendableError for a value that JSON cannot carry; the message holds nothing of it."""
    try:
        json.dumps(value, allow_nan=False, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        msg = f"{what} has half of a surrogate pair, which JSON cannot carry"
    except (TypeError, ValueError, RecursionError) as exc:
        # "Object of type X is not JSON serializable" names the type only.
        msg = f"{what} cannot be sent as JSON: {exc}"
    else:
        return
    raise UnsendableError(msg)


def copied(value: Any) -> Any:
    """Return the value with its containers copied, so that changing them changes no other's."""
    if isinstance(value, Mapping):
        return {key: copied(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [copied(item) for item in value]
    return value
