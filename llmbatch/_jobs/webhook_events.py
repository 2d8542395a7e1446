"""A provider's webhook, as it came or parsed: which batch it is about. Nothing else that it says is believed."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import Any

from llmbatch._litellm.webhook_signature import check_signature
from llmbatch._util.files import from_json

Headers = Mapping[str, str] | None

_SECRET = "OPENAI_WEBHOOK_SECRET"  # noqa: S105 - a variable's name
# Placeholders ("", "whsec_...") decode to a key that anybody can guess.
_SHORTEST, _NO_BASE64 = 16, re.compile(r"[^A-Za-z0-9+/]")


def batch_of(event: Any, headers: Headers, secret: str | None) -> str:
    """The batch's id. Raises ValueError for a body whose signature does not fit, and for what is no such event."""
    if isinstance(event, str | bytes | bytearray):
        body = event if isinstance(event, str) else event.decode("utf-8", "replace")
        event = _opened(body, headers or {}, secret)
    elif headers is not None:
        raise ValueError(
            "pass the body as it came: its signature is of that; or leave the headers out if your code has checked it"
        )
    try:
        return str((event.model_dump(warnings=False) if hasattr(event, "model_dump") else event)["data"]["id"])
    except (KeyError, TypeError):
        raise ValueError(
            'the event names no batch (data.id); let the webhook send "batch.completed" and its like here'
        ) from None


def _opened(body: str, headers: Mapping[str, str], secret: str | None) -> Any:
    secret = (secret or os.environ.get(_SECRET) or "").strip()
    if len(_NO_BASE64.sub("", secret.removeprefix("whsec_"))) < _SHORTEST:
        raise ValueError(
            f"no webhook secret: set {_SECRET}, or pass secret=, to what the provider showed for the webhook"
        )
    try:
        check_signature(body, headers, secret)
        return from_json(body)
    except (TypeError, ValueError) as exc:
        raise ValueError(
            f"the event is not to be trusted ({exc}): answer with status 400; if all are refused, pass body and "
            "headers as they came, and see that the secret is this webhook's and the clock is right"
        ) from None
