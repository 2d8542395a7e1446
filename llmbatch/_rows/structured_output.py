"""Answers that have to be JSON: checking `response_format`, and parsing what the model answered."""

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
    """The type of a parsed answer."""
else:
    from typing import TypeVar

    M = TypeVar("M")  # defaults came with Python 3.13

ResponseFormat: TypeAlias = "type[BaseModel] | Mapping[str, Any]"

_MAX_TRIES = 300  # places in a text where JSON may begin
# Qwen, DeepSeek and most open models; Magistral.
_THINKING_BEGINS, _THINKING_ENDS = ("<think>", "[THINK]"), ("</think>", "[/THINK]")


def checked_format(given: Any) -> ResponseFormat | None:
    """Return the response format, None if answers need not be JSON. Raises TypeError or ValueError for misuse."""
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


def parsed(text: str, response_format: ResponseFormat) -> Any:
    """Return the text as an instance of the pydantic model, or as plain JSON. Raises ValueError if it does not fit.

    Reasoning before the last `</think>` is ignored. Of several JSON values, amid prose or in a fence, the last one that
    fits counts.
    """
    if isinstance(response_format, Mapping):
        return _parsed_json(text, response_format)
    try:
        return response_format.model_validate_json(text)
    except ValueError:
        candidates = _candidates(text)
        if candidates is None:
            raise
    for candidate in reversed(candidates):
        if len(candidate) > len("{}"):
            with suppress(ValueError):
                return response_format.model_validate_json(candidate)
    return response_format.model_validate_json(max(candidates, key=len, default=_answer_text(text)))


def _parsed_json(text: str, response_format: Mapping[str, Any]) -> Any:
    candidates = _candidates(text)
    if candidates is None:
        return json.loads(text)
    values = [json.loads(candidate) for candidate in candidates]
    schema = (response_format.get("json_schema") or {}).get("schema") or {}
    for value in reversed(values):
        if value and _fits(value, schema):
            return value
    return json.loads(max(candidates, key=len, default=_answer_text(text)))


def _fits(value: Any, schema: Mapping[str, Any]) -> bool:
    """Return whether a value can be the answer, as far as the outermost level of the schema tells."""
    kind = schema.get("type") or ("object" if not schema or "properties" in schema else None)
    if kind != "object" or not isinstance(value, dict):
        return kind is None or isinstance(value, dict) == (kind == "object")
    known = schema.get("properties") or {}
    closed = schema.get("additionalProperties") is False
    return set(schema.get("required") or ()) <= value.keys() and not (closed and value.keys() - known.keys())


def _candidates(text: str) -> list[str] | None:
    """Return the objects and lists in an answer, in their order; None if all of it is one JSON value."""
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return list(_found(_answer_text(text)))
    return None


def _answer_text(text: str) -> str:
    """Return an answer without the reasoning that some servers leave in front of it."""
    for closing in _THINKING_ENDS:
        text = text.rpartition(closing)[2]
    # Cut off while it was thinking: a draft is no answer.
    return "" if text.lstrip().startswith(_THINKING_BEGINS) else text


def _found(text: str) -> Iterator[str]:
    decode, end = json.JSONDecoder().raw_decode, 0
    begins = (begin.start() for begin in re.finditer(r"[{\[]", text))
    for at in islice((at for at in begins if at >= end), _MAX_TRIES):
        with suppress(ValueError, RecursionError):
            end = decode(text, at)[1]
            yield text[at:end]


def parsed_row(row: Mapping[str, Any], response_format: ResponseFormat | None) -> Any:
    """Return a row's answer as `parsed` does; None if the row failed, or calls tools instead."""
    if response_format is None or (text := row_text(row)) is None:
        return None
    try:
        return parsed(text, response_format)
    except Exception:  # noqa: BLE001 - text next to tool calls, which nobody has validated, or a model's own code
        return None
