"""Rows of CSV, TSV, JSONL and Parquet files, also gzipped, one after the other."""

from __future__ import annotations

import codecs
import csv
import gzip
import io
import shutil
import tempfile
from collections import Counter
from collections.abc import Collection, Generator, Iterator, Sequence
from contextlib import contextmanager, suppress
from itertools import islice
from pathlib import Path
from typing import IO, Any, NamedTuple

from llmbatch._tables.text_types import CellTypes, record_schema, record_table
from llmbatch._util.extras import extra
from llmbatch._util.files import from_json

Records = Generator[tuple[int, Any], None, None]

FORMATS = {
    ".csv": "csv", ".tsv": "tsv", ".jsonl": "jsonl", ".ndjson": "jsonl", ".parquet": "parquet", ".pq": "parquet",
}  # fmt: skip
DELIMITERS = {"csv": ",", "tsv": "\t"}
_LONGEST_CELL = 2**31 - 1
_CHUNK = 1024  # rows
_BUFFER = 1 << 20
_BATCH_BYTES = 8 << 20


class FileKind(NamedTuple):
    """What a file's name says: one of FORMATS' values, and whether it is gzipped."""

    kind: str
    gzipped: bool


def file_kind(path: Path) -> FileKind | None:
    """Return the kind of a table file by its suffix, None for another suffix."""
    gzipped = path.suffix.lower() == ".gz"
    kind = FORMATS.get((path.with_suffix("") if gzipped else path).suffix.lower())
    return None if kind is None else FileKind(kind, gzipped)


@contextmanager
def opened(path: Path) -> Iterator[IO[bytes]]:
    """Open a file for reading. A gzipped Parquet file is unpacked, since it is read from its end."""
    if path.suffix.lower() != ".gz":
        with path.open("rb") as file:
            yield file
        return
    with gzip.open(path) as packed:
        if (file_kind(path) or FileKind("", gzipped=True)).kind != "parquet":
            yield packed  # type: ignore[misc]
            return
        with tempfile.TemporaryFile() as whole:
            shutil.copyfileobj(packed, whole)
            whole.seek(0)
            yield whole


class TableFile:
    """The rows of an open file; each iteration begins at the first row.

    Attributes:
        names: the columns' names, of all rows; those of JSONL are found by reading it once.
    """

    def __init__(self, file: IO[bytes], kind: str, name: str, chosen: Collection[int] | None = None) -> None:
        self._file, self._kind, self._name, self._chosen = file, kind, name, chosen
        self._schema: Any = None
        file.seek(0)
        if kind == "parquet":
            parquet = extra("pyarrow.parquet", "Parquet files", "frames")
            self._schema = parquet.read_schema(file)
            self.names = list(self._schema.names)
        elif kind in DELIMITERS:
            self.names = _header(file, DELIMITERS[kind], name)
        else:
            self.names = list(dict.fromkeys(key for row in self.rows() for key in row))

        if twice := [own for own, count in Counter(self.names).items() if count > 1]:
            raise ValueError(f"{name} has several columns {twice[0]!r}. Rename them, so that each has its own name.")

    def rows(self, names: Sequence[str] | None = None) -> Iterator[dict[str, Any]]:
        """Yield the chosen rows as dicts, of these columns where that saves reading; empty cells of CSV are None.

        Raises ValueError, with the name of the file and the line, for a file that is not what its name says.
        """
        if self._chosen is None:
            return self._all_rows(names)
        first = islice(self._all_rows(names), max(self._chosen, default=-1) + 1)
        return (row for at, row in enumerate(first) if at in self._chosen)

    def _all_rows(self, names: Sequence[str] | None) -> Iterator[dict[str, Any]]:
        self._file.seek(0)
        if self._kind == "parquet":
            for batch in self._batches(names):
                yield from batch.to_pylist()
        elif self._kind in DELIMITERS:
            for _, row in csv_records(self._file, DELIMITERS[self._kind], self._name):
                yield {name: cell if cell != "" else None for name, cell in row.items()}
        else:
            for number, row in json_lines(self._file):
                if not isinstance(row, dict):
                    raise ValueError(f"line {number} of {self._name} is not a JSON object. Give each row as an object.")  # noqa: TRY004 - a file's fault
                yield row if names is None else {name: row.get(name) for name in names}

    def schema(self) -> Any:
        """Return the Arrow schema: a Parquet file's own, else found by reading all rows."""
        if self._schema is None:
            if self._kind in DELIMITERS:
                types = CellTypes(self.names)
                for row in self.rows():
                    types.add(row)
                self._schema = types.schema()
            else:
                self._schema = record_schema(self.names, _chunks(self.rows()))
        return self._schema

    def tables(self) -> Iterator[Any]:
        """Yield all rows as Arrow tables of the schema."""
        schema = self.schema()
        if self._kind == "parquet":
            arrow = extra("pyarrow", "Parquet files", "frames")
            self._file.seek(0)
            first = 0
            for batch in self._batches(None):
                table = arrow.Table.from_batches([batch])
                if self._chosen is not None:
                    table = table.take([at for at in range(batch.num_rows) if first + at in self._chosen])
                yield table
                first += batch.num_rows
            return
        for rows in _chunks(self.rows()):
            yield record_table(rows, schema, cells=self._kind in DELIMITERS)

    def _batches(self, names: Sequence[str] | None) -> Iterator[Any]:
        parquet = extra("pyarrow.parquet", "Parquet files", "frames")
        # Without a buffer a row group is read whole, which may have the size of the file.
        with parquet.ParquetFile(self._file, pre_buffer=False, buffer_size=_BUFFER) as table:
            groups = [table.metadata.row_group(at) for at in range(table.metadata.num_row_groups)]
            row_bytes = sum(group.total_byte_size for group in groups) // max(table.metadata.num_rows, 1)
            rows = min(max(_BATCH_BYTES // max(row_bytes, 1), 1), _CHUNK)
            yield from table.iter_batches(rows, columns=None if names is None else list(names))


def _header(file: IO[bytes], delimiter: str, name: str) -> list[str]:
    text = io.TextIOWrapper(file, encoding="utf-8-sig", newline="")
    try:
        return next(csv.reader(text, delimiter=delimiter), [])
    except (csv.Error, UnicodeDecodeError) as exc:
        raise _not_csv(name, exc) from None
    finally:
        text.detach()


def _chunks(rows: Iterator[dict[str, Any]]) -> Iterator[list[dict[str, Any]]]:
    chunk: list[dict[str, Any]] = []
    for row in rows:
        chunk.append(row)
        if len(chunk) == _CHUNK:
            yield chunk
            chunk = []
    if chunk:
        yield chunk


def json_lines(file: IO[bytes]) -> Records:
    """Each line's number and value. Raises ValueError, with the number, for a line that is not JSON."""
    for number, line in enumerate(file, 1):
        text = line.removeprefix(codecs.BOM_UTF8) if number == 1 else line
        if text.strip():
            try:
                yield number, from_json(text)
            except ValueError as exc:
                raise ValueError(f"line {number} is not JSON ({exc}); for a table, say --format csv") from None


def csv_records(file: IO[bytes], delimiter: str = ",", name: str = "IN") -> Records:
    """Each row's line number and its cells by column. Raises ValueError for a file that is not CSV in UTF-8."""
    csv.field_size_limit(_LONGEST_CELL)
    text = io.TextIOWrapper(file, encoding="utf-8-sig", newline="")
    try:
        reader = csv.DictReader(text, strict=True, delimiter=delimiter)
        for record in reader:
            if None in record.values() or None in record:
                columns = len(reader.fieldnames or ())
                raise ValueError(
                    f"line {reader.line_num} has not as many cells as the header ({columns}); quote cells with commas"
                )
            yield reader.line_num, record
    except (csv.Error, UnicodeDecodeError) as exc:
        raise _not_csv(name, exc) from None
    finally:
        with suppress(ValueError):  # an interrupted run has closed the file already
            text.detach()


def _not_csv(name: str, exc: Exception) -> ValueError:
    return ValueError(f"{name} is not CSV in UTF-8 ({exc}). Save it as CSV in UTF-8, or name its own format.")


def parquet_records(file: IO[bytes]) -> Records:
    """Each row's number and its cells by column."""
    yield from enumerate(TableFile(file, "parquet", "IN").rows(), 1)
