"""Answers that are to be JSON: what may be asked for, and how it is read out of an answer's text."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from contextlib import suppress
from itertools import islice
from typing import TYPE_CHECKING, Any, TypeAlias

from llmbatch._rows.row import row_text

if TYPE_CHECKING:
    from pydantic import BaseModel
    from typing_extensions import TypeVar

    M = TypeVar("M", default=Any)
    """What `response_format` makes of an answer."""
else:
    from typing import TypeVar

    M = TypeVar("M")  # defaults came with Python 3.13

ResponseFormat: TypeAlias = "type[BaseModel] | Mapping[str, Any]"

_TRIES = 100  # of places where JSON might begin


def checked_format(given: Any) -> ResponseFormat | None:
    """The format, None where answers need be no JSON. Raises TypeError and ValueError, with the mend."""
    forms = 'a pydantic model class, {"type": "json_object"}, or {"type": "json_schema", "json_schema": {…}}'
    if given is None or hasattr(given, "model_validate_json"):
        if isinstance(given, type) or given is None:
            return given
        raise TypeError(f"response_format is an instance of {type(given).__name__}; pass the class itself")
    if not isinstance(given, Mapping):
        raise TypeError(
            f"response_format must be {forms}, not {given!r:.80}; wrap lists and the like in a model with one field"
        )
    kind = given.get("type")
    if not isinstance(kind, str) or "properties" in given:
        raise ValueError(
            f"response_format must be {forms}; a JSON schema goes into the last one: "
            '{"type": "json_schema", "json_schema": {"name": "answer", "schema": {…}}}'
        )
    return given if kind in {"json_object", "json_schema"} else None


def json_text(text: str) -> str:
    """The JSON in an answer: all of it, or the longest object or list in it, as where a model adds a fence or prose.

    Returns the text as it is where there is none.
    """
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return max(_found(text), key=len, default=text)
    return text


def _found(text: str) -> Iterator[str]:
    decode, end = json.JSONDecoder().raw_decode, 0
    begins = (begin.start() for begin in re.finditer(r"[{\[]", text))
    for at in islice((at for at in begins if at >= end), _TRIES):
        with suppress(ValueError, RecursionError):
            end = decode(text, at)[1]
            yield text[at:end]


def parsed(text: str, response_format: ResponseFormat) -> Any:
    """The text as an instance of the pydantic model, or as plain JSON. Raises ValueError for one that does not fit."""
    given = json_text(text)
    return json.loads(given) if isinstance(response_format, Mapping) else response_format.model_validate_json(given)


def parsed_row(row: Mapping[str, Any], response_format: ResponseFormat | None) -> Any:
    """The same of a row's answer; None where the row failed, or calls tools instead."""
    if response_format is None or (text := row_text(row)) is None:
        return None
    try:
        return parsed(text, response_format)
    except Exception:  # noqa: BLE001 - what was to validate has; this is text beside tool calls, and a model's own code
        return None
