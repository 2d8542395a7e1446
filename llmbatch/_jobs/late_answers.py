"""Answers of a cancelled job that had not ended when its rows were sent live: the provider may charge for both."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable

from llmbatch._batch.row_builder import labelled
from llmbatch._jobs.polling import poll_until
from llmbatch._rows.row import Row, add_spent
from llmbatch._util.batch_log import logger

_MOMENT = 0.05  # seconds


class LateAnswers:
    """Compares the live rows of `open_indices` with what the job answers after all.

    `update` is called with the index, the live row and the late row, once both are known.
    """

    def __init__(self, open_indices: Iterable[int], update: Callable[[int, Row, Row], None]) -> None:
        self._open, self._update = set(open_indices), update
        self._live: dict[int, Row] = {}
        self._late: dict[int, Row] = {}

    def add_late(self, index: int, row: Row) -> None:
        """Keep a row that the job has answered late."""
        self._late[index] = row

    def add_live(self, index: int, row: Row) -> None:
        """Keep a live row. If the job may answer it too, it may have been paid twice."""
        if index in self._open:
            row["paid_twice"] = None
            self._live[index] = row

    async def collect(self, look: Callable[[], Awaitable[bool]], pause: float) -> None:
        """Poll the job while its rows are sent live, and update those that it has answered."""

        def sending() -> bool:
            return len(self._live) < len(self._open)

        ended = await poll_until(look, pause, lambda: 1.0 if sending() else 0.0)
        while sending():  # noqa: ASYNC110 - live requests have a time limit of their own
            await asyncio.sleep(_MOMENT)
        if not ended:
            logger.warning("The batch job has not ended: {} rows may be answered, and charged, twice", len(self._open))
        for index, late in self._late.items():
            self._update(index, self._live[index], late)


def merge_late(row: Row, late: Row) -> None:
    """Update a live row by the job's late row: what that has cost, and its answer if the live request failed."""
    del row["paid_twice"]
    if "error" in late:
        return
    before = row.copy()
    if "error" in row:
        row.clear()  # type: ignore[attr-defined]
        row.update(late)
        labelled(row, before["custom_id"], before.get("metadata"))
        add_spent(row, before)
    else:
        row["paid_twice"] = late["cost"]
        add_spent(row, late)
