"""Kinds of in-memory tables: their rows, and the same kind of table with columns added.

`table_of` returns a `Table`; nothing is imported for a kind of table that is not there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from llmbatch._util.extras import extra

Rows = Iterator[dict[str, Any]]


class Table:
    """A table in memory.

    Attributes:
        names: its columns' names, as templates use them.
    """

    names: list[str]

    def __init__(self, native: Any) -> None:
        self._native = native

    def rows(self, names: Sequence[str]) -> Rows:
        """Yield each row as a dict of these columns."""
        raise NotImplementedError

    def arrow(self) -> Any:
        """Return the table as Arrow's, to be written to a file."""
        raise NotImplementedError

    def joined(self, columns: Mapping[str, Any]) -> Any:
        """Return a new table of the same kind with further columns, which are Arrow arrays."""
        raise NotImplementedError


class _Pandas(Table):
    """A pandas DataFrame. Names that are not strings are used as text; a tuple's parts are joined by dots."""

    def __init__(self, native: Any) -> None:
        super().__init__(native)
        self.names = [".".join(map(str, name)) if isinstance(name, tuple) else str(name) for name in native.columns]

    def rows(self, names: Sequence[str]) -> Rows:
        columns = [self._native.iloc[:, self.names.index(name)] for name in names]
        for cells in zip(range(len(self._native)), *columns, strict=True):
            yield dict(zip(names, cells[1:], strict=True))

    def arrow(self) -> Any:
        return extra("pyarrow", "tables", "frames").Table.from_pandas(self._native)

    def joined(self, columns: Mapping[str, Any]) -> Any:
        frame = self._native.copy(deep=False)
        levels = frame.columns.nlevels
        for name, values in columns.items():
            frame[(name, *[""] * (levels - 1)) if levels > 1 else name] = _pandas_series(values, frame.index)
        return frame


def _pandas_series(values: Any, index: Any) -> Any:
    """Return a Series of Int64, boolean, float64 or string, which have missing values; lists and dicts are objects."""
    pandas, arrow = extra("pandas", "DataFrames", "pandas"), extra("pyarrow", "tables", "frames")
    if arrow.types.is_nested(values.type):
        return pandas.Series(values.to_pylist(), index=index, dtype=object)
    kinds = {
        arrow.int64(): pandas.Int64Dtype(),
        arrow.bool_(): pandas.BooleanDtype(),
        arrow.string(): pandas.StringDtype(),
    }
    return values.to_pandas(types_mapper=kinds.get).set_axis(index)


class _Polars(Table):
    """A polars DataFrame, or a LazyFrame, which is collected."""

    def __init__(self, native: Any) -> None:
        self._lazy = hasattr(native, "collect")
        super().__init__(native.collect() if self._lazy else native)
        self.names = self._native.columns

    def rows(self, names: Sequence[str]) -> Rows:
        if not names:
            yield from ({} for _ in range(self._native.height))
        yield from self._native.select(names).iter_rows(named=True)

    def arrow(self) -> Any:
        return self._native.to_arrow()

    def joined(self, columns: Mapping[str, Any]) -> Any:
        polars = extra("polars", "polars DataFrames", "polars")
        added = [polars.from_arrow(values).alias(name) for name, values in columns.items()]
        frame = self._native.with_columns(added)
        return frame.lazy() if self._lazy else frame


class _Arrow(Table):
    """An Arrow table or record batch."""

    def __init__(self, native: Any) -> None:
        super().__init__(native)
        self.names = native.schema.names

    def rows(self, names: Sequence[str]) -> Rows:
        part = self._native.select(list(names))
        for batch in part.to_batches(1024) if hasattr(part, "to_batches") else [part]:
            yield from batch.to_pylist()

    def arrow(self) -> Any:
        arrow = extra("pyarrow", "tables", "frames")
        return self._native if isinstance(self._native, arrow.Table) else arrow.Table.from_batches([self._native])

    def joined(self, columns: Mapping[str, Any]) -> Any:
        made = self._native
        for name, values in columns.items():
            made = made.append_column(name, values)
        return made


class _DuckDB(Table):
    """A DuckDB relation. It is computed once; the new one has the same connection and types."""

    def __init__(self, native: Any) -> None:
        super().__init__(native)
        self._table = _Arrow(native.to_arrow_table())
        self.names, self.rows = list(native.columns), self._table.rows  # type: ignore[method-assign]

    def arrow(self) -> Any:
        return self._table.arrow()

    def joined(self, columns: Mapping[str, Any]) -> Any:
        completed = self._table.joined(columns)  # noqa: F841 - DuckDB finds the table by the variable's name
        kinds = dict(zip(self.names, self._native.types, strict=True))
        chosen = [f"{_quoted(name)}::{kind} AS {_quoted(name)}" for name, kind in kinds.items()]
        query = f"SELECT {', '.join([*chosen, *map(_quoted, columns)])} FROM completed"  # noqa: S608 - names are quoted
        return self._native.query("llmbatch_table", query)


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


class _Dataset(Table):
    """A Dataset of Hugging Face. Images stay paths or bytes, and are not decoded."""

    def __init__(self, native: Any) -> None:
        super().__init__(native)
        self.names = list(native.column_names)

    def rows(self, names: Sequence[str]) -> Rows:
        datasets = extra("datasets", "Datasets", "datasets")
        part = self._native.with_format(None).select_columns(list(names))
        for name, kind in part.features.items():
            if isinstance(kind, datasets.Image):
                part = part.cast_column(name, datasets.Image(decode=False))
        yield from part

    def arrow(self) -> Any:
        return self._native.with_format("arrow")[:]

    def joined(self, columns: Mapping[str, Any]) -> Any:
        datasets, arrow = extra("datasets", "Datasets", "datasets"), extra("pyarrow", "tables", "frames")
        added = datasets.Dataset(arrow.table(dict(columns)))
        made = datasets.concatenate_datasets([self._native.with_format(None), added], axis=1)
        form = dict(self._native.format)
        if form["type"] is not None:
            chosen = [*form["columns"], *columns] if set(form["columns"]) != set(self.names) else None
            made = made.with_format(form["type"], columns=chosen, **form["format_kwargs"])
        return made


class _Columns(Table):
    """A dict of columns: what `datasets.map(batched=True)` and Ray's `map_batches` pass."""

    def __init__(self, native: Any) -> None:
        super().__init__(native)
        self.names = list(native)
        sizes = {name: len(native[name]) for name in self.names}
        if len(set(sizes.values())) > 1:
            raise ValueError(f"the columns differ in length: {sizes}. Give each as many values.")
        self._size = next(iter(sizes.values()), 0)

    def rows(self, names: Sequence[str]) -> Rows:
        columns = [self._native[name] for name in names]
        for at in range(self._size):
            yield {name: column[at] for name, column in zip(names, columns, strict=True)}

    def arrow(self) -> Any:
        return extra("pyarrow", "tables", "frames").table(dict(self._native))

    def joined(self, columns: Mapping[str, Any]) -> Any:
        return {**self._native, **{name: values.to_pylist() for name, values in columns.items()}}


class _Records(Table):
    """A list of dicts, one per row."""

    def __init__(self, native: Any) -> None:
        super().__init__(native)
        self.names = list(dict.fromkeys(name for row in native for name in row))

    def rows(self, names: Sequence[str]) -> Rows:
        yield from ({name: row.get(name) for name in names} for row in self._native)

    def arrow(self) -> Any:
        columns = {name: [row.get(name) for row in self._native] for name in self.names}
        return extra("pyarrow", "tables", "frames").table(columns)

    def joined(self, columns: Mapping[str, Any]) -> Any:
        parts = zip(*(values.to_pylist() for values in columns.values()), strict=True)
        return [
            {**row, **dict(zip(columns, cells, strict=True))} for row, cells in zip(self._native, parts, strict=True)
        ]


class _Narwhals(Table):
    """Any other in-memory table that narwhals supports (Modin, cuDF)."""

    def __init__(self, native: Any) -> None:
        super().__init__(native)
        self.names = native.columns

    def rows(self, names: Sequence[str]) -> Rows:
        yield from self._native.select(list(names)).iter_rows(named=True)

    def arrow(self) -> Any:
        return self._native.to_arrow()

    def joined(self, columns: Mapping[str, Any]) -> Any:
        narwhals, arrow = extra("narwhals", "tables", "frames"), extra("pyarrow", "tables", "frames")
        added = narwhals.from_arrow(arrow.table(dict(columns)), backend=self._native.implementation)
        index = narwhals.maybe_get_index(self._native)
        added = added if index is None else narwhals.maybe_set_index(added, index=index)
        return narwhals.concat([self._native, added], how="horizontal").to_native()


def table_of(given: Any) -> Table:
    """Return the table. Raises TypeError for anything else, with what to pass instead."""
    kind = type(given)
    name = f"{kind.__module__.partition('.')[0]}.{kind.__name__}"
    adapter: Callable[[Any], Table] | None = _ADAPTERS.get(name)
    if adapter is None and isinstance(given, Mapping) and all(hasattr(value, "__len__") for value in given.values()):
        adapter = _Columns
    if adapter is None and isinstance(given, list) and all(isinstance(row, Mapping) for row in given):
        adapter = _Records
    if adapter is None and "pandas.DataFrame" in {
        f"{base.__module__.partition('.')[0]}.{base.__name__}" for base in kind.__mro__
    }:
        adapter = _Pandas  # a subclass, such as GeoPandas'
    if adapter is not None:
        return adapter(given)
    narwhals = extra("narwhals", "tables", "frames")
    try:
        return _Narwhals(narwhals.from_native(given, eager_only=True))
    except TypeError:
        raise TypeError(
            f"{name} is not a table that llmbatch can extend. {_HINTS.get(name.partition('.')[0], _HINT)}"
        ) from None


_ADAPTERS: dict[str, Callable[[Any], Table]] = {
    "pandas.DataFrame": _Pandas,
    "polars.DataFrame": _Polars,
    "polars.LazyFrame": _Polars,
    "pyarrow.Table": _Arrow,
    "pyarrow.RecordBatch": _Arrow,
    "duckdb.DuckDBPyRelation": _DuckDB,
    "_duckdb.DuckDBPyRelation": _DuckDB,
    "datasets.Dataset": _Dataset,
}  # fmt: skip
_HINT = (
    "Pass a DataFrame of pandas or polars, an Arrow table, a Dataset, a DuckDB relation, a list or dict of columns, or "
    "the path of a CSV, TSV, JSONL or Parquet file."
)
_HINTS = {
    "dask": "Use frame.map_partitions(complete_table, template, …), or frame.compute() first.",
    "pyspark": "Use frame.mapInPandas with complete_table on each frame; see examples/clusters.py.",
    "ray": "Use dataset.map_batches(complete_table, fn_args=(template, model)), or llmbatch.integrations.ray.",
    "datasets": "Use dataset.map(lambda rows: complete_table(rows, template, model), batched=True), or one split.",
    "narwhals": "Pass the native frame: frame.to_native().",
}
