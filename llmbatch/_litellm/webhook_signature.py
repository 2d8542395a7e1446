"""Check webhook signatures with the OpenAI SDK. They follow Standard Webhooks, whoever signs. Nothing is sent."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any

from llmbatch._litellm import load


def check_signature(body: str, headers: Mapping[str, str], secret: str) -> None:
    """Raise ValueError or TypeError unless the headers sign this body with this secret, at most five minutes ago."""
    _webhooks().verify_signature(body, dict(headers), secret=secret)


@cache
def _webhooks() -> Any:
    load()
    import openai  # noqa: PLC0415 - comes with litellm

    return openai.OpenAI(api_key="none").webhooks
