"""What llmbatch adds to LiteLLM, or saves: CPU and rows a second against a bare loop over `litellm.acompletion`.

    uv run python -m tests.benchmarks.throughput [--rows 300] [--workers 32] [--rounds 15]

They, and the plain OpenAI SDK, run in turn in this process against an instant loopback server in another one; the
ratios are medians over the rounds. CPU below 1.00 and rows a second above 1.00 are better than the bare loop.
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
import openai

import llmbatch
from tests.server import server_process


def main() -> None:
    """Print a line a round and the medians."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=300)
    parser.add_argument("--workers", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=15)
    given = parser.parse_args()
    litellm.suppress_debug_info = True
    runner = asyncio.Runner()
    for model in ("openai/gpt-4o-mini", "hosted_vllm/local-model"):
        with server_process(log=False) as server:
            made = contenders(runner, model, server.api_base, given.workers)
            chats = [[{"role": "user", "content": f"Question {i}?"}] for i in range(given.rows)]
            for run in made.values():
                run(chats[:50])
            rounds = [compared(made, chats) for _ in range(given.rounds)]
            for name in list(made)[1:]:
                cpu, speed = (statistics.median(round_[name][i] for round_ in rounds) for i in (0, 1))
                print(f"{model}: {name}: median CPU a row {cpu:.2f}x, rows a second {speed:.2f}x of the bare loop")
            print(flush=True)
    runner.close()


def contenders(runner: asyncio.Runner, model: str, base: str, workers: int) -> dict[str, Callable[[Any], None]]:
    """The bare loop first, each a function of conversations."""
    options: dict[str, Any] = {"temperature": 0.3, "max_tokens": 200}
    place = {"model": model, "api_base": base, "api_key": "sk-x"}
    client = openai.AsyncOpenAI(base_url=base, api_key="sk-x", max_retries=0)

    async def fan_out(ask: Callable[[Any], Any], rows: list[Any]) -> None:
        waiting = iter(rows)

        async def worker() -> None:
            for messages in waiting:
                await ask(messages)

        await asyncio.gather(*(worker() for _ in range(workers)))

    def bare(messages: Any) -> Any:
        return litellm.acompletion(messages=messages, num_retries=0, max_retries=0, **place, **options)

    def sdk(messages: Any) -> Any:
        return client.chat.completions.create(model=model.partition("/")[2], messages=messages, **options)

    def ours(rows: list[Any]) -> None:
        made = llmbatch.create_chat_completions_batch(rows, max_workers=workers, progress=False, **place, **options)
        assert not made.failed

    return {
        "bare": lambda rows: runner.run(fan_out(bare, rows)),
        "llmbatch": ours,
        "openai SDK": lambda rows: runner.run(fan_out(sdk, rows)),
    }


def compared(contenders: dict[str, Callable[[Any], None]], chats: list[Any]) -> dict[str, tuple[float, float]]:
    """CPU and speed of each, as ratios to the first's."""
    measured = {name: _measured(run, chats) for name, run in contenders.items()}
    print("  " + "   ".join(f"{name} {cpu:.2f} ms {rate:4.0f}/s" for name, (cpu, rate) in measured.items()), flush=True)
    cpu, rate = next(iter(measured.values()))
    return {name: (own_cpu / cpu, own_rate / rate) for name, (own_cpu, own_rate) in measured.items()}


def _measured(run: Callable[[Any], None], chats: list[Any]) -> tuple[float, float]:
    cpu, wall = time.process_time(), time.perf_counter()
    run(chats)
    return (time.process_time() - cpu) / len(chats) * 1000, len(chats) / (time.perf_counter() - wall)


if __name__ == "__main__":
    main()
