"""LiteLLM itself, imported when the first call needs it (2-4 s, 2,600 modules), and what is no public part of it."""

from __future__ import annotations

import gc
import os
import pkgutil
from functools import cache
from typing import TYPE_CHECKING, Any

from llmbatch._litellm.unheard import unhear

if TYPE_CHECKING:
    from types import ModuleType

__all__ = ["internal", "load"]


def load() -> ModuleType:
    """LiteLLM, imported without its start-up downloads and its printed advice; its warnings are nobody's."""
    unhear()
    return _imported()


@cache
def _imported() -> ModuleType:
    os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")
    os.environ.setdefault("LITELLM_LOCAL_ANTHROPIC_BETA_HEADERS", "True")
    # Looking for garbage among a million new objects that all stay takes a sixth of the import's time.
    collects = gc.isenabled()
    gc.disable()
    try:
        import litellm  # noqa: PLC0415 - slow to import, so only when needed

        # Its pydantic models are built when first used: here, instead of within a request's timeout.
        litellm.ModelResponse(choices=[{"message": {"role": "assistant", "content": ""}}]).model_dump()
        litellm.ModelResponseStream(choices=[{"index": 0, "delta": {"content": ""}}]).model_dump()
    finally:
        if collects:
            gc.enable()
    litellm.suppress_debug_info = True
    litellm.disable_hf_tokenizer_download = True
    return litellm


@cache
def internal(place: str) -> Any:
    """What LiteLLM keeps at `module:name` (as `holds` lists it); None where it keeps it elsewhere."""
    load()
    try:
        return pkgutil.resolve_name(place)
    except (ImportError, AttributeError):
        return None
