"""The batch of a call with lane="job" or lane="cheapest"."""

from __future__ import annotations

from functools import partial
from typing import Any

from llmbatch._batch.batch import Batch
from llmbatch._batch.prepare import chat_batch
from llmbatch._jobs.cheapest_run import CheapestRun
from llmbatch._jobs.job_run import JobRun


def job_batch(  # noqa: PLR0917 - the public functions' own order
    messages_list: Any, model: str | None, temperature: float | None, max_tokens: int | None,
    max_workers: Any, given: dict[str, Any],
) -> Batch:  # fmt: skip
    """Return the batch of such a call, or of one with `batch_job=True`, the first name of lane="job"."""
    if given.pop("batch_job", False) and given.setdefault("lane", "job") != "job":
        raise ValueError(f"batch_job=True means lane='job', but lane is {given['lane']!r}; leave out one of them")
    run = CheapestRun if given.get("lane") == "cheapest" else JobRun
    kind = partial(run, completion_window=given.pop("completion_window", "24h"))
    return chat_batch(messages_list, model, temperature, max_tokens, max_workers, kind=kind, **given)
