"""A provider's raw answer (from a file, or one that LiteLLM failed to read) in the shape of a live one."""

from __future__ import annotations

import copy
import functools
import json
from collections.abc import Callable, Mapping
from typing import Any

from llmbatch._litellm import provider_of
from llmbatch._litellm.loading import internal, load
from llmbatch._litellm.private_api import CONFIGS, CONVERTER, LOGGING, OPENAI_CONFIG
from llmbatch._litellm.quiet_logging import new_logging
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


def provider_conversion(request: Mapping[str, Any]) -> Callable[[Mapping[str, Any]], dict[str, Any]]:
    """Return the function that converts answers to such requests as a live call does.

    LiteLLM has a conversion of its own for providers whose answers are not quite OpenAI's (Groq, Mistral, xAI).
    """
    provider = provider_of(request)
    model = str(request["model"]).removeprefix(f"{provider}/")
    config = _own_config(model, provider)
    return answer_body if config is None else functools.partial(_by_provider, config, model, request)


def has_own_conversion(request: Mapping[str, Any]) -> bool:
    """Return whether LiteLLM has a conversion of its own for the provider's answers."""
    return _own_config(str(request["model"]), provider_of(request)) is not None


@functools.lru_cache(maxsize=256)
def _own_config(model: str, provider: str) -> Any:
    manager, openai = internal(CONFIGS), internal(OPENAI_CONFIG)
    try:
        config = manager.get_provider_chat_config(model=model, provider=load().LlmProviders(provider))
    except ValueError:  # a provider of the user's own
        return None
    own = getattr(type(config), "transform_response", None)
    sdk = provider in {"openai", "azure"}
    return None if sdk or own is None or own is openai.transform_response else config


def _by_provider(config: Any, model: str, request: Mapping[str, Any], body: Mapping[str, Any]) -> dict[str, Any]:
    import httpx  # noqa: PLC0415 - comes with litellm

    if not body.get("choices"):
        raise ValueError("the answer has no choices")
    made = config.transform_response(
        model=model,
        raw_response=httpx.Response(200, json=body),
        model_response=load().ModelResponse(),
        logging_obj=new_logging(internal(LOGGING), request, "acompletion"),
        request_data={},
        messages=[],
        optional_params={},
        litellm_params={},
        encoding=None,
        json_mode=False,
    )
    return normalized_body(made.model_dump())


def recovered_body(logging: Any) -> dict[str, Any] | None:
    """Return an answer that LiteLLM received and failed to read (content in parts, a missing field), if there is one.

    The provider has been paid for it, and would answer the same again.
    """
    try:
        received = logging.model_call_details["original_response"]
        if _UNDECODED in received:
            return None
        body = json.loads(received)
        usage = {k: v for k, v in normalized_usage(body.pop("usage", None)).items() if not isinstance(v, str)}
        body |= {"usage": usage} if usage else {}
        good = body.get("choices") and not body.get("error")
        return answer_body(body) if good else None
    except Exception:  # noqa: BLE001 - no logging object, no answer, or none that can be read: the first error counts
        return None
