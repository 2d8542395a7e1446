"""A provider's answer out of a file, in the shape that LiteLLM gives to a live one."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping
from typing import Any

from llmbatch._litellm.loading import internal, load
from llmbatch._litellm.private_api import CONVERTER
from llmbatch._rows.answer_body import sound, sound_usage

_UNDECODED = "\N{REPLACEMENT CHARACTER}"


def answer_body(body: Mapping[str, Any]) -> dict[str, Any]:
    """The body as a live call would return it. Raises for a body that is no answer."""
    litellm, convert = load(), internal(CONVERTER)
    if "data" in body:
        made = convert(
            response_object=dict(body),
            model_response_object=litellm.EmbeddingResponse(),
            response_type="embedding",
            hidden_params={},
        ).model_dump(warnings=False)
        return sound(made)
    if not body.get("choices"):
        raise ValueError("the answer has no choices")
    return sound(converted(body).model_dump())


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


def mended(logging: Any) -> dict[str, Any] | None:
    """The answer that LiteLLM had received and then failed to read (content in parts, a field missing), if it is whole.

    The provider has been paid for it, and would answer the same again.
    """
    try:
        received = logging.model_call_details["original_response"]
        if _UNDECODED in received:
            return None
        body = json.loads(received)
        told = {k: v for k, v in sound_usage(body.pop("usage", None)).items() if not isinstance(v, str)}
        body |= {"usage": told} if told else {}
        good = body.get("choices") and not body.get("error")
        return answer_body(body) if good else None
    except Exception:  # noqa: BLE001 - no logging object, no answer, or none that can be mended: the first fault stands
        return None
