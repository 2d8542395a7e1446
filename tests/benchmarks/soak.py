"""A long run that is killed: every row has exactly one answer in the end, and memory stays flat.

    uv run python -m tests.benchmarks.soak [--rows 1000000] [--kills 5]

2 % of the requests meet a 5xx or a reset. The run is ended by `kill -9` after equal shares of its rows, and started
again with the same checkpoint.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")

from tests.benchmarks.footprint import resident
from tests.server import server_process

if TYPE_CHECKING:
    from collections.abc import Iterator

_LOOK_SECONDS = 0.2


def _run(rows: int, base: str, checkpoint: str) -> None:
    """Run the batch; print how many distinct rows were answered, and how much memory has grown."""
    import llmbatch

    prompts: Iterator[str] = (f"Question {at}?" for at in range(rows))
    stream = llmbatch.as_completed(
        prompts, "openai/gpt-4o-mini", api_base=base, api_key="k", max_workers=64, checkpoint=checkpoint,
        transport="direct", progress=False,
    )  # fmt: skip
    seen, ids, before = bytearray(rows), set[int](), 0.0
    for done, (index, row) in enumerate(stream, 1):
        assert "error" not in row, row["error"]
        assert f"Question {index}?" in row["choices"][0]["message"]["content"]
        seen[index] += 1
        ids.add(hash(row["custom_id"]))
        if done == rows // 20:
            before = resident()
    assert set(seen) == {1}, "each row exactly once"
    assert len(ids) == rows
    print(f"{rows:,} rows, each once; memory {resident() - before:+.0f} MB since row {rows // 20:,}")


def main() -> None:
    """Kill the run some times, then let it end."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--kills", type=int, default=5)
    parser.add_argument("--run", nargs=2, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.run:
        _run(given.rows, *given.run)
        return
    with server_process(log=False, error_rate=0.01, reset_rate=0.01) as server, tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "run.jsonl"
        command = [sys.executable, "-m", "tests.benchmarks.soak", "--rows", str(given.rows)]
        command += ["--run", server.api_base, str(path)]
        for kill in range(1, given.kills + 1):
            with subprocess.Popen(command) as process:
                goal = kill * given.rows // (given.kills + 1)
                while process.poll() is None and _lines(path) < goal:
                    time.sleep(_LOOK_SECONDS)
                process.send_signal(signal.SIGKILL)
            print(f"killed after {_lines(path):,} rows", flush=True)
        subprocess.run(command, check=True)
        stats = server.stats()
        print(
            f"checkpoint: {_lines(path):,} lines; {stats['duplicates']} requests answered twice (in flight at a kill)"
        )
        assert _lines(path) == given.rows


def _lines(path: Path) -> int:
    if not path.exists():
        return 0
    with path.open("rb") as file:
        return sum(piece.count(b"\n") for piece in iter(lambda: file.read(1 << 20), b""))


if __name__ == "__main__":
    main()
