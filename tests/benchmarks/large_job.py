"""A job of 120,000 rows, split at the provider's limits, with rows missing, failed, given twice and out of order.

    python -m tests.benchmarks.large_job [rows]

Every input must have exactly one right row; prints what each step took.
"""

from __future__ import annotations

import resource
import sys
import time
from collections import Counter
from contextlib import contextmanager
from typing import TYPE_CHECKING

from llmbatch import BatchJob, submit_batch_job
from llmbatch._rows.row import row_text
from tests.batch_server import MODEL, BatchProvider
from tests.replies import answer_to
from tests.server import Server

if TYPE_CHECKING:
    from collections.abc import Iterator

FATES = ["", "", "", "missing", "", "", "failed", "", "", "twice", "", "", "", "garbled", "", "", "expired"]
WRONG = {"missing", "failed", "garbled", "expired"}


@contextmanager
def timed(what: str) -> Iterator[None]:
    """Print what a step took."""
    started = time.perf_counter()
    yield
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"{what}: {time.perf_counter() - started:.1f} s, memory at most {memory:.0f} MB", flush=True)


def main() -> None:
    """Submit, wait, join and check."""
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 120_000
    with Server(log=False) as server:
        batches = BatchProvider(server)
        with timed(f"submitted {count:,} rows"):
            job: BatchJob = submit_batch_job(
                ([{"role": "user", "content": f"Question {i}"}] for i in range(count)),
                MODEL, api_base=server.api_base, api_key="made-up",
            )  # fmt: skip
        batches.fates = {custom_id: FATES[i % len(FATES)] for i, custom_id in enumerate(job.state.custom_ids)}
        with timed("the loopback provider ran it"):
            job.wait(0.1)
        with timed("joined"):
            results = job.results()
    found: Counter[str] = Counter()
    assert [row["custom_id"] for row in results] == job.state.custom_ids
    for i, row in enumerate(results):
        wrong = FATES[i % len(FATES)] in WRONG
        found[
            "right" if wrong == ("error" in row) and (wrong or row_text(row) == answer_to(f"Question {i}")) else "bad"
        ] += 1
    print(f"{len(batches.jobs)} batches; rows: {dict(found)}; {results.summary()}")


if __name__ == "__main__":
    main()
