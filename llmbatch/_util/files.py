"""Files as llmbatch writes them: JSON lines, and files that are whole or not there."""

from __future__ import annotations

import json
import os
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any


def json_line(value: Any) -> bytes:
    """The value as a line of JSONL. Raises UnicodeEncodeError for text that is no UTF-8 (half an emoji)."""
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode() + b"\n"


def from_json(text: str | bytes) -> Any:
    """What a line or a file holds as JSON. Raises ValueError for what is none, or nested too deeply to be read."""
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def json_text(value: Any, **style: Any) -> str:
    """The value as JSON that can be written, whatever its texts: what is no UTF-8 is escaped."""
    text = json.dumps(value, ensure_ascii=False, **style)
    try:
        text.encode()
    except UnicodeEncodeError:
        return json.dumps(value, **style)
    return text


def replaceable(path: str | os.PathLike[str]) -> bool:
    """Whether a file may take the place of what is at `path`: of nothing, or of a file that is not our own output.

    A device, a pipe or what the shell has put there as standard output can only be written to.
    """
    return not Path(path).exists() or (Path(path).is_file() and not is_standard_output(path))


def is_standard_output(path: str | os.PathLike[str]) -> bool:
    """Whether this process prints to that very file, device or pipe."""
    try:
        return os.path.samestat(Path(path).stat(), os.fstat(1))
    except OSError:  # none of them there
        return False


@contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[IO[bytes]]:
    """A new file that takes the place of `path` at once when the block ends, and goes when the block raises.

    A link stays one, and what it leads to keeps its mode and owner. What no file may replace is written to as it is.
    """
    if not replaceable(path):
        with Path(path).open("wb") as file:
            yield file
        return
    place = Path(path).resolve()
    beside = place.with_name(f"{place.name}.{os.getpid()}-{threading.get_ident()}.tmp")
    try:
        with beside.open("wb") as file:
            if place.exists():
                _like(place, beside)
            yield file
            file.flush()
            os.fsync(file.fileno())
        beside.replace(place)
    except BaseException:
        beside.unlink(missing_ok=True)
        raise


def _like(place: Path, beside: Path) -> None:
    """Give a file the owner and mode of another one, as far as this user may."""
    shutil.copymode(place, beside)
    with suppress(OSError, AttributeError):  # Windows has no owners
        os.chown(beside, place.stat().st_uid, place.stat().st_gid)
