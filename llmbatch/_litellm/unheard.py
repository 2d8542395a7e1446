"""Warnings raised inside LiteLLM, or by pydantic on its behalf: nobody hears of them, and no row fails with them.

`warnings.catch_warnings` is for the whole process and throws away what is filtered meanwhile. Here is one more filter
for as long as a call runs, that matches nothing but what comes from LiteLLM's own code; all others stay as they are.
"""

from __future__ import annotations

import contextlib
import sys
import threading
import warnings
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import FrameType

__all__ = ["unheard"]

_lock = threading.Lock()
_running = 0


class _FromLiteLLM(type):
    """Makes a filter ask, of each warning, where it comes from instead of what it is."""

    def __subclasscheck__(cls, category: type) -> bool:
        frame: FrameType | None = sys._getframe(1)  # noqa: SLF001 - as `warnings` itself finds out
        while frame is not None:
            if str(frame.f_globals.get("__name__")).startswith(("litellm.", "llmbatch._litellm")):
                return True
            frame = frame.f_back
        return False


_FILTER = ("ignore", None, _FromLiteLLM("_LiteLLMs", (Warning,), {}), None, 0)


@contextlib.contextmanager
def unheard() -> Iterator[None]:
    """Ignore the warnings of what LiteLLM does within it, in any thread or task; a decorator too."""
    global _running  # noqa: PLW0603 - filters are the process's
    # Whoever leaves a `catch_warnings` takes the filter away, or brings it back. An `ignore` leaves no trace in the
    # registries of what was heard already, so that they stay valid.
    with _lock:
        _running += 1
        if _FILTER not in warnings.filters:
            warnings.filters.insert(0, _FILTER)  # type: ignore[attr-defined]
    try:
        yield
    finally:
        with _lock:
            _running -= 1
            if not _running and _FILTER in warnings.filters:
                warnings.filters.remove(_FILTER)  # type: ignore[attr-defined]
