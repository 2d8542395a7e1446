"""Rows as columns, and as tables of pandas and Arrow, which are imported when a table is made."""

from __future__ import annotations

import contextlib
import csv
import io
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

from llmbatch._rows.row import Row, choice_text, finish_reasons, row_metadata, row_vector, well_formed
from llmbatch._rows.structured_output import ResponseFormat, parsed_row
from llmbatch._util.extras import extra
from llmbatch._util.files import json_text

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    import pyarrow as pa

Formats: TypeAlias = "Mapping[str, ResponseFormat | None]"

_USAGE = ("prompt_tokens", "completion_tokens", "total_tokens")
# The columns besides the parsed fields and the vectors, in their order, with their types as pandas and Arrow name them.
_KINDS = {
    **dict.fromkeys(("custom_id", "text", "error", "finish_reason", "model", "deployment"), "string"),
    **dict.fromkeys(_USAGE, "int64"),
    "cost": "float64",
    "attempts": "int64",
    **dict.fromkeys(("elapsed", "waited"), "float64"),
}
_LARGEST = 2**63 - 1


def rows_columns(rows: Sequence[Row], model: ResponseFormat | None, formats: Formats) -> dict[str, list[Any]]:
    """Return the columns of every kind of table, as lists with one value per row. None means missing.

    Columns: `custom_id`, `text` (of a failed row only an answer that failed validation), `error` (missing for answered
    rows), `finish_reason` (of the first choice), `model`, `prompt_tokens`, `completion_tokens`, `total_tokens`, `cost`
    (USD, missing where unknown), `attempts`, `elapsed` and `waited` (seconds, missing where unknown). With a pydantic
    `model` its fields come after `text`, as `parsed_NAME` where a name is taken; `formats` are those of single rows, by
    `custom_id`. Embeddings have a column `embedding` with the vectors instead of `text`, and no `finish_reason`. The
    deployment of each row, where there are some, is the column `deployment`. The keys of the requests' metadata are the
    last columns, as `metadata_NAME` where a name is taken.
    """
    vectors = [row_vector(row) for row in rows]
    columns: dict[str, list[Any]] = {"custom_id": [well_formed(row["custom_id"]) for row in rows]}
    if embeds := any(vector is not None for vector in vectors):
        columns["embedding"] = vectors
    else:
        columns["text"] = [_sound(choice_text(row)) for row in rows]
    columns |= _parsed_columns(rows, model, formats)
    columns["error"] = [_sound(row.get("error")) for row in rows]
    if not embeds:
        columns["finish_reason"] = [_sound(next(iter(finish_reasons(row)), None)) for row in rows]
    columns["model"] = [_sound(row.get("model")) for row in rows]
    columns |= {name: [_tokens(row, name) for row in rows] for name in _USAGE}
    columns |= {name: [row.get(name) for row in rows] for name in ("cost", "attempts", "elapsed", "waited")}
    if any("deployment" in row for row in rows):
        columns["deployment"] = [_sound(row.get("deployment")) for row in rows]
    metadata = dict.fromkeys(name for row in rows for name in row_metadata(row))
    labels = {name: f"metadata_{name}" if name in columns else name for name in metadata}
    return columns | {label: [row_metadata(row).get(name) for row in rows] for name, label in labels.items()}


def rows_frame(rows: Sequence[Row], model: ResponseFormat | None, formats: Formats) -> pd.DataFrame:
    """Return the DataFrame of `results.to_pandas()`. Raises ImportError without pandas."""
    pandas = extra("pandas", "DataFrames", "pandas")
    columns = rows_columns(rows, model, formats)
    frame = pandas.DataFrame(columns).astype({name: kind for name, kind in _KINDS.items() if name in columns})
    numpy = extra("numpy", "DataFrames", "pandas")
    for name in columns.keys() - _KINDS.keys() - {"embedding"}:
        # A number that is too large for a column of numbers stays as it is.
        with contextlib.suppress(OverflowError), numpy.errstate(invalid="ignore"):
            # Integers stay integers next to the missing values of failed rows.
            frame[name] = frame[name].convert_dtypes()
    return frame


def vectors_array(vectors: Sequence[list[float] | None]) -> np.ndarray[Any, Any]:
    """Return what `results.to_numpy()` returns: rows by dimensions, NaN for a missing vector."""
    numpy = extra("numpy", "arrays", "pandas")
    sizes = {len(vector): at for at, vector in enumerate(vectors) if vector is not None}
    if not vectors:
        return numpy.empty((0, 0))  # type: ignore[no-any-return]
    if not sizes:
        raise ValueError("no row has a vector: to_numpy is for the results of create_embeddings_batch; see .failed")
    if len(sizes) > 1:
        rows = " and ".join(f"row {at} has {size}" for size, at in list(sizes.items())[:2])
        raise ValueError(f"the vectors differ in length: {rows} numbers; use .embeddings, which is a list")
    if any(isinstance(vector[0], list) for vector in vectors if vector):
        raise ValueError("each row has several vectors; use .embeddings, which is a list")
    array = numpy.full((len(vectors), next(iter(sizes))), numpy.nan)
    for at, vector in enumerate(vectors):
        if vector is not None:
            array[at] = vector
    return array  # type: ignore[no-any-return]


def rows_table(rows: Sequence[Row], model: ResponseFormat | None, formats: Formats) -> pa.Table:
    """Return the table of `results.to_arrow()`. Raises ImportError without pyarrow."""
    arrow = extra("pyarrow", "Arrow tables", "frames")

    def array(name: str, values: list[Any]) -> pa.Array:
        if name in _KINDS:
            return arrow.array(values, arrow.type_for_alias(_KINDS[name]))
        with contextlib.suppress(arrow.ArrowException, OverflowError):  # several types, or one that Arrow has none for
            made = arrow.array(values)
            if name == "embedding" or (_portable(arrow.types, made.type) and _same(values, made.to_pylist())):
                return made
        return arrow.array([cell(value) for value in values])

    return arrow.table({name: array(name, values) for name, values in rows_columns(rows, model, formats).items()})


def _portable(types: Any, kind: Any) -> bool:
    """Return whether Parquet and polars have this Arrow type too."""
    if types.is_decimal256(kind) or isinstance(kind, _extension_type()):
        return False
    if types.is_struct(kind) and not kind.num_fields:
        return False
    return all(_portable(types, kind.field(at).type) for at in range(kind.num_fields))


def _extension_type() -> Any:
    return extra("pyarrow", "Arrow tables", "frames").BaseExtensionType  # a UUID's


def _same(value: Any, made: Any) -> bool:
    """Return whether Arrow has kept a value: it mixes times with and without a zone, and dates with times, silently."""
    if isinstance(value, Mapping) and isinstance(made, Mapping):  # an object has the fields of all others
        return all(_same(value.get(name), item) for name, item in made.items())
    if isinstance(value, list | tuple | set | frozenset) and isinstance(made, list):
        return len(value) == len(made) and all(map(_same, value, made))
    return bool(value == made) or (value != value and made != made)  # noqa: PLR0124 - NaN is not equal to itself


def rows_csv(rows: Sequence[Row], model: ResponseFormat | None, formats: Formats) -> bytes:
    """Return the content of `results.to_csv()`: a header and one line per row, with lists and objects as JSON."""
    columns = rows_columns(rows, model, formats)
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows([cell(value) for value in values] for values in zip(*columns.values(), strict=True))
    return text.getvalue().encode()


def cell(value: Any) -> str | None:
    """Return a value as text: JSON unless it is text or missing."""
    from pydantic_core import to_jsonable_python  # noqa: PLC0415 - `import llmbatch` needs none of it

    plain = to_jsonable_python(value)
    return plain if plain is None or isinstance(plain, str) else json_text(plain)


def _parsed_columns(rows: Sequence[Row], model: ResponseFormat | None, formats: Formats) -> dict[str, list[Any]]:
    models = [found for found in (model, *formats.values()) if isinstance(found, type)]
    dumped = [_parsed(row, formats.get(row["custom_id"], model)) for row in rows]
    return {
        f"parsed_{name}" if name in _KINDS else name: [values.get(name) for values in dumped]
        for name in dict.fromkeys(name for model in models for name in model.model_fields)
    }


def _parsed(row: Row, model: ResponseFormat | None) -> dict[str, Any]:
    instance = parsed_row(row, model) if isinstance(model, type) else None
    return {} if instance is None else instance.model_dump()


def _sound(text: str | None) -> str | None:
    return text and well_formed(text)


def _tokens(row: Row, name: str) -> int:
    """Return a number of tokens that fits into a column of integers."""
    return min(int((row.get("usage") or {}).get(name) or 0), _LARGEST)
