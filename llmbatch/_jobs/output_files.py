"""A job's rows, joined from the provider's output and error files: exactly one for each input, in the input's order."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from llmbatch._batch.row_builder import chat_row, failure_row
from llmbatch._jobs.job_state import InputFile, JobState
from llmbatch._jobs.remote import MESSAGE_LEFT_OUT
from llmbatch._jobs.row_prices import RowPrices
from llmbatch._litellm import Answer
from llmbatch._litellm.convert_response import answer_body
from llmbatch._output.jsonl import SUCCESS
from llmbatch._output.provider_errors import decoded_body, line_error
from llmbatch._request.failures import RETRYABLE_STATUS, Failure, clean
from llmbatch._request.outcome import Outcome
from llmbatch._request.plans import ChatPlan
from llmbatch._rows.failure_type import FailureType
from llmbatch._rows.row import Row, add_spent, answer_row, numbered
from llmbatch._rows.structured_output import ResponseFormat
from llmbatch._util.files import from_json
from llmbatch.providers.base import Payload

JOB = "job"  # the rows' `lane`
_ID_IN_BROKEN_LINE = re.compile(rb'"custom_id"\s*:\s*"([^"\\]+)"')
# Failures of requests that were never run, by the status of their batch. The provider does not charge for them.
_NOT_RUN = {
    "expired": Failure(
        FailureType.BATCH_EXPIRED, "the completion window ended before the provider got to this request", retryable=True
    ),
    "cancelled": Failure(
        FailureType.BATCH_CANCELLED, "the job was cancelled before the provider got to this request", retryable=True
    ),
}
_NO_RESULT = Failure(FailureType.MISSING_RESULT, "the provider's files have no result for this request", retryable=True)
# OGX 1.5 writes no output file for a cancelled batch, whatever it has run and charged for by then.
_DISCARDED = (
    "the provider ran {ran} of the {total} requests of this input file, but returned no answer for {lost} of them"
)
_UNREADABLE = FailureType.UNPARSABLE_RESULT
# Error types and codes that are worth another attempt, in lines without a status.
_TRANSIENT_ERRORS = {
    "server_error",
    "internal_error",
    "internal_server_error",
    "overloaded_error",
    "rate_limit_exceeded",
}


class JobRows:
    """Collects the rows of a job from the files of its input files, added in their order.

    A later input file has rows that failed before, or are re-asked. Its answers replace earlier rows; its failures
    do not replace answers.
    """

    def __init__(self, state: JobState, response_format: ResponseFormat | None = None) -> None:
        self._state = state
        self._plan = ChatPlan(target=state.target, params={}, response_format=response_format)
        self._rows: dict[str, Row] = {
            custom_id: self._error(custom_id, Failure(FailureType.INVALID_ROW, why))
            for custom_id, why in state.invalid.items()
        }
        self._provider_errors: set[str] = set()
        self._prices = RowPrices()

    @property
    def quoting(self) -> list[str]:
        """The ids of failed rows whose messages are the provider's, and may quote their requests."""
        return [custom_id for custom_id in self._provider_errors if "error" in self._rows.get(custom_id, {})]

    def remove_quotes(self, requests: Mapping[str, Payload]) -> None:
        """Remove from the provider's messages what they quote of these requests, and messages about other requests."""
        for custom_id in self.quoting:
            row = self._rows[custom_id]
            kind, _, message = row["error"].partition(": ")
            known = requests.get(custom_id)
            row["error"] = f"{kind}: {MESSAGE_LEFT_OUT if known is None else clean(message, known['body'])}"

    def in_order(self) -> list[Row]:
        """Return all rows in the order of the input."""
        rows = [self.row(custom_id) for custom_id in self._state.custom_ids]
        for index, row in enumerate(rows):
            numbered(index, row)
            if row["custom_id"] in self._state.row_metadata:
                row["metadata"] = self._state.row_metadata[row["custom_id"]]
        return rows

    def row(self, custom_id: str) -> Row:
        """Return one row, by what was added so far."""
        return self._rows.get(custom_id) or self._missing(custom_id, "")

    def add(self, file: InputFile, paths: Iterable[Path]) -> None:
        """Add the rows of an ended input file, whose output and error files (if any) are at `paths`."""
        found: dict[str, Row] = {}
        self._plan = replace(self._plan, target=self._state.target_of(file.model))
        for path in paths:
            with path.open("rb") as lines:
                for line in lines:
                    if line.strip():
                        self._read_line(line, found)
        rejected, discarded = self._rejected(file), self._discarded(file, found)
        for position in file.positions():
            custom_id = self._state.custom_ids[position]
            row = found.get(custom_id)
            if row is None and discarded is not None:
                row = self._error(custom_id, discarded, cost=None)
            self._keep(file, row or rejected.get(custom_id) or self._missing(custom_id, file.status))

    def _keep(self, file: InputFile, row: Row) -> None:
        """Keep a row, unless an earlier one is better; it has used what earlier ones have used."""
        before = self._rows.get(row["custom_id"])
        if before is not None:
            if "error" not in before and ("error" in row or file.reask_round == 1):
                return
            add_spent(row, before)
        if file.reask_round > 1:
            row["asks"] = file.reask_round
        self._rows[row["custom_id"]] = row

    def _read_line(self, text: bytes, found: dict[str, Row]) -> None:
        """Add the row of one line to `found`."""
        try:
            line = from_json(text)
            custom_id = line["custom_id"]
            row = self._row(line)
        except (ValueError, TypeError, KeyError, AttributeError):
            named = _ID_IN_BROKEN_LINE.search(text)
            custom_id = named.group(1).decode("utf-8", "replace") if named else ""
            failure = Failure(_UNREADABLE, "the provider's line for this request is not JSON", retryable=True)
            row = self._error(custom_id, failure, cost=None)
        found[custom_id] = self._one_of(found[custom_id], row) if custom_id in found else row

    def _one_of(self, first: Row, second: Row) -> Row:
        """Return the row of a request with two lines: an answer is better than an error, two answers must agree."""
        if "error" in first or "error" in second:
            return second if "error" in first and "error" not in second else first
        if _answer(first) == _answer(second):
            return first
        costs = (first["cost"], second["cost"])
        message = "the provider gave two different answers to this one request"
        failure = Failure(FailureType.DUPLICATE_RESULT, message, retryable=True)
        return self._error(first["custom_id"], failure, cost=None if None in costs else sum(costs))

    def _row(self, line: Mapping[str, Any]) -> Row:
        response, custom_id = line.get("response") or {}, line["custom_id"]
        if not isinstance(custom_id, str):
            raise TypeError
        body = decoded_body(response.get("body"))
        status = response.get("status_code")
        if line.get("error") or (status or 0) not in SUCCESS:
            return self._failed(custom_id, line.get("error"), body, status)
        try:
            body = answer_body(body)
        except Exception:  # noqa: BLE001 - LiteLLM's, of any kind
            failure = Failure(_UNREADABLE, "the provider's answer has no known shape", 200, retryable=True)
            return self._error(custom_id, failure, cost=None)
        target = self._plan.target
        cost = self._prices.job(target, body.get("usage"), body.get("model"))
        if "choices" not in body:
            row = answer_row(body, custom_id=custom_id, cost=cost)
        else:
            row = chat_row(Outcome(Answer(body, {}, cost), None, 1, cost), self._plan, custom_id)
        row["lane"] = JOB
        live = self._prices.live(target, row["usage"])
        if live is not None and row["cost"] is not None:
            row["saved"] = max(0.0, live - row["cost"])
        return row

    def _failed(self, custom_id: str, error: Any, body: Any, status: Any) -> Row:
        """Return the row of an error line."""
        found = line_error(error, body, status)
        if found.type in {"batch_expired", "batch_cancelled"}:
            return self._missing(custom_id, found.type.removeprefix("batch_"))
        self._provider_errors.add(custom_id)
        if found.status_code is not None:
            retryable = found.status_code in RETRYABLE_STATUS
        else:  # a line that does not say why is the provider's slip
            retryable = not found.is_explained or found.type in _TRANSIENT_ERRORS
        failure = Failure(found.type, found.message, found.status_code, retryable=retryable)
        return self._error(custom_id, failure, attempts=1)

    @staticmethod
    def _discarded(file: InputFile, found: Mapping[str, Row]) -> Failure | None:
        """Return the failure of rows that may have been run and charged for, though no file has their answers."""
        answers = sum("error" not in row or bool(row["choices"]) or row["cost"] != 0 for row in found.values())
        ran = file.request_counts.get("completed", 0)
        if ran <= answers:
            return None
        total = file.request_counts.get("total") or sum(1 for _ in file.positions())
        return Failure(
            FailureType.MISSING_RESULT, _DISCARDED.format(ran=ran, total=total, lost=ran - answers), retryable=True
        )

    def _rejected(self, file: InputFile) -> dict[str, Row]:
        """Return the rows of an input file that the provider rejected as a whole; each says if it was to blame."""
        if file.status != "failed":
            return {}
        first = file.errors[0] if file.errors else {"message": "the provider gave no reason"}
        line = first.get("line")
        at = f" (line {line})" if line else ""
        message = f"the provider rejected the whole input file: {first.get('code') or 'error'}{at}: {first['message']}"
        ids = [self._state.custom_ids[position] for position in file.positions()]
        # The other rows of a file with a faulty line, and those of one that was not submitted, are not to blame.
        innocent = bool(line) or first.get("code") == "not_submitted" or file.rejections > 0
        shared = Failure(FailureType.BATCH_REFUSED, message, retryable=innocent)
        rows = {custom_id: self._error(custom_id, shared) for custom_id in ids}
        for error in file.errors:
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


def _answer(row: Row) -> Any:
    return row.get("choices") or row.get("data")
