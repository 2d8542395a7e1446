"""Ids of the rows of one batch: the caller's, or made from the request."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from llmbatch._request.parsed_request import ParsedRequest
from llmbatch._util.identity import CustomIds, SeenIds


class IdAllocator:
    """Gives each request its id, and makes sure that no request has another's."""

    def __init__(self, custom_ids: Iterable[str] | None) -> None:
        self._made, self._own = CustomIds(), SeenIds()
        for custom_id in custom_ids or ():
            self._own.add(custom_id)

    def request_id(self, request: Mapping[str, Any]) -> str:
        """Return the next request's id, which is made from its content."""
        return self._made(request)

    def claim(self, parsed: ParsedRequest) -> None:
        """Take the id that a request has itself. Raises ValueError for a duplicate, and takes it from the request."""
        if parsed.custom_id is not None and not self._own.add(parsed.custom_id):
            custom_id, parsed.custom_id = parsed.custom_id, None
            raise ValueError(f"duplicate custom_id {custom_id!r}; give each request its own")
