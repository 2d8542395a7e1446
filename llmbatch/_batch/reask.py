"""Asking again, in the same conversation, for an answer that came back wrong or cut off."""

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

_LIMITS = ("max_tokens", "max_completion_tokens")
_SAID = 10  # of a misfit's problems
_WRONG_SHAPE = "Your answer does not have the shape that was asked for:"


def judged(
    row: Row, plan: ChatPlan, request: Mapping[str, Any], validate: Callable[[Row], str | None] | None
) -> tuple[Row, str | None]:
    """The row, an error row if `validate` refuses it, and what is wrong with its answer ("": it was cut off)."""
    wrong: str | None = None
    if "error" not in row and validate is not None:
        try:
            wrong = _words(validate(copied(row)))
        except Exception as exc:  # noqa: BLE001 - the caller's function; it is this row's failure only
            return rejected_row(row, _misjudged(f"raised {type(exc).__name__}: {exc}", request), plan), None
        if wrong is not None:
            row = rejected_row(row, _misjudged(f"refused the answer: {wrong}", request), plan)
    elif "error" in row:
        if not row["choices"] or row["error_details"]["type"] != FailureType.VALIDATION:
            return row, None
        wrong = _misfit(row, plan.response_format) if plan.response_format is not None else None
    cut = finish_class(row["choices"][0]) is FinishClass.TRUNCATED
    return row, "" if cut and _limit(plan) else wrong


def still_passes(row: Row, plan: ChatPlan, request: Mapping[str, Any], options: Options) -> bool:
    """Return whether the answer of an earlier run passes this run's `response_format`, `validate` and `reask`."""
    if answer_rejection(row, plan) is not None:
        return False
    row, wrong = judged(row, plan, request, options.validate)
    cut_off = wrong is not None and "error" not in row
    return "error" not in row and not (cut_off and row.get("asks", 1) <= options.reask)


def _misjudged(what: str, request: Mapping[str, Any]) -> Failure:
    return Failure(FailureType.VALIDATION, f"validate {clean(what, request)}", 200)


def _words(said: Any) -> str | None:
    """What `validate` returned. Raises TypeError for what is no words."""
    if said is not None and not isinstance(said, str):
        raise TypeError(
            f"it returned {type(said).__name__}; let it return None, or what is wrong with the answer, in words"
        )
    return "The answer was refused." if said == "" else said


def asked_again(row: Row, wrong: str, plan: ChatPlan, request: Mapping[str, Any]) -> tuple[ChatPlan, dict[str, Any]]:
    """What to ask next: the same with twice the tokens for an answer that was cut off, else a word on what is wrong."""
    if not wrong and (name := _limit(plan)):
        longer = {name: plan.params[name] * 2}
        return replace(plan, params={**plan.params, **longer}), {**request, **longer}
    answer = row["choices"][0].get("message") or {}
    said = {"role": "assistant", "content": answer.get("content")}
    told: list[dict[str, Any]] = [{"role": "user", "content": wrong}]
    if calls := answer.get("tool_calls"):
        said["tool_calls"] = calls
        told = [{"role": "tool", "tool_call_id": call["id"], "content": wrong} for call in calls]
    return plan, {**request, "messages": [*request["messages"], said, *told]}


def _limit(plan: ChatPlan) -> str | None:
    return next((name for name in _LIMITS if plan.params.get(name)), None)


def _misfit(row: Row, asked: ResponseFormat) -> str:
    """What is wrong with an answer's JSON, in words that a model understands."""
    said = [f"- {problem}" for problem in validation_errors(choice_text(row) or "", asked, "it is no JSON")[:_SAID]]
    return "\n".join([_WRONG_SHAPE, *said, "Answer again, with nothing but JSON of that shape."])
