"""Warnings raised inside LiteLLM, or by pydantic on its behalf: nobody hears of them, and no row fails with them.

`warnings.catch_warnings` is for the whole process and throws away what is filtered meanwhile. Here is one filter more,
that matches nothing but what comes from LiteLLM's own code; all others stay as they are.
"""

from __future__ import annotations

import sys
import warnings
from types import FrameType


class _FromLiteLLM(type):
    """Makes a filter ask, of each warning, where it comes from instead of what it is."""

    def __subclasscheck__(cls, category: type) -> bool:
        frame: FrameType | None = sys._getframe(1)  # noqa: SLF001 - as `warnings` itself finds out
        while frame is not None:
            source = frame.f_globals
            if frame.f_code.co_name == "_warn_unawaited_coroutine":
                # A request that was being built in a thread when it was cancelled.
                source = getattr(frame.f_locals["coro"].cr_frame, "f_globals", source)
            if str(source.get("__name__")).startswith(("litellm.", "llmbatch._litellm")):
                return True
            frame = frame.f_back
        return False


_FILTER = ("ignore", None, _FromLiteLLM("_LiteLLMs", (Warning,), {}), None, 0)


def unhear() -> None:
    """Ignore LiteLLM's warnings from here on: before each use of it, since filters come and go, and the first wins."""
    filters: list[object] = warnings.filters  # type: ignore[assignment]
    if not filters or filters[0] is not _FILTER:
        # An `ignore` leaves no trace in the registries of what was heard already, so that they stay valid.
        filters[:] = [_FILTER, *(other for other in filters if other is not _FILTER)]
