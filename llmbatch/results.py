"""Lists of rows, their sums and their forms."""

from __future__ import annotations

import html
import json
from collections.abc import Hashable
from functools import partial
from typing import TYPE_CHECKING, Any

from llmbatch._leaves.row import Row, Tally, parsed_row, row_metadata, row_text, row_vector
from llmbatch.errors import BatchFailedError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    import pandas as pd
    from pydantic import BaseModel

__all__ = ["BatchResults", "Row"]


class BatchResults(list[Row]):
    """The rows of a batch in the order of its input: a plain list that also knows its totals.

    Attributes:
        elapsed: wall time of the run in seconds.
        response_format: the pydantic model that `parsed` validates with, if one was given.
        formats: the models of requests with one of their own (or none), by `custom_id`.

    Example:
        results = create_chat_completions_batch(chats, "gpt-4o-mini")
        print(results.texts, [row["error"] for row in results.failed], results.usage, results.cost)
    """

    def __init__(
        self,
        rows: Iterable[Row] = (),
        *,
        elapsed: float = 0.0,
        response_format: type[BaseModel] | None = None,
        formats: Mapping[str, type[BaseModel] | None] | None = None,
    ) -> None:
        super().__init__(rows)
        self.elapsed = elapsed
        self.response_format = response_format
        self.formats = formats or {}

    @property
    def usage(self) -> dict[str, Any]:
        """Tokens summed over all rows, with `prompt_tokens_details` and `completion_tokens_details` where given."""
        return Tally(self).usage

    @property
    def cost(self) -> float | None:
        """USD over all rows with a known price; None when no answered row has one (see `unpriced`)."""
        return Tally(self).cost

    @property
    def unpriced(self) -> int:
        """How many rows may have cost money but have no known price; `cost` does not include them."""
        return Tally(self).unpriced

    @property
    def failed(self) -> list[Row]:
        """The error rows, in order."""
        return [row for row in self if "error" in row]

    @property
    def succeeded(self) -> list[Row]:
        """The answered rows, in order."""
        return [row for row in self if "error" not in row]

    @property
    def texts(self) -> list[str | None]:
        """Each row's answer text, None where the row failed or the answer has no text."""
        return [row_text(row) for row in self]

    @property
    def parsed(self) -> list[Any]:
        """Each row's answer as an instance of `response_format`, None where the row failed.

        Raises ValueError when the batch was not given a pydantic `response_format`.
        """
        if self.response_format is None and not self.formats:
            msg = "no pydantic model to parse with; pass response_format=YourModel to the batch"
            raise ValueError(msg)
        return [parsed_row(row, self.formats.get(row["custom_id"], self.response_format)) for row in self]

    def by(self, key: str | Callable[[Row], Any]) -> dict[Any, BatchResults]:
        """Groups of the rows, each with its own `summary()`, `cost`, `usage` and `failed`, as they first appear.

        `key` is "model" (the one that was asked, as it was named), a key of the rows' `metadata` (rows without it are
        under None), or a function of a row. Raises ValueError when no row has such a key.

        Example:
            for model, rows in results.by("model").items():
                print(model, rows.summary())
        """
        if isinstance(key, str) and key != "model" and not any(key in (row_metadata(row)) for row in self):
            msg = f"no row has {key!r} in its metadata; give requests metadata={{{key!r}: …}}, or pass a function"
            raise ValueError(msg)
        groups: dict[Any, list[Row]] = {}
        for row in self:
            if callable(key):
                value = key(row)
            elif key == "model":
                value = row.get("request_model") or row.get("model")
            else:
                value = row_metadata(row).get(key)
            groups.setdefault(value if isinstance(value, Hashable) else json.dumps(value), []).append(row)
        alike = partial(BatchResults, elapsed=self.elapsed, response_format=self.response_format, formats=self.formats)
        return {value: alike(rows) for value, rows in groups.items()}

    @property
    def embeddings(self) -> list[list[float] | None]:
        """Each row's embedding vector, None where the row failed (for `create_embeddings_batch`)."""
        return [row_vector(row) for row in self]

    def raise_for_errors(self) -> BatchResults:
        """Return self, or raise BatchFailedError when any row failed."""
        if failed := self.failed:
            raise BatchFailedError(failed, len(self))
        return self

    def summary(self) -> str:
        """One line: rows, failures, time, speed, tokens and cost."""
        tally = Tally(self)
        ok, usage = tally.rows - tally.failed, tally.usage
        speed = f"{len(self) / self.elapsed:.1f} rows/s" if self.elapsed > 0 else "-"
        return (
            f"{ok}/{len(self)} rows succeeded in {self.elapsed:.2f}s ({speed}); "
            f"tokens: {usage['prompt_tokens']} prompt + {usage['completion_tokens']} completion "
            f"= {usage['total_tokens']}; cost: {tally.cost_text(6)}"
        )

    def to_pandas(self) -> pd.DataFrame:
        """A DataFrame with one row a request: custom_id, text, error, model, tokens, cost, attempts, and parsed fields.

        Needs the `pandas` extra.
        """
        from llmbatch._leaves.frame import rows_frame  # noqa: PLC0415 - an optional dependency

        return rows_frame(self, self.response_format)

    def __repr__(self) -> str:
        return f"<BatchResults: {self.summary()}>"

    def _repr_html_(self) -> str:
        shown = 10
        head = "".join(f"<th>{name}</th>" for name in ("", "answer", "model", "tokens", "cost"))
        body = "".join(self._html_row(i, row) for i, row in enumerate(self[:shown]))
        more = f"<p>… and {len(self) - shown} more rows</p>" if len(self) > shown else ""
        return (
            f"<div class='llmbatch'><p>{html.escape(self.summary())}</p>"
            f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>{more}</div>"
        )

    @staticmethod
    def _html_row(index: int, row: Row) -> str:
        longest = 200
        text = row["error"] if "error" in row else row_text(row)
        if text is None and row.get("data"):
            text = f"[vector of {len(row['data'][0]['embedding'])} numbers]"
        elif text is None:
            text = "[tool calls]"
        text = text if len(text) <= longest else text[: longest - 1] + "…"
        cost = row.get("cost")
        cells = (
            str(index),
            text,
            str(row.get("model") or ""),
            str((row.get("usage") or {}).get("total_tokens", "")),
            "" if cost is None else f"${cost:.6f}",
        )
        style = " style='color:#b00020'" if "error" in row else ""
        tds = "".join(f"<td style='text-align:left'>{html.escape(cell)}</td>" for cell in cells)
        return f"<tr{style}>{tds}</tr>"
