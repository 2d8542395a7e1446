"""One batch over three servers: llmbatch and its peers in one run; only those named "told" know a limit.

    uv run python -m tests.benchmarks.deployments [--rows 350] [--only reject,dead] [--peers llmbatch,router]
    … --python PATH    the interpreter of an environment with LiteLLM and flexllm, for the peers

The servers can take requests in the ratio 1 : 2 : 4, and answer in 0.2 s. Each contender runs in a process of its own.
Columns: rows answered; the share of the capacity of the servers that work; seconds from the first request to the last
answer; p99 of the time from taking a row to its answer; 429s; CPU time a row.
"""

from __future__ import annotations

import argparse
import asyncio
import importlib.util
import json
import os
import subprocess
import sys
import threading
import time
from typing import Any

from tests.server import Response, Server

LATENCY, SIZES = 0.2, (2, 4, 8)
REJECT: list[dict[str, Any]] = [{"most_in_flight": size} for size in SIZES]
SCENARIOS: dict[str, tuple[list[dict[str, Any]], int | None]] = {  # behaviours; the server that something happens to
    "reject": (REJECT, None),
    "queue": ([{"slots": size} for size in SIZES], None),
    "bucket": ([{"rpm": size * 60 / LATENCY, "burst": 0.5, "limit_headers": False} for size in SIZES], None),
    "dead": (REJECT, 1),
    "restart": (REJECT, 1),
    "500": (REJECT, 1),
    "403": (REJECT, 1),
    "hang": (REJECT, 1),
    "slow": (REJECT, 1),
    "one": ([{"most_in_flight": 14}], None),
}
WORKERS, TIMEOUT, MODEL = 32, 10, "gpt-4o-mini"
ROWS = {"restart": 2000}
DOWN_AT, DOWN_FOR = 4.0, 20.0


def chats(rows: int) -> list[list[dict[str, str]]]:
    """The same rows for everyone."""
    return [[{"role": "user", "content": f"Question number {i}?"}] for i in range(rows)]


def llmbatch(rows: int, bases: list[str], transport: Any = "litellm") -> list[float | None]:
    """This library, with nothing set but the number of workers and the timeout."""
    import llmbatch as ours

    results = ours.create_chat_completions_batch(
        chats(rows), f"openai/{MODEL}", max_workers=WORKERS, timeout=TIMEOUT, transport=transport, progress=False,
        deployments=[{"api_base": base, "api_key": "x"} for base in bases],
    )  # fmt: skip
    times = [(row["elapsed"] or 0.0) + (row["waited"] or 0.0) for row in results]
    return [None if "error" in row else seconds for row, seconds in zip(results, times, strict=True)]


def direct(rows: int, bases: list[str]) -> list[float | None]:
    """The same without LiteLLM's pipeline."""
    return llmbatch(rows, bases, "direct")


def single(rows: int, bases: list[str]) -> list[float | None]:
    """This library with api_base=, for one server."""
    import llmbatch as ours

    given = {"api_base": bases[0], "api_key": "x", "max_workers": WORKERS, "progress": False, "transport": "direct"}
    results = ours.create_chat_completions_batch(chats(rows), f"openai/{MODEL}", **given)
    return [None if "error" in row else row["elapsed"] for row in results]


async def _gathered(rows: int, call: Any) -> list[float | None]:
    slots = asyncio.Semaphore(WORKERS)

    async def one(messages: Any) -> float | None:
        async with slots:
            began = time.monotonic()
            try:
                answer = await call(messages)
            except Exception:  # noqa: BLE001 - a lost row
                return None
            return time.monotonic() - began if answer else None

    return list(await asyncio.gather(*(one(chat) for chat in chats(rows))))


def router(rows: int, bases: list[str], **settings: Any) -> list[float | None]:
    """LiteLLM's Router with its defaults (simple-shuffle)."""
    import litellm

    litellm.suppress_debug_info = True
    weights = settings.pop("weights", [None] * len(bases))
    models = [
        {"model_name": "m",
         "litellm_params": {"model": f"openai/{MODEL}", "api_base": base, "api_key": "x", "timeout": TIMEOUT}
         | ({"weight": weight} if weight else {})}
        for base, weight in zip(bases, weights, strict=False)
    ]  # fmt: skip
    pool = litellm.Router(model_list=models, **settings)
    return asyncio.run(_gathered(rows, lambda messages: pool.acompletion("m", messages)))


def least_busy(rows: int, bases: list[str]) -> list[float | None]:
    """LiteLLM's Router, least-busy."""
    return router(rows, bases, routing_strategy="least-busy")


def tuned(rows: int, bases: list[str]) -> list[float | None]:
    """LiteLLM's Router, told the weights, with retries and without cooldowns."""
    return router(rows, bases, weights=SIZES, num_retries=8, disable_cooldowns=True)


def flexllm(rows: int, bases: list[str], sizes: tuple[int, ...] = ()) -> list[float | None]:
    """The pool of flexllm with its defaults."""
    from flexllm import LLMClientPool  # type: ignore[import-not-found]

    points = [{"base_url": base, "api_key": "x", "model": MODEL} for base in bases]
    for point, size in zip(points, sizes, strict=False):
        point["concurrency_limit"] = size
    pool = LLMClientPool(provider="openai", endpoints=points, timeout=TIMEOUT)
    began = time.monotonic()
    answers = asyncio.run(pool.chat_completions_batch(chats(rows), show_progress=False))
    seconds = time.monotonic() - began  # the times of single rows are not told
    return [seconds if isinstance(answer, str) and answer else None for answer in answers]


def flexllm_told(rows: int, bases: list[str]) -> list[float | None]:
    """The pool of flexllm, told what each server can take."""
    return flexllm(rows, bases, SIZES)


OURS = {"llmbatch": llmbatch, "direct": direct, "single": single}
CONTENDERS = {**OURS, "router": router, "least_busy": least_busy, "tuned": tuned, "flexllm": flexllm,
              "flexllm_told": flexllm_told}  # fmt: skip


def happen(scenario: str, servers: list[Server], victim: int | None) -> threading.Timer | None:
    """Do to one server what the scenario says."""
    if victim is None:
        return None
    server = servers[victim]
    if scenario == "dead":
        server.close()
    elif scenario in {"500", "403"}:
        server.handler = lambda _: Response(int(scenario))
    elif scenario == "hang":
        server.handler = lambda _: Response(delay=3600)
    elif scenario == "slow":
        server.set(latency=LATENCY + 2)
    else:
        return threading.Timer(DOWN_AT, _restart, (servers, victim))
    return None


def _restart(servers: list[Server], victim: int) -> None:
    old = servers[victim]
    old.close()
    time.sleep(DOWN_FOR)
    behaviour = {"latency": LATENCY, "log": False, **REJECT[victim]}
    new = Server(old.port, **behaviour)
    new.stats.ok, new.stats.limited, new.stats.first = old.stats.ok, old.stats.limited, old.stats.first
    servers[victim] = new


def capacity(scenario: str, seconds: float) -> float:
    """Return the rows a second that the servers can answer, on average over the run."""
    sizes = sum(SIZES)
    if scenario in {"dead", "500", "403", "hang"}:
        sizes -= SIZES[1]
    found = sizes / LATENCY
    if scenario == "slow":
        found -= SIZES[1] / LATENCY - SIZES[1] / (LATENCY + 2)
    if scenario == "restart":
        found -= SIZES[1] / LATENCY * min(DOWN_FOR, max(0.0, seconds - DOWN_AT)) / seconds
    return found


def measure(name: str, rows: int, bases: list[str], python: str, begun: threading.Timer | None) -> dict[str, Any]:
    """Run one contender in a process of its own."""
    command = [sys.executable if name in OURS else python, "-m", "tests.benchmarks.deployments", "--run", name]
    command += ["--rows", str(rows), "--bases", ",".join(bases)]
    environment = {**os.environ, "OPENAI_API_KEY": "sk-x", "LITELLM_LOCAL_MODEL_COST_MAP": "True"}
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        child.stdout.readline()  # it has imported what it needs
        if begun is not None:
            begun.start()
        out, err = child.communicate(timeout=300)
    if child.returncode:
        print(f"{name} failed: {(err.strip().splitlines() or ['?'])[-1]}", file=sys.stderr)
        return {}
    return json.loads(out.splitlines()[-1])  # type: ignore[no-any-return]


def run(name: str, rows: int, bases: list[str]) -> None:
    """In the contender's process: run it and print what it took."""
    importlib.import_module("flexllm" if name.startswith("flexllm") else "litellm")
    if name not in OURS and not name.startswith("flexllm"):
        import litellm

        assert litellm.Router
    print("ready", flush=True)
    before = time.process_time()
    times = CONTENDERS[name](rows, bases)
    good = sorted(seconds for seconds in times if seconds is not None)
    p99 = good[int(len(good) * 0.99)] if good else None
    print("\n" + json.dumps({"good": len(good), "p99": p99, "cpu": (time.process_time() - before) / rows}))


def main() -> None:
    """Print one table a scenario."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=350)
    parser.add_argument("--only", default=",".join(SCENARIOS))
    parser.add_argument("--peers", default=",".join(CONTENDERS))
    parser.add_argument("--python", default=sys.executable)
    parser.add_argument("--run", help=argparse.SUPPRESS)
    parser.add_argument("--bases", default="", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.run:
        run(given.run, given.rows, given.bases.split(","))
        return
    for scenario in given.only.split(","):
        behaviours, victim = SCENARIOS[scenario]
        rows = ROWS.get(scenario, given.rows)
        print(f"\n{scenario}: {rows} rows, {WORKERS} workers", flush=True)
        print(f"{'':13} {'rows good':>12} {'share':>6} {'seconds':>8} {'p99':>6} {'429s':>6} {'CPU ms':>7}")
        for name in given.peers.split(","):
            if (name == "single") != (scenario == "one") and name not in {"direct", "llmbatch"}:
                continue
            if (
                given.python == sys.executable
                and name.startswith("flexllm")
                and not importlib.util.find_spec("flexllm")
            ):
                continue
            servers = [Server(**{"latency": LATENCY, "log": False, **behaviour}) for behaviour in behaviours]
            bases = [server.api_base for server in servers]
            used = measure(name, rows, bases, given.python, happen(scenario, servers, victim))
            stats = [server.stats for server in servers]
            for server in servers:
                server.close()
            if not used:
                continue
            ok = [its for its in stats if its.ok]
            seconds = max(its.last or 0 for its in ok) - min(its.first or 0 for its in ok) if ok else 0.0
            share = used["good"] / seconds / capacity(scenario, seconds) if seconds else 0.0
            print(
                f"{name:13} {used['good']:>5} of {rows:<4} {share:>6.2f} {seconds:>8.1f} {used['p99'] or 0:>6.2f} "
                f"{sum(its.limited for its in stats):>6} {used['cpu'] * 1000:>7.1f}",
                flush=True,
            )


if __name__ == "__main__":
    main()
