"""The checkpoint: a line for each finished row, in the format of OpenAI's batch output files.

It holds answers and digests of requests, never prompts or keys. A line survives `kill -9` once it is written; a torn
last line and superseded failures are dropped when the file is opened again.
"""

from __future__ import annotations

import json
import os
import sys
import weakref
from collections import Counter, defaultdict, deque
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from llmbatch._output.jsonl import SUCCESS, is_line, row_from_line, written_row
from llmbatch._util.files import from_json, replaceable, replacing
from llmbatch._util.identity import first_id
from llmbatch.errors import CheckpointError

if sys.platform != "win32":  # where nothing is locked
    import fcntl

from collections.abc import Iterator, Mapping

from llmbatch._rows.row import Row

_Fields = frozenset[tuple[str, str]]
_locked: weakref.WeakSet[IO[bytes]] = weakref.WeakSet()


class Checkpoint:
    """An open checkpoint file.

    Raises CheckpointError if another run uses the file, or if it is not a checkpoint.

    Attributes:
        spent: USD of all rows in the file: of earlier runs, and of failed rows that cost something.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self._places: dict[str, tuple[int, int]] = {}
        self._paid: list[tuple[int, int]] = []
        self.spent = 0.0
        self._known: dict[str, _Fields] = {}
        self._upgraded: defaultdict[str, deque[str]] | None = None
        self.changes: Counter[str] = Counter()
        try:
            if not replaceable(self.path):
                raise OSError(0, "not a regular file, or hard-linked")  # noqa: TRY301 - reported below
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._file = self.path.open("ab+")
        except OSError as exc:
            raise CheckpointError(f"cannot open the checkpoint {self.path}: {exc.strerror}; give another path") from exc
        try:
            lock(self._file, self.path)
            if os.fstat(self._file.fileno()).st_ino != self.path.stat().st_ino:
                raise CheckpointError(_in_use(self.path))  # noqa: TRY301 - the other run has just replaced the file
            self._load()
        except BaseException:
            self.close()
            raise

    def found(self, request_id: str, fingerprints: Mapping[str, str], upgrade_id: str = "") -> Row | None:
        """Return the row that an earlier run finished for this request, None for a request that has to be sent."""
        place = self._places.get(request_id)
        if place is None and upgrade_id and _split(fingerprints)[0] in self._known:
            place = self._place_before_upgrade(request_id, upgrade_id)
        row = None if place is None else row_from_line(json.loads(self._read(*place)))
        return None if row is None or "error" in row else row

    def _place_before_upgrade(self, request_id: str, upgrade_id: str) -> tuple[int, int] | None:
        """Return the next line of a request that had another id under another version of LiteLLM or pydantic."""
        if self._upgraded is None:
            self._upgraded = defaultdict(deque)
            for key, place in self._places.items():
                own = json.loads(self._read(*place)).get("llmbatch") or {}
                self._upgraded[own.get("upgrade_id") or ""].append(key)
        keys = self._upgraded.get(upgrade_id)
        # A further duplicate of a request whose id is the same has to be sent.
        if not keys or first_id(keys[0]) == first_id(request_id):
            return None
        place = self._places[request_id] = self._places[keys.popleft()]
        return place

    def _read(self, offset: int, length: int) -> bytes:
        return os.pread(self._file.fileno(), length, offset)

    def note_change(self, fingerprints: Mapping[str, str]) -> None:
        """Count the fields that differ from an earlier request with the same prompt."""
        prompt, others = _split(fingerprints)
        known = self._known.get(prompt)
        if known is not None:
            self.changes.update({name for name, _ in known ^ others})

    def append(self, request_id: str, fingerprints: Mapping[str, str], row: Row, upgrade_id: str = "") -> None:
        """Write one finished row. Raises CheckpointError when it cannot be written; the file stays whole."""
        upgrade = {"upgrade_id": upgrade_id} if upgrade_id else {}
        data = written_row(row, request=request_id, fingerprints=dict(fingerprints), **upgrade)
        file = self._file.fileno()
        before = os.fstat(file).st_size
        try:
            while data:
                data = data[os.write(file, data) :]
        except OSError as exc:
            os.ftruncate(file, before)
            raise CheckpointError(
                f"cannot write to the checkpoint {self.path}: {exc.strerror}; make room, then run again"
            ) from exc

    def close(self) -> None:
        """Close the file, and unlock it for other processes."""
        unlock(self._file)
        self._file.close()

    def _load(self) -> None:
        """Find the answered rows. The file is rewritten if it holds anything else."""
        self._file.seek(0)
        size = dropped = 0
        interned: dict[_Fields, _Fields] = {}
        for offset, length, line in output_lines(self._file, self.path):
            size += length
            if line is None:
                dropped += 1
                continue
            own = line.get("llmbatch") or {}
            row = own if _is_own_answer(line, own) else row_from_line(line)
            cost = row.get("cost") or 0.0
            self.spent += cost
            if "error" in row:
                # Kept for what it has cost, which counts towards `max_cost`.
                self._paid += [(offset, length)] if cost else []
                dropped += not cost
            else:
                key = own.get("request") or line["custom_id"]
                if key in self._places:
                    dropped += 1
                    self.spent -= cost
                self._places[key] = (offset, length)
                if prints := own.get("fingerprints"):
                    prompt, others = _split(prints)
                    self._known[prompt] = interned.setdefault(others, others)
        if dropped or (size and self._read(size - 1, 1) != b"\n"):  # an editor may leave out the last one
            self._compact()

    def _compact(self) -> None:
        """Replace the file at once by one with the answered rows, and the failed rows that cost something."""
        places = {}
        with rewriting(self.path) as out:
            for place in self._paid:  # before the answers: of lines with one id the last one counts
                out.write(self._read(*place).removesuffix(b"\n") + b"\n")
            for key, place in self._places.items():
                data = self._read(*place).removesuffix(b"\n") + b"\n"
                places[key] = out.tell(), len(data)
                out.write(data)
            fresh = Path(out.name).open("ab+")  # noqa: SIM115 - locked before anybody else can open it, and kept
            lock(fresh, self.path)
        self.close()
        self._file, self._places = fresh, places


def _is_own_answer(line: Mapping[str, Any], own: Mapping[str, Any]) -> bool:
    """Return whether a line is an answer that llmbatch wrote, which needs no look before it is used."""
    status = (line.get("response") or {}).get("status_code")
    return "request" in own and "error_details" not in own and line.get("error") is None and status in SUCCESS


def _split(fingerprints: Mapping[str, str]) -> tuple[str, _Fields]:
    """Return the prompt's digest, and the digests of the other fields."""
    fields = dict(fingerprints)
    prompt = fields.pop("messages", "") or fields.pop("input", "")
    return prompt, frozenset(fields.items())


def lock(file: IO[bytes], path: Path) -> None:
    """Lock the file for this process. The lock ends with the process, however it ends."""
    if sys.platform != "win32":
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise CheckpointError(_in_use(path)) from None
        _locked.add(file)


def unlock(file: IO[bytes]) -> None:
    """Unlock the file, even if a child process has it open too."""
    _locked.discard(file)
    if sys.platform != "win32":
        fcntl.flock(file, fcntl.LOCK_UN)


def _let_go() -> None:
    """Close the locked files in a forked child: a lock is shared by all processes that have the file open."""
    nothing = os.open(os.devnull, os.O_RDWR)
    for file in _locked:
        if not file.closed:
            os.dup2(nothing, file.fileno(), inheritable=False)
    os.close(nothing)
    _locked.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_let_go)


@contextmanager
def rewriting(path: Path) -> Iterator[IO[bytes]]:
    """Replace a file atomically, as `replacing` does. Raises CheckpointError if its folder takes no new file."""
    try:
        with replacing(path) as file:
            yield file
    except OSError as exc:
        raise CheckpointError(
            f"cannot rewrite {path}: {exc.strerror}. It is replaced by a new file in the same folder: free disk "
            "space, make the folder writable, or pass another path"
        ) from exc


def _in_use(path: Path) -> str:
    return f"the checkpoint {path} is in use by another run; wait for it, or give this run a file of its own"


def output_lines(file: IO[bytes], path: Path) -> Iterator[tuple[int, int, dict[str, Any] | None]]:
    """Yield offset, length and value of each line; the value is None for an incomplete last line.

    Raises CheckpointError for a line that is not a batch output line.
    """
    offset = 0
    for number, data in enumerate(file, 1):
        yield offset, len(data), _parsed(data, number, path)
        offset += len(data)


def _parsed(data: bytes, number: int, path: Path) -> dict[str, Any] | None:
    try:
        line = from_json(data)
    except ValueError:
        if not data.endswith(b"\n"):
            return None
    else:
        if is_line(line):
            return line  # type: ignore[no-any-return]
    raise CheckpointError(
        f"line {number} of {path} is not a batch output line; a checkpoint is a file of its own: "
        "give another path, or remove the line"
    )
