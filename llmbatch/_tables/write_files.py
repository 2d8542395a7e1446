"""Table files with columns of answers, written from the input's rows and the answers, in the input's order."""

from __future__ import annotations

import csv
import gzip
import io
import json
import os
import re
import tempfile
from array import array
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

from llmbatch._output.dataframe import cell
from llmbatch._tables.answer_columns import AnswerColumns
from llmbatch._tables.read_files import DELIMITERS, FileKind, TableFile
from llmbatch._util.extras import extra
from llmbatch._util.files import json_text, replacing

_GROUP_BYTES = 32 << 20  # of a row group, before compression
_TEMPORARY = re.compile(r"\.(\d+)-\d+\.tmp$")  # `replacing`'s


class ArrowSource:
    """An Arrow table as a source of rows, with the methods of TableFile."""

    def __init__(self, table: Any) -> None:
        self._table = table
        self.names: list[str] = list(table.schema.names)

    def rows(self) -> Iterator[dict[str, Any]]:
        """Yield the rows as dicts."""
        for batch in self._table.to_batches(1024):
            yield from batch.to_pylist()

    def schema(self) -> Any:
        """Return the Arrow schema."""
        return self._table.schema

    def tables(self) -> Iterator[Any]:
        """Yield the table."""
        yield self._table


class Spool:
    """The values of finished rows on disk, by the row's index in the table; 8 bytes per row in memory."""

    def __init__(self, directory: Path) -> None:
        self._file = tempfile.TemporaryFile(dir=directory)  # noqa: SIM115 - it has no name, and ends with the process
        self._places = array("q")

    def put(self, index: int, values: Sequence[Any]) -> None:
        """Keep a row's values."""
        if index >= len(self._places):
            self._places.extend([-1] * (index + 1 - len(self._places)))
        self._places[index] = self._file.seek(0, os.SEEK_END)
        self._file.write(json.dumps(values).encode() + b"\n")

    def get(self, index: int) -> list[Any] | None:
        """Return a row's values, None if it has none."""
        if index >= len(self._places) or self._places[index] < 0:
            return None
        self._file.seek(self._places[index])
        return json.loads(self._file.readline())  # type: ignore[no-any-return]

    def close(self) -> None:
        """Delete the file."""
        self._file.close()


def write_completed(
    source: TableFile | ArrowSource,
    output: Path,
    kind: FileKind,
    columns: AnswerColumns,
    answers: Callable[[int], list[Any] | None],
) -> int:
    """Write the input's rows with their answers, all at once, and return how many there are."""
    _remove_leftovers(output)
    with replacing(output) as place:
        file: Any = gzip.GzipFile(fileobj=place, mode="wb", mtime=0) if kind.gzipped else None
        try:
            write = _write_parquet if kind.kind == "parquet" else _write_text
            return write(source, file or place, kind.kind, columns, answers)
        finally:
            if file is not None:
                file.close()


def _remove_leftovers(output: Path) -> None:
    """Delete the unfinished files of runs that were killed while they wrote this output."""
    for path in output.parent.glob(f"{output.name}.*.tmp"):
        if (found := _TEMPORARY.search(path.name)) and not _is_running(int(found[1])):
            path.unlink(missing_ok=True)


def _is_running(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True


def _write_parquet(
    source: TableFile | ArrowSource,
    file: IO[bytes],
    _kind: str,
    columns: AnswerColumns,
    answers: Callable[[int], list[Any] | None],
) -> int:
    arrow, parquet = extra("pyarrow", "Parquet files", "frames"), extra("pyarrow.parquet", "Parquet files", "frames")
    empty = columns.values(None)
    schema = source.schema()
    for name, kind in columns.types().items():
        schema = schema.append(arrow.field(name, kind))
    count, held, size = 0, [], 0
    with parquet.ParquetWriter(file, schema) as writer:
        for table in source.tables():
            rows = [answers(index) or empty for index in range(count, count + table.num_rows)]
            made = arrow.table([*table.columns, *columns.arrays(rows).values()], schema=schema)
            count, size = count + table.num_rows, size + made.nbytes
            held.append(made)
            if size > _GROUP_BYTES:
                writer.write_table(arrow.concat_tables(held))
                held, size = [], 0
        if held:
            writer.write_table(arrow.concat_tables(held))
    return count


def _write_text(
    source: TableFile | ArrowSource,
    file: IO[bytes],
    kind: str,
    columns: AnswerColumns,
    answers: Callable[[int], list[Any] | None],
) -> int:
    """Write JSONL, CSV or TSV; lists and objects in cells are JSON."""
    from pydantic_core import to_jsonable_python  # noqa: PLC0415 - `import llmbatch` needs none of it

    def rows() -> Iterator[dict[str, Any]]:
        empty = columns.values(None)
        for index, row in enumerate(source.rows()):
            plain = to_jsonable_python(row, bytes_mode="base64", fallback=str)
            yield {**plain, **dict(zip(columns.names, answers(index) or empty, strict=True))}

    count = 0
    if kind == "jsonl":
        for count, row in enumerate(rows(), 1):  # noqa: B007 - the number of rows
            file.write(json_text(row).encode() + b"\n")
        return count
    text = io.TextIOWrapper(file, encoding="utf-8", newline="", write_through=True)
    writer = csv.writer(text, delimiter=DELIMITERS[kind], lineterminator="\n")
    names = [*source.names, *columns.names]
    writer.writerow(names)
    for count, row in enumerate(rows(), 1):  # noqa: B007 - likewise
        writer.writerow([cell(row.get(name)) for name in names])
    with suppress(ValueError):
        text.detach()
    return count
