"""The results of a batch: a list of rows with totals, tables and a report."""

from __future__ import annotations

import json
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, Literal, Self, SupportsIndex, overload

from llmbatch._output.dataframe import rows_csv, rows_frame, rows_table, vectors_array
from llmbatch._output.html_table import table
from llmbatch._output.jsonl import written_row
from llmbatch._output.report import report_html
from llmbatch._output.run_info import RunInfo
from llmbatch._output.stats import RunStats, failures_text, latency_text
from llmbatch._rows.finish_reasons import is_filtered, is_truncated
from llmbatch._rows.row import Row, row_metadata, row_text, row_vector
from llmbatch._rows.structured_output import M, parsed_row
from llmbatch._util.extras import extra
from llmbatch._util.files import replacing
from llmbatch.errors import BatchFailedError
from llmbatch.next_steps import NextSteps

if TYPE_CHECKING:
    import os

    import numpy as np
    import pandas as pd
    import polars as pl
    import pyarrow as pa

from llmbatch._rows.structured_output import ResponseFormat

__all__ = ["BatchResults", "Row", "totals"]

_MODEL_KEYS = {"model", "request_model"}


def totals(row_stats: RunStats, elapsed: float) -> str:
    """Return a line with the number of rows, speed, latency, tokens and cost."""
    usage, took = row_stats.usage, latency_text(row_stats.latency)
    speed = f"{row_stats.answered / elapsed:.1f} rows/s" if elapsed > 0 else "-"
    return (
        f"{row_stats.rows - row_stats.failed}/{row_stats.rows} rows succeeded in {elapsed:.2f}s ({speed}){took}; "
        f"tokens: {usage['prompt_tokens']} prompt + {usage['completion_tokens']} completion "
        f"= {usage['total_tokens']}; cost: {row_stats.cost_text(6)}{row_stats.notes(6)}"
    )


class BatchResults(NextSteps, Generic[M]):
    """The rows of a batch in input order: a list that also has totals, as its slices have.

    Attributes:
        elapsed: wall time of the run in seconds.
        response_format: what `parsed` reads answers by, if JSON was asked for.
        formats: what it reads those of requests with a format of their own by (or None), by `custom_id`.
        limits: what refusals were found to depend on (a rate, a number in flight, chance), in a line; "" for nothing.
        sent_as_is: names of parameters that neither llmbatch nor LiteLLM knows, and that were sent as they are.
        run: the run's id, start, attempts and what limited it.
        asked: the requests that it was made of, where they are a list of the caller's; a slice has none.

    Example:
        results = create_chat_completions_batch(chats, "gpt-4o-mini")
        print(results.texts, [row["error"] for row in results.failed], results.usage, results.cost)
    """

    def __init__(
        self,
        rows: Iterable[Row] = (),
        *,
        elapsed: float = 0.0,
        response_format: ResponseFormat | None = None,
        formats: Mapping[str, ResponseFormat | None] | None = None,
        limits: str = "",
        sent_as_is: Sequence[str] = (),
        asked: Sequence[Any] | None = None,
        run: RunInfo | None = None,
        call: Any = None,
    ) -> None:
        super().__init__(rows)
        self.elapsed = elapsed
        self.response_format = response_format
        self.formats = formats or {}
        self.limits = limits
        self.sent_as_is = sent_as_is
        self.asked = asked
        self.run = run or RunInfo()
        self._call = call  # that has made them, with its keys

    @overload
    def __getitem__(self, item: SupportsIndex) -> Row: ...

    @overload
    def __getitem__(self, item: slice) -> BatchResults: ...

    def __getitem__(self, item: SupportsIndex | slice) -> Row | BatchResults:
        if not isinstance(item, slice):
            return super().__getitem__(item)
        return self._alike(super().__getitem__(item))

    @property
    def usage(self) -> dict[str, Any]:
        """Total tokens of all rows, with `prompt_tokens_details` and `completion_tokens_details` if given."""
        return RunStats(self).usage

    @property
    def cost(self) -> float | None:
        """Total USD of the rows with a known cost; None if no answered row has one (see `unpriced`)."""
        return RunStats(self).cost

    @property
    def unpriced(self) -> int:
        """Number of rows that may have cost money but have no known cost; `cost` does not include them."""
        return RunStats(self).unpriced

    @property
    def failed(self) -> list[Row]:
        """Failed rows, in order; `row["error_details"]["index"]` is the index in the input."""
        return [row for row in self if "error" in row]

    @property
    def succeeded(self) -> list[Row]:
        """Answered rows, in order."""
        return [row for row in self if "error" not in row]

    @property
    def truncated(self) -> list[Row]:
        """Rows whose answer was cut off at a token limit (finish reasons such as "length"), in order."""
        return [row for row in self if is_truncated(row)]

    @property
    def filtered(self) -> list[Row]:
        """Rows whose answer a content filter withheld or cut, in order; those without any text are failed rows too."""
        return [row for row in self if is_filtered(row)]

    @property
    def resumed(self) -> list[Row]:
        """Rows that an earlier run answered: they are from the checkpoint, and were not sent."""
        return [row for row in self if row.get("resumed")]

    @property
    def batch_id(self) -> str:
        """The run's id in the log; "" for rows that were not made by a run."""
        return self.run.batch_id

    @property
    def stats(self) -> dict[str, Any]:
        """The run in numbers, as JSON: rows, failures, tokens, cost, attempts, retries by cause, and where time went.

        `seconds` adds up what all requests spent in answers, waiting for limits, between retries, and waiting for the
        server. `limited_by` says what kept the run from being faster, `ended_early` why rows were not sent or done.
        These and `attempts`, `retries`, `rate_limited`, `cpu_seconds` are those of the whole run, in a slice too.

        Example:
            print(results.stats["limited_by"], results.stats["retries"])
        """
        return self.run.stats(RunStats(self), self.elapsed, self.limits)

    @property
    def latency(self) -> dict[str, float] | None:
        """Seconds per answer as `p50`, `p95`, `p99` and `max`; None if no row has a time (batch jobs)."""
        return RunStats(self).latency

    @property
    def texts(self) -> list[str | None]:
        """Text of each row's answer; None for a failed row or an answer without text."""
        return [row_text(row) for row in self]

    @property
    def parsed(self) -> list[M | None]:
        """Each row's answer as an instance of `response_format` (or a dict); None for failed rows and tool calls.

        Raises ValueError when the batch was not given a `response_format`.
        """
        if self.response_format is None and not self.formats:
            raise ValueError(
                'no JSON was asked for; pass response_format=YourModel or {"type": "json_object"} to the batch'
            )
        return [parsed_row(row, self.formats.get(row["custom_id"], self.response_format)) for row in self]

    def by(self, key: str | Callable[[Row], Any]) -> dict[Any, BatchResults]:
        """Return groups of the rows by a key, each with its own `summary()`, `cost`, `usage` and `failed`.

        `key` is "model" (the one that was asked, as it was named), "deployment" (of a batch with `deployments=`), a key
        of the rows' `metadata` (rows without it are under None), or a function of a row. Raises ValueError when no row
        has such a key.

        Example:
            for model, rows in results.by("model").items():
                print(model, rows.summary())
        """
        if key == "deployment" and any("deployment" in row for row in self):
            return self.by(lambda row: row.get("deployment"))
        if isinstance(key, str) and key not in _MODEL_KEYS and not any(key in (row_metadata(row)) for row in self):
            raise ValueError(
                f"no row has {key!r} in its metadata; give requests metadata={{{key!r}: …}}, or pass a function"
            )
        groups: dict[Any, list[Row]] = {}
        for row in self:
            if callable(key):
                value = key(row)
            elif key in _MODEL_KEYS:
                value = row.get("request_model") or row.get("model")
            else:
                value = row_metadata(row).get(key)
            groups.setdefault(value if isinstance(value, Hashable) else json.dumps(value), []).append(row)
        return {value: self._alike(rows) for value, rows in groups.items()}

    def _alike(self, rows: Iterable[Row]) -> BatchResults[M]:
        names = ("elapsed", "response_format", "formats", "limits", "sent_as_is", "run")
        about = {name: getattr(self, name) for name in names}
        return BatchResults(rows, **about, call=self._call)

    @property
    def embeddings(self) -> list[list[float] | None]:
        """Each row's embedding vector; None for a failed row."""
        return [row_vector(row) for row in self]

    def raise_for_errors(self) -> Self:
        """Return self, or raise BatchFailedError if a row failed."""
        if failed := self.failed:
            raise BatchFailedError(failed, len(self))
        return self

    def summary(self) -> str:
        """Return a line for each kind of failure, the root cause first, and a line of totals.

        Lines about attempts, waits and what limited the run follow, where they matter. The speed is that of the rows
        that this run answered, those found in the checkpoint left out.
        """
        return failures_text(RunStats(self)) + self._totals() + self.run.lines(len(self), self.elapsed)

    def _totals(self) -> str:
        sent_as_is = f"; sent as is: {', '.join(self.sent_as_is)}" if self.sent_as_is else ""
        return totals(RunStats(self), self.elapsed) + sent_as_is

    def to_pandas(self) -> pd.DataFrame:
        """Return a DataFrame with a row per request: text, parsed fields, error, finish_reason, model, tokens, cost.

        Needs the `pandas` extra.
        """
        return rows_frame(self, self.response_format, self.formats)

    def to_numpy(self, *, on_failed: Literal["raise", "nan"] = "raise") -> np.ndarray[Any, Any]:
        """Return the embeddings as an array of rows by dimensions. Needs NumPy, as in the `pandas` extra.

        Args:
            on_failed: what a failed row becomes: "raise" raises BatchFailedError, "nan" gives a row of NaN.

        Raises ValueError if no row has a vector, or if vectors differ in length.

        Example:
            vectors = create_embeddings_batch(texts, "text-embedding-3-small").to_numpy()
        """
        if on_failed not in {"raise", "nan"}:
            raise ValueError(f"on_failed must be 'raise' or 'nan', not {on_failed!r}")
        if on_failed == "raise":
            self.raise_for_errors()
        return vectors_array(self.embeddings)

    def to_arrow(self) -> pa.Table:
        """Return an Arrow table with the columns of `to_pandas`. Needs the `frames` extra.

        Values of a parsed field that Arrow has no common type for are text, as JSON.

        Example:
            results.to_arrow().to_pylist()
        """
        return rows_table(self, self.response_format, self.formats)

    def to_polars(self) -> pl.DataFrame:
        """Return a polars DataFrame with the columns of `to_pandas`. Needs the `polars` extra."""
        frame: pl.DataFrame = extra("polars", "polars DataFrames", "polars").from_arrow(self.to_arrow())
        return frame

    def to_dataset(self) -> Any:
        """Return a Dataset of Hugging Face with the columns of `to_arrow`. Needs the `datasets` extra."""
        return extra("datasets", "Datasets", "datasets").Dataset(self.to_arrow())

    def to_parquet(self, path: str | os.PathLike[str]) -> None:
        """Write the columns of `to_arrow` as a Parquet file. Needs the `frames` extra."""
        table, parquet = self.to_arrow(), extra("pyarrow.parquet", "Parquet files", "frames")
        with replacing(path) as file:
            parquet.write_table(table, file)

    def to_csv(self, path: str | os.PathLike[str]) -> None:
        """Write the columns of `to_pandas` as CSV in UTF-8, with lists and objects as JSON."""
        with replacing(path) as file:
            file.write(rows_csv(self, self.response_format, self.formats))

    def to_jsonl(self, path: str | os.PathLike[str]) -> None:
        """Write whole rows as JSON lines, as `llmbatch run` does: in the format of OpenAI's batch output files."""
        with replacing(path) as file:
            file.writelines(map(written_row, self))

    def report(self, path: str | os.PathLike[str], *, prompts: bool | Iterable[Any] = False) -> None:
        """Write a page about this run, one HTML file that needs no network: rows over time, latency, models, failures.

        It holds answers, and no prompts unless `prompts` is True, or the list that the rows answer (rows out of a
        generator, a file or a slice do not know theirs). Needs the `report` extra. Raises ValueError when there are not
        as many prompts as rows.

        Example:
            results.report("run.html", prompts=True)
        """
        asked = self.asked if prompts is True else prompts or None
        if prompts is True and asked is None:
            raise ValueError("prompts are not stored here; pass prompts=your_list")
        page = report_html(
            self, title=Path(path).stem, elapsed=self.elapsed, limits=self.limits, prompts=asked, run=self.run
        )
        with replacing(path) as file:
            file.write(page.encode())

    def __repr__(self) -> str:
        return f"<BatchResults: {self._totals()}>"

    def _repr_html_(self) -> str:
        return table(self, self._totals())
