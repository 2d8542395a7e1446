"""The most tokens that a request's prompt can have, and the media in it."""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

# A token is at least one byte of text. Providers add a few for the role and separators of each message, ...
_TOKENS_AROUND_MESSAGE = 16
# ... and more to explain tools and schemas to the model.
_TOKENS_AROUND_TOOLS = 2000
_ARGUMENTS_IN_PROMPT = ("tools", "functions", "tool_choice", "function_call", "response_format")
_TEXT_KEYS = {"role", "content", "name", "tool_calls", "tool_call_id", "function_call", "refusal", "reasoning_content",
              "thinking_blocks", "cache_control", "provider_specific_fields", "annotations", "prefix"}  # fmt: skip
_TEXT_PARTS = ("text", "refusal", "thinking", "redacted_thinking", "input_text", "output_text")
_IMAGE = re.compile(r"data:image/|[^?#]+\.(png|jpe?g|webp|gif)([?#]|$)", re.IGNORECASE)
_MEDIUM = re.compile(r"data:|(gs|s3|https?)://")


@dataclass(frozen=True, slots=True)
class PromptSize:
    """Tokens of a prompt's text at most, and the number of images and of other media (audio, video, files) in it."""

    text_tokens: int
    images: int = 0
    other_media: int = 0


def prompt_size(arguments: Mapping[str, Any]) -> PromptSize:
    """Measure the prompt of a chat or of an embeddings request, from LiteLLM's arguments."""
    if "input" in arguments:
        texts = texts_of(arguments["input"])
        return PromptSize(max_tokens_of(*texts), 0, sum(bool(_MEDIUM.match(str(text))) for text in texts))
    given = [arguments[name] for name in _ARGUMENTS_IN_PROMPT if arguments.get(name)]
    text = max_tokens_of(*given) + (_TOKENS_AROUND_TOOLS if given else 0)
    images = media = 0
    for message in arguments["messages"]:
        content = message.get("content")
        parts = content if isinstance(content, list) else [content]
        texts = [part for part in parts if not isinstance(part, Mapping) or part.get("type") in _TEXT_PARTS]
        pictures = sum(isinstance(part, Mapping) and _is_image(part) for part in parts)
        images += pictures
        media += len(parts) - len(texts) - pictures
        media += sum(bool(message[key]) for key in message.keys() - _TEXT_KEYS)
        text += max_tokens_of({**message, "content": texts}) + _TOKENS_AROUND_MESSAGE
    return PromptSize(text, images, media)


def texts_of(given: Any) -> list[Any]:
    """Return the texts of an embeddings request as a list."""
    return given if isinstance(given, list) else [given]


def max_tokens_of(*values: Any) -> int:
    """Return the bytes of texts, or of anything else as JSON: they have no more tokens than that."""
    return sum(map(_bytes_of, values))


def _bytes_of(value: Any) -> int:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=_schema)
    return len(text.encode("utf-8", "surrogatepass"))


@functools.lru_cache(maxsize=64)
def _schema(model: Any) -> Any:
    """Return what is sent of a pydantic model."""
    return model.model_json_schema() if hasattr(model, "model_json_schema") else str(model)


def _is_image(part: Mapping[str, Any]) -> bool:
    """Return whether a part is certainly an image: providers take PDFs and videos in its place, too."""
    if part.get("type") != "image_url":
        return False
    given = part.get("image_url")
    url = given.get("url") if isinstance(given, Mapping) else given
    return bool(_IMAGE.match(str(url))) and not (isinstance(given, Mapping) and given.get("format"))
