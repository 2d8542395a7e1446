"""Where `-o OUT` leads: JSONL is its own checkpoint; a table, or what goes to stdout, is made of one in the end."""

from __future__ import annotations

import tempfile
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    import os
    from collections.abc import Iterable, Iterator

    from llmbatch._leaves.row import Row

_TABLES = {".csv": "csv", ".parquet": "parquet", ".pq": "parquet"}


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
        """Make the table of the journal, where one was asked for."""
        if is_table(self.name) and self.journal.exists():
            write_table(Path(self.name), _rows(self.journal))


@contextmanager
def destination(output: Path) -> Iterator[Destination]:
    """Where a run is to write. Raises ValueError for a path that cannot be written, ImportError without the extra."""
    from llmbatch._leaves.extras import extra  # noqa: PLC0415 - `--help` needs none of it
    from llmbatch._leaves.files import replaceable  # noqa: PLC0415 - likewise
    from llmbatch.cli._output import journal  # noqa: PLC0415 - likewise

    if str(output) == "-":
        output = Path("/dev/stdout")
    if not replaceable(output):
        click.echo(f"{output} keeps no checkpoint: an interrupted run begins anew", err=True)
        with journal(output) as path:
            yield Destination(path, str(output), resumable=False)
        return
    _check_writable(output)
    if not is_table(output):
        yield Destination(output, str(output))
        return
    if _TABLES[output.suffix.lower()] == "parquet":
        extra("pyarrow", "Parquet files", "frames")
    beside = output.with_name(f"{output.name}.jsonl")
    if output.exists() and not beside.exists():
        msg = f"{output} is there already, and no run's: give another path, or remove it"
        raise ValueError(msg)
    click.echo(f"{beside} is the checkpoint of {output}", err=True)
    yield Destination(beside, str(output))


def is_table(output: str | os.PathLike[str]) -> bool:
    """Whether the suffix names a table."""
    return Path(output).suffix.lower() in _TABLES


def write_table(output: Path, rows: Iterable[Row]) -> None:
    """Write rows as CSV or Parquet, with the columns of `results.to_pandas()`."""
    from llmbatch.results import BatchResults  # noqa: PLC0415 - `--help` needs none of it

    results = BatchResults(rows)
    write = results.to_csv if _TABLES[output.suffix.lower()] == "csv" else results.to_parquet
    write(output)


def _rows(journal: Path) -> Iterator[Row]:
    from llmbatch._batch.checkpoint import output_lines  # noqa: PLC0415 - `--help` needs none of it
    from llmbatch._leaves.lines import row_from_line  # noqa: PLC0415 - likewise

    with journal.open("rb") as file:
        for _, _, line in output_lines(file, journal):
            if line is not None:
                yield row_from_line(line)


def _check_writable(output: Path) -> None:
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=output.parent):
            pass
        if output.exists():
            output.open("ab").close()
    except OSError as exc:
        msg = f"cannot write to {output}: {exc.strerror}; give another path"
        raise ValueError(msg) from None
