"""Arrow types for rows of text files: a type is chosen only if it keeps every value as it is written."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from llmbatch._output.dataframe import cell as as_text
from llmbatch._util.extras import extra

# Numbers in their usual form: 7, but not 007, +7 or 7e3.
_INT = re.compile(r"-?(?:0|[1-9][0-9]{0,17})", re.ASCII)
_FLOAT = re.compile(r"-?(?:0|[1-9][0-9]*)\.[0-9]+", re.ASCII)
_BOOLS = {"true": True, "false": False, "True": True, "False": False}


def _is_float(cell: str) -> bool:
    return bool(_FLOAT.fullmatch(cell)) and repr(float(cell)) == cell


class CellTypes:
    """The types of a CSV file's columns: int64, float64 or bool if all cells have that form, else text."""

    def __init__(self, names: Sequence[str]) -> None:
        self._forms: dict[str, set[str]] = {name: set() for name in names}

    def add(self, row: Mapping[str, str | None]) -> None:
        """Look at a row's cells; empty ones are None."""
        for name, forms in self._forms.items():
            cell = row[name]
            if cell is None or "string" in forms:
                continue
            form = "string"
            if _INT.fullmatch(cell):
                form = "int64"
            elif cell in _BOOLS:
                form = "bool"
            elif _is_float(cell):
                form = "float64"
            forms.add(form)
            if len(forms) > 1:
                forms.add("string")

    def schema(self) -> Any:
        """Return the Arrow schema."""
        arrow = extra("pyarrow", "Parquet files", "frames")
        kinds = {name: next(iter(forms)) if len(forms) == 1 else "string" for name, forms in self._forms.items()}
        return arrow.schema([(name, arrow.type_for_alias(kind)) for name, kind in kinds.items()])


def record_schema(names: Sequence[str], chunks: Iterable[Sequence[Mapping[str, Any]]]) -> Any:
    """Return the Arrow schema of JSON objects: text (JSON) for columns without a common type."""
    arrow = extra("pyarrow", "Parquet files", "frames")
    kinds = dict.fromkeys(names, arrow.null())
    for rows in chunks:
        for name, known in kinds.items():
            if known == arrow.string():
                continue
            try:
                found = arrow.array([row.get(name) for row in rows]).type
                kinds[name] = arrow.unify_schemas(
                    [arrow.schema([(name, known)]), arrow.schema([(name, found)])], promote_options="permissive"
                ).field(0).type  # fmt: skip
            except (arrow.ArrowException, OverflowError):
                kinds[name] = arrow.string()
    usable = {name: arrow.string() if _is_empty(arrow, kind) else kind for name, kind in kinds.items()}
    return arrow.schema(list(usable.items()))


def _is_empty(arrow: Any, kind: Any) -> bool:
    """Return whether Parquet has no such type: only nulls, or objects without fields."""
    if arrow.types.is_null(kind) or (arrow.types.is_struct(kind) and not kind.num_fields):
        return True
    return any(_is_empty(arrow, kind.field(at).type) for at in range(kind.num_fields))


def record_table(rows: Sequence[Mapping[str, Any]], schema: Any, *, cells: bool) -> Any:
    """Return rows as an Arrow table of this schema; `cells` are text, as CSV has them."""
    arrow = extra("pyarrow", "Parquet files", "frames")
    columns = []
    for field in schema:
        values = [row.get(field.name) for row in rows]
        if field.type == arrow.string():
            values = [as_text(value) for value in values]
        elif cells and field.type == arrow.bool_():
            values = [None if value is None else _BOOLS[value] for value in values]
        elif cells:
            read = int if field.type == arrow.int64() else float
            values = [None if value is None else read(value) for value in values]
        columns.append(arrow.array(values, field.type))
    return arrow.table(columns, schema=schema)
