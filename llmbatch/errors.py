"""Exceptions that llmbatch raises, and the types of failed rows.

A failing *request* raises nothing: it becomes a row with `error`, whose `error_details["type"]` is a `FailureType`.
Misuse raises ValueError or TypeError before anything is sent. Everything else is an `LLMBatchError`:

LLMBatchError
├── RequestFailedError            one request failed for good (`create_chat_completion`, `chat(...).ask`)
├── BatchFailedError              raised by `BatchResults.raise_for_errors()`
├── CheckpointError               the checkpoint file cannot be used (locked by another run, not ours, disk full)
├── CopilotTokenError             no GitHub token that works with Copilot
├── BatchJobError                 the provider rejected or lost a batch job
│   └── BatchJobTimeoutError      the job has not ended in time; also a TimeoutError
├── BatchNotSupportedError        the provider has no such batch function; also a NotImplementedError
├── MissingExtraError             an optional package is not installed; also an ImportError
├── BlockingCallError             a blocking call on llmbatch's own event loop; also a RuntimeError
├── CassetteNotFoundError         no recording to replay; also a FileNotFoundError
└── CassetteInUseError            a cassette is open already; also a RuntimeError
"""

from __future__ import annotations

from typing import Any

from llmbatch._output.stats import failures_line
from llmbatch._rows.failure_type import FailureType, failure_types_table
from llmbatch._rows.row import Row
from llmbatch._util.base_errors import BlockingCallError, LLMBatchError, MissingExtraError

__all__ = [
    "BatchFailedError",
    "BatchJobError",
    "BatchJobTimeoutError",
    "BatchNotSupportedError",
    "BlockingCallError",
    "CassetteInUseError",
    "CassetteNotFoundError",
    "CheckpointError",
    "CopilotTokenError",
    "FailureType",
    "LLMBatchError",
    "MissingExtraError",
    "RequestFailedError",
    "failure_types_table",
]


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
    """No GitHub token that works with Copilot; the message says how to get one."""


class BatchJobError(LLMBatchError):
    """The provider rejected a batch job or lost a part of it; the message says which."""


class BatchJobTimeoutError(BatchJobError, TimeoutError):
    """A batch job has not ended within the `timeout` of `wait`; it goes on at the provider."""


class BatchNotSupportedError(LLMBatchError, NotImplementedError):
    """The provider has no such batch function; the message says what to use instead."""


class CassetteNotFoundError(LLMBatchError, FileNotFoundError):
    """The cassette file to replay does not exist; the message says how to record it."""


class CassetteInUseError(LLMBatchError, RuntimeError):
    """A cassette is open already, and one process can use one at a time."""
