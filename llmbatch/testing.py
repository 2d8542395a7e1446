"""Record the provider's answers once and replay them in tests: cassettes without keys, which never swap rows.

    from llmbatch.testing import cassette

    def test_capitals():
        with cassette("cassettes/capitals.yaml"):
            results = create_chat_completions_batch(messages_list, model="gpt-4o-mini", api_key="any")
        assert "Paris" in results.texts[0]

`LLMBATCH_RECORD=1 pytest …` sends the requests and writes the file; without it nothing is ever sent. Needs vcrpy
(`pip install "vcrpy>=9.4"`).

- A request is matched on method, URI and body, so concurrent rows get their own answers. Uploads (multipart, whose
  boundary is random) are matched on method and URI only. The port of a loopback server does not matter.
- Each recorded answer is played once: a retried request needs as many recordings as it had attempts.
- A request that is not in the cassette is a failed row of type `CassetteMiss` and is not retried.
- Only harmless headers are stored. Credentials are replaced in URIs, bodies and answers: by the field's name, by their
  shape, and by their value wherever it occurs. Prompts and answers are in the file, so record with made-up ones.
- A cassette of vcrpy's own, or of pytest-recording, must match on the body: llmbatch sends no concurrent rows into one
  that does not. In pytest-recording: `vcr_config = {"match_on": ["method", "uri", "body"], ...}`.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from llmbatch.errors import CassetteInUseError, CassetteNotFoundError, MissingExtraError

__all__ = ["cassette", "make_vcr"]

_open = threading.Lock()


@contextmanager
def cassette(
    path: str | os.PathLike[str], *, record: bool | None = None, allow_playback_repeats: bool = False
) -> Iterator[Any]:
    """Replay the answers recorded in `path` (YAML), or record them.

    Yields vcrpy's cassette: `len(tape)`, `tape.play_count` and `tape.all_played` tell what was used.

    Args:
        path: the cassette file. Recording replaces it, and leaves it as it was if the block raises.
        record: send the requests and record the answers; None: only if LLMBATCH_RECORD is "1".
        allow_playback_repeats: play an answer as often as it is requested.

    Raises:
        FileNotFoundError: there is no file to replay.
        RuntimeError: another cassette is open. vcrpy patches the whole process, so only one can be open at a time.
    """
    recording = os.environ.get("LLMBATCH_RECORD") == "1" if record is None else record
    if not recording and not Path(path).is_file():
        raise CassetteNotFoundError(
            f"there is no cassette at {os.fspath(path)}. Record it: run once with LLMBATCH_RECORD=1."
        )
    vcr = make_vcr(record_mode="all" if recording else "none")
    if not _open.acquire(blocking=False):
        raise CassetteInUseError("another cassette is open, and vcrpy patches the whole process. Close that one first.")
    try:
        with vcr.use_cassette(os.fspath(path), allow_playback_repeats=allow_playback_repeats) as tape:
            yield tape
    finally:
        _open.release()


def make_vcr(**options: Any) -> Any:
    """Return a `vcr.VCR` set up as above, for its own decorators and plugins; `options` are those of vcrpy.

    Its default `record_mode` is "none". It adds the matcher "request": method, URI and body.
    """
    try:
        import vcr  # noqa: F401, PLC0415 - an optional dependency
    except ImportError as error:
        raise MissingExtraError('cassettes need vcrpy 9.4 or newer: pip install "vcrpy>=9.4"') from error
    from llmbatch._util.cassettes import BatchVCR  # noqa: PLC0415 - needs vcrpy

    return BatchVCR(**options)
