"""JSON lines, and files that are either complete or not there."""

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
    """Return the value as a line of JSONL. Raises UnicodeEncodeError for half a surrogate pair."""
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode() + b"\n"


def from_json(text: str | bytes) -> Any:
    """Parse a line or a file as JSON. Raises ValueError if it is not JSON, or nested too deeply."""
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def json_text(value: Any, **style: Any) -> str:
    """Return the value as JSON that can be written: text that UTF-8 cannot hold is escaped."""
    text = json.dumps(value, ensure_ascii=False, **style)
    try:
        text.encode()
    except UnicodeEncodeError:
        return json.dumps(value, **style)
    return text


def replaceable(path: str | os.PathLike[str]) -> bool:
    """Return whether a new file may replace `path`: there is nothing, or a file that is not our standard output.

    A device, a pipe, or the file that the shell has opened as standard output can only be written to.
    """
    return not Path(path).exists() or (Path(path).is_file() and not is_standard_output(path))


def is_standard_output(path: str | os.PathLike[str]) -> bool:
    """Return whether the path is the file, device or pipe that this process prints to."""
    try:
        return os.path.samestat(Path(path).stat(), os.fstat(1))
    except OSError:  # none of them there
        return False


@contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[IO[bytes]]:
    """Open a new file that replaces `path` atomically when the block ends, and is deleted when the block raises.

    A link stays a link, and its target keeps its mode and owner. A device or pipe is written to in place.
    """
    if not replaceable(path):
        with Path(path).open("wb") as file:
            yield file
        return
    place = Path(path).resolve()
    temporary = place.with_name(f"{place.name}.{os.getpid()}-{threading.get_ident()}.tmp")
    try:
        with temporary.open("wb") as file:
            if place.exists():
                _copy_mode_and_owner(place, temporary)
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(place)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def _copy_mode_and_owner(source: Path, target: Path) -> None:
    """Give `target` the owner and mode of `source`, as far as this user may."""
    shutil.copymode(source, target)
    with suppress(OSError, AttributeError):  # Windows has no owners
        os.chown(target, source.stat().st_uid, source.stat().st_gid)
