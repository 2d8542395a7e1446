"""What llmbatch adds to LiteLLM, or saves: CPU and rows a second against a bare loop over `litellm.acompletion`.

    uv run python -m tests.benchmarks.throughput [--rows 1500] [--workers 32] [--rounds 5]

Both run in turn in this process against an instant loopback server in another one; the ratios are medians over the
rounds. CPU below 1.00 and rows a second above 1.00 are better than the bare loop.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import statistics
import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")

import litellm

import llmbatch
from tests.server import server_process


def main() -> None:
    """Print a line a round and the medians."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1500)
    parser.add_argument("--workers", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args()
    litellm.suppress_debug_info = True
    runner = asyncio.Runner()
    for model in ("openai/gpt-4o-mini", "hosted_vllm/gpt-4o-mini"):
        with server_process(log=False) as server:
            chats = [[{"role": "user", "content": f"Question {i}?"}] for i in range(given.rows)]
            options: dict[str, Any] = {"model": model, "api_base": server.api_base, "api_key": "sk-x"}
            options |= {"temperature": 0.3, "max_tokens": 200}

            async def bare_loop(rows: list[Any], options: dict[str, Any] = options) -> None:
                waiting = iter(rows)

                async def worker() -> None:
                    for messages in waiting:
                        await litellm.acompletion(messages=messages, num_retries=0, max_retries=0, **options)

                await asyncio.gather(*(worker() for _ in range(given.workers)))

            def bare(rows: list[Any], bare_loop: Any = bare_loop) -> None:
                runner.run(bare_loop(rows))

            def ours(rows: list[Any], options: dict[str, Any] = options) -> None:
                results = llmbatch.create_chat_completions_batch(
                    rows, max_workers=given.workers, progress=False, **options
                )
                assert not results.failed

            bare(chats[:50])
            ours(chats[:50])
            ratios = [_round(bare, ours, chats) for _ in range(given.rounds)]
            cpu, speed = (statistics.median(column) for column in zip(*ratios, strict=True))
            print(f"{model}: median CPU a row {cpu:.2f}x, rows a second {speed:.2f}x of the bare loop\n", flush=True)
    runner.close()


def _round(bare: Callable[[Any], None], ours: Callable[[Any], None], chats: list[Any]) -> tuple[float, float]:
    (bare_cpu, bare_rate), (our_cpu, our_rate) = _measured(bare, chats), _measured(ours, chats)
    print(
        f"  bare {bare_cpu:.2f} ms {bare_rate:4.0f}/s   llmbatch {our_cpu:.2f} ms {our_rate:4.0f}/s   "
        f"CPU {our_cpu / bare_cpu:.2f}x  rate {our_rate / bare_rate:.2f}x",
        flush=True,
    )
    return our_cpu / bare_cpu, our_rate / bare_rate


def _measured(run: Callable[[Any], None], chats: list[Any]) -> tuple[float, float]:
    cpu, wall = time.process_time(), time.perf_counter()
    run(chats)
    return (time.process_time() - cpu) / len(chats) * 1000, len(chats) / (time.perf_counter() - wall)


if __name__ == "__main__":
    main()
