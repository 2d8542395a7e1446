"""A job's output and error files joined with its rows: exactly one row for each input, in the order of the input."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from llmbatch._batch.row_builder import chat_row, failure_row, in_lane
from llmbatch._jobs.job_state import JobState, Part
from llmbatch._jobs.remote import MESSAGE_LEFT_OUT
from llmbatch._litellm import Answer
from llmbatch._litellm.convert_response import answer_body
from llmbatch._litellm.prices import batch_cost
from llmbatch._output.jsonl import SUCCESS
from llmbatch._output.provider_errors import decoded_body, line_error
from llmbatch._request.failures import RETRYABLE_STATUS, Failure, clean
from llmbatch._request.plans import ChatPlan
from llmbatch._request.sender import Outcome
from llmbatch._rows.failure_type import FailureType
from llmbatch._rows.row import Row, add_spent, answer_row, numbered
from llmbatch._rows.structured_output import ResponseFormat
from llmbatch._util.files import from_json
from llmbatch.providers.base import Payload

_ID_IN_BROKEN_LINE = re.compile(rb'"custom_id"\s*:\s*"([^"\\]+)"')
# What became of a request that was never run, by its batch's end; the provider charges nothing for it.
_NOT_RUN = {
    "expired": Failure(
        FailureType.BATCH_EXPIRED, "the completion window ended before the provider got to this request", retryable=True
    ),
    "cancelled": Failure(
        FailureType.BATCH_CANCELLED, "the job was cancelled before the provider got to this request", retryable=True
    ),
}
_NO_RESULT = Failure(FailureType.MISSING_RESULT, "the provider's files hold no result for this request", retryable=True)
# OGX 1.5 writes no output file for a cancelled batch, whatever it has run and charged for by then.
_DISCARDED = (
    "the provider ran {ran} of the {total} requests of this input file, but returned no answers for {lost} of them"
)
_UNREAD = FailureType.UNPARSABLE_RESULT
# Error types and codes of lines without a status that are worth another try.
_TRANSIENT_ERRORS = {
    "server_error",
    "internal_error",
    "internal_server_error",
    "overloaded_error",
    "rate_limit_exceeded",
}
JOB = "job"  # the lane


class Join:
    """Takes the files of a job's parts, in the order of the parts, and gives the rows.

    A later part holds rows that failed before, or are asked again: its answers take their place, its failures do not.
    """

    def __init__(self, state: JobState, response_format: ResponseFormat | None = None) -> None:
        self._state = state
        self._plan = ChatPlan(target=state.target, params={}, response_format=response_format)
        self._rows: dict[str, Row] = {
            custom_id: self._error(custom_id, Failure(FailureType.INVALID_ROW, why))
            for custom_id, why in state.invalid.items()
        }
        self._told: set[str] = set()

    @property
    def told(self) -> list[str]:
        """The rows whose errors are the provider's own words about them."""
        return [custom_id for custom_id in self._told if "error" in self._rows.get(custom_id, {})]

    def without_quotes(self, requests: Mapping[str, Payload]) -> None:
        """Take out of the provider's words what they quote of these requests; those about no known one are left out."""
        for custom_id in self.told:
            row = self._rows[custom_id]
            kind, _, message = row["error"].partition(": ")
            known = requests.get(custom_id)
            row["error"] = f"{kind}: {MESSAGE_LEFT_OUT if known is None else clean(message, known['body'])}"

    def rows(self) -> list[Row]:
        """The rows, in the order of the input."""
        rows = [self.row(custom_id) for custom_id in self._state.custom_ids]
        for index, row in enumerate(rows):
            numbered(index, row)
            if row["custom_id"] in self._state.row_metadata:
                row["metadata"] = self._state.row_metadata[row["custom_id"]]
        return rows

    def row(self, custom_id: str) -> Row:
        """One request's row, as the parts that were added say."""
        return self._rows.get(custom_id) or self._missing(custom_id, "")

    def add(self, part: Part, paths: list[Path]) -> None:
        """Take over a part's files (there may be none) and say of each of its rows that is not in them why."""
        found: dict[str, Row] = {}
        self._plan = replace(self._plan, target=self._state.target_of(part.model))
        for path in paths:
            with path.open("rb") as file:
                for line in file:
                    if line.strip():
                        self._take(line, found)
        refusals, discarded = self._refusals(part), self._discarded(part, found)
        for position in part.positions():
            custom_id = self._state.custom_ids[position]
            row = found.get(custom_id)
            if row is None and discarded is not None:
                row = self._error(custom_id, discarded, cost=None)
            row = row or refusals.get(custom_id) or self._missing(custom_id, part.status)
            before = self._rows.get(custom_id)
            if before is not None:
                if "error" not in before and ("error" in row or part.asks == 1):
                    continue
                add_spent(row, before)
            if part.asks > 1:
                row["asks"] = part.asks
            self._rows[custom_id] = row

    def _take(self, text: bytes, found: dict[str, Row]) -> None:
        try:
            line = from_json(text)
            custom_id = line["custom_id"]
            response = line.get("response") or {}
            response["body"] = decoded_body(response.get("body"))
            row = self._row(line)
        except (ValueError, TypeError, KeyError, AttributeError):
            named = _ID_IN_BROKEN_LINE.search(text)
            custom_id = named.group(1).decode("utf-8", "replace") if named else ""
            unread = Failure(_UNREAD, "the provider's line for this request is not JSON", retryable=True)
            row = self._error(custom_id, unread, cost=None)
        found[custom_id] = self._one_of(found[custom_id], row) if custom_id in found else row

    def _one_of(self, first: Row, second: Row) -> Row:
        """What to make of two results for one request: an answer is better than an error, two answers must agree."""
        if "error" in first or "error" in second:
            return second if "error" in first and "error" not in second else first
        if _said(first) == _said(second):
            return first
        costs = (first["cost"], second["cost"])
        words = "the provider gave two different answers to this one request"
        failure = Failure(FailureType.DUPLICATE_RESULT, words, retryable=True)
        return self._error(first["custom_id"], failure, cost=None if None in costs else sum(costs))

    def _row(self, line: Mapping[str, Any]) -> Row:
        response, custom_id = line.get("response") or {}, line["custom_id"]
        if not isinstance(custom_id, str):
            raise TypeError
        if line.get("error") or (response.get("status_code") or 0) not in SUCCESS:
            return self._failed(line)
        try:
            body = answer_body(response["body"])
        except Exception:  # noqa: BLE001 - whatever LiteLLM makes of a body that is no answer
            failure = Failure(_UNREAD, "the provider's answer has no known shape", 200, retryable=True)
            return self._error(custom_id, failure, cost=None)
        cost = batch_cost(self._plan.target, body.get("usage"), body.get("model"))
        if "choices" not in body:
            row = answer_row(body, custom_id=custom_id, cost=cost)
        else:
            row = chat_row(Outcome(Answer(body, {}, cost), None, 1, cost), self._plan, custom_id)
        in_lane(row, JOB, self._plan.target)
        return row

    def _failed(self, line: Mapping[str, Any]) -> Row:
        """The row of an error line, in whichever of its two places the error is."""
        response, custom_id = line.get("response") or {}, line["custom_id"]
        found = line_error(line.get("error"), response.get("body"), response.get("status_code"))
        if found.type in {"batch_expired", "batch_cancelled"}:
            return self._missing(custom_id, found.type.removeprefix("batch_"))
        self._told.add(custom_id)
        if found.status_code is not None:
            retryable = found.status_code in RETRYABLE_STATUS
        else:  # A line that says neither a status nor why is the provider's slip.
            retryable = not found.is_explained or found.type in _TRANSIENT_ERRORS
        failure = Failure(found.type, found.message, found.status_code, retryable=retryable)
        return self._error(custom_id, failure, attempts=1)

    @staticmethod
    def _discarded(part: Part, found: Mapping[str, Row]) -> Failure | None:
        """Return the failure of rows that may have been run and charged for, though no file has their answers."""
        answers = sum("error" not in row or bool(row["choices"]) or row["cost"] != 0 for row in found.values())
        ran = part.request_counts.get("completed", 0)
        if ran <= answers:
            return None
        total = part.request_counts.get("total") or sum(1 for _ in part.positions())
        words = _DISCARDED.format(ran=ran, total=total, lost=ran - answers)
        return Failure(FailureType.MISSING_RESULT, words, retryable=True)

    def _refusals(self, part: Part) -> dict[str, Row]:
        """Rows of a part that the provider refused as a whole: each says why, and if it was its own fault."""
        if part.status != "failed":
            return {}
        first = part.errors[0] if part.errors else {"message": "the provider gave no reason"}
        line = first.get("line")
        at = f" (line {line})" if line else ""
        shared = f"the provider refused the whole file: {first.get('code') or 'error'}{at}: {first['message']}"
        ids = [self._state.custom_ids[position] for position in part.positions()]
        whole = Failure(FailureType.BATCH_REFUSED, shared, retryable=bool(line))
        rows = {custom_id: self._error(custom_id, whole) for custom_id in ids}
        for error in part.errors:
            if isinstance(number := error["line"], int) and 0 < number <= len(ids):
                own = Failure(str(error["code"] or FailureType.BATCH_REFUSED), str(error["message"]))
                rows[ids[number - 1]] = self._error(ids[number - 1], own)
        return rows

    def _missing(self, custom_id: str, status: str) -> Row:
        if status in _NOT_RUN:
            return self._error(custom_id, _NOT_RUN[status])
        return self._error(custom_id, _NO_RESULT, cost=None)

    def _error(self, custom_id: str, failure: Failure, **spent: Any) -> Row:
        return failure_row(failure, self._plan.target, custom_id, lane=JOB, **spent)


def _said(row: Row) -> Any:
    return row.get("choices") or row.get("data")
