"""Webhook events of a provider, as they came or parsed: which batch they are about. Nothing else in them is used."""

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
_SHORTEST, _NOT_BASE64 = 16, re.compile(r"[^A-Za-z0-9+/]")


def batch_id_of(event: Any, headers: Headers, secret: str | None) -> str:
    """Return the id of an event's batch. Raises ValueError for a bad signature, and for an event of another kind."""
    if isinstance(event, str | bytes | bytearray):
        body = event if isinstance(event, str) else event.decode("utf-8", "replace")
        event = _checked(body, headers or {}, secret)
    elif headers is not None:
        raise ValueError(
            "event is parsed, but its signature is of the body as it came. Pass the body; or leave the headers out if "
            "your code has checked the signature"
        )
    try:
        return str((event.model_dump(warnings=False) if hasattr(event, "model_dump") else event)["data"]["id"])
    except (KeyError, TypeError):
        raise ValueError(
            'the event has no batch id (data.id). Subscribe this endpoint to "batch.completed" and the other batch '
            "events only"
        ) from None


def _checked(body: str, headers: Mapping[str, str], secret: str | None) -> Any:
    """Return a body's event, after the check of its signature."""
    secret = (secret or os.environ.get(_SECRET) or "").strip()
    if len(_NOT_BASE64.sub("", secret.removeprefix("whsec_"))) < _SHORTEST:
        raise ValueError(
            f"no webhook secret: set {_SECRET}, or pass secret=, to what the provider showed for the webhook"
        )
    try:
        check_signature(body, headers, secret)
        return from_json(body)
    except (TypeError, ValueError) as exc:
        raise ValueError(
            f"the event's signature is not valid ({exc}). Answer with status 400. If all events fail so, pass body and "
            "headers as they came, and check that the secret is this webhook's and that the clock is right"
        ) from None
