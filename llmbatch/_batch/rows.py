"""Rows out of what became of requests: answers, answers that are none, and failures."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ValidationError

from llmbatch._leaves.row import Row, answer_row, error_row, row_text
from llmbatch._request.failures import Failure, clean

if TYPE_CHECKING:
    from llmbatch._litellm import Target
    from llmbatch._request.plans import ChatPlan
    from llmbatch._request.sender import Outcome

__all__ = ["chat_row", "failure_row", "labelled", "refused_answer"]


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


def labelled(row: Row, custom_id: str, metadata: Any) -> None:
    """Give a row its id, and what its request said to keep with it."""
    row["custom_id"] = custom_id
    row.pop("metadata", None)
    if metadata is not None:
        row["metadata"] = metadata


def chat_row(outcome: Outcome, plan: ChatPlan, custom_id: str) -> Row:
    """The row of an outcome; an answer that does not fit the pydantic model asked for is an error row that keeps it."""
    if outcome.failure is not None:
        return failure_row(outcome.failure, plan.target, custom_id, attempts=outcome.attempts, cost=outcome.cost)
    assert outcome.answer is not None  # noqa: S101 - either is there
    row = answer_row(outcome.answer.body, custom_id=custom_id, cost=outcome.cost, attempts=outcome.attempts)
    row["request_model"] = plan.target.model
    misfit = _misfit(row, plan.response_format)
    return row if misfit is None else refused_answer(row, misfit, plan)


def refused_answer(row: Row, failure: Failure, plan: ChatPlan) -> Row:
    """The error row of an answer that will not do, which it keeps."""
    bad = failure_row(failure, plan.target, row["custom_id"], attempts=row["attempts"], cost=row["cost"])
    kept = ("model", "request_model", "metadata", "usage")
    bad.update({k: row[k] for k in kept if k in row})  # type: ignore[typeddict-item, literal-required]
    bad["choices"] = row.get("choices") or []
    return bad


def _misfit(row: Row, model: type[BaseModel] | None) -> Failure | None:
    """What keeps an answer from being a good row."""
    if not row.get("choices"):
        return Failure("EmptyAnswer", "the provider answered without any choice", 200)
    choice = row["choices"][0]
    if model is None or (choice.get("message") or {}).get("tool_calls"):
        return None
    try:
        model.model_validate_json(row_text(row) or "")
    except ValidationError as exc:
        first = exc.errors(include_input=False, include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        cut = "; the answer was cut off, raise max_tokens" if choice.get("finish_reason") == "length" else ""
        text = f"the answer is no {model.__name__}: {where + ': ' if where else ''}{first['msg']}{cut}"
        return Failure("ValidationError", text, 200)
    return None
