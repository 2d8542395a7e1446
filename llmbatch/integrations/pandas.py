"""DataFrames in, columns out: `df["summary"] = complete_column(df, "Summarise: {text}", model="gpt-4o-mini")`.

Needs the `pandas` extra.
"""

from __future__ import annotations

import importlib
import warnings
from typing import TYPE_CHECKING, Any

from llmbatch._template import Template
from llmbatch.completions import create_chat_completions_batch
from llmbatch.results import BatchResults, row_text

if TYPE_CHECKING:
    import pandas as pd

    from llmbatch.results import Row

__all__ = ["complete_column", "complete_frame", "conversations", "results_frame"]

_USAGE = ("prompt_tokens", "completion_tokens", "total_tokens")
_COLUMNS = ("custom_id", "text", "error", "model", *_USAGE, "cost", "attempts")
_NAMED = 5


def complete_column(
    frame: pd.DataFrame, template: str, model: str | None = None, *, system: str | None = None, **kwargs: Any
) -> pd.Series[str]:
    """A column of answers for a DataFrame: one text a row, missing where the row failed, with the frame's index.

    Args:
        frame: the DataFrame; it is not changed.
        template: the prompt, with the frame's columns in braces as for `str.format` ("Summarise: {text}").
        model: LiteLLM's model string; else the environment's MODEL_CHOICE, else gpt-4o-mini.
        system: a system message for every row.
        kwargs: those of `create_chat_completions_batch` (`max_tokens`, `checkpoint`, `max_cost`, …).

    Returns a Series of strings. Warns when rows failed; `complete_frame` says why. Raises ValueError for columns that
    are not there and for rows with missing values, and ImportError without pandas.

    Example:
        df["summary"] = complete_column(df, "Summarise: {text}", model="gpt-4o-mini", checkpoint="summaries.jsonl")
    """
    pandas = _pandas()
    results = create_chat_completions_batch(conversations(frame, template, system), model, **kwargs)
    if failed := results.failed:
        message = f"{len(failed)} of {len(results)} rows failed and are missing, the first with {failed[0]['error']}"
        warnings.warn(f"{message}; use complete_frame for all errors", stacklevel=2)
    return pandas.Series(results.texts, index=frame.index, dtype="string", name="text")


def complete_frame(
    frame: pd.DataFrame, template: str, model: str | None = None, *, system: str | None = None, **kwargs: Any
) -> pd.DataFrame:
    """As `complete_column`, with everything that is known of each answer: the columns of `results_frame`.

    Example:
        df.join(complete_frame(df, "Who wrote this? {text}", response_format=Author)[["name", "error", "cost"]])
    """
    results = create_chat_completions_batch(conversations(frame, template, system), model, **kwargs)
    return results_frame(results).set_axis(frame.index, axis="index")


def conversations(frame: pd.DataFrame, template: str, system: str | None = None) -> list[list[dict[str, str]]]:
    """The conversations that a template makes of a DataFrame's rows, in order.

    Raises ValueError for columns that are not there, and for rows with missing values in one of them.
    """
    parsed = Template(template)
    absent = [name for name in parsed.columns if name not in frame.columns]
    if absent:
        msg = f"no column {', '.join(map(repr, absent))}; the frame has {', '.join(map(repr, frame.columns))}"
        raise ValueError(msg)
    columns = frame.loc[:, parsed.columns]
    missing = columns.isna()
    if missing.any(axis=None):
        where = "; ".join(_missing(name, missing[name]) for name in parsed.columns if missing[name].any())
        msg = f"missing values in {where}: drop these rows (df.dropna(subset=[...])) or fill them (df.fillna)"
        raise ValueError(msg)
    before = [{"role": "system", "content": system}] if system is not None else []
    rows = (dict(zip(parsed.columns, values, strict=True)) for values in columns.itertuples(index=False, name=None))
    return [[*before, {"role": "user", "content": parsed.fill(row)}] for row in rows]


def results_frame(results: BatchResults) -> pd.DataFrame:
    """A DataFrame with one row a request, in order: what `results.to_pandas()` returns.

    Columns: `custom_id`, `text` (missing where the row failed), `error` (missing where it did not), `model`,
    `prompt_tokens`, `completion_tokens`, `total_tokens`, `cost` (USD, NaN where unknown), `attempts`. With a pydantic
    `response_format` its fields come after `text`, as `parsed_NAME` where a name is taken. Embeddings have a column
    `embedding` with the vectors instead of `text`. Raises ImportError without pandas.
    """
    pandas = _pandas()
    vectors = results.embeddings
    embeds = any(vector is not None for vector in vectors)
    columns: dict[str, list[Any]] = {"custom_id": [row["custom_id"] for row in results]}
    if embeds:
        columns["embedding"] = vectors
    else:
        columns["text"] = [row_text(row) for row in results]
    parsed = _parsed_columns(results)
    columns |= parsed | {
        "error": [row.get("error") for row in results],
        "model": [row.get("model") for row in results],
        **{name: [_tokens(row, name) for row in results] for name in _USAGE},
        "cost": [row.get("cost") for row in results],
        "attempts": [row.get("attempts") for row in results],
    }
    frame = pandas.DataFrame(columns)
    kinds = dict.fromkeys({"custom_id", "text", "error", "model"} & columns.keys(), "string")
    frame = frame.astype({**kinds, **dict.fromkeys([*_USAGE, "attempts"], "int64"), "cost": "float64"})
    for name in parsed:
        # Whole numbers stay whole next to failed rows.
        frame[name] = frame[name].convert_dtypes()
    return frame


def _parsed_columns(results: BatchResults) -> dict[str, list[Any]]:
    model = results.response_format
    if model is None:
        return {}
    dumped = [None if instance is None else instance.model_dump() for instance in results.parsed]
    return {
        f"parsed_{name}" if name in _COLUMNS else name: [values and values[name] for values in dumped]
        for name in model.model_fields
    }


def _tokens(row: Row, name: str) -> int:
    return int((row.get("usage") or {}).get(name) or 0)


def _missing(name: str, where: pd.Series[bool]) -> str:
    labels = list(where.index[where])
    more = f" and {len(labels) - _NAMED} more" if len(labels) > _NAMED else ""
    return f"column {name!r}, rows {', '.join(map(str, labels[:_NAMED]))}{more}"


def _pandas() -> Any:
    try:
        return importlib.import_module("pandas")
    except ImportError as exc:
        msg = 'DataFrames need the "pandas" extra: pip install "llmbatch[pandas]"'
        raise ImportError(msg) from exc
