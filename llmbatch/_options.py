"""llmbatch's own options, described once: what the public functions take besides LiteLLM's arguments."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, Literal

from llmbatch._checks import check_number

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Sequence

    from llmbatch.results import Row

__all__ = ["OPTIONS_DOC", "OWN_OPTIONS", "Options"]

OPTIONS_DOC = """
    Own options (everything else in `kwargs` goes to LiteLLM untouched, as in `seed=1` or `api_base="http://…/v1"`):
        max_workers: requests in flight at most, or "auto": as many as make it faster.
        requests_per_minute, tokens_per_minute: limits never to exceed; left out, they are learnt from the provider.
        retries: faults (5xx, resets, timeouts) that a row survives; refusals for a rate limit do not count.
        timeout: seconds for one whole attempt; None for no end.
        deadline: seconds for the whole batch; rows not done by then become error rows.
        max_cost: USD never to exceed; each request's worst case is reserved before it is sent.
        fallbacks: models to try, in order, when a row finally fails.
        checkpoint: path of a journal of finished rows; a rerun sends only what is missing or failed.
        warm_prompt_cache: let one row of each shared beginning go first, so that the others meet a warm cache.
        progress: True or False for the bar; None shows it in a terminal or a notebook.
        on_result: called with (index, row) as each row finishes, on llmbatch's own thread.
        custom_ids: one id a row, instead of the ids derived from the requests."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """Checked options of one batch. Defaults are in the public signatures."""

    max_workers: int | Literal["auto"]
    requests_per_minute: float | None
    tokens_per_minute: float | None
    retries: int
    timeout: float | None
    deadline: float | None
    max_cost: float | None
    checkpoint: str | os.PathLike[str] | None
    progress: bool | None
    on_result: Callable[[int, Row], object] | None
    custom_ids: Sequence[str] | None
    fallbacks: Sequence[str | dict[str, Any]] = ()
    warm_prompt_cache: bool = False

    def __post_init__(self) -> None:
        if self.max_workers != "auto":
            check_number("max_workers", self.max_workers, 'pass a whole number, or "auto"', whole=True, least=1)
        for name in ("requests_per_minute", "tokens_per_minute", "timeout", "deadline", "max_cost"):
            value = getattr(self, name)
            if value is not None:
                check_number(name, value, "leave it out (None) for no limit")
        check_number("retries", self.retries, "0 sends each row once", whole=True, least=0)
        fallbacks: Any = self.fallbacks
        on_result: Any = self.on_result
        if isinstance(fallbacks, str | dict):
            msg = f"fallbacks must be a list of models, not one {type(fallbacks).__name__}; put it in a list"
            raise TypeError(msg)
        if on_result is not None and not callable(on_result):
            msg = "on_result must be a function of (index, row)"
            raise TypeError(msg)
        if self.custom_ids is not None and len(set(self.custom_ids)) != len(self.custom_ids):
            msg = "custom_ids holds an id twice; answers are joined by id, so each row needs its own"
            raise ValueError(msg)


OWN_OPTIONS = frozenset(field.name for field in fields(Options)) | {"batch_job"}
"""llmbatch's own keyword arguments; every other one goes to LiteLLM."""
