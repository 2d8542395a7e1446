"""LiteLLM's settings (`litellm.drop_params`, …)."""

from __future__ import annotations

from typing import Any

from llmbatch._litellm.loading import load

_PLAIN = (bool, int, float, str, type(None))


def plain_settings() -> dict[str, Any]:
    """Return the settings that are plain data, keys among them."""

    def is_plain(value: Any) -> bool:
        return isinstance(value, _PLAIN) or (isinstance(value, list) and all(isinstance(v, _PLAIN) for v in value))

    return {name: value for name, value in vars(load()).items() if is_plain(value) and not name.startswith("_")}
