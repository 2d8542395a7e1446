"""Finds out whether a tracing tool has put functions of its own in place of LiteLLM's, the OpenAI SDK's or aiohttp's.

OpenInference, OpenTelemetry's instrumentations, Sentry and others work like that: they appear in none of LiteLLM's
lists of callbacks, and see only calls of this process.
"""

from __future__ import annotations

import sys
from types import FunctionType, ModuleType
from typing import Any

from llmbatch._litellm.loading import load

_PATCHABLE = {
    "litellm": ("acompletion", "aembedding"),
    "openai.resources.chat.completions": ("AsyncCompletions.create",),
    "openai.resources.embeddings": ("AsyncEmbeddings.create",),
    "aiohttp": ("ClientSession.__init__", "ClientSession._request"),
}
_CALLS = ("litellm", "openai.resources.chat.completions", "openai.resources.embeddings")


def traced_library() -> str | None:
    """Return the library whose functions have been patched, None if there is none."""
    load()
    return next((name.partition(".")[0] for name in _PATCHABLE if _is_patched(name)), None)


def traced_calls() -> str | None:
    """Return the library (LiteLLM or the OpenAI SDK) whose calls have been patched, None if there is none."""
    return next((name.partition(".")[0] for name in _CALLS if _is_patched(name)), None)


def embeddings_are_traced() -> bool:
    """Return whether the embeddings call of the OpenAI SDK has been patched."""
    return _is_patched("openai.resources.embeddings")


def untraced(name: str) -> Any:
    """Return LiteLLM's own function of this name, for a call that is never sent and must make no span."""
    return getattr(sys.modules["litellm.main"], name, None) or getattr(load(), name)


def _is_patched(module: str) -> bool:
    loaded = sys.modules.get(module)
    return loaded is not None and any(not _is_own(loaded, place) for place in _PATCHABLE[module])


def _is_own(module: ModuleType, place: str) -> bool:
    """Return whether a function is defined in its own package; a decorator that is may be around it."""
    function: Any = module
    for part in place.split("."):
        function = getattr(function, part, None)
    if function is None:
        return True
    package = module.__name__.partition(".")[0]
    return type(function) is FunctionType and function.__globals__["__name__"].partition(".")[0] == package
