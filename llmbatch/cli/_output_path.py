"""The output of `-o OUT`: JSONL is its own checkpoint; a table or standard output is written from one at the end."""

from __future__ import annotations

import shutil
import sys
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import click

from llmbatch._rows.row import Row
from llmbatch._util.extras import extra
from llmbatch._util.files import is_standard_output, replaceable
from llmbatch.cli._ordered_output import rows_in
from llmbatch.cli._read_input import FORMATS
from llmbatch.results import BatchResults


@dataclass(frozen=True)
class Destination:
    """A run's output: `journal` is the JSONL file that it writes, `name` what the user calls the output.

    Attributes:
        resumable: whether a later run finds the answers.
    """

    journal: Path
    name: str
    resumable: bool = True

    def finish(self) -> None:
        """Write the table from the checkpoint, if OUT is a table."""
        if table_kind(Path(self.name)) and self.journal.exists():
            write_table(Path(self.name), rows_in(self.journal))


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
    return FORMATS.get(output.suffix.lower())


def write_table(output: Path, rows: Iterable[Row]) -> None:
    """Write rows as CSV or Parquet, with the columns of `results.to_pandas()`."""
    results = BatchResults(rows)
    write = results.to_csv if table_kind(output) == "csv" else results.to_parquet
    write(output)


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
