"""Values as tables hold them (numpy, pandas, polars, Arrow, datasets), made into plain Python; imports none of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_PLAIN = frozenset({str, int, float, bool, type(None)})
# numpy, pandas and polars; then polars and pandas; then Arrow's arrays. Arrow's scalars have `as_py`.
_TO_LIST = ("tolist", "to_list", "to_pylist")
_MISSING_TYPES = frozenset({"NAType", "NaTType"})  # pandas.NA and pandas.NaT


def plain(value: Any) -> Any:
    """Return arrays and columns as lists, scalars of numpy and Arrow as Python's own, with all containers copied."""
    if type(value) in _PLAIN or isinstance(value, str | type):
        return value
    if callable(as_py := getattr(value, "as_py", None)):
        return plain(as_py())
    if isinstance(value, Mapping):
        return {plain(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    for method in _TO_LIST:
        if callable(convert := getattr(value, method, None)):
            return plain(convert())
    return value


def is_missing(value: Any) -> bool:
    """Whether a plain value stands for a missing one: None, NaN, pandas.NA or pandas.NaT."""
    return (
        value is None
        or (isinstance(value, float) and value != value)  # noqa: PLR0124 - NaN is not equal to itself
        or type(value).__name__ in _MISSING_TYPES
    )


def table_kind(value: Any) -> str | None:
    """Return the name of a table's type, as in "pandas DataFrame"; None for what is not a table."""
    kind = type(value)
    # Asked of the type, since a Series has its labels as attributes.
    if isinstance(value, Mapping) or not (hasattr(kind, "columns") or hasattr(kind, "column_names")):
        return None
    return f"{kind.__module__.partition('.')[0]} {kind.__name__}"
