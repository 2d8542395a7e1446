"""Rows that get through a provider with real limits: llmbatch and its peers in one run, none with a configured limit.

    uv run python -m tests.benchmarks.goodput [--rows 600] [--only headers,blind] [--peers llmbatch,openai,litellm]
    uv run --python 3.13 --with langchain-openai --with infermesh python -m tests.benchmarks.goodput   # all peers

Each contender runs in a process of its own against the same loopback provider. Columns: rows answered; 429s of the
provider; seconds from the provider's first request to its last answer, and the share of them that its limits need (not
where its 429s come at random); requests answered twice; CPU time a row; peak memory.
"""

from __future__ import annotations

import argparse
import asyncio
import importlib.util
import json
import os
import resource
import subprocess
import sys
import threading
import time
from typing import Any

from tests.server import server_process

SCENARIOS: dict[str, dict[str, Any]] = {
    "headers": {"rpm": 1200, "latency": 0.5, "sigma": 0.4},
    "blind": {"rpm": 1200, "latency": 0.5, "sigma": 0.4, "limit_headers": False, "retry_after": False},
    "faults": {"slots": 32, "latency": 0.5, "sigma": 0.4, "error_rate": 0.05, "reset_rate": 0.05},
    "random5": {"refuse_rate": 0.05, "latency": 0.5, "sigma": 0.4},
    "random20": {"refuse_rate": 0.2, "latency": 0.5, "sigma": 0.4},
    "concurrency": {"most_in_flight": 10, "latency": 0.5, "sigma": 0.4},
    "halved": {"rpm": 1200, "latency": 0.5, "sigma": 0.4, "limit_headers": False},
}
UNKNOWN = {"random5", "random20", "halved"}  # what an ideal client would need
WORKERS, RETRIES = 64, 6
MODEL = "gpt-4o-mini"


def chats(rows: int) -> list[list[dict[str, str]]]:
    """The same rows for everyone."""
    return [[{"role": "user", "content": f"Question number {i}?"}] for i in range(rows)]


def llmbatch(rows: int, base: str) -> int:
    """This library, with nothing set but the number of workers."""
    import llmbatch as ours

    results = ours.create_chat_completions_batch(chats(rows), f"openai/{MODEL}", max_workers=WORKERS, api_base=base)
    return len(results.succeeded)


def auto(rows: int, base: str) -> int:
    """This library, with nothing set at all."""
    import llmbatch as ours

    results = ours.create_chat_completions_batch(chats(rows), f"openai/{MODEL}", max_workers="auto", api_base=base)
    return len(results.succeeded)


def openai(rows: int, base: str) -> int:
    """The OpenAI SDK with its own retries, behind a semaphore."""
    import openai as sdk

    async def main() -> int:
        client, slots = sdk.AsyncOpenAI(base_url=base, max_retries=RETRIES), asyncio.Semaphore(WORKERS)

        async def one(messages: Any) -> Any:
            async with slots:
                return await client.chat.completions.create(model=MODEL, messages=messages)

        answers = await asyncio.gather(*(one(chat) for chat in chats(rows)), return_exceptions=True)
        return sum(not isinstance(answer, BaseException) for answer in answers)

    return asyncio.run(main())


def litellm(rows: int, base: str) -> int:
    """litellm.batch_completion with its own retries."""
    import litellm as peer

    peer.suppress_debug_info = True
    answers = peer.batch_completion(
        model=f"openai/{MODEL}", messages=chats(rows), api_base=base, max_workers=WORKERS, num_retries=RETRIES
    )
    return sum(not isinstance(answer, Exception) for answer in answers)


def langchain(rows: int, base: str) -> int:
    """LangChain's abatch."""
    from langchain_openai import ChatOpenAI  # type: ignore[import-not-found]

    model = ChatOpenAI(model=MODEL, base_url=base, max_retries=RETRIES)
    config = {"max_concurrency": WORKERS}
    answers = asyncio.run(model.abatch(chats(rows), config=config, return_exceptions=True))
    return sum(not isinstance(answer, Exception) for answer in answers)


def infermesh(rows: int, base: str) -> int:
    """The client of infermesh."""
    from infermesh import LMClient  # type: ignore[import-not-found]

    with LMClient(model=f"openai/{MODEL}", api_base=base, api_key="x", max_parallel_requests=WORKERS) as client:
        return sum(answer is not None for answer in client.generate_batch(chats(rows)))


CONTENDERS = {f.__name__: f for f in (llmbatch, auto, openai, litellm, langchain, infermesh)}
NEEDS = {"langchain": "langchain_openai", "infermesh": "infermesh"}


def measure(name: str, rows: int, base: str) -> dict[str, float]:
    """Run one contender in a process of its own."""
    command = [sys.executable, "-m", "tests.benchmarks.goodput", "--run", name, "--rows", str(rows), "--base", base]
    environment = {**os.environ, "OPENAI_API_KEY": "sk-x", "LITELLM_LOCAL_MODEL_COST_MAP": "True"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        print(f"{name} failed: {done.stderr.strip().splitlines()[-1]}", file=sys.stderr)
        return {}
    return json.loads(done.stdout.splitlines()[-1])  # type: ignore[no-any-return]


def run(name: str, rows: int, base: str) -> None:
    """In the contender's process: run it and print what it used."""
    # Importing is not what is compared; llmbatch imports litellm when it first needs it.
    importlib.import_module(NEEDS.get(name, "openai" if name == "openai" else "litellm"))
    before = time.process_time()
    good = CONTENDERS[name](rows, base)
    used = resource.getrusage(resource.RUSAGE_SELF)
    print(json.dumps({"good": good, "cpu": (time.process_time() - before) / rows, "memory": used.ru_maxrss / 1024}))


def main() -> None:
    """Print one table a scenario."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=600)
    parser.add_argument("--only", default=",".join(SCENARIOS))
    parser.add_argument("--peers", default=",".join(CONTENDERS))
    parser.add_argument("--run", help=argparse.SUPPRESS)
    parser.add_argument("--base", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.run:
        run(given.run, given.rows, given.base)
        return
    peers = [name for name in given.peers.split(",") if importlib.util.find_spec(NEEDS.get(name, "llmbatch"))]
    for scenario in given.only.split(","):
        print(f"\n{scenario}: {SCENARIOS[scenario]}, {given.rows} rows, {WORKERS} workers", flush=True)
        print(
            f"{'':10} {'rows good':>12} {'429s':>9} {'seconds':>8} {'of ideal':>9} {'twice':>6} {'CPU ms':>7} {'MB':>5}"
        )
        for name in peers:
            with server_process(log=False, **SCENARIOS[scenario]) as server:
                if scenario == "halved":
                    halve = threading.Timer(10, lambda server=server: server.set(rpm=600))
                    halve.start()
                used = measure(name, given.rows, server.api_base)
                if scenario == "halved":
                    halve.cancel()
                stats = server.stats()
            if used:
                share = f"{stats['ideal_seconds'] / (stats['last'] - stats['first']):.2f}"
                print(
                    f"{name:10} {used['good']:>5} of {given.rows:<4} {stats['limited']:>9} "
                    f"{stats['last'] - stats['first']:>8.1f} {'-' if scenario in UNKNOWN else share:>9} "
                    f"{stats['duplicates']:>6} {used['cpu'] * 1000:>7.1f} {used['memory']:>5.0f}",
                    flush=True,
                )


if __name__ == "__main__":
    main()
