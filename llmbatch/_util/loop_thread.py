"""The one event loop of this process, on a daemon thread: started at the first call, closed at exit, new after a fork.

All of llmbatch runs on it, also what is awaited from another loop. HTTP clients belong to a loop, so a loop for each
call would leak sockets; and the rate limits of an account are shared by all callers.
"""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import os
import threading
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import Any

_lock = threading.Lock()
_loop: asyncio.AbstractEventLoop | None = None
_thread: threading.Thread | None = None
_orphans: list[Any] = []
_endings: list[Callable[[], AbstractAsyncContextManager[None]]] = []
CLOSING_SECONDS = 5.0  # for cancelled work to end


def background() -> asyncio.AbstractEventLoop:
    """Return the loop, and start it with its thread at the first call."""
    global _loop, _thread
    if (running := _loop) is not None:
        return running
    with _lock:
        if _loop is None:
            loop = asyncio.new_event_loop()
            thread = threading.Thread(target=_serve, args=(loop,), name="llmbatch", daemon=True)
            try:
                thread.start()
                # Published once its thread runs: nothing would ever end on a loop without one.
                _loop, _thread = loop, thread
            except BaseException:
                loop.call_soon_threadsafe(loop.stop)
                raise
            atexit.register(_close)
        return _loop


def running_loop() -> asyncio.AbstractEventLoop | None:
    """Return the loop if it has been started, and the interpreter has not ended it."""
    return _loop


def on_background_thread() -> bool:
    """Return whether this code runs on the loop's thread, where nothing may wait for the loop."""
    return threading.current_thread() is _thread


def has_ended() -> bool:
    """Return whether there is no loop: none has been started, or the interpreter is about to exit."""
    return _loop is None


def _serve(loop: asyncio.AbstractEventLoop) -> None:
    asyncio.set_event_loop(loop)
    ended = False
    while not ended:
        with contextlib.suppress(SystemExit, KeyboardInterrupt):  # of a task, whose caller gets it too
            loop.run_forever()
            ended = True


def _close() -> None:
    """Cancel what runs and close the loop, so that the interpreter's exit prints no warning."""
    global _loop, _thread
    loop, thread, _loop, _thread = _loop, _thread, None, None
    if loop is None or thread is None or not thread.is_alive():
        return

    async def close() -> None:
        async with contextlib.AsyncExitStack() as stack:
            for ending in _endings:
                await stack.enter_async_context(ending())
            tasks = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        await asyncio.sleep(0)

    with contextlib.suppress(Exception):
        asyncio.run_coroutine_threadsafe(close(), loop).result(CLOSING_SECONDS)
    loop.call_soon_threadsafe(loop.stop)
    thread.join(CLOSING_SECONDS)
    if not thread.is_alive():
        loop.close()


def at_end(ending: Callable[[], AbstractAsyncContextManager[None]]) -> None:
    """Enter `ending()` before the loop's tasks are cancelled at the interpreter's exit, and leave it afterwards.

    Exit handlers run in reverse order. The loop's own is registered again, so that it runs before those of the packages
    that have been imported by now.
    """
    if ending not in _endings:
        _endings.append(ending)
    atexit.unregister(_close)
    atexit.register(_close)


def _forget() -> None:
    """Forget the parent's loop in a forked child, where its thread does not exist."""
    global _loop, _thread, _lock
    # The parent's loop is kept: clients are looked up by the loop's id, which no new loop may get.
    if _loop is not None:
        _orphans.append(_loop)
        # Its clients report to it that nobody has closed them, when this process ends.
        _loop.set_exception_handler(lambda _loop, _context: None)
    _loop, _thread, _lock = None, None, threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)
