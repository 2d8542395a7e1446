"""Which row of which batch a request is for, as listeners and spans see it. It is never sent to a provider."""

from __future__ import annotations

from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class RowTag:
    """A row: the batch's id, the row's index in the input and its id, and the metadata of its request."""

    batch_id: str
    index: int
    custom_id: str
    metadata: Any = None


_current: ContextVar[RowTag | None] = ContextVar("_current", default=None)


def enter_row(tag: RowTag) -> None:
    """Have requests that are sent in this context be for a row."""
    _current.set(tag)


def current_row() -> RowTag | None:
    """Return the row that requests of this context are for, None outside a batch."""
    return _current.get()
