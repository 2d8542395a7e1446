"""LLM work that comes in lists: thousands of chat completions or embeddings, one row in, one row out.

Names are loaded when they are first used: `import llmbatch` pulls in neither litellm nor openai.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from loguru import logger

if TYPE_CHECKING:
    from llmbatch._batch.batch import interrupted_results as interrupted_results
    from llmbatch.chats import *  # noqa: F403
    from llmbatch.completions import *  # noqa: F403
    from llmbatch.dry_run import *  # noqa: F403
    from llmbatch.embeddings import *  # noqa: F403
    from llmbatch.errors import *  # noqa: F403
    from llmbatch.estimate import Estimate as Estimate
    from llmbatch.estimate import estimate_batch as estimate_batch
    from llmbatch.jobs import BatchJob as BatchJob
    from llmbatch.jobs import aretrieve_batch_job as aretrieve_batch_job
    from llmbatch.jobs import asubmit_batch_job as asubmit_batch_job
    from llmbatch.jobs import retrieve_batch_job as retrieve_batch_job
    from llmbatch.jobs import submit_batch_job as submit_batch_job
    from llmbatch.media import *  # noqa: F403
    from llmbatch.payloads import *  # noqa: F403
    from llmbatch.providers.base import *  # noqa: F403
    from llmbatch.providers.registry import register_provider as register_provider
    from llmbatch.results import BatchResults as BatchResults
    from llmbatch.results import Row as Row
    from llmbatch.tables import *  # noqa: F403

_HOMES = {
    "_batch.batch": ("interrupted_results",),
    "completions": (
        "acreate_chat_completion",
        "acreate_chat_completions_batch",
        "acreate_chat_completions_batch_copilot",
        "as_completed",
        "awarm_up",
        "create_chat_completion",
        "create_chat_completions_batch",
        "create_chat_completions_batch_copilot",
        "stream_chat_completions_batch",
        "warm_up",
    ),
    "dry_run": ("DryRun",),
    "embeddings": ("acreate_embeddings_batch", "create_embeddings_batch"),
    "errors": (
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
    ),
    "chats": ("Chat", "chat"),
    "estimate": ("Estimate", "estimate_batch"),
    "jobs": ("BatchJob", "aretrieve_batch_job", "asubmit_batch_job", "retrieve_batch_job", "submit_batch_job"),
    "media": ("audio_part", "file_part", "image_part"),
    "payloads": (
        "read_batch_file",
        "render_batch_requests",
        "render_embeddings_requests",
        "stream_batch_requests",
        "stream_embeddings_requests",
        "write_batch_file",
    ),
    "providers.base": ("Payload", "Provider"),
    "providers.registry": ("register_provider",),
    "results": ("BatchResults", "Row"),
    "tables": ("CompletedFile", "acomplete_table", "complete_table"),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}

__all__ = sorted([*_HOME_OF, "enable_logging"])  # noqa: PLE0605 - one list of names, above

# A library is quiet until its application asks for its log.
logger.disable("llmbatch")


def enable_logging(level: str = "INFO", *, json: bool = False) -> None:
    """Show llmbatch's log, where the application's own goes.

    INFO tells the story of a batch: its start, limits found, 429s and retries with counts, progress, and its end.
    WARNING is what costs rows or money, DEBUG every attempt. Each line has the batch's id (`results.batch_id`), the
    provider and the model.

    It is loguru's: it goes to the sinks that the application has given to loguru, at their own levels, else to the
    handlers of the standard library's `logging` if there are any (logger "llmbatch"), else to stderr. Calling it again
    changes the level and the form.

    Args:
        level: the lowest level that is shown.
        json: write one JSON object per line, as loguru's `serialize=True` does; `record.extra` has `batch`,
            `provider`, `model`, and `index` and `custom_id` in lines about a row. Records of `logging` have these
            fields as attributes.

    Example:
        enable_logging("DEBUG")
    """
    from llmbatch._util.log_sinks import show  # noqa: PLC0415 - most programs need none of it

    show(level, json=json)


def __getattr__(name: str) -> Any:
    if name not in _HOME_OF:
        msg = f"module 'llmbatch' has no attribute {name!r}"
        raise AttributeError(msg)
    value = getattr(importlib.import_module(f"llmbatch.{_HOME_OF[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return list(__all__)
