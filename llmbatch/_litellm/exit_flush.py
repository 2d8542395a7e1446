"""Lets LiteLLM's callbacks finish, and its batching loggers send what they hold, when the main thread ends.

Exit handlers come too late for that: threads can no longer be started (the DNS look-up of a logger needs one), and
exporters may have shut down.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import inspect
import logging
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

from llmbatch._util.loop_thread import running_loop

# LiteLLM gives each callback 20 s, and runs 100 at a time.
FLUSH_SECONDS = 30.0
_LISTS = ("callbacks", "success_callback", "failure_callback", "_async_success_callback", "_async_failure_callback")


def flush_at_exit(find: Callable[[str], Any]) -> None:
    """Flush when the main thread ends; `find` returns one of LiteLLM's private APIs, or None."""
    with contextlib.suppress(RuntimeError):  # the process is ending already
        threading._register_atexit(lambda: _flush(find))  # type: ignore[attr-defined]  # noqa: SLF001


def _flush(find: Callable[[str], Any]) -> None:
    worker = find("litellm.litellm_core_utils.logging_worker:GLOBAL_LOGGING_WORKER")
    loggers = list(_batching_loggers(find))
    loop = running_loop()
    if loop is None or worker is None:
        return
    queue = getattr(worker, "_queue", None)
    if queue is None and not loggers:
        return
    flushing = asyncio.run_coroutine_threadsafe(_all_flushed(worker, loggers), loop)
    try:
        flushing.result(FLUSH_SECONDS)
    except (concurrent.futures.TimeoutError, KeyboardInterrupt) as exc:
        flushing.cancel()
        why = f"after {FLUSH_SECONDS:g} s" if isinstance(exc, concurrent.futures.TimeoutError) else "(interrupted)"
        left = getattr(queue, "_unfinished_tasks", 0)
        what = f"{left} callbacks" if left else f"what {_names(loggers)} had not sent"
        # The library's own log is off by default, and this loses the user's data.
        logging.getLogger("llmbatch").warning("Exit: gave up on %s of LiteLLM %s", what, why)
    except Exception:
        logging.getLogger("llmbatch").warning("Exit: LiteLLM's callbacks could not be flushed", exc_info=True)


async def _all_flushed(worker: Any, loggers: list[Any]) -> None:
    await asyncio.sleep(0)  # callbacks that the last answers have just scheduled
    await worker.flush()
    await asyncio.gather(*(one.flush_queue() for one in loggers), return_exceptions=True)


def _batching_loggers(find: Callable[[str], Any]) -> Iterator[Any]:
    """Yield the loggers that collect events and send them later."""
    litellm = sys.modules["litellm"]
    registered = [one for name in _LISTS for one in getattr(litellm, name, None) or ()]
    registered += find("litellm.litellm_core_utils.litellm_logging:_in_memory_loggers") or ()
    for one in {id(one): one for one in registered}.values():
        if inspect.iscoroutinefunction(getattr(one, "flush_queue", None)):
            yield one


def _names(loggers: list[Any]) -> str:
    return ", ".join(type(one).__name__ for one in loggers) or "callbacks"
