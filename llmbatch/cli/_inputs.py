"""What `llmbatch run` reads: JSONL, CSV or Parquet, as conversations with their ids and parameters.

The input is read twice: once to check it whole before anything is sent, then, row by row, to send it. Only ids and
positions are kept in memory.
"""

from __future__ import annotations

import codecs
import csv
import io
import json
import math
import shutil
import sys
import tempfile
from collections.abc import Generator, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from llmbatch._leaves.template import Template

__all__ = ["FORMATS", "Group", "Input", "checked_input", "json_lines", "opened"]

Records = Generator[tuple[int, Any], None, None]

FORMATS = {".csv": "csv", ".parquet": "parquet", ".pq": "parquet"}
_LONGEST_CELL = 2**31 - 1
# A batch line's fields that say what is asked. Any other goes to the server as it is, and never to llmbatch or LiteLLM,
# whose own arguments (keys, addresses, callbacks) no data file may set.
_ASKED = frozenset({
    "audio", "frequency_penalty", "function_call", "functions", "logit_bias", "logprobs", "max_completion_tokens",
    "max_tokens", "modalities", "model", "n", "parallel_tool_calls", "prediction", "presence_penalty",
    "reasoning_effort", "response_format", "seed", "service_tier", "stop", "temperature", "tool_choice", "tools",
    "top_logprobs", "top_p", "user", "verbosity", "web_search_options",
})  # fmt: skip


@contextmanager
def opened(source: str) -> Iterator[IO[bytes]]:
    """The file, or standard input ("-") as a file that can be read twice."""
    if source != "-":
        with Path(source).open("rb") as file:
            yield file
        return
    with tempfile.TemporaryFile() as file:
        shutil.copyfileobj(sys.stdin.buffer, file)
        file.seek(0)
        yield file


@contextmanager
def checked_input(source: str, kind: str | None, **columns: str | None) -> Iterator[Input]:
    """The rows of a file, read once to check them. Raises ValueError, with the line's number, for misuse."""
    with opened(source) as file:
        rows = Input(file, kind or FORMATS.get(Path(source).suffix.lower(), "jsonl"), **columns)
        rows.check()
        yield rows


@dataclass
class Row:
    """One row of the input. `problem` says why it cannot be sent."""

    number: int
    conversation: list[Any]
    custom_id: str | None
    params: str | None = None
    problem: str | None = None


@dataclass
class Group:
    """The rows with the same parameters of their own (`params`; None where lines have none): what one batch sends."""

    rows: Input
    params: dict[str, Any] | None
    key: str | None
    positions: list[int] = field(default_factory=list)
    custom_ids: list[str] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.positions)

    def __iter__(self) -> Generator[list[Any], None, None]:
        for row in self.rows:
            if row.problem is None and row.params == self.key:
                yield row.conversation


class Input:
    """The rows of an open file; iterating reads it from its beginning.

    `check()` reads it once and fills `groups` and `refused`. Raises ValueError, with the line's number, for misuse.
    """

    def __init__(
        self,
        file: IO[bytes],
        kind: str,
        *,
        template: str | None = None,
        column: str | None = None,
        id_column: str | None = None,
        system: str | None = None,
    ) -> None:
        if template is not None and column is not None:
            msg = "--template and --column exclude each other; a template of one column is '{column}'"
            raise ValueError(msg)
        self.file, self.kind, self.system, self.id_column = file, kind, system, id_column
        self.template = Template(template) if template is not None else None
        self.column = column
        self.count = 0
        self.groups: list[Group] = []
        self.refused: list[tuple[int, str, str]] = []
        """Position, custom_id and problem of rows that cannot be sent."""

    def check(self) -> None:
        """Read everything once."""
        groups: dict[str | None, Group] = {}
        seen: set[str] = set()
        named = 0
        for position, row in enumerate(self):
            self.count += 1
            if row.custom_id is not None:
                named += 1
                if row.custom_id in seen:
                    msg = f"{self._place(row.number)}: the id {row.custom_id!r} is there already; give each row its own"
                    raise ValueError(msg)
                seen.add(row.custom_id)
            if named not in {0, self.count}:
                msg = (
                    f"{self._place(row.number)} has {'an' if row.custom_id else 'no'} id; give one to each row or none"
                )
                raise ValueError(msg)
            if row.problem is not None:
                self.refused.append((position, row.custom_id or f"row-{position}", row.problem))
                continue
            if row.params not in groups:
                params = None if row.params is None else _arguments(json.loads(row.params))
                groups[row.params] = Group(self, params, row.params)
            groups[row.params].positions.append(position)
            if row.custom_id is not None:
                groups[row.params].custom_ids.append(row.custom_id)
        self.groups = list(groups.values())

    def __iter__(self) -> Iterator[Row]:
        self.file.seek(0)
        with closing({"csv": _csv, "parquet": _parquet, "jsonl": json_lines}[self.kind](self.file)) as records:
            for number, record in records:
                yield self._row(number, record)

    def _place(self, number: int) -> str:
        return f"{'row' if self.kind == 'parquet' else 'line'} {number}"

    def _row(self, number: int, record: Any) -> Row:
        if isinstance(record, Mapping) and isinstance(record.get("body"), Mapping):
            return self._batch_line(number, record)
        custom_id, problem = None, None
        if isinstance(record, Mapping):
            custom_id = self._id(number, record)
            record, problem = self._asked(number, record)
        given = [{"role": "user", "content": record}] if isinstance(record, str) else record
        if not isinstance(given, list):
            msg = (
                f'{self._place(number)}: no conversation; give {{"messages": [...]}}, {{"prompt": "..."}} or a batch '
                "line, or say with --template or --column which columns to ask with"
            )
            raise ValueError(msg)  # noqa: TRY004 - a file's fault
        return Row(number, self._with_system(given), custom_id, None, problem)

    def _asked(self, number: int, record: Mapping[str, Any]) -> tuple[Any, str | None]:
        """What a record asks (a text or messages), and why it cannot."""
        if self.template is None and self.column is None:
            return record["messages"] if record.get("messages") is not None else record.get("prompt"), None
        columns = self.template.columns if self.template else [str(self.column)]
        for name in columns:
            if name not in record:
                there = ", ".join(str(key) for key in record)
                msg = f"{self._place(number)} has no column {name!r}; it has {there}"
                raise ValueError(msg)
            if _is_missing(record[name]):
                return "", f"column {name!r} has no value"
        return (self.template.fill(record) if self.template else str(record[columns[0]])), None

    def _id(self, number: int, record: Mapping[str, Any]) -> str | None:
        if self.id_column is None:
            custom_id = record.get("custom_id", record.get("id"))
        elif self.id_column in record:
            custom_id = record[self.id_column]
        else:
            msg = f"{self._place(number)} has no column {self.id_column!r} for its id"
            raise ValueError(msg)
        return None if _is_missing(custom_id) else str(custom_id)

    def _batch_line(self, number: int, record: Mapping[str, Any]) -> Row:
        body = dict(record["body"])
        messages = body.pop("messages", None)
        if self.template is not None or self.column is not None:
            msg = f"{self._place(number)} is a batch line, which has its messages; leave out --template and --column"
            raise ValueError(msg)
        if not isinstance(messages, list):
            msg = (
                f"{self._place(number)}: a batch line for {record.get('url') or 'no chat'}; `run` answers chats, whose "
                "body has messages"
            )
            raise ValueError(msg)  # noqa: TRY004 - a file's fault
        return Row(number, self._with_system(messages), self._id(number, record), json.dumps(body, sort_keys=True))

    def _with_system(self, messages: list[Any]) -> list[Any]:
        own = any(isinstance(m, Mapping) and m.get("role") in {"system", "developer"} for m in messages)
        return messages if self.system is None or own else [{"role": "system", "content": self.system}, *messages]


def _arguments(body: Mapping[str, Any]) -> dict[str, Any]:
    """LiteLLM's arguments of a batch line's parameters."""
    given = {name: value for name, value in body.items() if name in _ASKED and value is not None}
    rest = {name: value for name, value in body.items() if name not in {*_ASKED, "stream", "stream_options"}}
    return {"temperature": None, "max_tokens": None, **given, **({"extra_body": rest} if rest else {})}


def _is_missing(value: Any) -> bool:
    return value is None or (isinstance(value, str) and not value) or (isinstance(value, float) and math.isnan(value))


def json_lines(file: IO[bytes]) -> Records:
    """Each line's number and value. Raises ValueError, with the number, for a line that is not JSON."""
    for number, line in enumerate(file, 1):
        text = line.removeprefix(codecs.BOM_UTF8) if number == 1 else line
        if text.strip():
            try:
                yield number, json.loads(text)
            except ValueError as exc:
                msg = f"line {number} is not JSON ({exc}); for a table, say --format csv"
                raise ValueError(msg) from None


def _csv(file: IO[bytes]) -> Records:
    csv.field_size_limit(_LONGEST_CELL)
    text = io.TextIOWrapper(file, encoding="utf-8-sig", newline="")
    try:
        reader = csv.DictReader(text, strict=True)
        for record in reader:
            if None in record.values() or None in record:
                columns = len(reader.fieldnames or ())
                msg = f"line {reader.line_num} has not as many cells as the header ({columns}); quote cells with commas"
                raise ValueError(msg)
            yield reader.line_num, record
    except (csv.Error, UnicodeDecodeError) as exc:
        msg = f"this is no CSV in UTF-8: {exc}; save it as that, or say another --format"
        raise ValueError(msg) from None
    finally:
        text.detach()


def _parquet(file: IO[bytes]) -> Records:
    try:
        import pyarrow.parquet as pq  # noqa: PLC0415 - an optional dependency
    except ImportError as exc:
        msg = 'Parquet needs the "pandas" extra: pip install "llmbatch[pandas]"'
        raise ValueError(msg) from exc
    number = 0
    with pq.ParquetFile(file) as table:
        for batch in table.iter_batches(1024):
            for record in batch.to_pylist():
                number += 1
                yield number, record
