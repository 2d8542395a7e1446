"""Payloads on their way into input files of a size that the provider takes."""

from __future__ import annotations

import hashlib
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import IO, TYPE_CHECKING, Any

from llmbatch._jobs.rendering import Filling, PayloadChecks
from llmbatch._jobs.state import Part
from llmbatch._leaves.files import json_line

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from llmbatch._jobs.rendering import Line

__all__ = ["InputFiles", "write_input_files"]


@dataclass
class InputFiles:
    """Written input files: a `Part` and a path for each, the rows' ids in order, and the rows that cannot be sent."""

    parts: list[Part] = field(default_factory=list)
    paths: list[Path] = field(default_factory=list)
    custom_ids: list[str] = field(default_factory=list)
    invalid: dict[str, str] = field(default_factory=dict)
    metadata: dict[str, Any] = field(default_factory=dict)
    url: str | None = None


class _Writing:
    """The file that one model's lines go to now."""

    def __init__(self, max_rows: int, max_bytes: int) -> None:
        self.filling = Filling(max_rows, max_bytes)
        self.closed, self.at = ExitStack(), -1


def write_input_files(lines: Iterable[Line], directory: Path, *, max_rows: int, max_bytes: int) -> InputFiles:
    """Write lines to as few files as the limits allow, one model a file, in order, one by one.

    Raises ValueError for what the provider would refuse a whole file for.
    """
    made, check = InputFiles(), PayloadChecks(models=True)
    digests: list[Any] = []
    files: list[IO[bytes]] = []
    models: dict[str, _Writing] = {}
    with ExitStack() as opened:
        for index, line in enumerate(lines):
            made.custom_ids.append(line.custom_id)
            if line.metadata is not None:
                made.metadata[line.custom_id] = line.metadata
            if line.payload is None:
                made.invalid[line.custom_id] = line.problem
                continue
            check(line.payload, f"row {index}")
            data, model = json_line(line.payload), line.payload["body"]["model"]
            made.url = line.payload["url"]
            if len(data) > max_bytes:
                made.invalid[line.custom_id] = f"{len(data)} bytes are more than a file may hold ({max_bytes})"
                continue
            if model not in models:
                models[model] = _Writing(max_rows, max_bytes)
                opened.callback(models[model].closed.close)
            writing = models[model]
            if writing.filling.begins_file(len(data)):
                writing.closed.close()
                writing.at = len(made.paths)
                path = directory / f"part-{len(made.paths) + 1}.jsonl"
                files.append(writing.closed.enter_context(path.open("wb")))
                made.paths.append(path)
                made.parts.append(Part(path.name, spans=[], sha256="", bytes=0, model=model))
                digests.append(hashlib.sha256())
            files[writing.at].write(data)
            digests[writing.at].update(data)
            made.parts[writing.at].add(index, len(data))
    for part, digest in zip(made.parts, digests, strict=True):
        part.sha256 = digest.hexdigest()
    return made
