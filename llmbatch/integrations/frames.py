"""Columns of answers for a table: `df["summary"] = complete_column(df, "Summarise: {text}", model="gpt-4o-mini")`.

For tables of pandas, polars, pyarrow, and everything else that narwhals supports. Needs the `frames` or the
`pandas` extra.
"""

from __future__ import annotations

import warnings
from decimal import Decimal
from typing import Any

from llmbatch._output.stats import failures_line
from llmbatch._request.messages import checked_messages, with_system
from llmbatch._request.parsed_request import parse_request
from llmbatch._util.extras import extra
from llmbatch._util.template import RowTemplate, request_template
from llmbatch.completions import create_chat_completions_batch
from llmbatch.results import BatchResults

__all__ = ["complete_column", "complete_frame", "conversations"]

_NAMED = 5


def complete_column(
    frame: Any, template: RowTemplate, model: str | None = None, *, system: str | None = None, **kwargs: Any
) -> Any:
    """Return a column of answers for a table: one text per row, missing if the row failed.

    Args:
        frame: an in-memory table of pandas, polars, pyarrow, …; it is not changed.
        template: the prompt, with the table's columns in braces as for `str.format` ("Summarise: {text}"), or a
            function of a row (a dict) that gives its request.
        model: LiteLLM's model string; else the environment's MODEL_CHOICE, else gpt-4o-mini.
        system: a system message for each row; a conversation that a function returns with one keeps its own.
        kwargs: those of `create_chat_completions_batch` (`max_tokens`, `checkpoint`, `max_cost`, …).

    Returns a column `text` of the table's library: a Series of strings, with the index of a pandas frame, or a
    ChunkedArray. Warns if rows failed; `complete_frame` has their errors. Raises ValueError for unknown columns
    and missing values, TypeError for anything but an in-memory table, and ImportError without narwhals.

    Example:
        df["summary"] = complete_column(df, "Summarise: {text}", model="gpt-4o-mini", checkpoint="summaries.jsonl")
        df = df.with_columns(summary=complete_column(df, "Summarise: {text}"))  # polars
    """
    table = _opened(frame)
    results: Any = create_chat_completions_batch(_requests(table, template), model, system=system, **kwargs)
    if not isinstance(results, BatchResults):  # a DryRun
        return results
    if failed := results.failed:
        message = f"{len(failed)} of {len(results)} rows failed and have no answer: {failures_line(failed)}"
        warnings.warn(f"{message}. Use complete_frame to see all errors.", stacklevel=2)
    return _like(table, results)["text"].to_native()


def complete_frame(
    frame: Any, template: RowTemplate, model: str | None = None, *, system: str | None = None, **kwargs: Any
) -> Any:
    """Return everything that is known of each answer, as a table with the columns of `results.to_pandas()`.

    Takes the arguments of `complete_column`. Returns a table of the frame's library with as many rows, and
    the index of a pandas frame.

    Example:
        df.join(complete_frame(df, "Who wrote this? {text}", response_format=Author)[["name", "error", "cost"]])
    """
    table = _opened(frame)
    results: Any = create_chat_completions_batch(_requests(table, template), model, system=system, **kwargs)
    return _like(table, results).to_native() if isinstance(results, BatchResults) else results


def conversations(frame: Any, template: RowTemplate, system: str | None = None) -> list[Any]:
    """Return the requests that a template makes of a table's rows, in order.

    Raises ValueError for unknown columns and for missing values in the template's columns.
    """
    requests = map(parse_request, _requests(_opened(frame), template))
    return [with_system(system, checked_messages(parsed.messages)) for parsed in requests]


def _opened(frame: Any) -> Any:
    """Return the table as narwhals' DataFrame."""
    narwhals = extra("narwhals", "tables", "frames")
    try:
        return narwhals.from_native(frame, eager_only=True)
    except TypeError:
        raise TypeError(
            f"{type(frame).__module__}.{type(frame).__name__} is not an in-memory table. Give a DataFrame of "
            "pandas or polars or an Arrow table, as in frame.collect(), frame.compute() or dataset.to_polars()."
        ) from None


def _requests(table: Any, template: RowTemplate) -> list[Any]:
    columns, request = request_template(template)
    absent = [name for name in columns if name not in table.columns]
    if absent:
        raise ValueError(
            f"there is no column {', '.join(map(repr, absent))}. The table has {', '.join(map(repr, table.columns))}."
        )
    if where := [found for name in columns if (found := _missing(name, table))]:
        raise ValueError(
            f"there are missing values in {'; '.join(where)}. Drop these rows (pandas: dropna(subset=[...]), others: "
            "drop_nulls) or fill the values."
        )
    rows = table.select(columns or table.columns).iter_rows(named=True)
    return [request(row) for row in rows]


def _missing(name: str, table: Any) -> str:
    """Return the column's name and its rows without a value, `""` if there are none."""
    import narwhals  # noqa: PLC0415 - it is there, since the table is its own

    column = table[name]
    pairs = zip(column.is_null(), column, strict=True)
    rows = [at for at, (null, value) in enumerate(pairs) if null or _is_nan(value)]
    index = narwhals.maybe_get_index(table)
    named = ", ".join(str(at if index is None else index[at]) for at in rows[:_NAMED])
    more = f" and {len(rows) - _NAMED} more" if len(rows) > _NAMED else ""
    return f"column {name!r}, rows {named}{more}" if rows else ""


def _is_nan(value: Any) -> bool:
    return isinstance(value, float | Decimal) and value != value  # noqa: PLR0124 - NaN is not equal to itself


def _like(table: Any, results: BatchResults) -> Any:
    """Return the results as a table of the same library."""
    import narwhals  # noqa: PLC0415 - likewise

    if table.implementation.is_pandas():
        return narwhals.from_native(results.to_pandas().set_axis(table.to_native().index, axis="index"))
    return narwhals.from_arrow(results.to_arrow(), backend=table.implementation)
