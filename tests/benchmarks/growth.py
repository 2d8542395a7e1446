"""What many rows cost: memory per row of a streamed run with a checkpoint, and the CPU of resuming it.

    uv run python -m tests.benchmarks.growth [--rows 10000,100000,1000000]

Resuming is compared with a plain `json.loads` of each line of the same checkpoint.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")

import llmbatch
from tests.benchmarks.footprint import resident
from tests.server import server_process

if TYPE_CHECKING:
    from collections.abc import Iterator

_WARM_ROWS = 5000


def _requests(rows: int) -> Iterator[str]:
    return (f"Question {at}?" for at in range(rows))


def _run(rows: int, base: str, checkpoint: Path) -> float:
    """Run or resume a batch; return the bytes that each row after the first thousands has added."""
    place: dict[str, Any] = {"api_base": base, "api_key": "k", "progress": False, "transport": "direct"}
    stream = llmbatch.as_completed(
        _requests(rows), "openai/gpt-4o-mini", max_workers=64, checkpoint=checkpoint, **place
    )
    warm, before, highest = min(_WARM_ROWS, rows // 2), 0.0, 0.0
    for done, (_, row) in enumerate(stream, 1):
        assert "error" not in row
        if done == warm:
            before = resident()
        elif done % 1000 == 0:
            highest = max(highest, resident())
    return (highest - before) * 2**20 / (rows - warm)


def main() -> None:
    """Print a line for each number of rows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", default="10000,100000,1000000")
    given = parser.parse_args()
    with server_process(log=False) as server, tempfile.TemporaryDirectory() as folder:
        _run(100, server.api_base, Path(folder) / "warm.jsonl")
        for rows in map(int, given.rows.split(",")):
            path = Path(folder) / f"{rows}.jsonl"
            growth = _run(rows, server.api_base, path)
            started = time.process_time()
            with path.open("rb") as lines:
                for line in lines:
                    json.loads(line)
            plain = time.process_time() - started
            resumed_growth, resumed = _run(rows, server.api_base, path), time.process_time() - started - plain
            print(
                f"{rows:>9,} rows: {growth:5.0f} bytes a row; resuming {resumed / rows * 1e6:4.0f} us a row "
                f"({resumed / plain:.1f} times json.loads), {resumed_growth:5.0f} bytes a row",
                flush=True,
            )
            path.unlink()


if __name__ == "__main__":
    main()
