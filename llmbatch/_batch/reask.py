"""Checking an answer, and re-asking in the same conversation for one that is wrong or cut off."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from llmbatch._batch.row_builder import answer_rejection, rejected_row, validation_errors
from llmbatch._request.failures import Failure, clean
from llmbatch._request.plans import ChatPlan
from llmbatch._rows.failure_type import FailureType
from llmbatch._rows.finish_reasons import FinishClass, finish_class
from llmbatch._rows.row import Row, choice_text
from llmbatch._rows.structured_output import ResponseFormat
from llmbatch._util.checks import copied
from llmbatch.options import Options

_TOKEN_LIMITS = ("max_tokens", "max_completion_tokens")
_MAX_PROBLEMS = 10  # that a complaint about an answer's format names
_WRONG_FORMAT = "Your answer does not match the required format:"

CUT_OFF = ""
"""The complaint about an answer that was cut off at a token limit."""


def judged(
    row: Row, plan: ChatPlan, request: Mapping[str, Any], validate: Callable[[Row], str | None] | None
) -> tuple[Row, str | None]:
    """Return the row, failed if `validate` rejects it, and the complaint to re-ask with; None if there is none.

    A complaint is text for the model, or `CUT_OFF`.
    """
    complaint: str | None = None
    if "error" not in row and validate is not None:
        try:
            complaint = _complaint(validate(copied(row)))
        except Exception as exc:  # noqa: BLE001 - the caller's function; it is this row's failure only
            return rejected_row(row, _validate_failure(f"raised {type(exc).__name__}: {exc}", request), plan), None
        if complaint is not None:
            row = rejected_row(row, _validate_failure(f"rejected the answer: {complaint}", request), plan)
    elif "error" in row:
        if not row["choices"] or row["error_details"]["type"] != FailureType.VALIDATION:
            return row, None
        complaint = None if plan.response_format is None else _format_complaint(row, plan.response_format)
    was_cut = finish_class(row["choices"][0]) is FinishClass.TRUNCATED
    return row, CUT_OFF if was_cut and _token_limit(plan) else complaint


def still_passes(row: Row, plan: ChatPlan, request: Mapping[str, Any], options: Options) -> bool:
    """Return whether the answer of an earlier run passes this run's `response_format`, `validate` and `reask`."""
    if answer_rejection(row, plan) is not None:
        return False
    row, complaint = judged(row, plan, request, options.validate)
    may_grow = complaint == CUT_OFF and row.get("asks", 1) <= options.reask
    return "error" not in row and not may_grow


def next_request(
    row: Row, complaint: str, plan: ChatPlan, request: Mapping[str, Any]
) -> tuple[ChatPlan, dict[str, Any]]:
    """Return the re-ask: the same with twice the tokens for an answer that was cut off, else with the complaint."""
    if complaint == CUT_OFF and (name := _token_limit(plan)):
        longer = {name: plan.params[name] * 2}
        return replace(plan, params={**plan.params, **longer}), {**request, **longer}
    message = row["choices"][0].get("message") or {}
    answer = {"role": "assistant", "content": message.get("content")}
    replies: list[dict[str, Any]] = [{"role": "user", "content": complaint}]
    if calls := message.get("tool_calls"):
        answer["tool_calls"] = calls
        replies = [{"role": "tool", "tool_call_id": call["id"], "content": complaint} for call in calls]
    return plan, {**request, "messages": [*request["messages"], answer, *replies]}


def _validate_failure(what: str, request: Mapping[str, Any]) -> Failure:
    return Failure(FailureType.VALIDATION, f"validate {clean(what, request)}", 200)


def _complaint(returned: Any) -> str | None:
    """Return what `validate` returned. Raises TypeError unless it is None or text."""
    if returned is not None and not isinstance(returned, str):
        raise TypeError(
            f"it returned {type(returned).__name__}; return None for a good answer, or text that says what is wrong"
        )
    return "The answer was rejected." if returned == "" else returned


def _token_limit(plan: ChatPlan) -> str | None:
    return next((name for name in _TOKEN_LIMITS if plan.params.get(name)), None)


def _format_complaint(row: Row, response_format: ResponseFormat) -> str:
    """Return what is wrong with an answer's JSON, for the model."""
    problems = validation_errors(choice_text(row) or "", response_format, "it is not JSON")[:_MAX_PROBLEMS]
    lines = [f"- {problem}" for problem in problems]
    return "\n".join([_WRONG_FORMAT, *lines, "Answer again with JSON in that format and nothing else."])
