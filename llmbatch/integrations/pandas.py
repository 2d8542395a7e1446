"""DataFrames in, columns out: `df["summary"] = complete_column(df, "Summarise: {text}", model="gpt-4o-mini")`.

Needs the `pandas` extra.
"""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

from llmbatch._leaves.frame import load_pandas
from llmbatch._leaves.sums import failures_line
from llmbatch._leaves.template import asking
from llmbatch.completions import create_chat_completions_batch

if TYPE_CHECKING:
    import pandas as pd

    from llmbatch._leaves.template import RowTemplate
    from llmbatch.results import BatchResults

__all__ = ["complete_column", "complete_frame", "conversations", "results_frame"]

_NAMED = 5


def complete_column(
    frame: pd.DataFrame, template: RowTemplate, model: str | None = None, *, system: str | None = None, **kwargs: Any
) -> pd.Series[str]:
    """A column of answers for a DataFrame: one text a row, missing where the row failed, with the frame's index.

    Args:
        frame: the DataFrame; it is not changed.
        template: the prompt, with the frame's columns in braces as for `str.format` ("Summarise: {text}"), or a
            function of a row (a dict) that gives its request.
        model: LiteLLM's model string; else the environment's MODEL_CHOICE, else gpt-4o-mini.
        system: a system message for every row.
        kwargs: those of `create_chat_completions_batch` (`max_tokens`, `checkpoint`, `max_cost`, …).

    Returns a Series of strings. Warns when rows failed; `complete_frame` says why. Raises ValueError for columns that
    are not there and for rows with missing values, and ImportError without pandas.

    Example:
        df["summary"] = complete_column(df, "Summarise: {text}", model="gpt-4o-mini", checkpoint="summaries.jsonl")
    """
    pandas = load_pandas()
    results = create_chat_completions_batch(conversations(frame, template, system), model, **kwargs)
    if failed := results.failed:
        message = f"{len(failed)} of {len(results)} rows failed and are missing: {failures_line(failed)}"
        warnings.warn(f"{message}; use complete_frame for all errors", stacklevel=2)
    return pandas.Series(results.texts, index=frame.index, dtype="string", name="text")


def complete_frame(
    frame: pd.DataFrame, template: RowTemplate, model: str | None = None, *, system: str | None = None, **kwargs: Any
) -> pd.DataFrame:
    """As `complete_column`, with everything that is known of each answer: the columns of `results_frame`.

    Example:
        df.join(complete_frame(df, "Who wrote this? {text}", response_format=Author)[["name", "error", "cost"]])
    """
    results = create_chat_completions_batch(conversations(frame, template, system), model, **kwargs)
    return results.to_pandas().set_axis(frame.index, axis="index")


def results_frame(results: BatchResults) -> pd.DataFrame:
    """What `results.to_pandas()` returns."""
    return results.to_pandas()


def conversations(frame: pd.DataFrame, template: RowTemplate, system: str | None = None) -> list[Any]:
    """The requests that a template makes of a DataFrame's rows, in order.

    Raises ValueError for columns that are not there, and for rows with missing values in one of them.
    """
    parsed = asking(template)
    absent = [name for name in parsed.columns if name not in frame.columns]
    if absent:
        msg = f"no column {', '.join(map(repr, absent))}; the frame has {', '.join(map(repr, frame.columns))}"
        raise ValueError(msg)
    missing = frame.loc[:, parsed.columns].isna()
    if missing.any(axis=None):
        where = "; ".join(_missing(name, missing[name]) for name in parsed.columns if missing[name].any())
        msg = f"missing values in {where}: drop these rows (df.dropna(subset=[...])) or fill them (df.fillna)"
        raise ValueError(msg)
    columns = frame.loc[:, parsed.columns or list(frame.columns)]
    rows = (dict(zip(columns.columns, values, strict=True)) for values in columns.itertuples(index=False, name=None))
    return [parsed.conversation(row, system) for row in rows]


def _missing(name: str, where: pd.Series[bool]) -> str:
    labels = list(where.index[where])
    more = f" and {len(labels) - _NAMED} more" if len(labels) > _NAMED else ""
    return f"column {name!r}, rows {', '.join(map(str, labels[:_NAMED]))}{more}"
