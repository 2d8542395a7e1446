"""The output of `-o OUT`: JSONL is its own checkpoint; a table or standard output is written from one at the end."""

from __future__ import annotations

import shutil
import sys
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import click

from llmbatch._batch.checkpoint import output_lines
from llmbatch._output.jsonl import row_from_line
from llmbatch._rows.row import Row
from llmbatch._tables.answer_columns import AnswerColumns, NoColumns
from llmbatch._tables.read_files import file_kind
from llmbatch._tables.write_files import ArrowSource, Spool, write_completed
from llmbatch._util.extras import extra
from llmbatch._util.files import is_standard_output, replaceable
from llmbatch.cli._ordered_output import rows_in
from llmbatch.cli._read_input import Input
from llmbatch.results import BatchResults

_DETAILS = ("error", "cost")


@dataclass(frozen=True)
class Destination:
    """A run's output: `journal` is the JSONL file that it writes, `name` what the user calls the output.

    Attributes:
        resumable: whether a later run finds the answers.
    """

    journal: Path
    name: str
    resumable: bool = True

    def finish(self, requests: Input, custom_ids: Sequence[str], response_format: Any = None) -> None:
        """Write the table from the checkpoint, if OUT is a table: with IN's columns if IN is a table too."""
        output = Path(self.name)
        if not (table_kind(output) and self.journal.exists()):
            return
        if not requests.is_table:
            write_table(output, rows_in(self.journal))
            return
        kind, table, places = file_kind(output), requests.table(), {name: at for at, name in enumerate(custom_ids)}
        assert kind is not None  # noqa: S101 - it is a table
        columns = AnswerColumns(table.names, response_format, _DETAILS)
        with closing(Spool(output.parent)) as spool, self.journal.open("rb") as file:
            for _, _, line in output_lines(file, self.journal):
                if line is not None and (at := places.get(line["custom_id"])) is not None:
                    spool.put(at, columns.values(row_from_line(line)))
            write_completed(table, output, kind, columns, spool.get)


@contextmanager
def destination(output: Path) -> Iterator[Destination]:
    """Yield the destination of a run. Raises ValueError for a path that cannot be written."""
    if str(output) == "-":
        output = Path("/dev/stdout")
    if not replaceable(output):
        click.echo(f"{output} cannot be a checkpoint: an interrupted run starts from the beginning", err=True)
        with _copied_to(output) as path:
            yield Destination(path, str(output), resumable=False)
        return
    _check_writable(output)
    if not (kind := table_kind(output)):
        yield Destination(output, str(output))
        return
    if kind == "parquet":
        extra("pyarrow", "Parquet files", "frames")
    beside = output.with_name(f"{output.name}.jsonl")
    if output.exists() and not beside.exists():
        raise ValueError(
            f"{output} already exists and was not written by llmbatch run. Give another path, or remove it."
        )
    click.echo(f"{beside} is the checkpoint of {output}", err=True)
    yield Destination(beside, str(output))


def table_kind(output: Path) -> str | None:
    """Return the kind of table that the suffix names, if any."""
    known = file_kind(output)
    return None if known is None or known.kind == "jsonl" else known.kind


def write_table(output: Path, rows: Iterable[Row]) -> None:
    """Write rows as CSV or Parquet, with the columns of `results.to_pandas()`."""
    results, kind = BatchResults(rows), file_kind(output)
    if kind is None or kind == ("csv", False):
        results.to_csv(output)
    elif kind == ("parquet", False):
        results.to_parquet(output)
    else:
        write_completed(ArrowSource(results.to_arrow()), output, kind, NoColumns(), lambda _: [])


def _check_writable(output: Path) -> None:
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=output.parent).close()
    except OSError as exc:
        raise ValueError(f"cannot write to {output}: {exc.strerror}. Give another path.") from None


@contextmanager
def _copied_to(output: Path) -> Iterator[Path]:
    """Return a file that is copied to a device or pipe at the end.

    Standard output then gets only the rows: everything else is printed to standard error.
    """
    with ExitStack() as stack:
        path = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="llmbatch-"))) / output.name
        if is_standard_output(output):
            device: IO[bytes] = sys.stdout.buffer
            stack.callback(device.flush)
            stack.enter_context(redirect_stdout(sys.stderr))
        else:
            device = stack.enter_context(output.open("ab"))
        try:
            yield path
        finally:
            if path.exists():
                with path.open("rb") as file:
                    shutil.copyfileobj(file, device)
