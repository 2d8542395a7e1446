"""A list of rows as a DataFrame. It imports pandas when called, which needs the `pandas` extra."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from llmbatch._leaves.row import parsed_row, row_metadata, row_text, row_vector

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pandas as pd
    from pydantic import BaseModel

    from llmbatch._leaves.row import Row

__all__ = ["load_pandas", "rows_frame"]

_USAGE = ("prompt_tokens", "completion_tokens", "total_tokens")
_COLUMNS = ("custom_id", "text", "error", "model", *_USAGE, "cost", "attempts")


def rows_frame(rows: Sequence[Row], model: type[BaseModel] | None = None) -> pd.DataFrame:
    """A DataFrame with one row a request, in order: what `results.to_pandas()` returns.

    Columns: `custom_id`, `text` (missing where the row failed), `error` (missing where it did not), `model`,
    `prompt_tokens`, `completion_tokens`, `total_tokens`, `cost` (USD, NaN where unknown), `attempts`. With a pydantic
    `model` its fields come after `text`, as `parsed_NAME` where a name is taken. Embeddings have a column
    `embedding` with the vectors instead of `text`. The keys of the requests' metadata are the last columns, as
    `metadata_NAME` where a name is taken. Raises ImportError without pandas.
    """
    pandas = load_pandas()
    vectors = [row_vector(row) for row in rows]
    embeds = any(vector is not None for vector in vectors)
    columns: dict[str, list[Any]] = {"custom_id": [row["custom_id"] for row in rows]}
    if embeds:
        columns["embedding"] = vectors
    else:
        columns["text"] = [row_text(row) for row in rows]
    parsed = _parsed_columns(rows, model)
    columns |= parsed | {
        "error": [row.get("error") for row in rows],
        "model": [row.get("model") for row in rows],
        **{name: [_tokens(row, name) for row in rows] for name in _USAGE},
        "cost": [row.get("cost") for row in rows],
        "attempts": [row.get("attempts") for row in rows],
    }
    for name in dict.fromkeys(name for row in rows for name in row_metadata(row)):
        label = f"metadata_{name}" if name in columns else name
        columns[label] = [row_metadata(row).get(name) for row in rows]
    frame = pandas.DataFrame(columns)
    kinds = dict.fromkeys({"custom_id", "text", "error", "model"} & columns.keys(), "string")
    frame = frame.astype({**kinds, **dict.fromkeys([*_USAGE, "attempts"], "int64"), "cost": "float64"})
    for name in parsed:
        # Whole numbers stay whole next to failed rows.
        frame[name] = frame[name].convert_dtypes()
    return frame


def _parsed_columns(rows: Sequence[Row], model: type[BaseModel] | None) -> dict[str, list[Any]]:
    if model is None:
        return {}
    parsed = (parsed_row(row, model) for row in rows)
    dumped = [None if instance is None else instance.model_dump() for instance in parsed]
    return {
        f"parsed_{name}" if name in _COLUMNS else name: [values and values[name] for values in dumped]
        for name in model.model_fields
    }


def _tokens(row: Row, name: str) -> int:
    return int((row.get("usage") or {}).get(name) or 0)


def load_pandas() -> Any:
    """The package. Raises ImportError that names the extra."""
    try:
        return importlib.import_module("pandas")
    except ImportError as exc:
        msg = 'DataFrames need the "pandas" extra: pip install "llmbatch[pandas]"'
        raise ImportError(msg) from exc
