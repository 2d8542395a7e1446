"""What `llmbatch run` writes: the checkpoint while rows finish, one line a row in the input's order once all have."""

from __future__ import annotations

from contextlib import contextmanager
from typing import IO, TYPE_CHECKING

from llmbatch._batch.checkpoint import lock, output_lines
from llmbatch._leaves.files import replacing
from llmbatch._leaves.lines import written_row

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from pathlib import Path

    from llmbatch._leaves.row import Row

__all__ = ["answered", "arrange"]

Places = dict[str, tuple[int, int]]


def answered(path: Path) -> int:
    """How many answers the file holds; of lines with the same id the last one stays, as the one asked last.

    Raises CheckpointError when another run writes to it, or when it is no output file.
    """
    if not path.exists():
        return 0
    with _held(path) as file:
        places, repeated, failed = _places(file, path)
        if repeated:
            with replacing(path) as out:
                out.writelines(_copied(file, places, list(places)))
    return len(places) - failed


def arrange(path: Path, custom_ids: Sequence[str], more: Iterable[Row]) -> int:
    """Bring the lines into the order of `custom_ids`, rows of `more` among them; returns how many others there were.

    Those others (of rows that the input no longer has) go to a file beside it, `NAME.old`, since they were paid for.
    """
    with _held(path) as file:
        places, repeated, _ = _places(file, path)
        made = {row["custom_id"]: written_row(row) for row in more}
        if not made and not repeated and list(places) == list(custom_ids):
            return 0
        wanted = set(custom_ids)
        others = [custom_id for custom_id in places if custom_id not in wanted]
        if others:
            with path.with_name(f"{path.name}.old").open("ab") as old:
                old.writelines(_copied(file, places, others))
        with replacing(path) as out:
            out.writelines(_copied(file, places, custom_ids, made))
    return len(others)


def _places(file: IO[bytes], path: Path) -> tuple[Places, bool, int]:
    """Where each id's last line is, in the order of these lines; whether ids repeat; how many lines have errors."""
    places: Places = {}
    lines = failed = 0
    for offset, length, line in output_lines(file, path):
        if line is not None:
            lines += 1
            custom_id = str(line["custom_id"])
            places.pop(custom_id, None)
            places[custom_id] = (offset, length)
            failed += bool(line.get("error"))
    return places, lines > len(places), failed


def _copied(
    file: IO[bytes], places: Places, custom_ids: Iterable[str], made: dict[str, bytes] | None = None
) -> Iterator[bytes]:
    for custom_id in custom_ids:
        if made and custom_id in made:
            yield made[custom_id]
        elif custom_id in places:
            offset, length = places[custom_id]
            file.seek(offset)
            yield file.read(length).rstrip(b"\n") + b"\n"


@contextmanager
def _held(path: Path) -> Iterator[IO[bytes]]:
    """The file open for reading, while no other run has it."""
    with path.open("ab+") as file:
        lock(file, path)
        file.seek(0)
        yield file
