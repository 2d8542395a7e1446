"""Makes rows from the outcomes of requests: answers, rejected answers, and failures."""

from __future__ import annotations

from json import JSONDecodeError
from typing import Any

from pydantic import ValidationError

from llmbatch._litellm import Target
from llmbatch._litellm.prices import standard_cost
from llmbatch._request.answer_check import answer_failure
from llmbatch._request.failures import Failure
from llmbatch._request.outcome import Outcome
from llmbatch._request.plans import ChatPlan
from llmbatch._rows.failure_type import FailureType
from llmbatch._rows.finish_reasons import FinishClass, finish_class, says_anything
from llmbatch._rows.row import NO_USAGE, Row, add_usage, answer_row, error_row, refusal_text, row_text
from llmbatch._rows.structured_output import ResponseFormat, parsed

_NO_ANSWER = {FailureType.BROKEN_ANSWER, FailureType.EMPTY_ANSWER, FailureType.CONTENT_FILTERED}


def failure_row(failure: Failure, target: Target, custom_id: str, **spent: Any) -> Row:
    """Return the row of a failure. `spent` is `Outcome.spent`: attempts, cost in USD (None: unknown), and times."""
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
    """Set a row's id, and its request's metadata."""
    row["custom_id"] = custom_id
    row.pop("metadata", None)
    if metadata is not None:
        row["metadata"] = metadata


def in_lane(row: Row, lane: str, target: Target) -> None:
    """Set a row's lane, and what it saved against the live price."""
    row["lane"] = lane
    live, cost = standard_cost(target, row["usage"]), row["cost"]
    if live is not None and cost is not None:
        row["saved"] = max(0.0, live - cost)


def chat_row(outcome: Outcome, plan: ChatPlan, custom_id: str) -> Row:
    """Return the row of an outcome. An answer that does not count as one is a failed row that keeps it."""
    answer, failure = outcome.answer or outcome.rejected, outcome.failure
    if answer is None:
        assert failure is not None  # noqa: S101 - either is there
        return failure_row(failure, plan.target, custom_id, **outcome.spent)
    row = answer_row(answer.body, custom_id=custom_id, **outcome.spent)
    row["request_model"] = plan.target.model
    if outcome.usage:  # of answers that did not count
        if answer is outcome.rejected:
            row["usage"] = dict(NO_USAGE)
        add_usage(row["usage"], outcome.usage)
    failure = failure or answer_rejection(row, plan)
    if failure is None:
        return row
    if not any(says_anything(choice.get("message") or {}) for choice in row["choices"]):
        row["choices"] = []
    return rejected_row(row, failure, plan)


def is_answer(row: Row) -> bool:
    """Return whether a row has an answer, be it one that was rejected."""
    return bool(row["choices"]) and ("error" not in row or row["error_details"]["type"] not in _NO_ANSWER)


def answer_rejection(row: Row, plan: ChatPlan) -> Failure | None:
    """Return why a row's answer is no answer, or does not match the response format; None if it does."""
    return answer_failure(row, plan.target.provider) or _format_failure(row, plan.response_format)


def rejected_row(row: Row, failure: Failure, plan: ChatPlan) -> Row:
    """Return the failed row of an answer that was rejected. It keeps the answer."""
    failed = failure_row(failure, plan.target, row["custom_id"], attempts=row["attempts"])
    return {**row, "error": failed["error"], "error_details": failed["error_details"]}


def _format_failure(row: Row, response_format: ResponseFormat | None) -> Failure | None:
    """Return why an answer does not match the response format, None if it does."""
    choice = row["choices"][0]
    message = choice.get("message") or {}
    if response_format is None or message.get("tool_calls"):
        return None
    problems = validation_errors(row_text(row) or "", response_format)
    if not problems:
        return None
    if refusal := refusal_text(message):
        return Failure(FailureType.REFUSED, refusal, 200)
    found = finish_class(choice)
    if found is FinishClass.FILTERED:
        return Failure(FailureType.CONTENT_FILTERED, "a content filter cut the answer, which is not JSON any more", 200)
    name = response_format.__name__ if isinstance(response_format, type) else "JSON"
    cut = "; the answer was cut off, raise max_tokens" if found is FinishClass.TRUNCATED else ""
    return Failure(FailureType.VALIDATION, f"the answer does not match {name}: {problems[0]}{cut}", 200)


def validation_errors(text: str, asked: ResponseFormat, no_json: str = "Invalid JSON") -> list[str]:
    """Return why a text does not match the response format, one problem each; an empty list if it does."""
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
