"""A table in memory that is being completed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from llmbatch._output.stats import RunStats
from llmbatch._rows.row import numbered
from llmbatch._tables.answer_columns import AnswerColumns
from llmbatch._tables.kinds import table_of
from llmbatch._tables.options import PathLike, SizedRequests, checked_output, row_requests, warn_of
from llmbatch._tables.write_files import ArrowSource, write_completed
from llmbatch._util.template import RowTemplate
from llmbatch.results import BatchResults


class TableRun:
    """The requests of a table's rows, and the table with their answers.

    Attributes:
        requests: an iterable for the batch.
        options: the batch's options.
    """

    def __init__(
        self,
        native: Any,
        template: RowTemplate,
        *,
        output: PathLike | None,
        images: str | None,
        missing: str,
        details: Sequence[str],
        options: dict[str, Any],
    ) -> None:
        self._table, self._details, self.options = table_of(native), details, options
        self._made = row_requests(template, self._table.names, images, missing, options)
        self._columns = AnswerColumns(self._table.names, options.get("response_format"), details)
        self._output = self._source = None
        if output is not None:
            self._output = checked_output(output, None, options.get("checkpoint"))
            options["checkpoint"] = self._output.checkpoint
            self._source = ArrowSource(self._table.arrow())
        count = self._made.check(self._rows(self._made.checked))
        self._size = count + self._made.missing.total()
        self.requests: Any = SizedRequests(self._made, lambda: self._rows(self._made.columns), count)
        if images is None:
            self.requests = list(self.requests)  # what a caller's function raises comes before anything is sent

    def _rows(self, names: Sequence[str]) -> Any:
        return self._table.rows(names)

    def finished(self, results: Any) -> Any:
        """Return the table with the answers; a DryRun as it is."""
        if not isinstance(results, BatchResults):
            return results
        empty = self._columns.values(None)
        values = [empty] * self._size
        for index, row in enumerate(results):
            at = self._made.position(index)
            values[at] = self._columns.values(numbered(at, row))
        if self._output is not None and self._source is not None:
            write_completed(self._source, self._output.path, self._output.kind, self._columns, values.__getitem__)
        warn_of(self._made, RunStats(results), self._size, self._details)
        return self._table.joined(self._columns.arrays(values))
