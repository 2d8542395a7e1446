"""Send a rendered request with our own HTTP session, past LiteLLM's pipeline: `transport="direct"`.

LiteLLM still decides address, headers and body (`wire`), converts answers of a new kind (`answer_patterns`), raises its
own errors, and knows the prices. What needs its pipeline is not sent this way (`why_not`).
"""

from __future__ import annotations

import asyncio
import copy
import functools
import json
import os
import urllib.request
from collections.abc import Mapping
from http import HTTPStatus
from types import SimpleNamespace
from typing import Any, NoReturn
from urllib.parse import urlsplit

import aiohttp

from llmbatch._litellm import Answer, http_session, load, provider_of
from llmbatch._litellm.answer_patterns import AnswerPatterns
from llmbatch._litellm.calls import chat, embed
from llmbatch._litellm.convert_response import answer_body
from llmbatch._litellm.fast_prices import agreeing_prices, linear_cost
from llmbatch._litellm.loading import internal
from llmbatch._litellm.private_api import is_available
from llmbatch._litellm.quiet_logging import anybody_listens
from llmbatch._litellm.render_body import Renderer
from llmbatch._litellm.wire import NotOnTheWireError, WireRequest, wire_request
from llmbatch._rows.answer_body import has_tokens, normalized_usage

_ERRORS_FROM = HTTPStatus.BAD_REQUEST
_LONG_PROMPT = 100_000  # tokens; prices for long prompts begin at 128,000
_PRICED = ("model", "usage", "service_tier")  # fields of an answer that a plain price depends on
_PLAIN_DETAILS = {"text_tokens", "reasoning_tokens"}
# Arguments that only LiteLLM's own pipeline understands.
_PIPELINE_ARGUMENTS = ("client", "mock_response", "mock_tool_calls", "mock_timeout", "caching", "cache", "fallbacks",
                       "azure_ad_token", "azure_ad_token_provider", "shared_session", "aws_region_name")  # fmt: skip
_ENCODING_HEADERS = {"content-encoding", "transfer-encoding", "content-length"}
_ANY_CHOICE = {"index": 0, "message": {"role": "assistant", "content": ""}, "finish_reason": "stop"}
_NO_TIMEOUT = aiohttp.ClientTimeout(total=None)  # each attempt has one around it
_MAX_TARGETS = 1024


def why_not(request: Mapping[str, Any]) -> str | None:
    """Say why a request must go through LiteLLM's pipeline; None if it can be sent directly."""
    litellm = load()
    argument = next((name for name in _PIPELINE_ARGUMENTS if request.get(name) is not None), None)
    azure_by_token = provider_of(request) == "azure" and not (request.get("api_key") or os.environ.get("AZURE_API_KEY"))
    reasons = {
        "this LiteLLM is not built as expected": not (is_available("direct") and is_available("render_body")),
        "LiteLLM callbacks are registered": anybody_listens(request),
        "LiteLLM has a cache": litellm.cache is not None,
        "LiteLLM has a budget or fallbacks of its own": litellm.max_budget or litellm.model_fallbacks,
        f"{argument}= is LiteLLM's": argument is not None,
        "Azure AD tokens expire": azure_by_token,
    }
    return next((reason for reason, applies in reasons.items() if applies), None)


class DirectTarget:
    """Where requests with one set of parameters go, and how their answers are read and priced."""

    def __init__(self) -> None:
        self._lock = asyncio.Lock()
        self._wire: WireRequest | None = None
        self._proxy: str | None = None
        self._renderer = Renderer(self._render)
        self._patterns = AnswerPatterns()
        self._prices: dict[Any, tuple[list[Any], Any]] = {}

    def _render(self, request: Mapping[str, Any]) -> dict[str, Any]:
        self._wire = wire_request(request)
        self._proxy = _proxy(self._wire.url)
        return self._wire.body

    async def _body(self, request: Mapping[str, Any]) -> dict[str, Any]:
        body = self._renderer.known(request)
        if body is not None:
            return body
        async with self._lock:  # requests of one shape come together; the first one finds it out
            known = self._renderer.known(request)
            return known if known is not None else await asyncio.to_thread(self._renderer, request)

    async def send(self, request: Mapping[str, Any]) -> Answer:
        """Send one request once. Raises LiteLLM's errors, and aiohttp's."""
        body, wire = await self._body(request), self._wire
        assert wire is not None  # noqa: S101 - a body has been rendered
        async with http_session.session().post(
            wire.url,
            data=wire.encoded(body),
            headers=wire.headers,
            allow_redirects=True,  # within the origin; the session follows no other
            timeout=_NO_TIMEOUT,
            proxy=self._proxy,
            ssl=_ssl(request.get("ssl_verify")),
        ) as response:
            raw = b"".join([piece async for piece in response.content.iter_chunked(1 << 16)])
            headers = {name.lower(): value for name, value in response.headers.items()}
            if response.status >= _ERRORS_FROM:
                _raise(request, response.status, headers, raw)
        given = _parsed(raw)
        if (error := given.get("error")) and not given.get("choices") and not given.get("data"):
            code = error.get("code") if isinstance(error, Mapping) else None
            _raise(request, code if isinstance(code, int) and code >= HTTPStatus.BAD_REQUEST else 500, headers, raw)
        whole = self._chat(given) if "messages" in request else _embeddings(given)
        return Answer(whole, headers, self._cost(request, whole))

    def _chat(self, given: Mapping[str, Any]) -> dict[str, Any]:
        choices = given.get("choices")
        if not isinstance(choices, list):
            raise TypeError(f"empty or invalid response: no choices, but {sorted(map(str, given))!r:.200}")
        if not choices:  # the row says so
            return {**answer_body({**given, "choices": [_ANY_CHOICE]}), "choices": []}
        try:
            return self._patterns(given)
        except Exception:  # noqa: BLE001 - a usage that LiteLLM cannot read must not lose a paid answer
            return self._patterns({**given, "usage": normalized_usage(given.get("usage"))})

    def _cost(self, request: Mapping[str, Any], whole: Mapping[str, Any]) -> float | None:
        """USD of an answer, as LiteLLM calculates it; by two multiplications where that comes to the same."""
        usage = whole.get("usage")
        if not usage or not has_tokens(usage):
            return None
        key, prices = self._price_key(request, whole), load().model_cost
        if key is None:
            return _litellm_cost(request, whole)
        entries = [len(prices), *(prices.get(name) for name in key[1:4])]
        counts = SimpleNamespace(
            prompt_tokens=usage.get("prompt_tokens") or 0, completion_tokens=usage.get("completion_tokens") or 0
        )
        before, per_token = self._prices.get(key, (None, None))
        if per_token is not None and before == entries:
            return linear_cost(per_token, counts)
        cost = _litellm_cost(request, {name: whole[name] for name in _PRICED if whole.get(name) is not None})
        self._prices[key] = (copy.deepcopy(entries), agreeing_prices(entries[1:], counts, cost))
        return cost

    @staticmethod
    def _price_key(request: Mapping[str, Any], whole: Mapping[str, Any]) -> tuple[Any, ...] | None:
        """What the price depends on besides the two token counts; None where it may depend on more."""
        litellm, usage = load(), whole["usage"]
        if not 0 < (usage.get("total_tokens") or 0) < _LONG_PROMPT:
            return None
        if litellm.cost_discount_config or litellm.cost_margin_config:
            return None
        details = (usage.get("prompt_tokens_details"), usage.get("completion_tokens_details"))
        if any(value for part in details for name, value in (part or {}).items() if name not in _PLAIN_DETAILS):
            return None
        if any(request.get(name) for name in ("tools", "web_search_options", "service_tier", "extra_body")):
            return None
        model = str(request["model"])
        names = (whole.get("model"), model, f"{provider_of(request)}/{model}")
        cost = usage.get("cost")
        return None if isinstance(cost, dict) else ("chat" if "messages" in request else "embed", *names, cost)


def _litellm_cost(request: Mapping[str, Any], whole: Mapping[str, Any]) -> float | None:
    litellm = load()
    kind = litellm.ModelResponse if "messages" in request else litellm.EmbeddingResponse
    body = dict(whole) if "messages" in request else {**whole, "data": []}
    try:
        cost = litellm.completion_cost(
            kind(**body), model=request["model"], custom_llm_provider=request.get("custom_llm_provider"),
            call_type="acompletion" if "messages" in request else "aembedding",
        )  # fmt: skip
    except Exception:  # noqa: BLE001 - LiteLLM raises for a model that it has no price for
        return None
    return float(cost) if cost is not None and cost >= 0 else None


def _parsed(raw: bytes) -> dict[str, Any]:
    try:
        given = json.loads(raw)
    except ValueError:
        given = None
    if not isinstance(given, dict):
        words = raw[:500].decode("utf-8", "replace")
        raise TypeError(f"empty or invalid response: not a JSON object, but {words!r}")
    return given


def _embeddings(given: Mapping[str, Any]) -> dict[str, Any]:
    if not isinstance(given.get("data"), list):
        raise TypeError("empty or invalid response: no list of embeddings")
    return answer_body(given)


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
    """The TLS settings that LiteLLM would use, from `ssl_verify` and the environment."""
    made = internal("litellm.llms.custom_httpx.http_handler:get_ssl_configuration")
    return True if made is None else made(verify)


def _proxy(url: str) -> str | None:
    """The proxy that the environment names for an address."""
    proxies = urllib.request.getproxies()
    if not proxies:
        return None
    parts = urlsplit(url)
    if urllib.request.proxy_bypass(parts.hostname or ""):
        return None
    return proxies.get(parts.scheme) or proxies.get("all")


async def send(request: Mapping[str, Any]) -> Answer:
    """Send a chat or embeddings request once; through LiteLLM where it is more than one POST (the Responses bridge)."""
    try:
        return await _target_for(request).send(request)
    except NotOnTheWireError:
        return await (chat if "messages" in request else embed)(request)


_targets: dict[str, DirectTarget] = {}


def _target_for(request: Mapping[str, Any]) -> DirectTarget:
    """The target for a request's parameters; what it has learned is kept while the process lives."""
    parameters = {name: value for name, value in request.items() if name not in {"messages", "input"}}
    key = json.dumps([id(asyncio.get_running_loop()), parameters], sort_keys=True, default=_identity)
    found = _targets.pop(key, None) or DirectTarget()
    _targets[key] = found  # keep the order of use
    if len(_targets) > _MAX_TARGETS:
        del _targets[next(iter(_targets))]
    return found


def _identity(value: Any) -> str:
    return f"{type(value).__qualname__} {id(value)}"
