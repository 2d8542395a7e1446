"""Warming the provider's prompt cache: the first request of each shared prefix goes alone."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
from collections.abc import AsyncGenerator, Mapping
from typing import Any

from llmbatch._util.identity import SeenIds

# Characters of a prompt without other messages; providers cache from about 1,024 tokens on.
_PREFIX_CHARACTERS = 4096


class CacheWarmer:
    """Holds back requests until the first one with the same prefix was answered; does nothing unless it is enabled."""

    def __init__(self, enabled: bool) -> None:
        self._enabled = enabled
        self._seen, self._warming = SeenIds(), dict[bytes, asyncio.Event]()

    @contextlib.asynccontextmanager
    async def turn(self, request: Mapping[str, Any]) -> AsyncGenerator[None]:
        """Wait until the request may be sent, and let the others go when it is done."""
        if not self._enabled:
            yield
            return
        prefix = _prefix(request)
        is_first = self._seen.add(prefix)
        if is_first:
            self._warming[prefix] = asyncio.Event()
        elif prefix in self._warming:
            await self._warming[prefix].wait()
        try:
            yield
        finally:
            if is_first:
                self._warming.pop(prefix).set()


def _prefix(request: Mapping[str, Any]) -> bytes:
    """Return a digest of what providers cache: all but the last message, or the start of the only one."""
    messages = request["messages"]
    shared: Any = messages[:-1] or str(messages[0].get("content"))[:_PREFIX_CHARACTERS]
    return hashlib.blake2b(repr((request["model"], shared)).encode("utf-8", "surrogatepass"), digest_size=8).digest()
