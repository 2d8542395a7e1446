"""The options of `complete_table`: what is the table's, and what is the batch's."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

from llmbatch._output.stats import RunStats
from llmbatch._request.parsed_request import ParsedRequest
from llmbatch._request.plans import check_names
from llmbatch._tables.read_files import FORMATS, FileKind, file_kind
from llmbatch._tables.row_requests import RowRequests
from llmbatch._util.checks import checked_ids
from llmbatch._util.files import replaceable
from llmbatch._util.template import RowTemplate

Missing = Literal["skip", "error"]
PathLike = str | os.PathLike[str]

_SUFFIXES = f"Give it one of these suffixes, also with .gz behind it: {', '.join(FORMATS)}"
_OWN = frozenset({"output", "images", "missing", "details"})
_WARNING_LEVEL = 4  # the caller of complete_table


class Output(NamedTuple):
    """A file for a completed table, and the checkpoint next to it."""

    path: Path
    kind: FileKind
    checkpoint: Path


class SizedRequests(Iterable[ParsedRequest]):
    """Requests that are made when they are iterated, and whose number is known."""

    def __init__(self, made: RowRequests, rows: Any, count: int) -> None:
        self._made, self._rows, self._count = made, rows, count

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[ParsedRequest]:
        return self._made.of(self._rows())


def checked_kind(path: Path) -> FileKind:
    """Return the kind of a file by its suffix. Raises ValueError for an unknown one."""
    if (kind := file_kind(path)) is None:
        raise ValueError(f"{path} is not a table by its name. {_SUFFIXES}.")
    return kind


def checked_output(output: PathLike, source: Path | None, checkpoint: PathLike | None) -> Output:
    """Return the output file. Raises ValueError if it cannot be written, or would replace a file of the user's."""
    path = Path(output)
    kind = checked_kind(path)
    if not replaceable(path):
        raise ValueError(f"{path} is not a regular file. Give another path.")
    beside = path.with_name(f"{path.name}.jsonl") if checkpoint is None else Path(checkpoint)
    if source is not None and path.exists() and path.samefile(source):
        raise ValueError(f"table and output are the same file, {path}. Give the completed table a path of its own.")
    if path.resolve() == beside.resolve():
        raise ValueError(f"output and checkpoint are the same file, {path}. Give the checkpoint a path of its own.")
    if path.exists() and not beside.exists():
        raise ValueError(
            f"{path} already exists, and has no checkpoint {beside.name}. Give another path, or remove it."
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    return Output(path, kind, beside)


def row_requests(
    template: RowTemplate, names: Sequence[str], images: str | None, missing: str, options: dict[str, Any]
) -> RowRequests:
    """Return the requests of a table's rows; what is the table's is taken out of `options`. Raises ValueError."""
    if missing not in {"skip", "error"}:
        raise ValueError(f"missing must be 'skip' or 'error', not {missing!r}")
    check_names(options, own=_OWN)
    ids = options.pop("custom_ids", None)
    made = RowRequests(
        template,
        names,
        images=images,
        skips=missing == "skip",
        custom_ids=None if ids is None else list(checked_ids(ids)),
    )
    if callable(on_result := options.get("on_result")):
        options["on_result"] = lambda index, row: on_result(made.position(index), row)
    return made


def warn_of(made: RowRequests, stats: RunStats, rows: int, details: Sequence[str]) -> None:
    """Warn once of rows that were not sent, and once of rows that failed unless their errors are in a column."""
    if text := made.missing_text(rows):
        warnings.warn(f"{text}.", stacklevel=_WARNING_LEVEL)
    if stats.failed and "error" not in details:
        failures = "; ".join(map(str, stats.failures))
        fix = "Pass details=['error'] to have the errors in a column."
        warnings.warn(f"{stats.failed:,} of {rows:,} rows failed: {failures}. {fix}", stacklevel=_WARNING_LEVEL)
