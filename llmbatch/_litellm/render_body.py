"""Renders the body that a live call would send, without sending it.

Exact: LiteLLM builds the whole request and is stopped just before it sends (2-3 ms). Fast: rows of one batch differ in
their messages only, so one exact render serves every row of the same shape, once it has shown that messages of this
shape go out as they are. `tests/test_render.py` compares both with what a server receives.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from itertools import pairwise
from typing import Any

from llmbatch._litellm import provider_of
from llmbatch._litellm.stop_before_send import stopped_request, stopping_http_client

# LiteLLM needs a key to build a body, which has none.
_UNUSED = {"api_key": "unused", "num_retries": 0, "max_retries": 0}
_UNUSED_AZURE = {"api_base": "https://unused.invalid", "api_version": "2024-10-21"}
_PLAIN_ROLES = {"system", "developer", "user", "assistant"}


def render(request: Mapping[str, Any]) -> dict[str, Any]:
    """Return the body of a chat (`messages`) or embeddings (`input`) request, with its keys in the order that is sent.

    Raises LiteLLM's own errors for parameters that the model does not take, and ValueError when LiteLLM would send the
    request to another endpoint than the batch line could name.
    """
    given = {k: v for k, v in request.items() if v is not None} | _UNUSED
    if provider_of(request) == "azure":
        given = _UNUSED_AZURE | given
    stopped, model = stopped_request(request, given | {"client": _client()}), request["model"]
    if stopped is None:
        raise ValueError(
            f"LiteLLM answered model {request['model']!r} without a request to render; send it live instead"
        )
    body = stopped.body
    kind, field = ("chat", "messages") if "messages" in request else ("embeddings", "input")
    if stopped.url.rstrip("/").endswith("/responses") or field not in body:
        raise ValueError(
            f"LiteLLM sends model {model!r} with these parameters to another endpoint than /{kind}, which the lines of "
            "a batch file cannot say; change the parameters (as tools together with reasoning_effort) or the model"
        )
    return body


@functools.cache
def _client() -> Any:
    """Return an OpenAI client that builds requests without sending them."""
    import openai  # noqa: PLC0415 - comes with litellm

    return openai.OpenAI(
        api_key="unused", base_url="https://unused.invalid", max_retries=0, http_client=stopping_http_client()
    )


class Renderer:
    """Renders the bodies of one batch, whose requests differ in `messages` (or `input`) only.

    `exact` renders a body by LiteLLM.
    """

    def __init__(self, exact: Callable[[Mapping[str, Any]], dict[str, Any]] = render) -> None:
        self._exact = exact
        self._templates: dict[Any, tuple[dict[str, Any], bool] | None] = {}

    def __call__(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """Return the body of the next request. Raises as `render` does."""
        field = "messages" if "messages" in request else "input"
        given = request[field]
        shape = _shape(given)
        template = self._templates.get(shape)
        if template is not None:
            body, wrapped = template
            return {**body, field: [given] if wrapped else given}
        body = self._exact(request)
        if shape is not None and shape not in self._templates:
            alone, wrapped = body[field] == given, body[field] == [given]
            self._templates[shape] = (body, wrapped) if alone or wrapped else None
        return body


def _shape(given: str | list[Any]) -> Any:
    """Return all that LiteLLM looks at in messages but their texts; None if it may look at the texts too.

    It looks at each message and at its neighbours (some routes join those of one role): of a long conversation it
    matters which kinds of messages follow each other, and not how often.
    """
    if isinstance(given, str):
        return str
    if given and isinstance(given[0], str) and all(isinstance(text, str) for text in given):  # texts to embed
        return list
    kinds = [_kind(message) for message in given]
    if None in kinds:
        return None
    return tuple(kinds) if len(kinds) < 3 else (kinds[0], kinds[-1], frozenset(pairwise(kinds)))  # noqa: PLR2004 - a pair is its own


def _kind(message: Mapping[str, Any]) -> Any:
    role, content = message.get("role"), message.get("content")
    if len(message) != 2 or role not in _PLAIN_ROLES:  # noqa: PLR2004 - role and content
        return None
    if isinstance(content, str):
        return role if _is_text(content) else None
    if not isinstance(content, list) or not content:
        return None
    parts = [_part_kind(part) for part in content]
    return None if None in parts else (role, *parts)


def _part_kind(part: Mapping[str, Any]) -> Any:
    match part:
        case {"type": "text", "text": text, **others} if not others and _is_text(text):
            return "text"
        case {"type": "image_url", "image_url": {"url": str(), **details}, **others} if not others:
            return ("image_url", frozenset(details))
    return None


def _is_text(text: Any) -> bool:
    # Some routes replace empty texts.
    return isinstance(text, str) and text != "" and not text.isspace()
