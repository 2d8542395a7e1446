"""Rows, their sums, and lists of rows.

A leaf: it knows neither providers nor how a row was made.
"""

from __future__ import annotations

import html
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, TypedDict

from llmbatch.errors import BatchFailedError

if TYPE_CHECKING:
    import pandas as pd
    from pydantic import BaseModel

__all__ = ["NO_USAGE", "BatchResults", "Row", "Tally", "answer_row", "error_row", "row_text"]


class Row(TypedDict, total=False):
    """One request's outcome: the provider's answer as LiteLLM gives it, plus llmbatch's own keys.

    `"error" in row` tells a failed row; it then has `choices: []`, zero `usage`, and `error_details`.
    """

    id: str
    created: int
    model: str
    object: str
    choices: list[dict[str, Any]]
    data: list[dict[str, Any]]
    usage: dict[str, Any]
    custom_id: str
    cost: float | None
    attempts: int
    error: str
    error_details: dict[str, Any]
    fallback: dict[str, Any]


NO_USAGE = {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0}


def answer_row(body: Mapping[str, Any], *, custom_id: str, cost: float | None, attempts: int = 1) -> Row:
    """A row for an answered request. `cost` in USD, None where no price is known."""
    usage = {**NO_USAGE, **(body.get("usage") or {})}
    return {**body, "usage": usage, "custom_id": custom_id, "cost": cost, "attempts": attempts}  # type: ignore[typeddict-item]


def error_row(
    *,
    type: str,  # noqa: A002 - the row's own word
    message: str,
    model: str | None,
    custom_id: str,
    status_code: int | None = None,
    provider: str | None = None,
    retryable: bool = False,
    attempts: int = 0,
    cost: float | None = 0.0,
    **details: Any,
) -> Row:
    """A row for a failed request: `error` is one line for people, `error_details` is for programs.

    `retryable` says whether sending the same request again may succeed. `cost` is None where the provider may have
    charged for an answer that was lost.
    """
    return {
        "model": model or "",
        "choices": [],
        "usage": dict(NO_USAGE),
        "custom_id": custom_id,
        "cost": cost,
        "attempts": attempts,
        "error": f"{type}: {message}",
        "error_details": {
            "type": type,
            "status_code": status_code,
            "provider": provider,
            "retryable": retryable,
            "attempts": attempts,
            **details,
        },
    }


def row_text(row: Mapping[str, Any]) -> str | None:
    """The first choice's text; None for a failed row or an answer without text (tool calls)."""
    if "error" in row or not row.get("choices"):
        return None
    content = (row["choices"][0].get("message") or {}).get("content")
    if isinstance(content, list):
        return "".join(part.get("text") or "" for part in content if isinstance(part, Mapping))
    return content


class Tally:
    """Sums over rows as they come.

    Attributes:
        rows: how many there were.
        errors: how many failed, by the error's type.
        usage: tokens, with `prompt_tokens_details` and `completion_tokens_details` where given.
        unpriced: rows that may have cost money but have no known price.
    """

    def __init__(self, rows: Iterable[Row] = ()) -> None:
        self.rows = self.unpriced = 0
        self.errors: Counter[str] = Counter()
        self.usage: dict[str, Any] = dict(NO_USAGE)
        self._cost, self._any_price = 0.0, False
        for row in rows:
            self.add(row)

    def add(self, row: Row) -> None:
        """One more row."""
        self.rows += 1
        _add_usage(self.usage, row.get("usage"))
        if "error" in row:
            self.errors[row["error_details"]["type"]] += 1
        cost = row.get("cost")
        if cost is None:
            self.unpriced += 1
        else:
            self._cost += cost
            self._any_price |= "error" not in row

    @property
    def failed(self) -> int:
        """How many rows failed."""
        return self.errors.total()

    @property
    def cost(self) -> float | None:
        """USD of the rows with a known price; None when no answered row has one and some row may have cost money."""
        return None if self.unpriced and not self._any_price else self._cost

    def cost_text(self, digits: int) -> str:
        """The cost in words, for people."""
        if self.cost is None:
            return "unknown (no known price)"
        return f"${self.cost:.{digits}f}" + (f" ({self.unpriced} rows without a known price)" if self.unpriced else "")


def _add_usage(total: dict[str, Any], usage: Mapping[str, Any] | None) -> None:
    """Add one usage object into `total`, nested details (cached and reasoning tokens) included; nulls count nothing."""
    for key, value in (usage or {}).items():
        if isinstance(value, Mapping):
            _add_usage(total.setdefault(key, {}), value)
        elif isinstance(value, int | float) and not isinstance(value, bool):
            total[key] = total.get(key, 0) + value


class BatchResults(list[Row]):
    """The rows of a batch in the order of its input: a plain list that also knows its totals.

    Attributes:
        elapsed: wall time of the run in seconds.
        response_format: the pydantic model that `parsed` validates with, if one was given.

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
    def parsed(self) -> list[Any]:
        """Each row's answer as an instance of `response_format`, None where the row failed.

        Raises ValueError when the batch was not given a pydantic `response_format`.
        """
        if self.response_format is None:
            msg = "no pydantic model to parse with; pass response_format=YourModel to the batch"
            raise ValueError(msg)
        model = self.response_format
        return [None if (text := row_text(row)) is None else model.model_validate_json(text) for row in self]

    @property
    def embeddings(self) -> list[list[float] | None]:
        """Each row's embedding vector, None where the row failed (for `create_embeddings_batch`)."""
        return [row["data"][0]["embedding"] if row.get("data") else None for row in self]

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
        from llmbatch._frame import results_frame  # noqa: PLC0415 - an optional dependency

        return results_frame(self)

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
