"""What llmbatch knows of a batch job, as plain data in a small JSON file: ids and hashes, no prompts and no keys."""

from __future__ import annotations

import contextlib
import json
import os
import re
import time
import uuid
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from llmbatch._litellm import Target
from llmbatch._util.files import from_json, replacing
from llmbatch.errors import BatchJobError

_ENDED = frozenset({"completed", "failed", "expired", "cancelled"})
_FORMAT = 1
_AGAIN = re.compile(r"-ask(\d+)\.jsonl$")


@dataclass
class Part:
    """One input file and the provider's batch for it.

    Attributes:
        name: the file's name at the provider, by which a lost upload is found again.
        spans: the rows in it, as `[start, stop]` positions in the job's `custom_ids`.
        sha256: of the input file.
        tried: the step that was begun ("upload" or "create"): its outcome is unknown while its id is missing.
        status: the batch's, in OpenAI's words; "" before it was created.
        errors: why the provider refused the file as a whole, `{code, message, line}`.
        model: the provider's name of its rows' model; "" for the job's.
    """

    name: str
    spans: list[list[int]] = field(default_factory=list)
    sha256: str = ""
    bytes: int = 0
    tried: str = ""
    input_file_id: str | None = None
    batch_id: str | None = None
    status: str = ""
    output_file_id: str | None = None
    error_file_id: str | None = None
    request_counts: dict[str, int] = field(default_factory=dict)
    errors: list[dict[str, Any]] = field(default_factory=list)
    ended_at: int | None = None
    model: str = ""

    def add(self, position: int, size: int = 0) -> None:
        """One more row, of so many bytes; positions rise."""
        self.bytes += size
        if self.spans and self.spans[-1][1] == position:
            self.spans[-1][1] += 1
        else:
            self.spans.append([position, position + 1])

    def positions(self) -> Iterator[int]:
        """Where its rows are in the job's `custom_ids`."""
        for start, stop in self.spans:
            yield from range(start, stop)

    @property
    def asks(self) -> int:
        """Which ask of its rows it holds: 1, or more for what is asked again; its name at the provider says it."""
        again = _AGAIN.search(self.name)
        return int(again[1]) if again else 1

    @property
    def ended(self) -> bool:
        """Whether nothing more will happen to it."""
        return self.status in _ENDED

    def refused(self, why: str) -> None:
        """The provider made no batch of it, and will not be asked to again."""
        self.status, self.errors = "failed", [{"code": "not_submitted", "message": why, "line": None}]

    def update(self, batch: dict[str, Any]) -> None:
        """Take over what the provider says of its batch."""
        self.batch_id = batch.get("id") or self.batch_id
        self.input_file_id = batch.get("input_file_id") or self.input_file_id
        self.status = str(batch.get("status") or "validating").lower()
        self.output_file_id = batch.get("output_file_id") or None
        self.error_file_id = batch.get("error_file_id") or None
        ends = (batch.get(f"{status}_at") for status in ("completed", "failed", "expired", "cancelled"))
        self.ended_at = next((int(at) for at in ends if at), None)
        counts = batch.get("request_counts") or {}
        self.request_counts = {name: _count(counts.get(name)) for name in ("total", "completed", "failed")}
        problems = batch.get("errors") or {}
        problems = problems.get("data") if isinstance(problems, dict) else problems
        problems = [error for error in problems if isinstance(error, dict)] if isinstance(problems, list) else []
        self.errors = [{name: error.get(name) for name in ("code", "message", "line")} for error in problems]


def _count(told: Any) -> int:
    with contextlib.suppress(TypeError, ValueError, OverflowError):
        return int(told or 0)
    return 0


@dataclass
class JobState:
    """A job: where it runs, its rows' ids in the order of the input, and its parts.

    Attributes:
        invalid: rows that could not be sent, by id, with the reason.
        prices: the caller's own, USD a token.
        row_metadata: what the requests said to keep with their rows, by id.
    """

    model: str
    name: str
    provider: str
    api_base: str | None
    api_version: str | None
    endpoint: str
    completion_window: str
    metadata: dict[str, str]
    max_rows: int
    max_bytes: int
    custom_ids: list[str] = field(default_factory=list)
    invalid: dict[str, str] = field(default_factory=dict)
    row_metadata: dict[str, Any] = field(default_factory=dict)
    parts: list[Part] = field(default_factory=list)
    id: str = field(default_factory=lambda: f"job-{uuid.uuid4().hex[:16]}")
    prices: dict[str, float] = field(default_factory=dict)
    created_at: int = field(default_factory=lambda: int(time.time()))
    format: int = _FORMAT

    @property
    def target(self) -> Target:
        """Where it runs."""
        return self.target_of(self.name)

    def target_of(self, name: str) -> Target:
        """Where rows of this model run, by the provider's name for it ("": the job's own)."""
        model = self.model.removesuffix(self.name) + (name or self.name)
        return Target(model, name or self.name, self.provider, self.api_base, tuple(self.prices.items()))

    def same_input(self, other: JobState) -> bool:
        """Whether `other`, just made, asks the same of the same place, so that this one may go on where it stopped."""
        first = self.parts[: len(other.parts)]  # what follows are resubmissions
        return (self.model, self.endpoint, self.custom_ids, self.invalid, [part.sha256 for part in first]) == (
            other.model, other.endpoint, other.custom_ids, other.invalid, [part.sha256 for part in other.parts]
        )  # fmt: skip

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write it so that a crash leaves the old file or the new one. Raises BatchJobError where it cannot be."""
        target = Path(path)
        data = {"llmbatch": "batch job", **asdict(self)}
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            with replacing(target) as file:
                file.write(json.dumps(data, ensure_ascii=False, indent=1).encode())
        except OSError as exc:
            raise BatchJobError(
                f"cannot write the state file {target}: {exc.strerror}; make room in its folder, or give another path"
            ) from exc

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> JobState:
        """Read it back. Raises BatchJobError for a file that is none of ours, FileNotFoundError for no file."""
        try:
            data = from_json(Path(path).read_text("utf-8"))
            if data.pop("llmbatch", None) != "batch job" or data.get("format") != _FORMAT:
                raise ValueError  # noqa: TRY301 - said below
            return cls(**{**data, "parts": [Part(**part) for part in data["parts"]]})
        except (ValueError, TypeError, KeyError, AttributeError) as exc:
            raise BatchJobError(
                f"{os.fspath(path)} is not a batch job's state file of this version of llmbatch; choose another path"
            ) from exc


def job_state_path(journal: str | os.PathLike[str]) -> Path:
    """Where the state of the job is whose rows are kept in this checkpoint."""
    return Path(f"{os.fspath(journal)}.job")
