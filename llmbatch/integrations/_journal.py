"""A directory of finished rows that many workers share: each appends to its own file and knows all that came before.

The lines are those of a checkpoint. No locks are needed, so that any shared file system will do.
"""

from __future__ import annotations

import json
import uuid
from collections import defaultdict
from pathlib import Path
from typing import TYPE_CHECKING

from llmbatch._batch.checkpoint import output_lines
from llmbatch._leaves.lines import row_from_line, written_row

if TYPE_CHECKING:
    import os

    from llmbatch._leaves.row import Row


class Journal:
    """The answers in a directory as they were when it was opened, and a new file for more."""

    def __init__(self, directory: str | os.PathLike[str]) -> None:
        self._directory = Path(directory)
        self._directory.mkdir(parents=True, exist_ok=True)
        self._places: defaultdict[str, list[tuple[Path, int]]] = defaultdict(list)
        for path in sorted(self._directory.glob("*.jsonl")):
            self._load(path)
        self._own = self._directory / f"{uuid.uuid4().hex}.jsonl"

    def take(self, key: str) -> Row | None:
        """An answer under this key, each one once."""
        places = self._places.get(key)
        if not places:
            return None
        path, offset = places.pop()
        with path.open("rb") as file:
            file.seek(offset)
            return row_from_line(json.loads(file.readline()))

    def append(self, key: str, row: Row) -> None:
        """Keep a finished row; failed ones are not kept, so that they are sent again."""
        if "error" in row:
            return
        with self._own.open("ab") as file:
            file.write(written_row(row, request=key))

    def _load(self, path: Path) -> None:
        with path.open("rb") as file:
            for offset, _, line in output_lines(file, path):
                if line is not None:  # else torn by the end of its worker
                    self._places[line["llmbatch"]["request"]].append((path, offset))
