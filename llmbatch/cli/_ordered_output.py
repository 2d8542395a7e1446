"""The output of `llmbatch run`: one line per row, in the input's order, without losing a paid answer."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, NamedTuple

from llmbatch._batch.checkpoint import lock, output_lines, rewriting, unlock
from llmbatch._output.jsonl import row_from_line, written_row
from llmbatch._rows.row import Row


def rows_in(path: Path) -> list[Row]:
    """Return the rows of an output file; the last line of each id counts. Raises CheckpointError."""
    with path.open("rb") as file:
        lines = {line["custom_id"]: line for _, _, line in output_lines(file, path) if line is not None}
    return [row_from_line(line) for line in lines.values()]


class Arranged(NamedTuple):
    """What an output file contains, and what was done with other lines.

    Attributes:
        answers: rows that have an answer.
        moved: answers that went to `NAME.old`.
        kept: rows that failed but keep the answer of an earlier run.
    """

    answers: int
    moved: int
    kept: int


def arrange(path: Path, custom_ids: Sequence[str] | None = None, more: Iterable[Row] = ()) -> Arranged:
    """Keep one line per id, in the order of `custom_ids` (default: the present order), and insert the rows of `more`.

    An error never overwrites an answer. Paid answers of changed or removed rows are moved to `NAME.old`.
    """
    with _held(path) as file:
        found = _Lines(file, path)
        wanted = list(found.kept if custom_ids is None else custom_ids)
        answered = {row_id for row_id, line in found.kept.items() if line.answer}
        failed = {row["custom_id"]: row for row in more}
        made = {row_id: written_row(row) for row_id, row in failed.items() if row_id not in answered}
        left = found.superseded + [found.kept[row_id] for row_id in found.kept.keys() - set(wanted)]
        if left:
            with path.with_name(f"{path.name}.old").open("ab") as old:
                old.writelines(line.read(file) for line in sorted(left))
        if made or found.repeated or list(found.kept) != wanted:
            with rewriting(path) as out:
                out.writelines(
                    made.get(row_id) or found.kept[row_id].read(file)
                    for row_id in wanted
                    if row_id in made or row_id in found.kept
                )
    return Arranged(len(answered), len(left), len(found.outlived | (failed.keys() & answered)))


class _Line(NamedTuple):
    offset: int
    length: int
    answer: bool

    def read(self, file: IO[bytes]) -> bytes:
        file.seek(self.offset)
        return file.read(self.length).rstrip(b"\n") + b"\n"


class _Lines:
    """The line of each id in a file: its last answer, or its last error if it has no answer.

    Attributes:
        kept: that line, by id.
        outlived: the ids whose answer is followed by an error.
        superseded: answers that have a newer one.
        repeated: whether ids repeat.
    """

    def __init__(self, file: IO[bytes], path: Path) -> None:
        self.kept: dict[str, _Line] = {}
        self.outlived: set[str] = set()
        self.superseded: list[_Line] = []
        self.repeated = False
        for offset, length, line in output_lines(file, path):
            if line is not None:
                self._add(str(line["custom_id"]), _Line(offset, length, not line.get("error")))

    def _add(self, custom_id: str, line: _Line) -> None:
        before = self.kept.pop(custom_id, None)
        self.kept[custom_id] = line
        self.repeated |= before is not None
        if before is not None and before.answer:
            if line.answer:
                self.superseded.append(before)
            else:
                self.outlived.add(custom_id)
                self.kept[custom_id] = before


@contextmanager
def _held(path: Path) -> Iterator[IO[bytes]]:
    """Open the file for reading, and lock it against other runs."""
    with path.open("ab+") as file:
        lock(file, path)
        file.seek(0)
        try:
            yield file
        finally:
            unlock(file)
