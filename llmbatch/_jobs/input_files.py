"""Requests as the lines of input files: rendered, checked, and filled into files of a size that the provider takes."""

from __future__ import annotations

import hashlib
import os
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from llmbatch._jobs.job_state import JobState, Part
from llmbatch._request.failures import clean
from llmbatch._request.parsed_request import ParsedRequest, Plans, parse_request
from llmbatch._request.plans import ChatPlan, EmbeddingsPlan, plan_chat
from llmbatch._util.checks import UnsendableError, checked_ids
from llmbatch._util.files import from_json, json_line
from llmbatch._util.identity import CustomIds, SeenIds
from llmbatch.providers.base import Payload, Provider
from llmbatch.providers.registry import provider_for


@dataclass(slots=True)
class Line:
    """One row on its way into a file: its payload, or the `problem` for which it has none."""

    custom_id: str
    payload: Payload | None = None
    problem: str = ""
    metadata: Any = None


def chat_plans(call: Mapping[str, Any]) -> Plans[tuple[ChatPlan, Provider]]:
    """How the requests of a call's list become lines. Raises NotImplementedError where no lines are taken."""

    def made(arguments: dict[str, Any]) -> tuple[ChatPlan, Provider]:
        plan = plan_chat(**arguments)
        return plan, provider_for(plan.target.provider)

    return Plans(call, made)


def rendered(
    plan_of: Callable[[ParsedRequest], tuple[ChatPlan | EmbeddingsPlan, Provider]],
    items: Iterable[Any],
    custom_ids: Iterable[str] | None = None,
    apart: Callable[[Any], str | None] = lambda _: None,
) -> Iterator[Line]:
    """A line for each item in order. What a request says itself stands before `custom_ids`.

    Raises ValueError for an id that is there twice, and for a request that is `apart` from the others (it says why).
    """
    derived, seen = CustomIds(), SeenIds()
    given = None if custom_ids is None else checked_ids(custom_ids)
    for index, item in enumerate(items):
        called = next(given, None) if given else None
        if given and called is None:
            raise ValueError(f"custom_ids has {index} ids, fewer than there are rows; give one each")
        asked = parse_request(item)
        if asked.custom_id is not None and not seen.add(asked.custom_id):
            raise ValueError(
                f"row {index}: the custom_id {asked.custom_id!r} is there already; give each request its own"
            )
        custom_id = asked.custom_id or called
        line, why = Line(custom_id or f"row-{index}", metadata=asked.metadata), None
        try:
            plan, provider = plan_of(asked)
            request = plan.request(asked.messages)
            why = apart(plan)
            if why is None:
                line.custom_id = custom_id or derived(request)
                line.payload = payload_of(asked, provider, request, line.custom_id)
        except ValueError as exc:
            line.problem = str(exc)
        if why is not None:
            raise ValueError(f"row {index}: {why}")
        yield line
    if given and next(given, None) is not None:
        raise ValueError("custom_ids has more ids than there are rows; give one each")


def payload_of(asked: ParsedRequest, provider: Provider, request: Mapping[str, Any], custom_id: str) -> Payload:
    """A request's payload. Raises UnsendableError where it is the request, not the call, that cannot be rendered."""
    try:
        return provider.render_payload_for_batch_request(request, custom_id)
    except NotImplementedError:
        raise
    except Exception as exc:  # noqa: BLE001 - LiteLLM's own, of any kind
        if asked.params:
            raise UnsendableError(
                f"its parameters cannot be sent: {clean(f'{type(exc).__name__}: {exc}', request)}"
            ) from None
        plain = {"messages": [{"role": "user", "content": "x"}]} if "messages" in request else {"input": "x"}
        try:
            provider.render_payload_for_batch_request({**request, **plain}, custom_id)
        except Exception:  # noqa: BLE001 - any request with these parameters
            raise exc from None
        msg = f"LiteLLM makes no request of it ({type(exc).__name__})"
    raise UnsendableError(msg)


def read_payloads(path: str | os.PathLike[str]) -> Iterator[Payload]:
    """The payloads of a JSONL file, one by one; raises ValueError as `llmbatch.read_batch_file` does."""
    check = PayloadChecks()
    with open(path, "rb") as file:  # noqa: PTH123 - any path-like
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            try:
                payload = from_json(line)
            except ValueError as exc:
                raise ValueError(
                    f"{os.fspath(path)}, line {number}: not JSON ({exc}); write_batch_file makes such files"
                ) from None
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
    """What a provider would refuse a whole file for, checked line by line; `models`: several may make several files."""

    def __init__(self, *, models: bool = False) -> None:
        self._ids, self._models = SeenIds(), models
        self._first: tuple[Any, Any] | None = None

    def __call__(self, payload: Any, where: str) -> None:
        """Raise ValueError, with `where`, for the next line."""
        problem = _shape_problem(payload) or self._problem(payload)
        if problem:
            raise ValueError(f"{where}: {problem}")

    def _problem(self, payload: Mapping[str, Any]) -> str | None:
        if not self._ids.add(payload["custom_id"]):
            return f"custom_id {payload['custom_id']!r} is there already; each line needs its own"
        kind = payload["body"]["model"], payload["url"]
        self._first = self._first or kind
        if kind[0] != self._first[0] and not self._models:
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


def write_input_files(state: JobState, rows: Iterable[tuple[int, Line]], directory: Path, asks: int = 1) -> list[Path]:
    """Write rows, each with its place in the job, to as few files as the limits allow, one model a file, in order.

    `asks` is which ask of these rows it is. The state is told a part for each file, and the rows that cannot be sent.
    Raises ValueError for what the provider would refuse a whole file for.
    """
    check = PayloadChecks(models=True)
    fillings: defaultdict[str, Filling] = defaultdict(lambda: Filling(state.max_rows, state.max_bytes))
    current: dict[str, tuple[IO[bytes], Part]] = {}
    parts: list[Part] = []
    with ExitStack() as opened:
        for position, line in rows:
            if line.payload is None:
                state.invalid[line.custom_id] = line.problem
                continue
            check(line.payload, f"row {position}")
            data, model = json_line(line.payload), line.payload["body"]["model"]
            if len(data) > state.max_bytes:
                why = f"{len(data)} bytes are more than a file may hold ({state.max_bytes})"
                state.invalid[line.custom_id] = why
                continue
            state.endpoint = line.payload["url"]
            if fillings[model].begins_file(len(data)):
                if model in current:
                    current[model][0].close()
                again = f"-ask{asks}" if asks > 1 else ""
                part = Part(f"{state.id}-{len(state.parts) + len(parts) + 1}{again}.jsonl", model=model)
                parts.append(part)
                current[model] = opened.enter_context((directory / part.name).open("wb")), part
            file, part = current[model]
            file.write(data)
            part.add(position, len(data))
    paths = [directory / part.name for part in parts]
    for part, path in zip(parts, paths, strict=True):
        with path.open("rb") as file:
            part.sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    state.parts += parts
    return paths


def rewrite_input_file(state: JobState, part: Part, payloads: Mapping[str, Payload], directory: Path) -> Path:
    """A part's input file once more, of those of its rows whose payloads are there, by id."""
    path, custom_ids = directory / part.name, (state.custom_ids[position] for position in part.positions())
    path.write_bytes(b"".join(json_line(payloads[custom_id]) for custom_id in custom_ids if custom_id in payloads))
    return path
