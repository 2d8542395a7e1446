"""Deduplication: identical requests of a batch are sent once."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import Any

from llmbatch._request.account import route_key
from llmbatch._request.plans import ChatPlan
from llmbatch._rows.row import NO_USAGE, Row
from llmbatch._util.checks import copied
from llmbatch._util.identity import first_id


@dataclass(slots=True)
class Original:
    """The first of several identical requests: its index, and its row once it is done."""

    index: int
    row: asyncio.Future[Row] = field(default_factory=lambda: asyncio.get_running_loop().create_future())


class Dedupe:
    """Finds duplicates among the requests of one batch; does nothing unless it is enabled."""

    def __init__(self, enabled: bool) -> None:
        self._enabled = enabled
        self._originals: dict[Any, Original] = {}

    def original_of(self, key: Any, index: int) -> Original | None:
        """Return the request that this one duplicates; None for the first one, which has to be sent."""
        if not self._enabled:
            return None
        found = self._originals.get(key)
        if found is None:
            self._originals[key] = Original(index)
        return found

    def finish(self, key: Any, row: Row) -> None:
        """Give the row of an original to its duplicates."""
        if self._enabled:
            self._originals[key].row.set_result(copied(row))


def dedupe_key(request_id: str, plan: ChatPlan) -> Any:
    """Return what identical requests have in common. Two classes with one schema have different keys."""
    response_format = plan.response_format
    return first_id(request_id), route_key(plan), response_format if isinstance(response_format, type) else None


def duplicate_row(row: Row, original: int) -> Row:
    """Return the row of a duplicate: nothing was sent for it, so it cost nothing."""
    copy: Row = copied(row)
    return {**copy, "usage": dict(NO_USAGE), "cost": 0.0, "attempts": 0, "same_as": original}
