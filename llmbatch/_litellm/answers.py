"""A provider's answer out of a file, in the shape that LiteLLM gives to a live one."""

from __future__ import annotations

import base64
import functools
import struct
from typing import TYPE_CHECKING, Any

from llmbatch._litellm import load

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["answer_body"]


def answer_body(body: Mapping[str, Any]) -> dict[str, Any]:
    """The body as a live call would return it. Raises for a body that is no answer."""
    convert, chat, embedding = _converters()
    if "data" in body:
        made = convert(
            response_object=dict(body), model_response_object=embedding(), response_type="embedding", hidden_params={}
        ).model_dump()
        for item in made["data"]:
            if isinstance(item["embedding"], str):
                raw = base64.b64decode(item["embedding"])
                item["embedding"] = list(struct.unpack(f"<{len(raw) // 4}f", raw))
        return dict(made)
    if not body.get("choices"):
        msg = "the answer has no choices"
        raise ValueError(msg)
    made = convert(response_object=dict(body), model_response_object=chat(), hidden_params={}, _response_headers={})
    return dict(made.model_dump())


@functools.cache
def _converters() -> tuple[Any, Any, Any]:
    load()
    from litellm.litellm_core_utils.llm_response_utils.convert_dict_to_response import (  # noqa: PLC0415
        convert_to_model_response_object,
    )
    from litellm.types.utils import EmbeddingResponse, ModelResponse  # noqa: PLC0415 - imports litellm

    return convert_to_model_response_object, ModelResponse, EmbeddingResponse
