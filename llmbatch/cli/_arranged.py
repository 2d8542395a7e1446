"""The lines that `llmbatch run` leaves: one a row, in the input's order, and none that was paid for is lost."""

from __future__ import annotations

from contextlib import contextmanager
from typing import IO, TYPE_CHECKING, NamedTuple

from llmbatch._batch.checkpoint import lock, output_lines, rewriting, unlock
from llmbatch._leaves.lines import row_from_line, written_row

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from pathlib import Path

    from llmbatch._leaves.row import Row


def rows_in(path: Path) -> list[Row]:
    """The rows of a file of answers; of lines with the same id the last one counts. Raises CheckpointError."""
    with path.open("rb") as file:
        lines = {line["custom_id"]: line for _, _, line in output_lines(file, path) if line is not None}
    return [row_from_line(line) for line in lines.values()]


class Arranged(NamedTuple):
    """What a file of answers holds, and what became of the others.

    Attributes:
        answers: rows that have an answer.
        moved: answers that went to `NAME.old`.
        kept: rows that failed but keep the answer of an earlier run.
    """

    answers: int
    moved: int
    kept: int


def arrange(path: Path, custom_ids: Sequence[str] | None = None, more: Iterable[Row] = ()) -> Arranged:
    """Leave one line an id, in the order of `custom_ids` (else as they are), rows of `more` among them.

    Answers of rows that the input no longer has, or that have a newer answer, go to a file beside it, `NAME.old`, since
    they were paid for. No error takes the place of an answer.
    """
    with _held(path) as file:
        found = _Lines(file, path)
        wanted = list(found.kept if custom_ids is None else custom_ids)
        failed = {row["custom_id"]: row for row in more}
        made = {row_id: written_row(row) for row_id, row in failed.items() if row_id not in found.answers}
        kept = len(found.outlived | (failed.keys() & found.answers))
        left = found.superseded + [found.kept[row_id] for row_id in found.kept.keys() - set(wanted)]
        if left:
            with path.with_name(f"{path.name}.old").open("ab") as old:
                old.writelines(_line(file, place) for place in sorted(left))
        if made or found.repeated or list(found.kept) != wanted:
            with rewriting(path) as out:
                out.writelines(
                    made.get(row_id) or _line(file, found.kept[row_id])
                    for row_id in wanted
                    if row_id in made or row_id in found.kept
                )
    return Arranged(len(found.answers), len(left), kept)


class _Lines:
    """Which line of a file stands for each id: its last answer, else its last error.

    Attributes:
        kept: where that line is, in the order of the file.
        answers: the ids that have an answer.
        outlived: those whose answer is followed by an error.
        superseded: where answers are that have a newer one.
        repeated: whether ids repeat.
    """

    def __init__(self, file: IO[bytes], path: Path) -> None:
        self.kept: dict[str, tuple[int, int]] = {}
        self.answers: set[str] = set()
        self.outlived: set[str] = set()
        self.superseded: list[tuple[int, int]] = []
        self.repeated = False
        for offset, length, line in output_lines(file, path):
            if line is not None:
                self._add(str(line["custom_id"]), (offset, length), answer=not line.get("error"))

    def _add(self, custom_id: str, place: tuple[int, int], *, answer: bool) -> None:
        before = self.kept.get(custom_id)
        self.repeated |= before is not None
        if custom_id in self.answers and not answer:
            self.outlived.add(custom_id)
            return
        if before is not None and custom_id in self.answers:
            self.superseded.append(before)
        self.kept.pop(custom_id, None)
        self.kept[custom_id] = place
        if answer:
            self.answers.add(custom_id)


def _line(file: IO[bytes], place: tuple[int, int]) -> bytes:
    offset, length = place
    file.seek(offset)
    return file.read(length).rstrip(b"\n") + b"\n"


@contextmanager
def _held(path: Path) -> Iterator[IO[bytes]]:
    """The file open for reading, while no other run has it."""
    with path.open("ab+") as file:
        lock(file, path)
        file.seek(0)
        try:
            yield file
        finally:
            unlock(file)
