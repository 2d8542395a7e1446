"""What llmbatch raises. A failing *request* is never one of these: it becomes a row (see `results`).

ValueError, TypeError        misuse, raised before anything is sent; the message says what to do instead
LLMBatchError
├── RequestFailedError       one request failed for good (`create_chat_completion`, `chat(...).ask`)
├── BatchFailedError         raised by `BatchResults.raise_for_errors()`
├── CheckpointError          the checkpoint file cannot be used (locked by another run, not ours, disk full)
├── CopilotTokenError        no GitHub token that can work with Copilot
├── BatchNotSupportedError   the provider has no batch support in llmbatch (also a NotImplementedError)
└── BatchJobError            the provider refused or lost a batch job
"""

from __future__ import annotations

from typing import Any

from llmbatch._output.stats import failures_line
from llmbatch._rows.row import Row

__all__ = [
    "BatchFailedError",
    "BatchJobError",
    "BatchNotSupportedError",
    "CheckpointError",
    "CopilotTokenError",
    "LLMBatchError",
    "RequestFailedError",
]


class LLMBatchError(Exception):
    """Base of everything that llmbatch raises besides ValueError and TypeError."""


class RequestFailedError(LLMBatchError):
    """One request failed for good.

    `row` is the error row; `type`, `status_code`, `provider`, `retryable` and `attempts` are its `error_details`.
    """

    def __init__(self, row: Row) -> None:
        super().__init__(row["error"])
        self.row = row
        details: dict[str, Any] = row["error_details"]
        self.type: str = details["type"]
        self.status_code: int | None = details["status_code"]
        self.provider: str | None = details["provider"]
        self.retryable: bool = details["retryable"]
        self.attempts: int = details["attempts"]

    def __reduce__(self) -> tuple[type[RequestFailedError], tuple[Row]]:
        return type(self), (self.row,)


class BatchFailedError(LLMBatchError):
    """Some rows of a batch failed; `failed` holds their error rows."""

    def __init__(self, failed: list[Row], total: int) -> None:
        super().__init__(f"{len(failed)} of {total} rows failed: {failures_line(failed)}")
        self.failed = failed
        self.total = total

    def __reduce__(self) -> tuple[type[BatchFailedError], tuple[list[Row], int]]:
        return type(self), (self.failed, self.total)


class CheckpointError(LLMBatchError):
    """The checkpoint file cannot be used; the message says why and what to do."""


class CopilotTokenError(LLMBatchError):
    """No GitHub token that can work with Copilot; the message says how to get one."""


class BatchJobError(LLMBatchError):
    """The provider refused a batch job or lost a part of it; the message says which."""


class BatchNotSupportedError(LLMBatchError, NotImplementedError):
    """The provider has no batch support in llmbatch; the message says what to use instead."""
