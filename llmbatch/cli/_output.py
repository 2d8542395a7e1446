"""What `llmbatch run` writes: the checkpoint while rows finish, one line a row in the input's order once all have."""

from __future__ import annotations

import shutil
import sys
import tempfile
from contextlib import ExitStack, contextmanager, redirect_stdout
from pathlib import Path
from typing import IO, TYPE_CHECKING, NamedTuple

from llmbatch._batch.checkpoint import lock, output_lines, rewriting, unlock
from llmbatch._leaves.files import is_standard_output, replaceable
from llmbatch._leaves.lines import written_row

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from llmbatch._leaves.row import Row


@contextmanager
def journal(output: Path) -> Iterator[Path]:
    """The file that rows are written to as they finish: `output`, or one that is copied to a device or pipe in the end.

    Where that is standard output it has the rows alone: what is printed meanwhile goes to standard error.
    """
    if replaceable(output):
        yield output
        return
    with ExitStack() as stack:
        path = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="llmbatch-"))) / output.name
        if is_standard_output(output):
            device: IO[bytes] = sys.stdout.buffer
            stack.callback(device.flush)
            stack.enter_context(redirect_stdout(sys.stderr))
        else:
            device = stack.enter_context(output.open("ab"))
        try:
            yield path
        finally:
            if path.exists():
                with path.open("rb") as file:
                    shutil.copyfileobj(file, device)


def answered(path: Path) -> int:
    """How many answers the file holds; of lines with the same id one stays.

    Raises CheckpointError when another run writes to it, or when it is no output file.
    """
    if not path.exists():
        return 0
    with _held(path) as file:
        found = _Lines(file, path)
        if found.repeated:
            _rewrite(file, path, found, found.kept)
    return len(found.answers)


class Arranged(NamedTuple):
    """How many answers went to `NAME.old`, and how many rows failed but keep the answer of an earlier run."""

    moved: int
    kept: int


def arrange(path: Path, custom_ids: Sequence[str], more: Iterable[Row]) -> Arranged:
    """Bring the lines into the order of `custom_ids`, rows of `more` among them.

    Answers of rows that the input no longer has, or that have a newer answer, go to a file beside it, `NAME.old`, since
    they were paid for. No error takes the place of an answer.
    """
    with _held(path) as file:
        found = _Lines(file, path)
        failed = {row["custom_id"]: row for row in more}
        made = {row_id: written_row(row) for row_id, row in failed.items() if row_id not in found.answers}
        kept = len(found.outlived | (failed.keys() & found.answers))
        if not made and not found.repeated and list(found.kept) == list(custom_ids):
            return Arranged(0, kept)
        return Arranged(_rewrite(file, path, found, custom_ids, made), kept)


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
        self.repeated = self.repeated or custom_id in self.kept
        if custom_id in self.answers:
            if not answer:
                self.outlived.add(custom_id)
                return
            self.superseded.append(self.kept[custom_id])
        self.kept.pop(custom_id, None)
        self.kept[custom_id] = place
        if answer:
            self.answers.add(custom_id)


def _rewrite(
    file: IO[bytes], path: Path, found: _Lines, custom_ids: Iterable[str], made: Mapping[str, bytes] | None = None
) -> int:
    """Write the lines of these ids, made ones among them, and append what is left to `NAME.old`; returns how many."""
    wanted, made = list(custom_ids), made or {}
    left = found.superseded + [found.kept[row_id] for row_id in found.kept.keys() - set(wanted)]
    if left:
        with path.with_name(f"{path.name}.old").open("ab") as old:
            old.writelines(_line(file, place) for place in sorted(left))
    with rewriting(path) as out:
        for row_id in wanted:
            if row_id in made:
                out.write(made[row_id])
            elif row_id in found.kept:
                out.write(_line(file, found.kept[row_id]))
    return len(left)


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
