"""A table file that is being completed: read row by row, and written when all rows are done."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from llmbatch._output.stats import RunStats, failures_text
from llmbatch._rows.row import Row, numbered
from llmbatch._tables.answer_columns import AnswerColumns
from llmbatch._tables.options import (
    Missing,
    PathLike,
    SizedRequests,
    checked_kind,
    checked_output,
    row_requests,
    warn_of,
)
from llmbatch._tables.read_files import TableFile, opened
from llmbatch._tables.write_files import Spool, write_completed
from llmbatch._util.template import RowTemplate
from llmbatch.results import totals

__all__ = ["CompletedFile", "FileRun", "Missing", "PathLike"]


@dataclass(frozen=True)
class CompletedFile(os.PathLike[str]):
    """A table that `complete_table` has written: pass it where a path is expected, as in `pd.read_parquet(done)`.

    Attributes:
        path: the file.
        rows: number of rows in the file.
        skipped: rows that were not sent, since they have missing values.
        stats: statistics of the rows that were sent or found in the checkpoint.
        elapsed: wall time in seconds.
    """

    path: Path
    rows: int
    skipped: int
    stats: RunStats
    elapsed: float

    def __fspath__(self) -> str:
        return str(self.path)

    @property
    def failed(self) -> int:
        """Number of failed rows."""
        return self.stats.failed

    @property
    def cost(self) -> float | None:
        """Total USD of the rows with a known cost; None if no answered row has one."""
        return self.stats.cost

    def summary(self) -> str:
        """Return a line for each kind of failure, and a line of totals."""
        return failures_text(self.stats) + totals(self.stats, self.elapsed)

    def __repr__(self) -> str:
        return f"<CompletedFile {str(self.path)!r}: {totals(self.stats, self.elapsed)}>"


class FileRun:
    """The requests of a file's rows, and the file that is written with their answers. A context that closes both.

    Attributes:
        requests: an iterable for the batch.
        options: the batch's options.
    """

    def __init__(
        self,
        source: PathLike,
        template: RowTemplate,
        *,
        output: PathLike | None,
        images: str | None,
        missing: str,
        details: Sequence[str],
        options: dict[str, Any],
    ) -> None:
        path = Path(source)
        if output is None:
            raise ValueError(f"a file needs an output. Pass output=, as in output='{path.stem}.answers{path.suffix}'.")
        self._started, self._stats, self._details = time.perf_counter(), RunStats(), details
        self._kind, self.options = checked_kind(path), options
        self._output = checked_output(output, path, options.get("checkpoint"))
        options["checkpoint"] = None if options.get("dry_run") else self._output.checkpoint
        with ExitStack() as stack:
            self._table = TableFile(stack.enter_context(opened(path)), self._kind.kind, str(path))
            self._made = row_requests(template, self._table.names, images, missing, options)
            self._columns = AnswerColumns(self._table.names, options.get("response_format"), details)
            count = self._made.check(self._table.rows(self._made.checked))
            self._spool = Spool(self._output.path.parent)
            stack.callback(self._spool.close)
            self._opened = stack.pop_all()
        self.requests = SizedRequests(self._made, lambda: self._table.rows(self._made.columns), count)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, _kind: object, exc: BaseException | None, _traceback: object) -> None:
        self._opened.close()
        if exc is not None and self._stats.rows:
            exc.add_note(f"finished rows are in {self._output.checkpoint}; the same call sends only the rest")

    def add(self, index: int, row: Row) -> None:
        """Keep the answer of a request."""
        at = self._made.position(index)
        self._stats.add(numbered(at, row))
        self._spool.put(at, self._columns.values(row))

    def finished(self) -> CompletedFile:
        """Write the file, and return what it holds."""
        path = self._output.path
        rows = write_completed(self._table, path, self._output.kind, self._columns, self._spool.get)
        warn_of(self._made, self._stats, rows, self._details)
        skipped = self._made.missing.total()
        return CompletedFile(path, rows, skipped, self._stats, time.perf_counter() - self._started)
