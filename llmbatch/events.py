"""What `on_event=` is called with: typed events of a batch, in the order in which they happened.

Events hold no keys and no prompts, but `RowDone` holds the answer.

Example:
    from llmbatch.events import RequestRetried, RowDone

    def watch(event):
        match event:
            case RequestRetried(index=index, cause=cause):
                print("row", index, "is sent again:", cause)
            case RowDone(index=index, row=row):
                print("row", index, row["cost"])

    create_chat_completions_batch(chats, "gpt-4o-mini", on_event=watch)
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any

from llmbatch._rows.row import Row

__all__ = [
    "BatchEnded",
    "BatchStarted",
    "Event",
    "LimitsChanged",
    "RequestRateLimited",
    "RequestRetried",
    "RequestSent",
    "RowDone",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Event:
    """An event: the batch's id (`results.batch_id`), and its time in seconds since 1970."""

    batch_id: str
    at: float = field(default_factory=time.time)


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchStarted(_Event):
    """A batch begins; `rows` is their number, None if unknown."""

    rows: int | None
    provider: str
    model: str


@dataclass(frozen=True, slots=True, kw_only=True)
class _RequestEvent(_Event):
    """An event of one request; `attempt` counts from 1. An embeddings request stands for all its texts."""

    index: int
    custom_id: str
    attempt: int
    provider: str
    model: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestSent(_RequestEvent):
    """An attempt is sent."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestRateLimited(_RequestEvent):
    """An attempt got a 429; `retry_after` is the seconds that the provider asks to wait."""

    retry_after: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestRetried(_RequestEvent):
    """A failed attempt is followed by another one in `wait` seconds; `cause` is a `FailureType`."""

    cause: str
    wait: float


@dataclass(frozen=True, slots=True, kw_only=True)
class LimitsChanged(_Event):
    """Limits were found or have changed: what the provider states, or what its 429s depend on."""

    provider: str
    model: str
    limits: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RowDone(_Event):
    """A row is done: answered, failed, or from the checkpoint."""

    index: int
    row: Row


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchEnded(_Event):
    """The batch has ended; `stats` is `results.stats`."""

    stats: dict[str, Any]


Event = BatchStarted | RequestSent | RequestRateLimited | RequestRetried | LimitsChanged | RowDone | BatchEnded
