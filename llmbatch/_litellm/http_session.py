"""The HTTP session of the running loop, handed to LiteLLM for each call.

It bounds what is read: an error's body to `MAX_ERROR_BYTES` (LiteLLM's search for keys in it takes 2 s for each MB, on
the loop), an answer's to `MAX_ANSWER_BYTES`. It watches event streams for cuts, follows no redirect to another origin,
and rejects SOCKS proxies. LiteLLM's code for a few providers takes no session, and uses its own client.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import inspect
import weakref
from collections.abc import AsyncIterator, Mapping
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

import aiohttp
from multidict import CIMultiDict, CIMultiDictProxy
from yarl import URL

from llmbatch._litellm import provider_of
from llmbatch._litellm.loading import internal, load
from llmbatch._litellm.sse import StreamWatch, watch_for
from llmbatch._util.loop_thread import at_end
from llmbatch._util.send_times import note_sent

if TYPE_CHECKING:
    from aiohttp.connector import Connection


MAX_ERROR_BYTES = 64 * 1024
MAX_ANSWER_BYTES = 64 * 1024 * 1024
_KEEP_ALIVE_SECONDS = 60.0
# The attempt's own timeout is kept by asyncio around the whole call: LiteLLM's is per socket read, and each distinct
# value would make a new client with a pool of its own.
LITELLM_TIMEOUT_SECONDS = 86_400.0
_REDIRECTS = {301, 302, 303, 307, 308}

_sessions: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, aiohttp.ClientSession] = weakref.WeakKeyDictionary()


# Gateways add headers by the hundred (policies, traces); aiohttp's own bounds are 128 headers of 8 kB.
_MAX_HEADERS = {"max_headers": 2000, "max_line_size": 256 * 1024, "max_field_size": 256 * 1024}


class AnswerTooLargeError(aiohttp.ClientPayloadError):
    """An answer that does not end, or is longer than any model's."""


class RedirectedElsewhereError(aiohttp.ClientError):
    """A redirect to another origin, which is sent neither the key nor the prompt."""


class SocksProxyError(aiohttp.ClientError):
    """A SOCKS proxy in the environment, which aiohttp would speak HTTP to."""


class _Bounded:
    """A response's content: bounded in size, and watched if it is an event stream."""

    def __init__(self, content: Any, status: int, watch: StreamWatch | None) -> None:
        self._content, self._status, self._watch = content, status, watch

    def __getattr__(self, name: str) -> Any:
        return getattr(self._content, name)

    async def iter_chunked(self, size: int) -> AsyncIterator[bytes]:
        failed = self._status >= HTTPStatus.BAD_REQUEST
        left = MAX_ERROR_BYTES if failed else MAX_ANSWER_BYTES
        async for piece in self._content.iter_chunked(size):
            left -= len(piece)
            if left < 0 and not failed:
                raise AnswerTooLargeError(f"the answer is longer than {MAX_ANSWER_BYTES >> 20} MB")
            if self._watch is not None:
                self._watch.feed(piece)
            yield piece
            if left <= 0:
                return
        if self._watch is not None:
            self._watch.end()


class _Request(aiohttp.ClientRequest):
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        note_sent()
        super().__init__(*args, **kwargs)


class _Response(aiohttp.ClientResponse):
    @functools.cached_property
    def headers(self) -> CIMultiDictProxy[str]:
        """Headers in ASCII: httpx, into which LiteLLM puts them, rejects others, and a paid answer would be lost."""
        given = super().headers
        if all(value.isascii() for value in given.values()):
            return given
        return CIMultiDictProxy(CIMultiDict((k, v.encode("ascii", "replace").decode()) for k, v in given.items()))

    async def start(self, connection: Connection) -> aiohttp.ClientResponse:
        await super().start(connection)
        self._check_redirect()
        encoding = self.headers.get("content-encoding", "").strip().lower()
        watch = watch_for(self.content_type, encoding) if self.status == HTTPStatus.OK else None
        self.content = _Bounded(self.content, self.status, watch)  # type: ignore[assignment]  # what LiteLLM reads by
        return self

    def _check_redirect(self) -> None:
        """Raise for a redirect to another origin: the HTTP client above would follow it with key and prompt."""
        location = self.headers.get("location")
        if self.status not in _REDIRECTS or not location:
            return
        target = self.url.join(URL(location))
        if target.origin() != self.url.origin():
            raise RedirectedElsewhereError(
                f"{self.url.origin()} redirects to {target.origin()}, another host, which is sent neither the key nor "
                f"the prompt. Set api_base to the new address if you trust it"
            )


class _Connector(aiohttp.TCPConnector):
    async def connect(self, req: Any, *args: Any, **kwargs: Any) -> Connection:
        """Connect, unless a SOCKS proxy is named."""
        if req.proxy is not None and req.proxy.scheme.startswith("socks"):
            address = req.proxy.with_user(None)
            raise SocksProxyError(
                f"SOCKS proxies are not supported (the environment names {address}). Set HTTPS_PROXY, HTTP_PROXY and "
                "ALL_PROXY to an HTTP proxy, add the host to NO_PROXY, or set DISABLE_AIOHTTP_TRANSPORT=True and "
                "pip install 'httpx[socks]'"
            )
        return await super().connect(req, *args, **kwargs)


def session() -> aiohttp.ClientSession:
    """Return the running loop's session; it has as many connections as requests are in flight."""
    loop = asyncio.get_running_loop()
    found = _sessions.get(loop)
    if found is None or found.closed:
        connector = _Connector(limit=0, keepalive_timeout=_KEEP_ALIVE_SECONDS)
        at_end(_closed_at_exit)
        found = _sessions[loop] = aiohttp.ClientSession(
            connector=connector,
            cookie_jar=aiohttp.DummyCookieJar(),
            request_class=_Request,
            response_class=_Response,
            **_accepted(_MAX_HEADERS),
        )
    return found


def _accepted(options: dict[str, int]) -> Any:
    """Return those options that this aiohttp knows."""
    known = inspect.signature(aiohttp.ClientSession).parameters
    return {name: value for name, value in options.items() if name in known}


def hand_over(request: Mapping[str, Any]) -> aiohttp.ClientSession:
    """Return the session, after giving it to the clients that LiteLLM keeps for this request's provider.

    Each request does so, since LiteLLM drops clients: after an hour, and beyond 200 of them (one for each key).
    """
    mine = session()
    name = provider_of(request)
    if name == "azure":
        _give_to_azure()
    provider = _with_clients(name)
    if provider is not None:
        client = internal("litellm.llms.custom_httpx.http_handler:get_async_httpx_client")
        with contextlib.suppress(ValueError, TypeError):  # another version of LiteLLM
            # LiteLLM keeps a client for each set of parameters; Gemini's and Bedrock's are the timeout.
            for params in (None, {"ssl_verify": request.get("ssl_verify")}, {"timeout": LITELLM_TIMEOUT_SECONDS}):
                client(llm_provider=provider, params=params, shared_session=mine)
    return mine


@functools.cache
def _with_clients(name: str) -> Any:
    """Return LiteLLM's value for a provider, None for a custom provider."""
    try:
        return load().LlmProviders("vertex_ai" if name == "gemini" else name)
    except ValueError:
        return None


@functools.cache
def _give_to_azure() -> None:
    """Have the clients that LiteLLM makes for Azure use the running loop's session, if llmbatch has one there.

    LiteLLM passes no session on to Azure: its own would take key and prompt along to another host.
    """
    owner = internal("litellm.llms.azure.common_utils:BaseAzureLLM")
    original = getattr(owner, "_get_async_http_client", None)
    if original is None:
        return

    def with_session(shared_session: aiohttp.ClientSession | None = None) -> Any:
        loop = asyncio._get_running_loop()  # noqa: SLF001 - None where none runs
        return original(shared_session or (_sessions.get(loop) if loop is not None else None))

    owner._get_async_http_client = staticmethod(with_session)  # noqa: SLF001 - listed in private_api


@contextlib.asynccontextmanager
async def _closed_at_exit() -> AsyncIterator[None]:
    yield
    await close()


async def close() -> None:
    """Close the running loop's session."""
    found = _sessions.pop(asyncio.get_running_loop(), None)
    if found is not None:
        await found.close()
