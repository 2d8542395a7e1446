"""Rows out of what became of requests: answers, answers that are none, and failures."""

from __future__ import annotations

from json import JSONDecodeError
from typing import Any

from pydantic import ValidationError

from llmbatch._litellm import Target
from llmbatch._litellm.prices import standard_cost
from llmbatch._request.failures import Failure
from llmbatch._request.plans import ChatPlan
from llmbatch._request.sender import Outcome
from llmbatch._rows.row import CUT_OFF, Row, answer_row, error_row, refusal_text, row_text
from llmbatch._rows.structured_output import ResponseFormat, parsed

_FILTERED = "content_filter"


def failure_row(failure: Failure, target: Target, custom_id: str, **spent: Any) -> Row:
    """The error row of a failure; `spent` is an `Outcome`'s: attempts, cost in USD (None: perhaps charged), times."""
    return error_row(
        type=failure.type,
        message=" ".join(failure.message.split()),
        model=target.model,
        custom_id=custom_id,
        status_code=failure.status_code,
        provider=failure.provider or target.provider,
        retryable=failure.retryable,
        **spent,
    )


def labelled(row: Row, custom_id: str, metadata: Any) -> None:
    """Give a row its id, and what its request said to keep with it."""
    row["custom_id"] = custom_id
    row.pop("metadata", None)
    if metadata is not None:
        row["metadata"] = metadata


def in_lane(row: Row, lane: str, target: Target) -> None:
    """Say by which lane a row came, and what an answer cost less so than live."""
    row["lane"] = lane
    live, cost = standard_cost(target, row["usage"]), row["cost"]
    if live is not None and cost is not None:
        row["saved"] = max(0.0, live - cost)


def chat_row(outcome: Outcome, plan: ChatPlan, custom_id: str) -> Row:
    """The row of an outcome; an answer that does not fit the pydantic model asked for is an error row that keeps it."""
    if outcome.failure is not None:
        return failure_row(outcome.failure, plan.target, custom_id, **outcome.spent)
    assert outcome.answer is not None  # noqa: S101 - either is there
    row = answer_row(outcome.answer.body, custom_id=custom_id, **outcome.spent)
    row["request_model"] = plan.target.model
    misfit = _misfit(row, plan.response_format)
    return row if misfit is None else refused_answer(row, misfit, plan)


def refused_answer(row: Row, failure: Failure, plan: ChatPlan) -> Row:
    """The error row of an answer that will not do, which it keeps."""
    told = failure_row(failure, plan.target, row["custom_id"], attempts=row["attempts"])
    return {**row, "error": told["error"], "error_details": told["error_details"]}


def _misfit(row: Row, asked: ResponseFormat | None) -> Failure | None:
    """What keeps an answer from being a good row."""
    if not row.get("choices"):
        return Failure("EmptyAnswer", "the provider answered without any choice", 200)
    choice = row["choices"][0]
    message = choice.get("message") or {}
    if asked is None or message.get("tool_calls"):
        return None
    problems = validation_errors(row_text(row) or "", asked)
    if not problems:
        return None
    refusal = refusal_text(message)
    if refusal or choice.get("finish_reason") == _FILTERED:
        text = refusal or row_text(row) or "the answer was withheld (finish_reason content_filter)"
        return Failure("Refused", text, 200)
    name = asked.__name__ if isinstance(asked, type) else "JSON"
    cut = "; the answer was cut off, raise max_tokens" if choice.get("finish_reason") == CUT_OFF else ""
    return Failure("ValidationError", f"the answer is no {name}: {problems[0]}{cut}", 200)


def validation_errors(text: str, asked: ResponseFormat, no_json: str = "Invalid JSON") -> list[str]:
    """Why the text does not fit, one problem after the other; none when it does."""
    try:
        parsed(text, asked)
    except ValidationError as exc:
        errors = exc.errors(include_input=False, include_url=False)
        return [": ".join(filter(None, (".".join(map(str, error["loc"])), error["msg"]))) for error in errors]
    except JSONDecodeError as exc:
        return [f"{no_json}: {exc}"]
    except Exception as exc:  # noqa: BLE001 - a validator of the caller's own; it is this row's failure only
        return [f"its validator raised {type(exc).__name__}"]
    return []
