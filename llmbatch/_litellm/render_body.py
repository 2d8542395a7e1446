"""Renders the body that a live call would send, without sending it.

Exact: LiteLLM builds the whole request and reports it to its logging object just before the transport, or has the
OpenAI SDK build it; ours stop it there (2-3 ms). Fast: rows of one batch differ in their messages only, so one exact
render serves every row of the same shape, once it has shown that messages of this shape go out as they are.
`tests/test_render.py` compares both with what a server receives.
"""

from __future__ import annotations

import functools
import json
import sys
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from llmbatch._litellm import load, provider_of
from llmbatch._litellm.instrumentation import untraced
from llmbatch._litellm.loading import internal
from llmbatch._litellm.private_api import LOGGING
from llmbatch._litellm.quiet_logging import new_logging

# LiteLLM needs a key to build a body, which has none.
_UNUSED = {"api_key": "unused", "num_retries": 0, "max_retries": 0}
_UNUSED_AZURE = {"api_base": "https://unused.invalid", "api_version": "2024-10-21"}
SDK_ROUTES = {"litellm.llms.openai.openai", "litellm.llms.azure.azure"}
_PLAIN_ROLES = {"system", "developer", "user", "assistant"}


class _Stopped(BaseException):
    # Not an Exception: no handler in LiteLLM may catch it.
    def __init__(self, body: Any, url: str) -> None:
        super().__init__()
        self.body: dict[str, Any] = json.loads(body if isinstance(body, str | bytes) else json.dumps(body or {}))
        self.url = url


def render(request: Mapping[str, Any]) -> dict[str, Any]:
    """Return the body of a chat (`messages`) or embeddings (`input`) request, with its keys in the order that is sent.

    Raises LiteLLM's own errors for parameters that the model does not take, and ValueError when LiteLLM would send the
    request to another endpoint than the batch line could name.
    """
    load()
    kind = "chat" if "messages" in request else "embeddings"
    call = untraced("completion" if kind == "chat" else "embedding")
    given = {k: v for k, v in request.items() if v is not None} | _UNUSED
    if provider_of(request) == "azure":
        given = _UNUSED_AZURE | given
    if kind == "embeddings":
        given = {"encoding_format": "float"} | given
    try:
        logging = new_logging(_stopping_logging(), request, call.__name__)
        # Not in the main thread, in which LiteLLM would make an event loop and leave it open.
        with ThreadPoolExecutor(1) as thread:
            thread.submit(call, **given, client=_stopping_client(), litellm_logging_obj=logging).result()
    except _Stopped as stopped:
        _check_endpoint(stopped, kind, str(request["model"]))
        return stopped.body
    raise ValueError(f"LiteLLM answered model {request['model']!r} without a request to render; send it live instead")


@functools.cache
def _stopping_logging() -> Any:
    class StoppingLogging(internal(LOGGING)):  # type: ignore[misc]  # a class
        def pre_call(self, input: Any, api_key: Any, model: Any = None, additional_args: Any = None) -> None:  # noqa: A002, ARG002 - LiteLLM's signature
            told = additional_args or {}
            # Embeddings have no "openai_sdk" flag, so the calling module decides.
            by_sdk = told.get("openai_sdk") or sys._getframe(1).f_globals["__name__"] in SDK_ROUTES  # noqa: SLF001
            if not by_sdk:
                raise _Stopped(told.get("complete_input_dict"), str(told.get("api_base") or ""))

    return StoppingLogging


def _check_endpoint(stopped: _Stopped, kind: str, model: str) -> None:
    field = "messages" if kind == "chat" else "input"
    if stopped.url.rstrip("/").endswith("/responses") or field not in stopped.body:
        raise ValueError(
            f"LiteLLM sends model {model!r} with these parameters to another endpoint than /{kind}, which the lines of "
            "a batch file cannot say; change the parameters (as tools together with reasoning_effort) or the model"
        )


@functools.cache
def _stopping_client() -> Any:
    """Return an OpenAI client that builds requests without sending them."""
    import openai  # noqa: PLC0415 - comes with litellm

    def stop(request: Any) -> None:
        raise _Stopped(request.content, str(request.url))

    return openai.OpenAI(
        api_key="unused",
        base_url="https://unused.invalid",
        max_retries=0,
        # A hook comes before any transport, also one that a cassette has put in its place.
        http_client=openai.DefaultHttpxClient(event_hooks={"request": [stop]}),
    )


class Renderer:
    """Renders the bodies of one batch, whose requests differ in `messages` (or `input`) only."""

    def __init__(self, render: Callable[[Mapping[str, Any]], dict[str, Any]] | None = None) -> None:
        self._render = render or globals()["render"]
        self._templates: dict[Any, tuple[dict[str, Any], bool] | None] = {}

    def known(self, request: Mapping[str, Any]) -> dict[str, Any] | None:
        """The body of a request whose shape has been rendered before; None for another one."""
        field = "messages" if "messages" in request else "input"
        template = self._templates.get(_shape(request[field]))
        if template is None:
            return None
        body, wrapped = template
        return {**body, field: [request[field]] if wrapped else request[field]}

    def __call__(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """Return the body of the next request. Raises as `render` does."""
        field = "messages" if "messages" in request else "input"
        given = request[field]
        shape = _shape(given)
        if shape is None:
            return self._render(request)
        if shape not in self._templates:
            body = self._render(request)
            alone, wrapped = body[field] == given, body[field] == [given]
            self._templates[shape] = (body, wrapped) if alone or wrapped else None
            return body
        known = self._templates[shape]
        if known is None:
            return self._render(request)
        template, wrapped = known
        return {**template, field: [given] if wrapped else given}


def _shape(given: str | list[Any]) -> Any:
    """Return all that LiteLLM looks at in messages but their texts; None if it may look at the texts too."""
    if isinstance(given, str):
        return str
    if all(isinstance(text, str) for text in given):  # texts to embed
        return list
    shape = []
    for message in given:
        content = message.get("content")
        parts = [_part_shape(part) for part in content] if isinstance(content, list) else [_text_shape(content)]
        if (
            message.get("role") not in _PLAIN_ROLES
            or message.keys() != {"role", "content"}
            or None in parts
            or not parts
        ):
            return None
        shape.append((message["role"], type(content), *parts))
    return tuple(shape)


def _part_shape(part: Mapping[str, Any]) -> Any:
    match part:
        case {"type": "text", "text": text, **others} if not others:
            return _text_shape(text)
        case {"type": "image_url", "image_url": {"url": str(), **details}, **others} if not others:
            return ("image_url", frozenset(details))
    return None


def _text_shape(text: Any) -> str | None:
    # Some routes replace empty texts.
    return "text" if isinstance(text, str) and text.strip() else None
