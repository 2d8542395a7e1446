"""The columns that answers add to a table, with types that do not depend on which rows failed."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Iterable, Mapping, Sequence
from decimal import Decimal
from typing import Any

from llmbatch._output.dataframe import cell
from llmbatch._rows.row import Row, finish_reasons, row_text, well_formed
from llmbatch._rows.structured_output import ResponseFormat, checked_format, parsed_row
from llmbatch._tables.schema_types import DATE, DATETIME, DECIMAL, field_types
from llmbatch._util.extras import extra

ANSWER = "answer"
_MOST_DIGITS = 38  # of Arrow's decimal128


def _asks(row: Row) -> int:
    return row.get("asks", 1 if row.get("attempts") else 0)


def _tokens(name: str) -> Callable[[Row], int]:
    return lambda row: int(row["usage"].get(name) or 0)


_DETAILS: dict[str, tuple[str, Callable[[Row], Any]]] = {
    "error": ("string", lambda row: row.get("error")),
    "cost": ("float64", lambda row: row.get("cost")),
    "asks": ("int64", _asks),
    "attempts": ("int64", lambda row: row.get("attempts")),
    "elapsed": ("float64", lambda row: row.get("elapsed")),
    "waited": ("float64", lambda row: row.get("waited")),
    "model": ("string", lambda row: row.get("model")),
    "finish_reason": ("string", lambda row: next(iter(finish_reasons(row)), None)),
    "custom_id": ("string", lambda row: row["custom_id"]),
    **{name: ("int64", _tokens(name)) for name in ("prompt_tokens", "completion_tokens", "total_tokens")},
}


class _Column:
    """A column's type, found from its declaration and the values so far. It is text if a value does not fit."""

    def __init__(self, declared: Any) -> None:
        self._declared, self._text = declared, declared is None

    def add(self, value: Any) -> None:
        if value is None or self._text:
            return
        try:
            self._check(value)
        except (ValueError, TypeError, OverflowError, ArithmeticError):  # Arrow's own are these too
            self._text = True

    def _check(self, value: Any) -> None:
        extra("pyarrow", "tables", "frames").scalar(value, self._declared)

    def type(self, arrow: Any) -> Any:
        return arrow.string() if self._text else self._declared

    def array(self, arrow: Any, values: Iterable[Any]) -> Any:
        kind = self.type(arrow)
        read = cell if kind == arrow.string() else self._value
        return arrow.array([None if value is None else read(value) for value in values], kind)

    def _value(self, value: Any) -> Any:
        return value


class _Dates(_Column):
    def _check(self, value: Any) -> None:
        self._value(value)

    def type(self, arrow: Any) -> Any:
        return arrow.string() if self._text else arrow.date32()

    def _value(self, value: Any) -> Any:
        return dt.date.fromisoformat(value)


class _Datetimes(_Column):
    """Times: with a zone (UTC) if all have one, without if none has; text if they are mixed."""

    _zoned: bool | None = None

    def _check(self, value: Any) -> None:
        zoned = self._value(value).tzinfo is not None
        self._text = self._zoned not in {None, zoned}
        self._zoned = zoned

    def type(self, arrow: Any) -> Any:
        return arrow.string() if self._text else arrow.timestamp("us", "UTC" if self._zoned else None)

    def _value(self, value: Any) -> Any:
        return dt.datetime.fromisoformat(value)


class _Decimals(_Column):
    """Decimals with as many digits as the longest needs; text if those are too many."""

    _whole = 1
    _scale = 0

    def _check(self, value: Any) -> None:
        number = self._value(value)
        if not number.is_finite():
            raise ValueError(value)
        self._scale = max(self._scale, -int(number.as_tuple().exponent))
        self._whole = max(self._whole, number.adjusted() + 1)
        self._text = self._whole + self._scale > _MOST_DIGITS

    def type(self, arrow: Any) -> Any:
        return arrow.string() if self._text else arrow.decimal128(_MOST_DIGITS, self._scale)

    def _value(self, value: Any) -> Any:
        return Decimal(str(value))


_KINDS: dict[Any, type[_Column]] = {DATE: _Dates, DATETIME: _Datetimes, DECIMAL: _Decimals}


class AnswerColumns:
    """The columns of answers: `values()` for each row first, then `arrays()`.

    Attributes:
        names: the columns' names in the table, by their own name.
    """

    def __init__(
        self, taken: Sequence[str], response_format: ResponseFormat | None = None, details: Sequence[str] = ()
    ) -> None:
        if isinstance(details, str) or (unknown := [name for name in details if name not in _DETAILS]):
            given = details if isinstance(details, str) else unknown[0]
            raise ValueError(f"details has {given!r}. Pass a list of these names: {', '.join(_DETAILS)}")
        arrow = extra("pyarrow", "tables", "frames")
        self._format = checked_format(response_format)
        self._fields = field_types(self._format, ANSWER)
        self._details = list(dict.fromkeys(details))
        fields = {ANSWER: arrow.string()} if self._fields is None else self._fields
        self._columns = [_KINDS.get(kind, _Column)(kind) for kind in fields.values()]
        self._columns += [_Column(arrow.type_for_alias(_DETAILS[name][0])) for name in self._details]
        self.names = _free_names([*fields, *self._details], taken)
        self._arrow = arrow

    def values(self, row: Row | None) -> list[Any]:
        """Return the row's value in each column, as JSON has it; None for missing, as of a row that was not sent."""
        if row is None:
            return [None] * len(self._columns)
        found = self._answer(row)
        found += [_sound(_DETAILS[name][1](row)) for name in self._details]
        for column, value in zip(self._columns, found, strict=True):
            column.add(value)
        return found

    def _answer(self, row: Row) -> list[Any]:
        if self._fields is None:
            return [_sound(row_text(row))]
        parsed = parsed_row(row, self._format)
        if isinstance(self._format, type) and parsed is not None:
            parsed = parsed.model_dump(mode="json", fallback=str)
        if list(self._fields) == [ANSWER] and not (isinstance(parsed, Mapping) and ANSWER in parsed):
            return [parsed]
        return (
            [parsed.get(name) for name in self._fields] if isinstance(parsed, Mapping) else [None] * len(self._fields)
        )

    def types(self) -> dict[str, Any]:
        """Return the Arrow type of each column, given the values so far."""
        kinds = (column.type(self._arrow) for column in self._columns)
        return dict(zip(self.names, kinds, strict=True))

    def arrays(self, rows: Sequence[Sequence[Any]]) -> dict[str, Any]:
        """Return the columns as Arrow arrays. `rows` are results of `values()`."""
        parts = zip(*rows, strict=True) if rows else [()] * len(self._columns)
        made = (column.array(self._arrow, values) for column, values in zip(self._columns, parts, strict=True))
        return dict(zip(self.names, made, strict=True))


class NoColumns(AnswerColumns):
    """No columns, for a table that is written as it is."""

    def __init__(self) -> None:
        self._columns, self._fields, self._details, self.names = [], {}, [], []
        self._arrow = extra("pyarrow", "tables", "frames")


def _sound(value: Any) -> Any:
    return well_formed(value) if isinstance(value, str) else value


def _free_names(wanted: Sequence[str], taken: Sequence[str]) -> list[str]:
    """Return the names, with a number behind those that are taken: `answer_2`."""
    used, names = set(taken), []
    for name in wanted:
        free, number = name, 2
        while free in used:
            free, number = f"{name}_{number}", number + 1
        used.add(free)
        names.append(free)
    return names
