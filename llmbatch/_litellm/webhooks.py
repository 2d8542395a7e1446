"""Signatures of webhooks, by the OpenAI SDK: they are those of Standard Webhooks, whoever signs. Nothing is sent."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

from llmbatch._litellm import load

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["check_signature"]


def check_signature(body: str, headers: Mapping[str, str], secret: str) -> None:
    """Raise ValueError unless the headers sign this body with this secret, within the last five minutes."""
    try:
        _webhooks().verify_signature(body, dict(headers), secret=secret)
    except TypeError:  # from hmac, for what is no ASCII
        msg = "the signature is no ASCII text"
        raise ValueError(msg) from None


@cache
def _webhooks() -> Any:
    load()
    import openai  # noqa: PLC0415 - comes with litellm

    return openai.OpenAI(api_key="none").webhooks
