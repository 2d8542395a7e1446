"""The inputs of a batch that a job is to answer, and what is reserved of the budget for them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from llmbatch._request.budget import Budget
from llmbatch._rows.row import Row


@dataclass(slots=True)
class JobInputs:
    """The inputs of a batch, once they have been read.

    Attributes:
        items: the parsed requests; an input that cannot be parsed is as it came.
        request_ids: their ids in the checkpoint and in the job, "" for an input that cannot be sent.
        wanted: the indices of the inputs that the job is to answer, by request id.
        duplicates: the indices of inputs that get a copy of another row, with `dedupe=True`.
        rejected: the indices of inputs whose rows in the checkpoint do not pass this run's checks.
        prompt_tokens: the length of all prompts.
    """

    items: list[Any] = field(default_factory=list)
    request_ids: list[str] = field(default_factory=list)
    wanted: dict[str, int] = field(default_factory=dict)
    duplicates: set[int] = field(default_factory=set)
    rejected: set[int] = field(default_factory=set)
    prompt_tokens: float = 0.0


class Reservations:
    """The cost upper bounds of a job's rows, reserved in the batch's budget until their rows are known."""

    def __init__(self, budget: Budget) -> None:
        self._budget = budget
        self._reserved: dict[int, float] = {}

    async def reserve(self, upper_bounds: Mapping[int, float]) -> None:
        """Reserve USD for rows, by index."""
        self._reserved.update(upper_bounds)
        await self._budget.reserve(sum(upper_bounds.values()))

    def settle(self, index: int, row: Row) -> None:
        """Replace the reservation of a row by its cost; a row of unknown cost keeps it."""
        self._budget.settle(self._reserved.pop(index, 0.0), row["cost"])

    def release(self) -> None:
        """Give everything back: nothing was sent."""
        self._budget.settle(sum(self._reserved.values()), 0.0)
        self._reserved.clear()
