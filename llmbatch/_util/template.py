"""Requests out of a table's rows: by a template, as in "Summarise: {text}", or by a function of a row."""

from __future__ import annotations

import re
import string
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

RowTemplate = str | Callable[[Mapping[str, Any]], Any]

_BRACES = "write {column} for a column, {{ and }} for braces of the text itself, as in JSON"
_QUOTED = re.compile(r"\s*[\"']")  # what JSON's `{"a": 1}` parses as: a column named `"a"`


class Asking(NamedTuple):
    """What asks for each row of a table.

    Attributes:
        columns: those that must be there, and have a value.
        request: gives a row's request.
    """

    columns: list[str]
    request: Callable[[Mapping[str, Any]], Any]


def asking(template: RowTemplate, system: str | None = None) -> Asking:
    """What a template asks, after the system message if there is one; `{price:.2f}` formats, `{{` is a brace.

    A function of a row (a dict of all its columns) asks what it returns. Raises ValueError for a template that names no
    column.
    """
    if not callable(template):
        return Asking(_columns(template), partial(_conversation, template, system))
    if system is not None:
        raise ValueError("system= goes with a template; let the function put it into the request's messages")
    return Asking([], template)


def _columns(template: str) -> list[str]:
    try:
        names = [name for _, name, _, _ in string.Formatter().parse(template) if name is not None]
    except ValueError as exc:
        raise ValueError(f"the template is not well formed ({exc}); {_BRACES}") from None
    if odd := next((name for name in names if _QUOTED.match(name)), None):
        raise ValueError(f"the template names a column {odd!r}; {_BRACES}")
    if "" in names or not names:
        raise ValueError(f'the template must name its columns, as in "Summarise: {{text}}"; {_BRACES}')
    return list(dict.fromkeys(names))


def _conversation(template: str, system: str | None, row: Mapping[str, Any]) -> list[dict[str, str]]:
    before = [{"role": "system", "content": system}] if system is not None else []
    return [*before, {"role": "user", "content": _ByName().vformat(template, (), row)}]


class _ByName(string.Formatter):
    """`str.format` whose fields are whole column names: dots, brackets and spaces belong to the name."""

    def get_field(self, field_name: str, args: Any, kwargs: Any) -> Any:  # noqa: ARG002 - Formatter's signature
        return kwargs[field_name], field_name
