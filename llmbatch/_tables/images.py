"""Images in a column of a table: paths, URLs, bytes, or what a Dataset has."""

from __future__ import annotations

import io
import os
from collections.abc import Mapping
from typing import Any

from llmbatch.media import image_part


def image_parts(value: Any) -> list[dict[str, Any]]:
    """Return the message parts of a cell: one image, or a list of them. Raises ValueError, TypeError and OSError."""
    return [image_part(_source(item)) for item in (value if isinstance(value, list) else [value])]


def _source(value: Any) -> Any:
    if isinstance(value, Mapping) and {"bytes", "path"} & value.keys():  # of a Dataset that is not decoded
        return value.get("bytes") or value.get("path")
    if callable(save := getattr(value, "save", None)):  # of Pillow
        data = io.BytesIO()
        save(data, "PNG")
        return data.getvalue()
    if not isinstance(value, str | bytes | bytearray | memoryview | os.PathLike):
        raise TypeError(f"an image must be a path, a URL or bytes, not {type(value).__name__}")
    return value


def with_images(messages: Any, parts: list[dict[str, Any]]) -> Any:
    """Return the messages with the parts behind the text of the last user message."""
    if not (isinstance(messages, list) and messages and isinstance(messages[-1], Mapping)):
        raise TypeError("images= needs a prompt, or messages that end with the user's")
    *before, last = messages
    content = last.get("content")
    content = [{"type": "text", "text": content}] if isinstance(content, str) else list(content or ())
    return [*before, {**last, "content": [*content, *parts]}]
