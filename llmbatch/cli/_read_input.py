"""Read JSONL, CSV or Parquet as requests.

The input is read twice: once to check all of it before anything is sent, then row by row to send it. Only ids are kept
in memory, and only during the check.
"""

from __future__ import annotations

import math
import random
import shutil
import sys
import tempfile
from collections.abc import Callable, Collection, Generator, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import IO, Any

from llmbatch._request.parsed_request import ParsedRequest, parse_request
from llmbatch._tables import read_files
from llmbatch._tables.images import image_parts, with_images
from llmbatch._tables.read_files import Records, TableFile, csv_records, file_kind, json_lines, parquet_records
from llmbatch._util.plain_values import plain
from llmbatch._util.template import RequestTemplate, request_template

_READERS: dict[str, Callable[[IO[bytes]], Records]] = {
    "csv": csv_records,
    "tsv": lambda file: csv_records(file, "\t"),
    "parquet": parquet_records,
    "jsonl": json_lines,
}
# A line's fields that say what is asked. A batch line's others go to the server as they are, and never to llmbatch or
# LiteLLM, whose own arguments (keys, addresses, callbacks) no data file may set.
_ASKED = frozenset({
    "audio", "frequency_penalty", "function_call", "functions", "logit_bias", "logprobs", "max_completion_tokens",
    "max_tokens", "modalities", "model", "n", "parallel_tool_calls", "prediction", "presence_penalty",
    "reasoning_effort", "response_format", "seed", "service_tier", "stop", "temperature", "tool_choice", "tools",
    "top_logprobs", "top_p", "user", "verbosity", "web_search_options",
})  # fmt: skip


@contextmanager
def opened(source: str) -> Iterator[IO[bytes]]:
    """Open the file, also gzipped, or standard input ("-") as a file that can be read twice."""
    if source != "-":
        with read_files.opened(Path(source)) as file:
            yield file
        return
    if sys.stdin is None:
        raise ValueError("standard input is closed. Pipe the rows in, or name a file.")
    with tempfile.TemporaryFile() as file:
        shutil.copyfileobj(sys.stdin.buffer, file)
        file.seek(0)
        yield file


def input_kind(source: str) -> str:
    """Return the format of IN by its suffix: jsonl for an unknown one."""
    known = file_kind(Path(source))
    return "jsonl" if known is None else known.kind


@contextmanager
def requests_of(
    source: str, kind: str | None, template: str | None, column: str | None, *, all_good: bool = True, **how: Any
) -> Iterator[Input]:
    """Open a file as requests, and check all of them.

    Raises ValueError, with the line's number, for misuse, and for a row without a request unless some may be bad.
    """
    if template is not None and column is not None:
        raise ValueError("--template and --column exclude each other; a template of one column is '{column}'")
    by_column = None if column is None else RequestTemplate([column], lambda row: str(row[column]))
    by = by_column if template is None else request_template(template)
    with opened(source) as file:
        requests = Input(file, kind or input_kind(source), by, **how)
        requests.check()
        if all_good and requests.refused:
            raise ValueError(requests.refused[0])
        yield requests


@dataclass
class Input:
    """The requests of an open file; iterating reads it from its beginning.

    `check()` reads it once and counts. Raises ValueError, with the line's number, for misuse.

    Attributes:
        asking: what asks for a row of a table.
        said: what the command line says itself.
        image_column: the column with images for the prompt.
        limit: how many of the first rows to take.
        sample: how many rows to take at random, the same ones each time.
        chosen: the indices of the rows that are taken, None for all.
        count: how many requests there are.
        is_table: whether the rows have columns that OUT can keep.
        names_models: whether a row names a model of its own.
        taken: whether a request has been taken since, and may have been sent.
        refused: what the file itself has no request for, as `row N: why`.
    """

    file: IO[bytes]
    kind: str
    asking: RequestTemplate | None
    id_column: str | None
    system: str | None
    said: Mapping[str, Any]
    image_column: str | None = None
    limit: int | None = None
    sample: int | None = None
    chosen: Collection[int] | None = None
    count: int = 0
    taken: bool = False
    is_table: bool = False
    names_models: bool = False
    refused: list[str] = field(default_factory=list)

    def __len__(self) -> int:
        return self.count

    def check(self) -> None:
        """Read everything once, to check and count it."""
        self.chosen = self._choice()
        self.is_table = self.kind != "jsonl" or self.asking is not None
        seen: set[str] = set()
        for place, asked in self._read():
            if asked.custom_id in seen:
                raise ValueError(f"{place}: the id {asked.custom_id!r} is a duplicate. Give each row its own id.")
            if asked.custom_id is not None:
                seen.add(asked.custom_id)
            if len(seen) not in {0, self.count + 1}:
                raise ValueError(f"{place} has {'an' if asked.custom_id else 'no'} id; give one to each row or none")
            if asked.problem is not None:
                self.refused.append(f"row {self.count}: {asked.problem}")
            self.names_models |= "model" in asked.params
            self.count += 1

    def _choice(self) -> Collection[int] | None:
        if self.limit is not None and self.sample is not None:
            raise ValueError("--limit and --sample exclude each other. Give one of them.")
        if self.sample is None:
            return None if self.limit is None else range(self.limit)
        with closing(self._records()) as records:
            count = sum(1 for _ in records)
        chosen = random.Random(0).sample(range(count), min(self.sample, count))  # noqa: S311 - the same each time
        return frozenset(chosen)

    def table(self) -> TableFile:
        """Return the chosen rows with all their columns."""
        return TableFile(self.file, self.kind, "IN", self.chosen)

    def __iter__(self) -> Generator[ParsedRequest]:
        for _, asked in self._read():
            self.taken = True
            yield asked

    def _read(self) -> Iterator[tuple[str, ParsedRequest]]:
        """Yield the place of each request, as text, and the request."""
        with closing(self._records()) as records:
            for number, record in self._taken(records):
                self.is_table &= isinstance(record, Mapping)
                place = f"{'row' if self.kind == 'parquet' else 'line'} {number}"
                try:
                    asked = self._asked(record)
                except ValueError as exc:
                    raise ValueError(f"{place} {exc}") from None
                if self.system is not None and isinstance(asked.messages, list) and not _has_system(asked.messages):
                    asked.messages = [{"role": "system", "content": self.system}, *asked.messages]
                yield place, asked

    def _records(self) -> Records:
        self.file.seek(0)
        return _READERS[self.kind](self.file)

    def _taken(self, records: Records) -> Iterator[tuple[int, Any]]:
        if self.chosen is None:
            return records
        until = max(self.chosen, default=-1) + 1
        return (record for at, record in enumerate(islice(records, until)) if at in self.chosen)

    def _asked(self, record: Any) -> ParsedRequest:
        """Return the request of a record. Raises ValueError, whose text continues after the place."""
        if isinstance(record, str | list):
            return parse_request(record)
        if isinstance(record, Mapping):
            about = {"custom_id": self._id(record), "metadata": record.get("metadata")}
            if isinstance(record.get("body"), Mapping):
                return parse_request({"body": self._body(record), **about})
            if self.asking is not None:
                return self._with_image(self._of_columns(self.asking, record, about["custom_id"]), record)
            if asked := {name: record[name] for name in ("messages", "prompt") if record.get(name) is not None}:
                # A table's cells are data, whatever their columns are called.
                names = () if self.kind == "csv" else _ASKED & record.keys()
                own = {name: record[name] for name in names if not _is_missing(record[name])}
                return self._with_image(parse_request(own | asked | about), record)
        raise ValueError(
            'holds no conversation; give {"messages": [...]}, {"prompt": "..."} or a batch line, or say with '
            "--template or --column which columns to ask with"
        )

    def _of_columns(self, by: RequestTemplate, record: Mapping[str, Any], custom_id: str | None) -> ParsedRequest:
        for name in by.columns:
            if name not in record:
                raise ValueError(f"has no column {name!r}; it has {', '.join(map(str, record))}")
            if _is_missing(record[name]):
                return ParsedRequest(custom_id=custom_id, problem=f"column {name!r} has no value")
        asked = parse_request(by.request(record))
        asked.custom_id = custom_id
        return asked

    def _with_image(self, asked: ParsedRequest, record: Mapping[str, Any]) -> ParsedRequest:
        """Return the request with the image of its row, or with the problem that there is none."""
        name = self.image_column
        if name is None or asked.problem is not None:
            return asked
        if name not in record:
            raise ValueError(f"has no column {name!r}; it has {', '.join(map(str, record))}")
        try:
            if _is_missing(record[name]):
                raise ValueError("has no value")  # noqa: TRY301 - reported as below
            asked.messages = with_images(asked.messages, image_parts(plain(record[name])))
        except (ValueError, TypeError, OSError) as exc:
            why = exc.strerror or type(exc).__name__ if isinstance(exc, OSError) else exc
            return ParsedRequest(custom_id=asked.custom_id, problem=f"column {name!r}: {why}")
        return asked

    def _id(self, record: Mapping[str, Any]) -> str | None:
        custom_id = record.get("custom_id", record.get("id"))
        if self.id_column is not None:
            if self.id_column not in record:
                raise ValueError(f"has no column {self.id_column!r} for its id")
            custom_id = record[self.id_column]
        return None if _is_missing(custom_id) else str(custom_id)

    def _body(self, line: Mapping[str, Any]) -> dict[str, Any]:
        """Return a batch line's request, which is sent as it is; only the command line's own options override it."""
        if self.asking is not None:
            raise ValueError("is a batch line, which has its messages; leave out --template and --column")
        body = line["body"]
        if not isinstance(body.get("messages"), list):
            raise ValueError(f"is a batch line for {line.get('url') or 'no chat'}; chats have messages in their body")  # noqa: TRY004 - a file's fault
        own = {name: value for name, value in body.items() if name in _ASKED and value is not None}
        rest = {name: body[name] for name in body.keys() - _ASKED - {"messages", "stream", "stream_options"}}
        return {**own, "messages": body["messages"], **({"extra_body": rest} if rest else {}), **self.said}


def _has_system(messages: list[Any]) -> bool:
    return any(isinstance(m, Mapping) and m.get("role") in {"system", "developer"} for m in messages)


def _is_missing(value: Any) -> bool:
    return value is None or (isinstance(value, str) and not value) or (isinstance(value, float) and math.isnan(value))
