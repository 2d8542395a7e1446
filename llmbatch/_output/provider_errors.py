"""The error of a batch output line, wherever its server writes it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from llmbatch._util.files import from_json

NO_TYPE = "RequestError"
_NO_MESSAGE = "the request failed without a message"
_LONGEST_MESSAGE = 500
_HTTP_ERRORS = range(400, 600)
# The OpenAI SDK begins its messages so. OGX 1.5 runs a job's requests by that SDK and keeps the message alone.
_STATUS_IN_MESSAGE = re.compile(r"Error code: (\d{3})\b")


@dataclass(frozen=True, slots=True)
class LineError:
    """What a failed line says: a type, one line of text, and an HTTP status where any is known."""

    type: str
    message: str
    status_code: int | None

    @property
    def is_explained(self) -> bool:
        """Whether the line has a status, a type or a message."""
        return self.status_code is not None or (self.type, self.message) != (NO_TYPE, _NO_MESSAGE)


def line_error(error: Any, body: Any, status: Any) -> LineError:
    """Return the error of a line with this `error`, response body and response status.

    OpenAI writes `error: {code, message}` or the body `{"error": {...}}`; `vllm run-batch` writes
    `error: {"error": {...}}`, a string, or FastAPI's body `{"detail": [...]}`.
    """
    found = _innermost(error or body)
    code, kind = found.get("code"), found.get("type")
    names = [str(name) for name in (code, kind) if name]
    name = next((name for name in names if not name.isdecimal()), None)  # vLLM's code is the HTTP status
    name = name or next((name for name in names if int(name) not in _HTTP_ERRORS), NO_TYPE)
    message = " ".join(str(found.get("message") or "").split())[:_LONGEST_MESSAGE]
    return LineError(name, message or _NO_MESSAGE, _status(status, code, message))


def decoded_body(body: Any) -> Any:
    """Return a response body as an object. Some servers write it as a JSON string (OGX), or as plain text."""
    if not isinstance(body, str):
        return body
    try:
        return from_json(body)
    except ValueError:
        return {"message": body}


def _innermost(error: Any) -> Mapping[str, Any]:
    """Return the object with the message, out of any number of wrappers."""
    while isinstance(error, Mapping):
        inner = error.get("error") or error.get("detail")
        if error.get("message") or not inner:
            return error
        error = inner
    if isinstance(error, list):  # FastAPI's validation errors
        return {"message": "; ".join(_validation_error(one) for one in error)}
    return {"message": str(error)} if error else {}


def _validation_error(error: Any) -> str:
    if not isinstance(error, Mapping):
        return str(error)
    where = error.get("loc")
    place = ".".join(map(str, where)) if isinstance(where, list) else ""
    return ": ".join(filter(None, (place, str(error.get("msg") or ""))))


def _status(status: Any, code: Any, message: str) -> int | None:
    """Return the HTTP status: of the response, else the error's code, else what the message begins with."""
    if isinstance(status, int) and status:
        return status
    in_message = _STATUS_IN_MESSAGE.match(message)
    stated = [str(code), in_message[1] if in_message else ""]
    return next((int(text) for text in stated if text.isdecimal() and int(text) in _HTTP_ERRORS), None)
