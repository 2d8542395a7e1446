"""Rows out of what became of requests: answers, answers that are none, and failures."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import ValidationError

from llmbatch._leaves.row import Row, answer_row, error_row
from llmbatch._leaves.structured import parsed_row
from llmbatch._request.failures import Failure, clean

if TYPE_CHECKING:
    from llmbatch._leaves.structured import ResponseFormat
    from llmbatch._litellm import Target
    from llmbatch._request.plans import ChatPlan
    from llmbatch._request.sender import Outcome

__all__ = ["chat_row", "failure_row"]


def failure_row(
    failure: Failure, target: Target, custom_id: str, *, attempts: int = 0, cost: float | None = 0.0
) -> Row:
    """The error row of a failure; `cost` in USD, None where the provider may have charged for it."""
    return error_row(
        type=failure.type,
        message=clean(failure.message),
        model=target.model,
        custom_id=custom_id,
        status_code=failure.status_code,
        provider=failure.provider or target.provider,
        retryable=failure.retryable,
        attempts=attempts,
        cost=cost,
    )


def chat_row(outcome: Outcome, plan: ChatPlan, custom_id: str) -> Row:
    """The row of an outcome; an answer that does not fit the pydantic model asked for is an error row that keeps it."""
    if outcome.failure is not None:
        return failure_row(outcome.failure, plan.target, custom_id, attempts=outcome.attempts, cost=outcome.cost)
    assert outcome.answer is not None  # noqa: S101 - either is there
    row = answer_row(outcome.answer.body, custom_id=custom_id, cost=outcome.cost, attempts=outcome.attempts)
    misfit = _misfit(row, plan.response_format)
    if misfit is None:
        return row
    bad = failure_row(misfit, plan.target, custom_id, attempts=outcome.attempts, cost=outcome.cost)
    return {**bad, "model": row["model"], "choices": row.get("choices") or [], "usage": row["usage"]}


def _misfit(row: Row, asked: ResponseFormat | None) -> Failure | None:
    """What keeps an answer from being a good row."""
    if not row.get("choices"):
        return Failure("EmptyAnswer", "the provider answered without any choice", 200)
    choice = row["choices"][0]
    if asked is None or (choice.get("message") or {}).get("tool_calls"):
        return None
    try:
        if parsed_row(row, asked) is not None:
            return None
        problem = "it has no text"
    except ValidationError as exc:
        first = exc.errors(include_input=False, include_url=False)[0]
        problem = ": ".join(filter(None, (".".join(map(str, first["loc"])), first["msg"])))
    except ValueError as exc:
        problem = f"Invalid JSON: {exc}"
    name = asked.__name__ if isinstance(asked, type) else "JSON"
    cut = "; the answer was cut off, raise max_tokens" if choice.get("finish_reason") == "length" else ""
    return Failure("ValidationError", f"the answer is no {name}: {problem}{cut}", 200)
