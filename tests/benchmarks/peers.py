"""CPU per row and rows per second beside flexllm, async-batch-llm, the OpenAI SDK and raw aiohttp.

    uv run python -m tests.benchmarks.peers [--rows 2000] [--workers 64] [--rounds 5] [--only direct,flexllm]

The peers are installed in a temporary environment with uv. Each contender has a process of its own and answers the same
rows in turn, against one instant loopback server in another process; the figures are medians over the rounds.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

MODEL = "gpt-4o-mini"
OPTIONS: dict[str, Any] = {"temperature": 0.3, "max_tokens": 200}
PEERS = ("flexllm==0.17.10", "async-batch-llm[openai]==0.28.0")
OURS = ("direct", "direct, 2 processes", "litellm", "bare acompletion")
THEIRS = ("aiohttp", "flexllm", "async-batch-llm", "openai SDK")

Batch = Callable[[list[list[dict[str, str]]]], Awaitable[None]]


async def _pool(workers: int, rows: list[Any], send: Callable[[Any], Awaitable[Any]]) -> None:
    waiting = iter(rows)

    async def worker() -> None:
        for messages in waiting:
            await send(messages)

    await asyncio.gather(*(worker() for _ in range(workers)))


def llmbatch(base: str, workers: int, **options: Any) -> Batch:
    import llmbatch

    async def run(rows: list[Any]) -> None:
        place = {"model": f"openai/{MODEL}", "api_base": base, "api_key": "k", "progress": False}
        made = await llmbatch.acreate_chat_completions_batch(rows, max_workers=workers, **place, **OPTIONS, **options)
        assert not made.failed

    return run


def acompletion(base: str, workers: int) -> Batch:
    import litellm

    litellm.suppress_debug_info = True

    def send(messages: Any) -> Any:
        place = {"model": f"openai/{MODEL}", "api_base": base, "api_key": "k", "num_retries": 0, "max_retries": 0}
        return litellm.acompletion(messages=messages, **place, **OPTIONS)

    return lambda rows: _pool(workers, rows, send)


def openai_sdk(base: str, workers: int) -> Batch:
    import openai

    client = openai.AsyncOpenAI(base_url=base, api_key="k", max_retries=0)
    return lambda rows: _pool(
        workers, rows, lambda messages: client.chat.completions.create(model=MODEL, messages=messages, **OPTIONS)
    )


def aiohttp(base: str, workers: int) -> Batch:
    import aiohttp

    async def run(rows: list[Any]) -> None:
        connector = aiohttp.TCPConnector(limit=workers)
        async with aiohttp.ClientSession(connector=connector) as session:

            async def send(messages: Any) -> None:
                body = {"model": MODEL, "messages": messages, **OPTIONS}
                async with session.post(f"{base}/chat/completions", json=body) as response:
                    await response.json()

            await _pool(workers, rows, send)

    return run


def flexllm(base: str, workers: int) -> Batch:
    import flexllm

    client = flexllm.LLMClient(model=MODEL, base_url=base, api_key="k", concurrency_limit=workers, max_qps=0)

    async def run(rows: list[Any]) -> None:
        made = await client.chat_batch(rows, show_progress=False, **OPTIONS)
        assert all(one.content for one in made)

    return run


def async_batch_llm(base: str, workers: int) -> Batch:
    from async_batch_llm import llm, process_prompts

    async def run(rows: list[Any]) -> None:
        texts = [messages[-1]["content"] for messages in rows]
        model = llm(f"openai-compatible:{MODEL}", base_url=base, api_key="k")
        made = await process_prompts(model, texts, concurrency=workers)
        assert all(one.success for one in made.results)

    return run


CONTENDERS: dict[str, Callable[[str, int], Batch]] = {
    "aiohttp": aiohttp,
    "flexllm": flexllm,
    "direct": lambda base, workers: llmbatch(base, workers, transport="direct"),
    "direct, 2 processes": lambda base, workers: llmbatch(base, workers, transport="direct", processes=2),
    "openai SDK": openai_sdk,
    "async-batch-llm": async_batch_llm,
    "litellm": llmbatch,
    "bare acompletion": acompletion,
}


def contend(name: str, base: str, workers: int, rows: int) -> None:
    """Run a batch for each line of standard input; print `[CPU seconds, seconds]` of this process."""
    with asyncio.Runner() as runner:
        run = CONTENDERS[name](base, workers)
        for line in sys.stdin:
            mine = [[{"role": "user", "content": f"{line.strip()} question {at}?"}] for at in range(rows)]
            if line.startswith("warm") and "processes" in name:
                runner.run(run(mine[:100]))  # type: ignore[arg-type]  # a coroutine
                time.sleep(10)  # the workers import LiteLLM
            cpu, wall = time.process_time(), time.perf_counter()
            runner.run(run(mine))  # type: ignore[arg-type]  # a coroutine
            print(json.dumps([time.process_time() - cpu, time.perf_counter() - wall]), flush=True)


def main() -> None:
    """Print a table: the contenders, their medians, and the ratios to raw aiohttp."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=2000)
    parser.add_argument("--workers", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", default=",".join(name.replace(",", ";") for name in CONTENDERS))
    parser.add_argument("--peers", help="the Python of an environment that has the peers")
    parser.add_argument("--contender", nargs=2, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.contender:
        contend(*given.contender, given.workers, given.rows)
        return
    from tests.server import server_process

    names = [name.replace(";", ",") for name in given.only.split(",")]
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(server_process(log=False))
        peers = given.peers
        if peers is None and set(names) & set(THEIRS):
            peers = _installed(Path(stack.enter_context(tempfile.TemporaryDirectory())))
        processes = {}
        for name in names:
            python = peers if name in THEIRS else sys.executable
            sizes = ["--rows", str(given.rows), "--workers", str(given.workers)]
            command = [python, __file__, *sizes, "--contender", name, server.api_base]
            root = {**os.environ, "LITELLM_LOCAL_MODEL_COST_MAP": "True"}
            if name in OURS:
                root["PYTHONPATH"] = str(Path(__file__).parents[2])
            processes[name] = stack.enter_context(
                subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=root)
            )
        rounds: dict[str, list[tuple[float, float]]] = {name: [] for name in names}
        for label in ("warm", *map(str, range(given.rounds))):
            for name, process in processes.items():
                print(label, file=process.stdin, flush=True)
                cpu, wall = json.loads(process.stdout.readline())  # type: ignore[union-attr]
                if label != "warm":
                    rounds[name].append((cpu / given.rows * 1000, given.rows / wall))
        for process in processes.values():
            process.stdin.close()  # type: ignore[union-attr]
    _print(rounds)


def _installed(folder: Path) -> str:
    """Install the peers; return their Python."""
    python = folder / "bin" / "python"
    subprocess.run([shutil.which("uv") or "uv", "venv", "-q", "--python", sys.executable, folder], check=True)
    subprocess.run(
        [shutil.which("uv") or "uv", "pip", "install", "-q", "--python", python, *PEERS, "aiohttp"], check=True
    )
    return str(python)


def _print(rounds: dict[str, list[tuple[float, float]]]) -> None:
    medians = {name: tuple(map(statistics.median, zip(*own, strict=True))) for name, own in rounds.items()}
    base = medians.get("aiohttp")
    print(f"{'':22}{'CPU ms/row':>12}{'rows/s':>10}{'CPU/aiohttp':>14}")
    for name, (cpu, rate) in medians.items():
        print(f"{name:22}{cpu:12.3f}{rate:10,.0f}{cpu / base[0] if base else float('nan'):14.2f}")


if __name__ == "__main__":
    main()
