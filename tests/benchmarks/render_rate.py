"""How many payloads are rendered and written a second, and whether memory stays flat.

python -m tests.benchmarks.render_rate [rows]
"""

from __future__ import annotations

import resource
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

import llmbatch

if TYPE_CHECKING:
    from collections.abc import Iterator

SYSTEM = {"role": "system", "content": "You are a helpful assistant that answers in one sentence. " * 4}


def asked(count: int) -> Iterator[list[dict[str, str]]]:
    """Conversations of some 400 characters."""
    return ([SYSTEM, {"role": "user", "content": f"What is {i} + 1? " * 10}] for i in range(count))


def peak() -> float:
    """Resident memory at its highest so far, in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> None:
    """Render, then write, and print a line for each."""
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 100_000
    llmbatch.render_batch_requests(asked(1), "gpt-4o-mini")
    before = peak()
    started = time.perf_counter()
    for _ in llmbatch.stream_batch_requests(asked(count), "gpt-4o-mini", seed=7):
        pass
    rate = count / (time.perf_counter() - started)
    print(f"rendered {count:,} rows: {rate:,.0f} rows/s, memory {before:.0f} -> {peak():.0f} MB")
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "batch.jsonl"
        started = time.perf_counter()
        llmbatch.write_batch_file(path, llmbatch.stream_batch_requests(asked(count), "gpt-4o-mini", seed=7))
        rate = count / (time.perf_counter() - started)
        size = path.stat().st_size / 1e6
        print(f"rendered and wrote {count:,} rows ({size:.0f} MB): {rate:,.0f} rows/s, memory {peak():.0f} MB")
        started = time.perf_counter()
        read = sum(1 for _ in llmbatch.read_batch_file(path))
        rate = read / (time.perf_counter() - started)
        print(f"read and checked {read:,} rows: {rate:,.0f} rows/s, memory {peak():.0f} MB")


if __name__ == "__main__":
    main()
