"""Requests as the lines of input files: rendered, checked, and filled into files of a size that the provider takes."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from llmbatch._leaves.checks import UnsendableError, checked_ids
from llmbatch._leaves.identity import CustomIds, SeenIds
from llmbatch.providers.registry import provider_for

if TYPE_CHECKING:
    from llmbatch._request.plans import ChatPlan, EmbeddingsPlan
    from llmbatch.providers.base import Payload, Provider

__all__ = ["BadRow", "Filling", "PayloadChecks", "line_for", "read_payloads", "rendered"]


class BadRow(ValueError):  # noqa: N818 - a value that stands for a row, raised only where there are no rows
    """A row that cannot be sent, in the place of its payload; its text holds nothing of the row."""

    def __init__(self, message: str, custom_id: str) -> None:
        super().__init__(message)
        self.custom_id = custom_id


def rendered(
    plan: ChatPlan | EmbeddingsPlan,
    items: Iterable[Any],
    custom_ids: Iterable[str] | None = None,
    provider: Provider | None = None,
) -> Iterator[Payload | BadRow]:
    """A payload, or what is wrong with it, for each item in order."""
    provider = provider or provider_for(plan.target.provider)
    derived = CustomIds()
    given = None if custom_ids is None else checked_ids(custom_ids)
    for index, item in enumerate(items):
        custom_id = next(given, None) if given else None
        if given and custom_id is None:
            msg = f"custom_ids has {index} ids, fewer than there are rows; give one each"
            raise ValueError(msg)
        try:
            request = plan.request(item)
            line: Payload | BadRow = line_for(request, custom_id or derived(request), provider)
        except UnsendableError as exc:
            line = BadRow(str(exc), custom_id or f"row-{index}")
        except BadRow as exc:
            line = exc
        yield line
    if given and next(given, None) is not None:
        msg = "custom_ids has more ids than there are rows; give one each"
        raise ValueError(msg)


def line_for(request: Mapping[str, Any], custom_id: str, provider: Provider) -> Payload:
    """The payload of one request. Raises BadRow where it is the row that cannot be rendered, not the parameters."""
    try:
        return provider.render_payload_for_batch_request(request, custom_id)
    except Exception as exc:  # noqa: BLE001 - LiteLLM's own, of any kind
        plain = {"messages": [{"role": "user", "content": "x"}]} if "messages" in request else {"input": "x"}
        try:
            provider.render_payload_for_batch_request({**request, **plain}, custom_id)
        except Exception:  # noqa: BLE001 - any row with these parameters
            raise exc from None
        msg = f"LiteLLM makes no request of it ({type(exc).__name__})"
    raise BadRow(msg, custom_id)


def read_payloads(path: str | os.PathLike[str]) -> Iterator[Payload]:
    """The payloads of a JSONL file, one by one; raises ValueError as `llmbatch.read_batch_file` does."""
    check = PayloadChecks()
    with open(path, "rb") as file:  # noqa: PTH123 - any path-like
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            try:
                payload = json.loads(line)
            except ValueError as exc:
                msg = f"{os.fspath(path)}, line {number}: not JSON ({exc}); write_batch_file makes such files"
                raise ValueError(msg) from None
            check(payload, f"{os.fspath(path)}, line {number}")
            yield payload


class Filling:
    """How lines fill input files of at most so many rows and bytes, in order."""

    def __init__(self, max_rows: int, max_bytes: int) -> None:
        self.max_rows, self.max_bytes = max_rows, max_bytes
        self.rows = self.bytes = 0

    def begins_file(self, size: int) -> bool:
        """Put in a line of so many bytes; True when it is the first of a file."""
        begins = not 0 < self.rows < self.max_rows or self.bytes + size > self.max_bytes
        if begins:
            self.rows = self.bytes = 0
        self.rows += 1
        self.bytes += size
        return begins


class PayloadChecks:
    """What a provider would refuse a whole file for, checked line by line."""

    def __init__(self) -> None:
        self._ids = SeenIds()
        self._first: tuple[Any, Any] | None = None

    def __call__(self, payload: Any, where: str) -> None:
        """Raise ValueError, with `where`, for the next line."""
        problem = _shape_problem(payload) or self._problem(payload)
        if problem:
            msg = f"{where}: {problem}"
            raise ValueError(msg)

    def _problem(self, payload: Mapping[str, Any]) -> str | None:
        if not self._ids.add(payload["custom_id"]):
            return f"custom_id {payload['custom_id']!r} is there already; each line needs its own"
        kind = payload["body"]["model"], payload["url"]
        self._first = self._first or kind
        if kind[0] != self._first[0]:
            return f"model {kind[0]!r} after {self._first[0]!r}; a file may hold one model, write one file for each"
        if kind[1] != self._first[1]:
            return f"url {kind[1]!r} after {self._first[1]!r}; a file may hold one endpoint, write one file for each"
        return None


def _shape_problem(payload: Any) -> str | None:
    if not isinstance(payload, Mapping):
        return f"a payload must be an object with custom_id, method, url and body, not {type(payload).__name__}"
    if missing := [key for key in ("custom_id", "method", "url", "body") if not payload.get(key)]:
        return f"the payload has no {', '.join(missing)}"
    if not isinstance(payload["custom_id"], str):
        return f"custom_id must be a string, not {type(payload['custom_id']).__name__}"
    if not isinstance(payload["body"], Mapping) or not isinstance(payload["body"].get("model"), str):
        return "the body has no model"
    return None
