"""Send a rendered request with our own HTTP session, past LiteLLM's pipeline: `transport="direct"`.

LiteLLM still decides address, headers and body (`wire`), converts answers of a new kind (`answer_patterns`), raises its
own errors, and knows the prices. What needs its pipeline is not sent this way (`why_not`).
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import urllib.request
from collections.abc import AsyncIterator, Mapping
from http import HTTPStatus
from types import SimpleNamespace
from typing import Any, NoReturn
from urllib.parse import urlsplit

import aiohttp
from aiohttp.http_exceptions import ContentEncodingError
from yarl import URL

from llmbatch._litellm import Answer, http_session, load, provider_of
from llmbatch._litellm.answer_patterns import AnswerPatterns
from llmbatch._litellm.calls import chat, embed
from llmbatch._litellm.convert_response import answer_body, has_own_conversion, provider_conversion
from llmbatch._litellm.direct_prices import answer_cost
from llmbatch._litellm.error_answer import ErrorAnswerError
from llmbatch._litellm.loading import internal
from llmbatch._litellm.private_api import is_available
from llmbatch._litellm.quiet_logging import anybody_listens
from llmbatch._litellm.render_body import Renderer
from llmbatch._litellm.settings import plain_settings
from llmbatch._litellm.wire import NotOnTheWireError, Wire
from llmbatch._rows.answer_body import normalized_usage

_ERRORS_FROM = HTTPStatus.MULTIPLE_CHOICES  # of redirects, those that cannot be followed
# Arguments that only LiteLLM's own pipeline understands.
_PIPELINE_ARGUMENTS = ("client", "mock_response", "mock_tool_calls", "mock_timeout", "caching", "cache", "fallbacks",
                       "azure_ad_token", "azure_ad_token_provider", "shared_session", "aws_region_name")  # fmt: skip
_ENCODING_HEADERS = {"content-encoding", "transfer-encoding", "content-length"}
_ANY_CHOICE = {"index": 0, "message": {"role": "assistant", "content": ""}, "finish_reason": "stop"}
_NO_TIMEOUT = aiohttp.ClientTimeout(total=None)  # each attempt has one around it
_PIECE_BYTES = 1 << 16
_MAX_TARGETS = 1024


def _needs_litellm(request: Mapping[str, Any]) -> str | None:
    """Return why requests with these parameters must go through LiteLLM's pipeline."""
    if not (is_available("direct") and is_available("render_body")):
        return "this LiteLLM is not built as expected"
    if (argument := next((name for name in _PIPELINE_ARGUMENTS if request.get(name) is not None), None)) is not None:
        return f"{argument}= is LiteLLM's"
    if provider_of(request) == "azure" and not (request.get("api_key") or os.environ.get("AZURE_API_KEY")):
        return "Azure AD tokens expire"
    if request.get("response_format") is not None and has_own_conversion(request):
        return "LiteLLM may send response_format as a tool"
    if any(proxy.startswith("socks") for proxy in urllib.request.getproxies().values()):
        return "the environment names a SOCKS proxy"
    return None


class DirectTarget:
    """Where requests with one set of parameters go, and how their answers are read.

    Attributes:
        refusal: why such requests must go through LiteLLM; None as long as they need not.
    """

    def __init__(self, request: Mapping[str, Any]) -> None:
        self.refusal = _needs_litellm(request)
        self._wire = Wire()
        self._render = Renderer(self._wire.body)
        self._patterns = AnswerPatterns(provider_conversion(request))
        self._url = URL()
        self._proxy: str | None = None

    def body(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """Return the body of a request. Raises LiteLLM's errors, and NotOnTheWireError."""
        try:
            body = self._render(request)
        except NotOnTheWireError as exc:
            self.refusal = str(exc)
            raise
        if str(self._url) != self._wire.url:
            self._url, self._proxy = URL(self._wire.url), _proxy(self._wire.url)
        return body

    async def send(self, request: Mapping[str, Any]) -> Answer:
        """Send one request once. Raises LiteLLM's errors, and aiohttp's."""
        async with self.posted(request) as response:
            headers = headers_of(response)
            raw = await _read(response)
        given = _parsed(raw)
        if given.get("error") and not given.get("choices") and not given.get("data"):
            raise ErrorAnswerError(given)
        _check_shape(given, "messages" in request)
        try:
            whole = self._chat(given) if "messages" in request else answer_body(given)
        except Exception as exc:  # noqa: BLE001 - an error in the answer, or an odd shape: as LiteLLM reports it
            _raise_unreadable(request, exc)
        return Answer(whole, headers, answer_cost(request, whole))

    @contextlib.asynccontextmanager
    async def posted(self, request: Mapping[str, Any]) -> AsyncIterator[aiohttp.ClientResponse]:
        """Post a request, for its response. Raises LiteLLM's errors for one with an error status."""
        body = self.body(request)
        try:
            async with http_session.session().post(
                self._url,
                data=self._wire.encoded(body),
                headers=self._wire.headers,
                timeout=_NO_TIMEOUT,
                proxy=self._proxy,
                ssl=_ssl(request.get("ssl_verify")),
            ) as response:
                if response.status >= _ERRORS_FROM:
                    _raise(request, response.status, headers_of(response), await _read(response))
                yield response
        except (aiohttp.ClientError, OSError) as exc:
            exc.request = SimpleNamespace(url=self._url)  # type: ignore[union-attr]  # as httpx has it, for the message
            raise

    def _chat(self, given: Mapping[str, Any]) -> dict[str, Any]:
        if not given["choices"]:  # the row says so
            return {**answer_body({**given, "choices": [_ANY_CHOICE]}), "choices": []}
        try:
            return self._patterns(given)
        except Exception:  # noqa: BLE001 - a usage that LiteLLM cannot read must not lose a paid answer
            return self._patterns({**given, "usage": normalized_usage(given.get("usage"))})


def headers_of(response: aiohttp.ClientResponse) -> dict[str, str]:
    """Return a response's headers, lower-case."""
    return {name.lower(): value for name, value in response.headers.items()}


async def _read(response: aiohttp.ClientResponse) -> bytes:
    """Read a body, within the session's bounds."""
    length = response.content_length
    if length is not None and length <= http_session.MAX_ERROR_BYTES and "content-encoding" not in response.headers:
        return await response.content.read()
    try:
        return b"".join([piece async for piece in response.content.iter_chunked(_PIECE_BYTES)])
    except aiohttp.ClientPayloadError as exc:
        if not isinstance(exc.__cause__, ContentEncodingError):
            raise
        words = exc.__cause__.message
    raise TypeError(f"empty or invalid response: {words}")  # with no cause, which would look like a cut


def _parsed(raw: bytes) -> dict[str, Any]:
    try:
        given = json.loads(raw)
    except ValueError:
        given = None
    if not isinstance(given, dict):
        words = raw[:500].decode("utf-8", "replace")
        raise TypeError(f"empty or invalid response: not a JSON object, but {words!r}")
    return given


def _raise_unreadable(request: Mapping[str, Any], exc: Exception) -> NoReturn:
    """Raise what LiteLLM raises for an answer that it cannot convert, and for an error within an answer."""
    status = getattr(exc, "status_code", None)
    words = "Invalid response object" if status is None else getattr(exc, "message", None) or str(exc)
    error = internal("litellm.llms.openai.common_utils:OpenAIError")(status_code=status or 500, message=words)
    error.__cause__ = exc
    load().exception_type(
        model=str(request["model"]), original_exception=error, custom_llm_provider=provider_of(request)
    )
    raise error


def _check_shape(given: Mapping[str, Any], is_chat: bool) -> None:
    if is_chat and not isinstance(given.get("choices"), list):
        raise TypeError(f"empty or invalid response: no choices, but {sorted(map(str, given))!r:.200}")
    if not is_chat and not isinstance(given.get("data"), list):
        raise TypeError("empty or invalid response: no list of embeddings")


def _raise(request: Mapping[str, Any], status: int, headers: Mapping[str, str], raw: bytes) -> NoReturn:
    """Raise what LiteLLM raises for this answer."""
    import httpx  # noqa: PLC0415 - comes with litellm

    text = raw.decode("utf-8", "replace")
    words = f"Error code: {status} - {text}" if text[:1] in {"{", "["} else text or f"Error code: {status}"
    provider = provider_of(request)
    kept = {name: value for name, value in headers.items() if name not in _ENCODING_HEADERS}
    response = httpx.Response(status, headers=kept, text=text, request=httpx.Request("POST", "http://provider/"))
    error = internal("litellm.llms.openai.common_utils:OpenAIError")(status_code=status, message=words, headers=kept)
    error.response = response
    try:
        response.raise_for_status()
    except httpx.HTTPStatusError:
        name = str(request["model"]).removeprefix(f"{provider}/")
        load().exception_type(model=name, original_exception=error, custom_llm_provider=provider)
    raise error


@functools.lru_cache(maxsize=64)
def _ssl(verify: Any) -> Any:
    """Return the TLS settings that LiteLLM would use, from `ssl_verify` and the environment."""
    made = internal("litellm.llms.custom_httpx.http_handler:get_ssl_configuration")
    return True if made is None else made(verify)


def _proxy(url: str) -> str | None:
    """Return the proxy that the environment names for an address."""
    proxies = urllib.request.getproxies()
    if not proxies:
        return None
    parts = urlsplit(url)
    if urllib.request.proxy_bypass(parts.hostname or ""):
        return None
    return proxies.get(parts.scheme) or proxies.get("all")


_targets: dict[Any, DirectTarget] = {}
_circumstances: tuple[Any, ...] = ()


def new_batch() -> None:
    """Forget what was found out under other environment variables or settings of LiteLLM, keys among them."""
    global _circumstances  # noqa: PLW0603 - one process has one environment
    now = dict(os.environ), plain_settings()
    if now != _circumstances:
        _targets.clear()
        _ssl.cache_clear()
        _circumstances = now


def target_for(request: Mapping[str, Any]) -> DirectTarget:
    """Return the target for a request's parameters; what it has found out is kept while the process lives."""
    parameters = {name: value for name, value in request.items() if name not in {"messages", "input"}}
    key: Any = tuple([(name, type(value), value) for name, value in parameters.items()])
    try:
        found = _targets.get(key)
    except TypeError:  # a list or a dict among them
        key = json.dumps(parameters, sort_keys=True, default=_identity)
        found = _targets.get(key)
    if found is None:
        found = _targets[key] = DirectTarget(request)
        if len(_targets) > _MAX_TARGETS:
            del _targets[next(iter(_targets))]
    return found


def _identity(value: Any) -> str:
    return f"{type(value).__qualname__} {id(value)}"


def why_not(request: Mapping[str, Any]) -> str | None:
    """Return why a request must go through LiteLLM's pipeline; None if it can be sent directly."""
    litellm = load()
    if anybody_listens(request):
        return "LiteLLM callbacks are registered"
    if litellm.cache is not None:
        return "LiteLLM has a cache"
    if litellm.max_budget or litellm.model_fallbacks:
        return "LiteLLM has a budget or fallbacks of its own"
    return target_for(request).refusal


def prepare(request: Mapping[str, Any]) -> None:
    """Find out address, headers and body before requests like this one wait for their turn."""
    with contextlib.suppress(Exception):  # the rows say so
        target_for(request).body(request)


async def send(request: Mapping[str, Any]) -> Answer:
    """Send a chat or embeddings request once; through LiteLLM where it is more than one POST (the Responses bridge)."""
    try:
        return await target_for(request).send(request)
    except NotOnTheWireError:
        return await (chat if "messages" in request else embed)(request)
