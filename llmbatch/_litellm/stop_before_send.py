"""Has LiteLLM build a whole request, and stops it just before it would be sent.

LiteLLM reports each request to its logging object first. On its own routes that report is the request. On the routes of
the OpenAI SDK it says which key and address LiteLLM has chosen; an SDK client that builds requests and sends none then
gives the exact address, headers and body.
"""

from __future__ import annotations

import functools
import json
import sys
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from llmbatch._litellm import load
from llmbatch._litellm.instrumentation import untraced
from llmbatch._litellm.loading import internal
from llmbatch._litellm.private_api import LOGGING
from llmbatch._litellm.quiet_logging import new_logging

_SDK_ROUTES = {"litellm.llms.openai.openai", "litellm.llms.azure.azure"}


class StoppedRequest(BaseException):
    """A request that was stopped; not an Exception, so that no handler in LiteLLM catches it.

    May hold keys: never print it. `key` and `version` are what LiteLLM has chosen, on its way to the SDK.
    """

    def __init__(
        self, url: Any, headers: Any, body: Any, *, key: str | None = None, version: Any = None, by_sdk: bool = True
    ) -> None:
        super().__init__()
        self.url, self.headers = str(url or ""), dict(headers or {})
        self._body = body
        self.key, self.version, self.by_sdk = key, version, by_sdk

    @property
    def body(self) -> dict[str, Any]:
        """The body, with its keys in the order in which they are sent."""
        return json.loads(self._body if isinstance(self._body, str | bytes) else json.dumps(self._body or {}))  # type: ignore[no-any-return]


def stopped_request(request: Mapping[str, Any], given: Mapping[str, Any]) -> StoppedRequest | None:
    """Have LiteLLM build the request of a chat (`messages`) or of embeddings (`input`), with the arguments `given`.

    Returns None if LiteLLM answers without a request. Raises LiteLLM's own errors for arguments that the model does not
    take. Without a `client` among them, a request on the SDK's routes is stopped before the SDK builds it.
    """
    load()
    name, arguments = "completion" if "messages" in request else "embedding", dict(given)
    if name == "embedding":
        arguments = {"encoding_format": "float"} | arguments
    call = untraced(name)
    kind = _stopping_logging(stop_sdk="client" not in arguments)
    logging = new_logging(kind, request, name)
    try:
        # Not in the main thread, in which LiteLLM would make an event loop and leave it open.
        with ThreadPoolExecutor(1) as thread:
            thread.submit(call, **arguments, litellm_logging_obj=logging).result()
    except StoppedRequest as stopped:
        return stopped
    return None


@functools.cache
def _stopping_logging(*, stop_sdk: bool) -> Any:
    class StoppingLogging(internal(LOGGING)):  # type: ignore[misc]  # a class
        def pre_call(self, input: Any, api_key: Any, model: Any = None, additional_args: Any = None) -> None:  # noqa: A002, ARG002 - LiteLLM's signature
            given = additional_args or {}
            # Embeddings have no "openai_sdk" flag, so the calling module decides.
            by_sdk = bool(given.get("openai_sdk")) or sys._getframe(1).f_globals["__name__"] in _SDK_ROUTES  # noqa: SLF001
            if stop_sdk or not by_sdk:
                raise StoppedRequest(
                    given.get("api_base"), given.get("headers"), given.get("complete_input_dict"),
                    key=api_key, version=given.get("api_version"), by_sdk=by_sdk,
                )  # fmt: skip

    return StoppingLogging


@functools.cache
def stopping_http_client() -> Any:
    """Return an HTTP client for the OpenAI SDK that stops each request."""
    import openai  # noqa: PLC0415 - comes with litellm

    def stop(request: Any) -> None:
        raise StoppedRequest(request.url, request.headers, request.content)

    # A hook comes before any transport, also one that a cassette has put in its place.
    return openai.DefaultHttpxClient(event_hooks={"request": [stop]}, trust_env=False)
