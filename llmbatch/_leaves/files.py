"""Files as llmbatch writes them: JSON lines, and files that are whole or not there. A leaf."""

from __future__ import annotations

import json
import os
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["json_line", "json_text", "replacing"]


def json_line(value: Any) -> bytes:
    """The value as a line of JSONL. Raises UnicodeEncodeError for text that is no UTF-8 (half an emoji)."""
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode() + b"\n"


def json_text(value: Any, **style: Any) -> str:
    """The value as JSON that can be written, whatever its texts: what is no UTF-8 is escaped."""
    text = json.dumps(value, ensure_ascii=False, **style)
    try:
        text.encode()
    except UnicodeEncodeError:
        return json.dumps(value, **style)
    return text


@contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[IO[bytes]]:
    """A new file that takes the place of `path` at once when the block ends, and goes when the block raises."""
    beside = Path(f"{os.fspath(path)}.{os.getpid()}.tmp")
    try:
        with beside.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)
    except BaseException:
        beside.unlink(missing_ok=True)
        raise
