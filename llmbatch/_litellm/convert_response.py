"""A provider's raw answer (from a file, or one that LiteLLM failed to read) in the shape of a live one."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping
from typing import Any

from llmbatch._litellm.loading import internal, load
from llmbatch._litellm.private_api import CONVERTER
from llmbatch._rows.answer_body import normalized_body, normalized_usage

_UNDECODED = "\N{REPLACEMENT CHARACTER}"


def answer_body(body: Mapping[str, Any]) -> dict[str, Any]:
    """Return the body as a live call would. Raises for a body that is not an answer."""
    litellm, convert = load(), internal(CONVERTER)
    if "data" in body:
        made = convert(
            response_object=dict(body),
            model_response_object=litellm.EmbeddingResponse(),
            response_type="embedding",
            hidden_params={},
        ).model_dump(warnings=False)
        return normalized_body(made)
    if not body.get("choices"):
        raise ValueError("the answer has no choices")
    return normalized_body(converted(body).model_dump())


def converted(body: Mapping[str, Any]) -> Any:
    """Return the body of a chat's answer as LiteLLM's object. Raises what LiteLLM raises for an error in it."""
    litellm, convert = load(), internal(CONVERTER)
    # LiteLLM's message takes text only; some models answer with a list of parts.
    parts, plain = {}, copy.deepcopy(dict(body))
    for at, choice in enumerate(plain.get("choices") or ()):
        if isinstance(choice["message"].get("content"), list):
            parts[at], choice["message"]["content"] = choice["message"]["content"], ""
    made = convert(
        response_object=plain, model_response_object=litellm.ModelResponse(), hidden_params={}, _response_headers={}
    )
    for at, content in parts.items():
        made.choices[at].message.content = content
    return made


def recovered_body(logging: Any) -> dict[str, Any] | None:
    """Return an answer that LiteLLM received and failed to read (content in parts, a missing field), if there is one.

    The provider has been paid for it, and would answer the same again.
    """
    try:
        received = logging.model_call_details["original_response"]
        if _UNDECODED in received:
            return None
        body = json.loads(received)
        told = {k: v for k, v in normalized_usage(body.pop("usage", None)).items() if not isinstance(v, str)}
        body |= {"usage": told} if told else {}
        good = body.get("choices") and not body.get("error")
        return answer_body(body) if good else None
    except Exception:  # noqa: BLE001 - no logging object, no answer, or none that can be read: the first error counts
        return None
