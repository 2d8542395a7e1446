"""Payloads on their way into input files of a size that the provider takes."""

from __future__ import annotations

import hashlib
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from llmbatch._jobs.rendering import BadRow, Filling, PayloadChecks
from llmbatch._jobs.state import Part
from llmbatch._leaves.files import json_line

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from llmbatch.providers.base import Payload

__all__ = ["InputFiles", "write_input_files"]


@dataclass
class InputFiles:
    """Written input files: a `Part` and a path for each, the rows' ids in order, and the rows that cannot be sent."""

    parts: list[Part] = field(default_factory=list)
    paths: list[Path] = field(default_factory=list)
    custom_ids: list[str] = field(default_factory=list)
    invalid: dict[str, str] = field(default_factory=dict)
    model: str | None = None
    url: str | None = None


def write_input_files(
    payloads: Iterable[Payload | BadRow], directory: Path, *, max_rows: int, max_bytes: int
) -> InputFiles:
    """Write payloads to as few files as the limits allow, in order, one by one.

    Raises ValueError for what the provider would refuse a whole file for.
    """
    made, check, filling = InputFiles(), PayloadChecks(), Filling(max_rows, max_bytes)
    digests: list[Any] = []
    with ExitStack() as opened:
        for index, payload in enumerate(payloads):
            if isinstance(payload, BadRow):
                made.invalid[payload.custom_id] = str(payload)
                made.custom_ids.append(payload.custom_id)
                continue
            check(payload, f"row {index}")
            line = json_line(payload)
            made.custom_ids.append(payload["custom_id"])
            made.model, made.url = payload["body"]["model"], payload["url"]
            if len(line) > max_bytes:
                made.invalid[payload["custom_id"]] = f"{len(line)} bytes are more than a file may hold ({max_bytes})"
                continue
            if filling.begins_file(len(line)):
                opened.close()
                path = directory / f"part-{len(made.paths) + 1}.jsonl"
                file = opened.enter_context(path.open("wb"))
                part = Part(path.name, spans=[], sha256="", bytes=0)
                made.paths.append(path)
                made.parts.append(part)
                digests.append(hashlib.sha256())
            file.write(line)
            digests[-1].update(line)
            part.add(index, len(line))
    for part, digest in zip(made.parts, digests, strict=True):
        part.sha256 = digest.hexdigest()
    return made
