"""Lists of rows, their sums and their forms."""

from __future__ import annotations

import html
from typing import TYPE_CHECKING, Any, Generic, Self

from llmbatch._leaves.row import Row, Tally, row_text, row_vector
from llmbatch._leaves.structured import M, parsed_row
from llmbatch.errors import BatchFailedError

if TYPE_CHECKING:
    from collections.abc import Iterable

    import pandas as pd

    from llmbatch._leaves.structured import ResponseFormat

__all__ = ["BatchResults", "Row"]


class BatchResults(list[Row], Generic[M]):
    """The rows of a batch in the order of its input: a plain list that also knows its totals.

    Attributes:
        elapsed: wall time of the run in seconds.
        response_format: what `parsed` reads answers by, if JSON was asked for.

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
    ) -> None:
        super().__init__(rows)
        self.elapsed = elapsed
        self.response_format = response_format

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
    def parsed(self) -> list[M | None]:
        """Each row's answer as an instance of `response_format` (a dict for a dict), None where the row failed.

        Raises ValueError when the batch was not given a `response_format`.
        """
        if (asked := self.response_format) is None:
            msg = 'no JSON was asked for; pass response_format=YourModel or {"type": "json_object"} to the batch'
            raise ValueError(msg)
        return [parsed_row(row, asked) for row in self]

    @property
    def embeddings(self) -> list[list[float] | None]:
        """Each row's embedding vector, None where the row failed (for `create_embeddings_batch`)."""
        return [row_vector(row) for row in self]

    def raise_for_errors(self) -> Self:
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
