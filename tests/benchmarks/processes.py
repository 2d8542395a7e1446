"""Past one core: rows a second with 1, 2 and 4 child processes, and what the parent pays for a row.

    uv run python -m tests.benchmarks.processes [--rows 2000] [--workers 64] [--rounds 5]

In turn, against an instant loopback server in another process: a bare loop over `litellm.acompletion`, the plain OpenAI
SDK, and llmbatch with `processes=`. Ratios are medians over the rounds, rows a second and this process's CPU a row
beside the bare loop's. Two cores carry the server, the parent and the children together.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import time
from typing import TYPE_CHECKING, Any

import llmbatch
from tests.benchmarks import throughput
from tests.server import server_process

if TYPE_CHECKING:
    from collections.abc import Callable

MODEL = "openai/gpt-4o-mini"


def main() -> None:
    """Print a line a round and the medians."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=2000)
    parser.add_argument("--workers", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args()
    chats = [[{"role": "user", "content": f"Question {i}?"}] for i in range(given.rows)]
    with server_process(log=False) as server, asyncio.Runner() as runner:
        contenders = throughput.contenders(runner, MODEL, server.api_base, given.workers)
        contenders |= {f"processes={n}": _ours(server.api_base, given.workers, n) for n in (1, 2, 4)}
        del contenders["llmbatch"]
        for run in contenders.values():
            run(chats[:200])
            time.sleep(10)  # children import LiteLLM
        rounds = [throughput.compared(contenders, chats) for _ in range(given.rounds)]
    for name in list(contenders)[1:]:
        cpu, speed = (statistics.median(round_[name][i] for round_ in rounds) for i in (0, 1))
        print(f"{name}: median CPU of this process a row {cpu:.2f}x, rows a second {speed:.2f}x of the bare loop")


def _ours(base: str, workers: int, processes: int) -> Callable[[Any], None]:
    def run(rows: list[Any]) -> None:
        place: dict[str, Any] = {"model": MODEL, "api_base": base, "api_key": "sk-x"}
        made = llmbatch.create_chat_completions_batch(
            rows, max_workers=workers, processes=processes, progress=False, **place
        )
        assert not made.failed

    return run


if __name__ == "__main__":
    main()
