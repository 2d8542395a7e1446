"""A failed attempt, described so that a row can carry it.

A `Failure` holds no exception: those keep request headers (keys) and prompts alive. `classify` makes one from an
exception.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from llmbatch._request.redaction import redacted

RETRYABLE_STATUS = {408, 409, 425, 429, 498, 500, 502, 503, 504, *range(520, 530)}
MAX_MESSAGE_CHARACTERS = 500


class Scope(StrEnum):
    """Which requests of the batch a failure concerns, by its evidence."""

    ROW = "row"
    """This request only: its content or its shape."""
    UNKNOWN = "unknown"
    """Perhaps all: the provider gives no reason that would tell."""
    SHARED = "shared"
    """All requests to this account and model: a bad key, an unknown model, an unreachable host."""
    FINAL = "final"
    """All, beyond doubt, for longer than a few minutes: a quota used up for today, an untrusted certificate."""


@dataclass(frozen=True, slots=True)
class Failure:
    """One failed attempt.

    Attributes:
        type: a `FailureType`, or the provider's own code.
        message: one line without keys.
        status_code: the provider's HTTP status, None if it did not answer.
        retryable: whether sending the same request again may succeed.
        rate_limited: whether it was a 429 that throttling avoids.
        retry_after: seconds that the provider asks to wait before the next attempt.
        scope: which requests it concerns.
        unavailable: whether the server is not there yet or restarting, so that nothing was processed.
        billed: whether the provider may have charged for it (None: unknown).
        counted: whether the attempt counts against `retries`.
        no_resources: whether a service tier had no resources for it (OpenAI's flex); another tier may have.
        headers: of the provider's response.
    """

    type: str
    message: str
    status_code: int | None = None
    provider: str | None = None
    retryable: bool = False
    rate_limited: bool = False
    retry_after: float | None = None
    scope: Scope = Scope.ROW
    unavailable: bool = False
    billed: bool | None = False
    counted: bool = True
    no_resources: bool = False
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)

    @property
    def shared(self) -> bool:
        """Whether other requests would meet the same failure."""
        return self.scope in {Scope.SHARED, Scope.FINAL}


def clean(text: str, request: Mapping[str, Any] | None = None) -> str:
    """Return one line of at most 500 characters, without keys and without what `request` (LiteLLM's arguments) sent."""
    return redacted(text, request)[:MAX_MESSAGE_CHARACTERS]
