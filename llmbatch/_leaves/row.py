"""One request's outcome as a plain dict, how it is made, and sums over many."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, TypedDict

if TYPE_CHECKING:
    from pydantic import BaseModel

__all__ = [
    "NO_USAGE",
    "Row",
    "Tally",
    "add_spent",
    "add_usage",
    "answer_row",
    "answer_text",
    "error_row",
    "parsed_row",
    "row_metadata",
    "row_text",
    "row_vector",
]


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
    metadata: Any
    request_model: str
    asks: int
    same_as: int


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


def add_spent(row: Row, before: Row) -> None:
    """Add to a row what an earlier one for the same input has used: tokens, USD and attempts."""
    add_usage(row["usage"], before["usage"])
    row["attempts"] += before["attempts"]
    if "error" in row:
        row["error_details"]["attempts"] = row["attempts"]
    if before["cost"] is None and "error" in row:
        row["cost"] = None
    elif row["cost"] is not None:
        row["cost"] += before["cost"] or 0.0


def row_text(row: Mapping[str, Any]) -> str | None:
    """The first choice's text; None for a failed row or an answer without text (tool calls)."""
    return None if "error" in row else answer_text(row)


def answer_text(row: Mapping[str, Any]) -> str | None:
    """The first choice's text, also of an answer that a failed row keeps."""
    if not row.get("choices"):
        return None
    content = (row["choices"][0].get("message") or {}).get("content")
    if isinstance(content, list):
        return "".join(part.get("text") or "" for part in content if isinstance(part, Mapping))
    return content


def row_metadata(row: Mapping[str, Any]) -> Mapping[str, Any]:
    """What the request said to keep with the row, by name; what is no object is by the name `metadata`."""
    metadata = row.get("metadata")
    if metadata is None or isinstance(metadata, Mapping):
        return metadata or {}
    return {"metadata": metadata}


def parsed_row(row: Mapping[str, Any], model: type[BaseModel] | None) -> Any:
    """The answer as an instance of the pydantic model, None where the row failed or has no text."""
    return None if model is None or (text := row_text(row)) is None else model.model_validate_json(text)


def row_vector(row: Mapping[str, Any]) -> list[float] | None:
    """The embedding, None where the row failed or is a chat's."""
    return row["data"][0]["embedding"] if row.get("data") else None


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
        add_usage(self.usage, row.get("usage"))
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


def add_usage(total: dict[str, Any], usage: Mapping[str, Any] | None) -> None:
    """Add one usage object into `total`, nested details (cached and reasoning tokens) included; nulls count nothing."""
    for key, value in (usage or {}).items():
        if isinstance(value, Mapping):
            add_usage(total.setdefault(key, {}), value)
        elif isinstance(value, int | float) and not isinstance(value, bool):
            total[key] = total.get(key, 0) + value
