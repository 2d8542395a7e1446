"""Rows as lines of files, in the shape of OpenAI's batch output files: `custom_id, response, error`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from llmbatch._output.provider_errors import decoded_body, line_error
from llmbatch._rows.answer_body import normalized_body
from llmbatch._rows.failure_type import FailureType
from llmbatch._rows.finish_reasons import answer_problem
from llmbatch._rows.row import OWN_KEYS, Row, answer_row, error_row
from llmbatch._util.files import json_text

# All but the custom_id.
_OWN_KEYS = (
    *OWN_KEYS[1:],
    "fallback",
    "request_model",
    "metadata",
    "asks",
    "same_as",
    "saved",
    "paid_twice",
    "deployment",
)
SUCCESS = range(200, 300)  # HTTP's
# What is relied on of our own.
_KINDS = {
    **dict.fromkeys(("cost", "elapsed", "waited", "paid_twice"), int | float | None),
    **dict.fromkeys(("request", "model", "request_model", "upgrade_id", "deployment", "started_at"), str | None),
    **dict.fromkeys(("attempts", "asks", "same_as"), int),
    **dict.fromkeys(("error_details", "fingerprints", "fallback"), dict),
    "saved": int | float,
    "lane": str,
}
_KEPT_OF_FAILED = ("id", "choices", "usage", "created")


def line_from_row(row: Row, **extra: Any) -> dict[str, Any]:
    """The row as a line of OpenAI's batch output files: `custom_id, response {status_code, request_id, body}, error`.

    What the provider's shape has no place for (`cost`, `elapsed`, …) is under the line's own `llmbatch` key. A failed
    row's number is left out: where its line stands says it, and another run may have another order.
    """
    own = {k: row[k] for k in _OWN_KEYS if k in row}  # type: ignore[literal-required]
    if "error" not in row:
        body = {k: v for k, v in row.items() if k not in {*_OWN_KEYS, "custom_id", "resumed", "rechecked"}}
        response: dict[str, Any] | None = {"status_code": 200, "request_id": row.get("id"), "body": body}
        error = None
    else:
        own["error_details"] = {k: v for k, v in row["error_details"].items() if k != "index"}
        own["model"] = row.get("model")
        body = {k: row[k] for k in _KEPT_OF_FAILED if row.get(k)}  # type: ignore[literal-required]
        status = row["error_details"].get("status_code")
        response = {"status_code": status, "request_id": None, "body": body} if status or row["choices"] else None
        error = {"code": row["error_details"]["type"], "message": row["error"]}
    return {"custom_id": row["custom_id"], "response": response, "error": error, "llmbatch": {**own, **extra}}


def is_line(value: Any) -> bool:
    """Whether it has the shape of such a line, ours or a provider's."""
    if not (isinstance(value, dict) and isinstance(value.get("custom_id"), str)):
        return False
    response, error, own = value.get("response"), value.get("error"), value.get("llmbatch")
    if not (
        {"response", "error"} & value.keys()
        and all(isinstance(part, dict | None) for part in (response, own))
        and isinstance(error, dict | str | None)
    ):
        return False
    own, body = own or {}, decoded_body((response or {}).get("body"))
    known = all(isinstance(own[name], kind) for name, kind in _KINDS.items() if name in own)
    prints = known and all(isinstance(digest, str) for digest in own.get("fingerprints", {}).values())
    return prints and isinstance(body, dict | None)


def row_from_line(line: Mapping[str, Any]) -> Row:
    """The row that `line_from_row` wrote; also reads plain OpenAI output lines without an `llmbatch` key."""
    own = line.get("llmbatch") or {}
    response = line.get("response") or {}
    body = decoded_body(response.get("body")) or {}
    error, status, custom_id = line.get("error"), response.get("status_code"), line["custom_id"]
    if {"choices", "data"} & body.keys():
        try:
            body = normalized_body(body)
        except ValueError as exc:
            body, error = {}, error or {"code": FailureType.UNPARSABLE_ANSWER, "message": str(exc)}
    if not error and status in SUCCESS:
        row = _answered_row(body, custom_id)
    else:
        if "error_details" in own:
            row = error_row(message="", model=own.get("model"), custom_id=custom_id, **own["error_details"])
            row["error"] = error["message"] if error else row["error"]
        else:
            found = line_error(error, body, status)
            row = error_row(
                type=found.type,
                message=found.message,
                model=None,
                custom_id=custom_id,
                status_code=found.status_code,
            )
        row.update({k: body[k] for k in _KEPT_OF_FAILED if k in body})  # type: ignore[typeddict-item]
    row.update({k: own[k] for k in _OWN_KEYS if k in own})  # type: ignore[typeddict-item]
    return row


def _answered_row(body: Mapping[str, Any], custom_id: str) -> Row:
    """Return the row of a line with status 200: failed if its answer does not count as one."""
    problem = None if "output" in body else answer_problem(body)  # of the Responses API
    if problem is None:
        return answer_row(body, custom_id=custom_id, cost=None)
    row = error_row(
        type=problem.type, message=problem.message, model=body.get("model"), custom_id=custom_id, cost=None,
        status_code=200, retryable=problem.retryable, attempts=1,
    )  # fmt: skip
    row.update({k: body[k] for k in _KEPT_OF_FAILED if k in body})  # type: ignore[typeddict-item]
    return row


def written_row(row: Row, **extra: Any) -> bytes:
    """Return the row's line as bytes."""
    return json_text(line_from_row(row, **extra), separators=(",", ":")).encode() + b"\n"
