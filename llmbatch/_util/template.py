"""Requests for the rows of a table: by a template, as in "Summarise: {text}", or by a function of a row."""

from __future__ import annotations

import re
import string
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

RowTemplate = str | Callable[[Mapping[str, Any]], Any]

_BRACES = "write {column} for a column, {{ and }} for braces of the text itself, as in JSON"
_QUOTED = re.compile(r"\s*[\"']")  # JSON's `{"a": 1}` is parsed as a column named `"a"`


class RequestTemplate(NamedTuple):
    """How each row of a table becomes a request.

    Attributes:
        columns: those that must exist, and have a value.
        request: returns a row's request.
    """

    columns: list[str]
    request: Callable[[Mapping[str, Any]], Any]


def request_template(template: RowTemplate) -> RequestTemplate:
    """Parse a template; `{price:.2f}` formats, `{{` is a brace. A function of a row (a dict) returns its request.

    Raises ValueError for a template that names no column.
    """
    if not callable(template):
        return RequestTemplate(_columns(template), partial(_prompt, template))
    return RequestTemplate([], template)


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


def _prompt(template: str, row: Mapping[str, Any]) -> list[dict[str, str]]:
    return [{"role": "user", "content": _ByName().vformat(template, (), row)}]


class _ByName(string.Formatter):
    """`str.format` whose fields are whole column names: dots, brackets and spaces belong to the name."""

    def get_field(self, field_name: str, args: Any, kwargs: Any) -> Any:  # noqa: ARG002 - Formatter's signature
        return _plain(kwargs[field_name]), field_name


def _plain(value: Any) -> Any:
    """Return a cell with lists in place of arrays and Series, whose own text leaves out all but a few elements."""
    if isinstance(value, str | bytes):
        return value
    if isinstance(value, Mapping):
        return {name: _plain(item) for name, item in value.items()}
    for name in ("tolist", "to_list"):  # of numpy and pandas; of polars
        if hasattr(value, name) and hasattr(value, "__len__"):
            value = getattr(value, name)()
            break
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value
