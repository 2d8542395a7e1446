"""The state of a batch job, as plain data in a small JSON file: ids and hashes, no prompts and no keys."""

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

# The status of an input file that is to be submitted again: the provider rejected it for a reason that passes.
WAITING = "waiting"
# OpenAI's words, in the order in which a batch goes through them; a job has the status of its slowest batch.
_RUNNING = (WAITING, "validating", "in_progress", "finalizing", "cancelling")
_UNSUCCESSFUL = ("failed", "expired", "cancelled")
_ENDED = frozenset({"completed", *_UNSUCCESSFUL})
_COUNTS = ("total", "completed", "failed")
_FORMAT = 1
_REASK_FILE = re.compile(r"-ask(\d+)\.jsonl$")
_QUEUE_FULL = "token_limit_exceeded"  # OpenAI's and Azure's code for the account's limit of enqueued tokens
# OpenAI does not find a file for some seconds after its upload.
FILE_NOT_FOUND = re.compile(r"(?i)\bcannot find file\b|\bno such file\b")
_MOST_NOT_FOUND, _MOST_QUEUE_FULL = 5, 300  # rejections of one input file


@dataclass
class InputFile:
    """One input file of a job, and the provider's batch for it.

    Attributes:
        name: the file's name at the provider, by which a lost upload is found again.
        spans: the rows in it, as `[start, stop]` positions in the job's `custom_ids`.
        sha256: of the file.
        tried: the step that was begun ("upload" or "create"): its outcome is unknown while its id is missing.
        status: the batch's status in OpenAI's words; "" before there is a batch, "waiting" to be submitted again.
        errors: why the provider rejected the file as a whole, `{code, message, line}`.
        model: the provider's name of its rows' model; "" for the job's.
        rejections: how often the provider has rejected it for a reason that passes.
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
    rejections: int = 0

    def add(self, position: int, size: int = 0) -> None:
        """Add a row of `size` bytes."""
        self.bytes += size
        if self.spans and self.spans[-1][1] == position:
            self.spans[-1][1] += 1
        else:
            self.spans.append([position, position + 1])

    def positions(self) -> Iterator[int]:
        """Yield the positions of its rows in the job's `custom_ids`, in the order of its lines."""
        for start, stop in self.spans:
            yield from range(start, stop)

    @property
    def reask_round(self) -> int:
        """The number of the ask of its rows: 1, or more for re-asks. Its name at the provider says so."""
        named = _REASK_FILE.search(self.name)
        return int(named[1]) if named else 1

    @property
    def ended(self) -> bool:
        """Whether nothing more happens to it."""
        return self.status in _ENDED

    @property
    def running(self) -> bool:
        """Whether the provider works on it."""
        return self.batch_id is not None and not self.ended

    @property
    def queue_was_full(self) -> bool:
        """Whether the provider rejected it since the account's queue of batch jobs was full."""
        return any(error["code"] == _QUEUE_FULL for error in self.errors)

    def reject(self, why: str, code: str = "not_submitted") -> None:
        """End it without a batch."""
        self.status, self.errors = "failed", [{"code": code, "message": why, "line": None}]

    def wait_for_resubmission(self) -> bool:
        """Make it wait if its batch failed for a reason that passes. The uploaded file can be used again."""
        unfound = any(FILE_NOT_FOUND.search(str(error["message"])) and not error["line"] for error in self.errors)
        most = _MOST_QUEUE_FULL if self.queue_was_full else _MOST_NOT_FOUND if unfound else 0
        if self.status != "failed" or self.rejections >= most:
            return False
        self.rejections += 1
        self.status, self.batch_id, self.tried, self.ended_at = WAITING, None, "", None
        return True

    def update(self, batch: dict[str, Any]) -> None:
        """Take over the provider's batch object."""
        self.batch_id = batch.get("id") or self.batch_id
        self.input_file_id = batch.get("input_file_id") or self.input_file_id
        self.status = str(batch.get("status") or "validating").lower()
        self.output_file_id = batch.get("output_file_id") or None
        self.error_file_id = batch.get("error_file_id") or None
        ends = (batch.get(f"{status}_at") for status in ("completed", *_UNSUCCESSFUL))
        self.ended_at = next((int(at) for at in ends if at), None)
        counts = batch.get("request_counts") or {}
        self.request_counts = {name: _count(counts.get(name)) for name in _COUNTS}
        problems = batch.get("errors") or {}
        problems = problems.get("data") if isinstance(problems, dict) else problems
        problems = [error for error in problems if isinstance(error, dict)] if isinstance(problems, list) else []
        self.errors = [{name: error.get(name) for name in ("code", "message", "line")} for error in problems]


def _count(value: Any) -> int:
    with contextlib.suppress(TypeError, ValueError, OverflowError):
        return int(value or 0)
    return 0


@dataclass
class JobState:
    """A job: where it runs, its rows' ids in the order of the input, and its input files.

    Attributes:
        invalid: rows that cannot be sent, by id, with the reason.
        prices: the caller's own, in USD per token.
        row_metadata: the `metadata` of the requests, by id.
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
    input_files: list[InputFile] = field(default_factory=list)
    id: str = field(default_factory=lambda: f"job-{uuid.uuid4().hex[:16]}")
    prices: dict[str, float] = field(default_factory=dict)
    created_at: int = field(default_factory=lambda: int(time.time()))
    format: int = _FORMAT

    @property
    def parts(self) -> list[InputFile]:
        """Deprecated name of `input_files`."""
        return self.input_files

    @property
    def target(self) -> Target:
        """The model and address that the job runs at."""
        return self.target_of(self.name)

    def target_of(self, name: str) -> Target:
        """Return the target of rows with this model, by the provider's name for it ("": the job's own)."""
        model = self.model.removesuffix(self.name) + (name or self.name)
        return Target(model, name or self.name, self.provider, self.api_base, tuple(self.prices.items()))

    @property
    def batch_ids(self) -> list[str]:
        """The provider's ids of its batches."""
        return [file.batch_id for file in self.input_files if file.batch_id]

    @property
    def status(self) -> str:
        """`submitting` until each input file was submitted, then as `BatchJob.status` says."""
        statuses = {file.status for file in self.input_files}
        if "" in statuses:
            return "submitting"
        return next((status for status in (*_RUNNING, *_UNSUCCESSFUL) if status in statuses), "completed")

    @property
    def ended(self) -> bool:
        """Whether all of its input files have ended."""
        return all(file.ended for file in self.input_files)

    @property
    def request_counts(self) -> dict[str, int]:
        """The provider's own counts, summed over the input files."""
        counts = [file.request_counts for file in self.input_files]
        return {name: sum(count.get(name, 0) for count in counts) for name in _COUNTS}

    def has_same_requests(self, other: JobState) -> bool:
        """Whether `other`, just made, has the same requests for the same model, so that this job can be continued."""
        first = self.input_files[: len(other.input_files)]  # later ones are resubmissions

        def compared(state: JobState, files: list[InputFile]) -> Any:
            return state.model, state.endpoint, state.custom_ids, state.invalid, [file.sha256 for file in files]

        return bool(compared(self, first) == compared(other, other.input_files))

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the state file, atomically. Raises BatchJobError if it cannot be written."""
        target = Path(path)
        data = {"llmbatch": "batch job", **asdict(self)}
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            with replacing(target) as file:
                file.write(json.dumps(data, ensure_ascii=False, indent=1).encode())
        except OSError as exc:
            raise BatchJobError(
                f"cannot write the state file {target}: {exc.strerror}. Make room in its folder, or give another path"
            ) from exc

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> JobState:
        """Read a state file. Raises FileNotFoundError, and BatchJobError for a file of another kind."""
        try:
            data = from_json(Path(path).read_text("utf-8"))
            if data.pop("llmbatch", None) != "batch job" or data.get("format") != _FORMAT:
                raise ValueError  # noqa: TRY301 - explained below
            files = data.pop("parts", None) or data.get("input_files") or []  # llmbatch 0.1 wrote "parts"
            return cls(**{**data, "input_files": [InputFile(**file) for file in files]})
        except (ValueError, TypeError, KeyError, AttributeError) as exc:
            raise BatchJobError(
                f"{os.fspath(path)} is not a batch job's state file, or one of a newer llmbatch. Give another path"
            ) from exc


def job_state_path(checkpoint: str | os.PathLike[str]) -> Path:
    """Return the path of the state file of the job whose rows are kept in this checkpoint."""
    return Path(f"{os.fspath(checkpoint)}.job")
