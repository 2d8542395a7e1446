"""Requests out of a table's rows: by a template, as in "Summarise: {text}", or by a function of a row. A leaf."""

from __future__ import annotations

import re
import string
from collections.abc import Callable, Mapping
from typing import Any

RowTemplate = str | Callable[[Mapping[str, Any]], Any]

_BRACES = "write {column} for a column, {{ and }} for braces of the text itself, as in JSON"
_QUOTED = re.compile(r"\s*[\"']")  # what JSON's `{"a": 1}` parses as: a column named `"a"`


class _ByName(string.Formatter):
    """`str.format` whose fields are whole column names: dots, brackets and spaces belong to the name."""

    def get_field(self, field_name: str, args: Any, kwargs: Any) -> Any:  # noqa: ARG002 - Formatter's signature
        return kwargs[field_name], field_name


class Template:
    """A prompt with `{column}` fields; `{price:.2f}` formats, `{{` is a brace.

    Raises ValueError for a template that names no column.

    Attributes:
        columns: the columns that it names, in order.
    """

    def __init__(self, text: str) -> None:
        try:
            names = [name for _, name, _, _ in string.Formatter().parse(text) if name is not None]
        except ValueError as exc:
            msg = f"the template is not well formed ({exc}); {_BRACES}"
            raise ValueError(msg) from None
        if odd := next((name for name in names if _QUOTED.match(name)), None):
            msg = f"the template names a column {odd!r}; {_BRACES}"
            raise ValueError(msg)
        if "" in names or not names:
            msg = f'the template must name its columns, as in "Summarise: {{text}}"; {_BRACES}'
            raise ValueError(msg)
        self.text = text
        self.columns = list(dict.fromkeys(names))

    def fill(self, row: Mapping[str, Any]) -> str:
        """The prompt of one row of the table, which must have all `columns`."""
        return _ByName().vformat(self.text, (), row)

    def conversation(self, row: Mapping[str, Any], system: str | None = None) -> list[dict[str, str]]:
        """The prompt as a user's message, after the system message if there is one."""
        before = [{"role": "system", "content": system}] if system is not None else []
        return [*before, {"role": "user", "content": self.fill(row)}]


class RowFunction:
    """A function of a row (a dict of all its columns) that gives its request, in a template's place."""

    def __init__(self, function: Callable[[Mapping[str, Any]], Any]) -> None:
        self._function = function
        self.columns: list[str] = []  # those that must have a value

    def conversation(self, row: Mapping[str, Any], system: str | None = None) -> Any:
        """The request of one row."""
        if system is not None:
            msg = "system= goes with a template; let the function put it into the request's messages"
            raise ValueError(msg)
        return self._function(row)


def asking(template: RowTemplate) -> Template | RowFunction:
    """What asks for each row. Raises ValueError for a template that is none."""
    return RowFunction(template) if callable(template) else Template(template)
