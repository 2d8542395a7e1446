"""The row: the result of one request as a plain dict, with functions that make rows and read them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Required, TypedDict

from llmbatch._rows.finish_reasons import own_reason


class Row(TypedDict, total=False):
    """The result of one request: the provider's answer as LiteLLM returns it, plus llmbatch's own keys.

    Every row has `model`, `choices`, `usage` and the keys in `OWN_KEYS`. `"error" in row` is the test for a failed row,
    which has `error_details`; its `choices` hold the answer if there is one that was rejected. Times are in seconds:
    `elapsed` is that of the last attempt, `waited` that of everything before it (limits, retries). Both are None if
    nothing was sent, and in rows of batch jobs. `started_at` is when the row's turn came, in UTC as ISO 8601; its last
    attempt began `waited` seconds later. `lane` is how the answer was made: "live", "job" or "flex". `saved` is
    the USD saved against the live price, `paid_twice` the USD paid for a cancelled job's late answer (None: unknown).
    `deployment` is the name of the deployment that the last attempt was sent to, if the call has `deployments=`.
    `resumed` marks a row from the checkpoint, `rechecked` one whose answer in the checkpoint no longer passed.
    """

    id: str
    created: int
    model: Required[str]
    object: str
    choices: Required[list[dict[str, Any]]]
    data: list[dict[str, Any]]
    usage: Required[dict[str, Any]]
    custom_id: Required[str]
    cost: Required[float | None]
    attempts: Required[int]
    elapsed: Required[float | None]
    waited: Required[float | None]
    started_at: Required[str | None]
    lane: Required[str]
    saved: float
    paid_twice: float | None
    resumed: bool
    rechecked: bool
    error: str
    error_details: dict[str, Any]
    fallback: dict[str, Any]
    metadata: Any
    request_model: str
    asks: int
    same_as: int
    deployment: str


NO_USAGE = {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0}
OWN_KEYS = ("custom_id", "cost", "attempts", "elapsed", "waited", "started_at", "lane")
_ONLY_OURS = {
    "error", "error_details", "fallback", "resumed", "rechecked", "metadata", "request_model", "asks", "same_as",
    "saved", "paid_twice", "deployment",
}  # fmt: skip


def answer_row(
    body: Mapping[str, Any],
    *,
    custom_id: str,
    cost: float | None,
    attempts: int = 1,
    lane: str = "live",
    deployment: str | None = None,
    **times: Any,
) -> Row:
    """Return the row of an answer. `cost` is in USD, None if unknown; `times` are those of `Outcome.spent`."""
    answer = {key: value for key, value in body.items() if key not in _ONLY_OURS}
    usage = {**NO_USAGE, **(body.get("usage") or {})}
    cost = cost if cost is None or math.isfinite(cost) else None
    always = {"model": body.get("model") or "", "choices": body.get("choices") or [], "usage": usage}
    own = {"custom_id": custom_id, "cost": cost, "attempts": attempts, **_times(**times), "lane": lane}
    if deployment is not None:
        own["deployment"] = deployment
    return {**answer, **always, **own}  # type: ignore[typeddict-item]


def error_row(
    *,
    type: str,  # noqa: A002 - the name of the row's key
    message: str,
    model: str | None,
    custom_id: str,
    cost: float | None = 0.0,
    elapsed: float | None = None,
    waited: float | None = None,
    started_at: str | None = None,
    lane: str = "live",
    deployment: str | None = None,
    **details: Any,
) -> Row:
    """Return the row of a failed request: `error` is one line for people, `error_details` is for programs.

    `cost` is None if the provider may have charged for an answer that was lost. `details` may be `status_code`,
    `provider`, `attempts`, and `retryable`, whether sending the same request again may succeed.
    """
    details = {"type": str(type), "status_code": None, "provider": None, "retryable": False, "attempts": 0, **details}
    row: Row = {
        "model": model or "",
        "choices": [],
        "usage": dict(NO_USAGE),
        "custom_id": custom_id,
        "cost": cost,
        "attempts": details["attempts"],
        **_times(elapsed, waited, started_at),  # type: ignore[typeddict-item]
        "lane": lane,
        "error": well_formed(f"{type}: {message}"),
        "error_details": details,
    }
    if deployment is not None:
        row["deployment"] = deployment
    return row


def _times(
    elapsed: float | None = None, waited: float | None = None, started_at: str | None = None
) -> dict[str, float | str | None]:
    rounded = {name: s if s is None else round(s, 4) for name, s in (("elapsed", elapsed), ("waited", waited))}
    return {**rounded, "started_at": started_at}


def numbered(index: int, row: Row) -> Row:
    """Return the row, with its index in the input if it failed."""
    if "error" in row:
        row["error_details"]["index"] = index
    return row


def well_formed(text: str) -> str:
    """Return the text in valid Unicode: surrogate pairs are joined, lone surrogates are replaced."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    return text


def add_spent(row: Row, before: Row) -> None:
    """Add the tokens, USD and attempts of an earlier row for the same request to a row."""
    add_usage(row["usage"], before["usage"])
    row["attempts"] += before["attempts"]
    if "saved" in before:
        row["saved"] = row.get("saved", 0.0) + before["saved"]
    if "error" in row:
        row["error_details"]["attempts"] = row["attempts"]
    if before["cost"] is None and "error" in row:
        row["cost"] = None
    elif row["cost"] is not None:
        row["cost"] += before["cost"] or 0.0


def row_text(row: Mapping[str, Any]) -> str | None:
    """Return the first choice's text; None for a failed row or an answer without text (tool calls)."""
    return None if "error" in row else choice_text(row)


def choice_text(row: Mapping[str, Any]) -> str | None:
    """Return the first choice's text, even if the row failed and keeps its answer."""
    if not row.get("choices"):
        return None
    content = (row["choices"][0].get("message") or {}).get("content")
    if isinstance(content, list):
        texts = (part.get("text") for part in content if isinstance(part, Mapping))
        return "".join(text for text in texts if isinstance(text, str))
    return content if isinstance(content, str) else None


def refusal_text(message: Mapping[str, Any]) -> str | None:
    """Return the model's refusal, from either of the places where LiteLLM puts it."""
    found = message.get("refusal") or (message.get("provider_specific_fields") or {}).get("refusal")
    return str(found) if found else None


def finish_reasons(row: Mapping[str, Any]) -> list[str]:
    """Return each choice's finish reason: the provider's own where LiteLLM's says less. Embeddings have none."""
    return [reason for choice in row.get("choices") or () if (reason := own_reason(choice))]


def row_metadata(row: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the request's metadata by name; metadata that is not an object has the name `metadata`."""
    metadata = row.get("metadata")
    if metadata is None or isinstance(metadata, Mapping):
        return metadata or {}
    return {"metadata": metadata}


def row_vector(row: Mapping[str, Any]) -> list[float] | None:
    """Return the embedding, None for a failed row or a chat."""
    return row["data"][0]["embedding"] if row.get("data") else None


def add_usage(total: dict[str, Any], usage: Mapping[str, Any] | None) -> None:
    """Add a usage to `total`, with nested details (cached and reasoning tokens). Nulls are ignored."""
    for key, value in (usage or {}).items():
        if isinstance(value, Mapping):
            add_usage(total.setdefault(key, {}), value)
        elif isinstance(value, int | float) and not isinstance(value, bool):
            total[key] = total.get(key, 0) + value
