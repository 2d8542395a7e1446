"""What llmbatch takes: import time, and memory over many rows.

    uv run python -m tests.benchmarks.footprint [--rows 50000] [--engine-rows 1000000]

Prints: milliseconds that `import llmbatch` adds to bare Python (median of 11); growth of the process from row 5,000 to
the last one when a generator's rows are streamed to a checkpoint; growth of the engine alone over a million rows.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")

import llmbatch
from llmbatch._util.fan_out import fan_out
from tests.server import server_process

if TYPE_CHECKING:
    from collections.abc import Iterator


def resident() -> float:
    """This process's memory in MB, now."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def import_time() -> None:
    """Print what the import adds."""

    def seconds(code: str) -> float:
        started = time.perf_counter()
        subprocess.run([sys.executable, "-c", code], check=True)
        return time.perf_counter() - started

    pairs = [(seconds("import llmbatch"), seconds("pass")) for _ in range(11)]
    print(f"import llmbatch adds {statistics.median(ours - bare for ours, bare in pairs) * 1000:.0f} ms", flush=True)


def streamed(rows: int) -> None:
    """Print the growth of a run from a generator to a checkpoint."""

    def chats() -> Iterator[list[dict[str, str]]]:
        for i in range(rows):
            yield [{"role": "user", "content": f"Question {i}: " + "x" * 2000}]

    with server_process(log=False) as server, tempfile.TemporaryDirectory() as folder:
        base, highest = 0.0, 0.0
        stream = llmbatch.as_completed(
            chats(), "hosted_vllm/m", api_base=server.api_base, checkpoint=Path(folder) / "run.jsonl", max_workers=32,
            api_key="x", progress=False,
        )  # fmt: skip
        for done, (_, row) in enumerate(stream, 1):
            assert "error" not in row
            if done == min(5000, rows // 2):
                base = resident()
            elif done % 1000 == 0:
                highest = max(highest, resident())
    print(f"{rows} rows to a checkpoint: {highest - base:+.1f} MB after row {min(5000, rows // 2)}", flush=True)


async def engine(rows: int) -> None:
    """Print the growth of the engine with a call that does nothing."""

    async def call(_: int, item: Any) -> Any:
        await asyncio.sleep(0)
        return item

    base, done = resident(), 0
    async for _ in fan_out((i for i in range(rows)), call, slots=lambda: 64):
        done += 1
    print(f"the engine alone, {done} rows: {resident() - base:+.1f} MB", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=50_000)
    parser.add_argument("--engine-rows", type=int, default=1_000_000)
    given = parser.parse_args()
    import_time()
    asyncio.run(engine(given.engine_rows))
    streamed(given.rows)


if __name__ == "__main__":
    main()
