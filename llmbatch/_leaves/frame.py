"""A list of rows as a DataFrame. It imports pandas when called, which needs the `pandas` extra."""

from __future__ import annotations

import contextlib
import importlib
from typing import TYPE_CHECKING, Any

from llmbatch._leaves.row import choice_text, finish_reasons, row_metadata, row_vector, well_formed
from llmbatch._leaves.structured import parsed_row

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pandas as pd

    from llmbatch._leaves.row import Row
    from llmbatch._leaves.structured import ResponseFormat

__all__ = ["load_pandas", "rows_frame"]

_USAGE = ("prompt_tokens", "completion_tokens", "total_tokens")
_COLUMNS = ("custom_id", "text", "error", "finish_reason", "model", *_USAGE, "cost", "attempts", "elapsed", "waited")
_LARGEST = 2**63 - 1


def rows_frame(rows: Sequence[Row], model: ResponseFormat | None = None) -> pd.DataFrame:
    """A DataFrame with one row a request, in order: what `results.to_pandas()` returns.

    Columns: `custom_id`, `text` (of a failed row only an answer that did not fit), `error` (missing where it did not),
    `finish_reason` (of the first choice), `model`, `prompt_tokens`, `completion_tokens`, `total_tokens`, `cost` (USD,
    NaN where unknown), `attempts`, `elapsed` and `waited` (seconds, NaN where unknown). With a pydantic `model` its
    fields come after `text`, as `parsed_NAME` where a name is taken. Embeddings have a column `embedding` with the
    vectors instead of `text`, and no `finish_reason`. The keys of the requests' metadata are the last columns, as
    `metadata_NAME` where a name is taken. Raises ImportError without pandas.
    """
    pandas = load_pandas()
    vectors = [row_vector(row) for row in rows]
    embeds = any(vector is not None for vector in vectors)
    texts: dict[str, list[Any]] = {
        "custom_id": [row["custom_id"] for row in rows],
        "text": [choice_text(row) for row in rows],
        "error": [row.get("error") for row in rows],
        "finish_reason": [next(iter(finish_reasons(row)), None) for row in rows],
        "model": [row.get("model") for row in rows],
    }
    texts = {name: [value and well_formed(value) for value in values] for name, values in texts.items()}
    numbers = {name: [row.get(name) for row in rows] for name in ("cost", "attempts", "elapsed", "waited")}
    parsed = _parsed_columns(rows, model)
    columns = {**texts, **parsed, "embedding": vectors, **numbers}
    columns |= {name: [_tokens(row, name) for row in rows] for name in _USAGE}
    metadata = dict.fromkeys(name for row in rows for name in row_metadata(row))
    labels = {name: f"metadata_{name}" if name in columns else name for name in metadata}
    columns |= {label: [row_metadata(row).get(name) for row in rows] for name, label in labels.items()}
    left_out = {"text", "finish_reason"} if embeds else {"embedding"}
    order = ["custom_id", "text", "embedding", *parsed, *_COLUMNS[2:], *labels.values()]
    frame = pandas.DataFrame({name: columns[name] for name in order if name not in left_out})
    kinds = dict.fromkeys(texts.keys() - left_out, "string") | dict.fromkeys([*_USAGE, "attempts"], "int64")
    frame = frame.astype({**kinds, **dict.fromkeys(("cost", "elapsed", "waited"), "float64")})
    for name in parsed:
        with contextlib.suppress(OverflowError):  # a number that fits no column of numbers stays as it is
            # Whole numbers stay whole next to failed rows.
            frame[name] = frame[name].convert_dtypes()
    return frame


def _parsed_columns(rows: Sequence[Row], model: ResponseFormat | None) -> dict[str, list[Any]]:
    if not isinstance(model, type):
        return {}
    parsed = (parsed_row(row, model) for row in rows)
    dumped = [None if instance is None else instance.model_dump() for instance in parsed]
    return {
        f"parsed_{name}" if name in _COLUMNS else name: [values and values[name] for values in dumped]
        for name in model.model_fields
    }


def _tokens(row: Row, name: str) -> int:
    """As a column of whole numbers can hold it."""
    return min(int((row.get("usage") or {}).get(name) or 0), _LARGEST)


def load_pandas() -> Any:
    """The package. Raises ImportError that names the extra."""
    try:
        return importlib.import_module("pandas")
    except ImportError as exc:
        msg = 'DataFrames need the "pandas" extra: pip install "llmbatch[pandas]"'
        raise ImportError(msg) from exc
