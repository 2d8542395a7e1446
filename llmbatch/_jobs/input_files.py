"""Input files: requests rendered as lines, checked, and written to files of a size that the provider accepts."""

from __future__ import annotations

import hashlib
import os
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from operator import itemgetter
from pathlib import Path
from typing import IO, Any

from llmbatch._jobs.job_state import InputFile, JobState
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
    """One request for an input file: its payload, or the `problem` that keeps it from being sent."""

    custom_id: str
    payload: Payload | None = None
    problem: str = ""
    metadata: Any = None


def chat_plans(call: Mapping[str, Any]) -> Plans[tuple[ChatPlan, Provider]]:
    """Return the plans of a call's requests. Raises NotImplementedError for a provider without batch support."""

    def planned(arguments: dict[str, Any]) -> tuple[ChatPlan, Provider]:
        plan = plan_chat(**arguments)
        return plan, provider_for(plan.target.provider)

    return Plans(call, planned)


def rendered(
    plan_of: Callable[[ParsedRequest], tuple[ChatPlan | EmbeddingsPlan, Provider]],
    items: Iterable[Any],
    custom_ids: Iterable[str] | None = None,
    why_not: Callable[[Any], str | None] = lambda _: None,
) -> Iterator[Line]:
    """Yield a line for each item, in order. A request's own custom_id overrides `custom_ids`.

    `why_not` says why a plan cannot be in the same job. Raises ValueError for such a request, and for a duplicate id.
    """
    derived, seen = CustomIds(), SeenIds()
    given = None if custom_ids is None else checked_ids(custom_ids)
    for index, item in enumerate(items):
        given_id = next(given, None) if given else None
        if given and given_id is None:
            raise ValueError(f"custom_ids has {index} ids, fewer than there are rows; give one each")
        asked = parse_request(item)
        if asked.custom_id is not None and not seen.add(asked.custom_id):
            raise ValueError(f"row {index}: duplicate custom_id {asked.custom_id!r}; give each request its own")
        custom_id = asked.custom_id or given_id
        line, why = Line(custom_id or f"row-{index}", metadata=asked.metadata), None
        try:
            plan, provider = plan_of(asked)
            request = plan.request(asked.messages)
            why = why_not(plan)
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
    """Render a request. Raises UnsendableError if the request, and not the call, is what cannot be rendered."""
    try:
        return provider.render_payload_for_batch_request(request, custom_id)
    except NotImplementedError:
        raise
    except Exception as exc:  # noqa: BLE001 - LiteLLM's, of any kind
        if asked.params:
            raise UnsendableError(
                f"its parameters cannot be sent: {clean(f'{type(exc).__name__}: {exc}', request)}"
            ) from None
        plain = {"messages": [{"role": "user", "content": "x"}]} if "messages" in request else {"input": "x"}
        try:
            provider.render_payload_for_batch_request({**request, **plain}, custom_id)
        except Exception:  # noqa: BLE001 - any request with these parameters
            raise exc from None
        msg = f"LiteLLM cannot render it ({type(exc).__name__})"
    raise UnsendableError(msg)


def read_payloads(path: str | os.PathLike[str]) -> Iterator[Payload]:
    """Yield the payloads of a JSONL file. Raises ValueError as `llmbatch.read_batch_file` does."""
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
    """Splits lines into input files of at most `max_rows` rows and `max_bytes` bytes, in order."""

    def __init__(self, max_rows: int, max_bytes: int) -> None:
        self.max_rows, self.max_bytes = max_rows, max_bytes
        self.rows = self.bytes = 0

    def begins_file(self, size: int) -> bool:
        """Add a line of `size` bytes. Returns whether it is the first of a file."""
        begins = not 0 < self.rows < self.max_rows or self.bytes + size > self.max_bytes
        if begins:
            self.rows = self.bytes = 0
        self.rows += 1
        self.bytes += size
        return begins


class PayloadChecks:
    """Checks lines for what makes a provider reject a whole file.

    `models` allows several models: each has input files of its own.
    """

    def __init__(self, *, models: bool = False) -> None:
        self._ids, self._models = SeenIds(), models
        self._first: tuple[Any, Any] | None = None

    def __call__(self, payload: Any, where: str) -> None:
        """Raise ValueError if the next line, which is at `where`, is not acceptable."""
        problem = _shape_problem(payload) or self._problem(payload)
        if problem:
            raise ValueError(f"{where}: {problem}")

    def _problem(self, payload: Mapping[str, Any]) -> str | None:
        if not self._ids.add(payload["custom_id"]):
            return f"duplicate custom_id {payload['custom_id']!r}; give each line its own"
        kind = payload["body"]["model"], payload["url"]
        self._first = self._first or kind
        if kind[0] != self._first[0] and not self._models:
            return f"model {kind[0]!r} after {self._first[0]!r}; an input file has one model, write one file for each"
        if kind[1] != self._first[1]:
            return f"url {kind[1]!r} after {self._first[1]!r}; an input file has one endpoint, write one file for each"
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


def write_input_files(
    state: JobState, rows: Iterable[tuple[int, Line]], directory: Path, reask_round: int = 1
) -> list[Path]:
    """Write rows, each with its position in the job, to as few input files as the limits allow, one model each.

    Adds the input files to the state, and the rows that cannot be sent. `reask_round` is the ask of these rows.
    Raises ValueError for what makes a provider reject a whole file.
    """
    check = PayloadChecks(models=True)
    fillings: defaultdict[str, Filling] = defaultdict(lambda: Filling(state.max_rows, state.max_bytes))
    current: dict[str, tuple[IO[bytes], InputFile]] = {}
    files: list[InputFile] = []
    with ExitStack() as opened:
        for position, line in rows:
            if line.payload is None:
                state.invalid[line.custom_id] = line.problem
                continue
            check(line.payload, f"row {position}")
            data, model = json_line(line.payload), line.payload["body"]["model"]
            if len(data) > state.max_bytes:
                why = f"{len(data)} bytes are more than an input file may have ({state.max_bytes})"
                state.invalid[line.custom_id] = why
                continue
            state.endpoint = line.payload["url"]
            if fillings[model].begins_file(len(data)):
                if model in current:
                    current[model][0].close()
                suffix = f"-ask{reask_round}" if reask_round > 1 else ""
                number = len(state.input_files) + len(files) + 1
                file = InputFile(f"{state.id}-{number}{suffix}.jsonl", model=model)
                files.append(file)
                current[model] = opened.enter_context((directory / file.name).open("wb")), file
            stream, file = current[model]
            stream.write(data)
            file.add(position, len(data))
    paths = [directory / file.name for file in files]
    for file, path in zip(files, paths, strict=True):
        with path.open("rb") as stream:
            file.sha256 = hashlib.file_digest(stream, "sha256").hexdigest()
    state.input_files += files
    return paths


def rewrite_input_file(state: JobState, file: InputFile, payloads: Mapping[str, Payload], directory: Path) -> Path:
    """Write an input file again, from the payloads of its rows by id; rows without a payload are left out."""
    path, custom_ids = directory / file.name, (state.custom_ids[position] for position in file.positions())
    path.write_bytes(b"".join(json_line(payloads[custom_id]) for custom_id in custom_ids if custom_id in payloads))
    return path


def submitted_ids(state: JobState) -> set[str]:
    """Return the ids of rows that need not be submitted: those with a batch, those that wait for one, invalid ones."""
    files = (file for file in state.input_files if file.batch_id or (file.status and not file.ended))
    return {state.custom_ids[position] for file in files for position in file.positions()} | state.invalid.keys()


def further_input_files(state: JobState, lines: Iterable[Line], directory: Path) -> tuple[list[Path], list[InputFile]]:
    """Write the input files of an earlier job that were not submitted, and further ones for the lines in none of them.

    A file whose lines are not all given is given up. Returns the files and their paths.
    """
    left = {line.custom_id: line for line in lines}
    files, paths = list[InputFile](), list[Path]()
    for file in [file for file in state.input_files if not file.status and file.reask_round == 1]:
        ids = [state.custom_ids[position] for position in file.positions()]
        payloads = {
            custom_id: payload for custom_id in ids if custom_id in left and (payload := left[custom_id].payload)
        }
        if len(payloads) < len(ids):
            file.reject("its submission was interrupted, and some of its requests have changed since")
            continue
        files.append(file)
        paths.append(rewrite_input_file(state, file, payloads, directory))
        for custom_id in ids:
            del left[custom_id]
    positions = {custom_id: position for position, custom_id in enumerate(state.custom_ids)}
    for custom_id in left:
        if custom_id not in positions:
            positions[custom_id] = len(state.custom_ids)
            state.custom_ids.append(custom_id)
    before = len(state.input_files)
    rows = sorted(((positions[key], line) for key, line in left.items()), key=itemgetter(0))
    paths += write_input_files(state, rows, directory)
    return paths, files + state.input_files[before:]
