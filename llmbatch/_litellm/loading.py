"""Imports LiteLLM when the first call needs it (2-4 s, 2,600 modules), and finds its private APIs."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import os
import pkgutil
import sys
import traceback
import warnings
from collections.abc import AsyncIterator
from functools import cache
from types import ModuleType
from typing import Any

from llmbatch._litellm.exit_flush import flush_at_exit
from llmbatch._util.background_call import within_call
from llmbatch._util.loop_thread import at_end

_CALLBACK_SECONDS = 3.0


def load() -> ModuleType:
    """Return LiteLLM, imported without its start-up downloads and printed advice. Suppresses its warnings."""
    _ignore_warnings()
    return _imported()


@cache
def _imported() -> ModuleType:
    os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")
    os.environ.setdefault("LITELLM_LOCAL_ANTHROPIC_BETA_HEADERS", "True")
    # Collecting garbage among a million new objects that all stay takes a sixth of the import's time.
    gc_enabled = gc.isenabled()
    gc.disable()
    try:
        import litellm  # noqa: PLC0415 - slow to import, so only when needed

        # Its pydantic models are built when first used: here, instead of within a request's timeout.
        litellm.ModelResponse(choices=[{"message": {"role": "assistant", "content": ""}}]).model_dump()
        litellm.ModelResponseStream(choices=[{"index": 0, "delta": {"content": ""}}]).model_dump()
    finally:
        if gc_enabled:
            gc.enable()
    logging.getLogger("LiteLLM").addFilter(_is_shown)
    # It warns for each request that it ignores `max_retries`, which llmbatch sets and not the user.
    logging.getLogger("litellm.llms.huggingface.chat.transformation").addFilter(
        lambda record: "max_retries" not in str(record.msg)
    )
    litellm.suppress_debug_info = True
    litellm.disable_hf_tokenizer_download = True
    at_end(_ending)
    flush_at_exit(internal)
    return litellm


def _is_shown(record: logging.LogRecord) -> bool:
    """Return whether a line of LiteLLM's log passes: it logs each request at INFO, which is often only root's level."""
    return record.levelno != logging.INFO or not within_call() or bool(logging.getLogger("LiteLLM").level)


@contextlib.asynccontextmanager
async def _ending() -> AsyncIterator[None]:
    """Run the callbacks of the last requests; when all tasks have ended, close the loop's clients."""
    with contextlib.suppress(Exception):  # whatever it is, the interpreter is ending
        await asyncio.sleep(0)
        async with asyncio.timeout(_CALLBACK_SECONDS):
            await internal("litellm.litellm_core_utils.logging_worker:GLOBAL_LOGGING_WORKER").flush()
    yield
    litellm = load()
    await litellm.close_litellm_async_clients()
    litellm.in_memory_llm_clients_cache.flush_cache()


@cache
def internal(place: str) -> Any:
    """Return LiteLLM's private API at `module:name` (`private_api` lists them), None if it is not there."""
    load()
    try:
        return pkgutil.resolve_name(place)
    except (ImportError, AttributeError):
        return None


class _FromLiteLLM(type):
    """A warning category that matches by where a warning comes from, not by what it is.

    `warnings.catch_warnings` changes the whole process and drops filters that are added meanwhile. This is one more
    filter, which matches only warnings from LiteLLM's own code, or from pydantic on its behalf.
    """

    def __subclasscheck__(cls, category: type) -> bool:
        for frame, _ in traceback.walk_stack(sys._getframe(1)):  # noqa: SLF001 - as `warnings` itself finds out
            source = frame.f_globals
            if frame.f_code.co_name == "_warn_unawaited_coroutine":
                # A request that was cancelled while it was built in a thread.
                source = getattr(frame.f_locals["coro"].cr_frame, "f_globals", source)
            if str(source.get("__name__")).startswith(("litellm.", "llmbatch._litellm")):
                return True
        return False


_FILTER = ("ignore", None, _FromLiteLLM("_LiteLLMs", (Warning,), {}), None, 0)


def _ignore_warnings() -> None:
    """Put the filter first again: other code adds filters, and the first match wins."""
    filters: list[object] = warnings.filters  # type: ignore[assignment]
    if not filters or filters[0] is not _FILTER:
        # An `ignore` filter leaves the registries of warnings shown so far valid.
        filters[:] = [_FILTER, *(other for other in filters if other is not _FILTER)]
