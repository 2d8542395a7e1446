"""Errors that a server sends in place of an answer, with status 200."""

from __future__ import annotations

import contextlib
import json
from typing import Any


class ErrorAnswerError(Exception):
    """A body of status 200 that is an error; `body` holds it."""

    def __init__(self, body: dict[str, Any]) -> None:
        super().__init__("the server answered with an error and status 200")
        self.body = body


def raise_stated_error(logging: Any) -> None:
    """Raise ErrorAnswerError if the body that LiteLLM failed to read is an error: LiteLLM drops its words."""
    body = None
    with contextlib.suppress(Exception):  # no logging object, no answer, or one that is not JSON
        body = json.loads(logging.model_call_details["original_response"])
    if isinstance(body, dict) and body.get("error") and not body.get("choices"):
        raise ErrorAnswerError(body)
