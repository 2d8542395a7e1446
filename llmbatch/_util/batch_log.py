"""The log: each line that belongs to a batch carries the batch's id, and the provider and model.

`logger` is loguru's. Lines about a row are logged with `of_row(…)`. Fields of the JSON log and of `logging` records
have the names of `FIELDS`.
"""

from __future__ import annotations

import secrets
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, NamedTuple

import loguru

if TYPE_CHECKING:
    from loguru import Logger, Record

FIELDS = ("batch", "provider", "model", "index", "custom_id")


class BatchTag(NamedTuple):
    """What the lines of one batch carry."""

    batch: str
    provider: str
    model: str


_current: ContextVar[BatchTag | None] = ContextVar("_current", default=None)


def new_batch_id() -> str:
    """Return a short id for a batch, for people who read several logs."""
    return secrets.token_hex(4)


def enter_batch(tag: BatchTag) -> None:
    """Have lines that are logged in this context, and in tasks started from it, belong to a batch."""
    _current.set(tag)


def _tagged(record: Record) -> None:
    tag = _current.get()
    if tag is None:
        return
    extra = record["extra"]
    for name, value in zip(tag._fields, tag, strict=True):
        extra.setdefault(name, value)
    place = f" at {extra['deployment']}" if "deployment" in extra else ""
    record["message"] = f"[{tag.batch} {extra['provider']}/{extra['model']}{place}] {record['message']}"


logger: Logger = loguru.logger.patch(_tagged)


def of_row(index: int, custom_id: str, **fields: Any) -> Logger:
    """Return the logger for a line about a row, which names it by index and id."""
    return logger.bind(index=index, custom_id=custom_id, **fields)


def row_name(index: int, custom_id: str) -> str:
    """Return how a line names a row."""
    return f"row {index} ({custom_id})" if custom_id else f"row {index}"
