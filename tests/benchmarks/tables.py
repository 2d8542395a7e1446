"""A table in, a table out: `complete_table` beside ondine's `enrich`, on the same rows, server and concurrency.

    uv run python -m tests.benchmarks.tables [--peer /tmp/ondine/bin/python] [--rows 2000] [--workers 32] [--rounds 3]

Each runs in a process of its own, one after the other, after a warm-up of 50 rows. Without --peer (a Python that has
ondine) only llmbatch runs. Ratios are to ondine's medians: below 1.00 is better than ondine.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.server import server_process

_OURS = """
from llmbatch import complete_table
def run(frame):
    made = complete_table(frame, "Mood of: {{review}}", "openai/m", api_base="{base}", api_key="sk-x", progress=False,
                          max_workers={workers}, transport="{transport}")
    return made["answer"].tolist()
"""
_PEER = """
from ondine import enrich
def run(frame):
    made = enrich(frame, "Mood of: {{review}}", ["answer"], model="m", provider="openai_compatible", base_url="{base}",
                  api_key="sk-x", concurrency={workers}, batch_size=1, temperature=0.3, max_tokens=200)
    return made["answer"].tolist()
"""
_MEASURE = """
import json, time
import pandas as pd
run(pd.DataFrame({{"review": [f"warm {{at}}" for at in range(50)]}}))
frame = pd.DataFrame({{"review": [f"review {{at}}" for at in range({rows})]}})
cpu, wall = time.process_time(), time.perf_counter()
answers = run(frame)
print(json.dumps([time.perf_counter() - wall, time.process_time() - cpu, answers]))
"""


def main() -> None:
    """Print a line a round, and the medians."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer")
    parser.add_argument("--rows", type=int, default=2000)
    parser.add_argument("--workers", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--latency", type=float, default=0.05)
    given = parser.parse_args()
    programs = {"llmbatch": (sys.executable, _OURS, "litellm"), "llmbatch direct": (sys.executable, _OURS, "direct")}
    if given.peer:
        programs["ondine"] = (given.peer, _PEER, "")
    taken: dict[str, list[tuple[float, float]]] = {name: [] for name in programs}
    with server_process(latency=given.latency, log=False) as server:
        for _ in range(given.rounds):
            answers = {}
            for name, (python, code, transport) in programs.items():
                about = {"base": server.api_base, "workers": given.workers, "rows": given.rows, "transport": transport}
                wall, cpu, answers[name] = _measured(python, (code + _MEASURE).format(**about))
                taken[name].append((wall, cpu))
                print(f"  {name}: {wall:.2f} s, CPU {cpu:.2f} s", flush=True)
            assert len({json.dumps(texts) for texts in answers.values()}) == 1, "the same answers in every row"
    medians = {name: [statistics.median(part) for part in zip(*rounds, strict=True)] for name, rounds in taken.items()}
    for name, (wall, cpu) in medians.items():
        peer = medians.get("ondine")
        ratios = "" if peer is None else f"; {wall / peer[0]:.2f} of ondine's time, {cpu / peer[1]:.2f} of its CPU"
        print(f"{name}: median {wall:.2f} s, CPU {cpu:.2f} s for {given.rows:,} rows{ratios}")


def _measured(python: str, code: str) -> tuple[float, float, list[str]]:
    with tempfile.TemporaryDirectory() as folder:
        environment = {"PYTHONPATH": str(Path(__file__).parents[2]), "PATH": "/usr/bin", "HOME": folder}
        ran = subprocess.run(
            [python, "-c", code], capture_output=True, text=True, cwd=folder, env=environment, check=False
        )
    if ran.returncode:
        sys.exit(ran.stderr)
    wall, cpu, answers = json.loads(ran.stdout.strip().splitlines()[-1])
    return wall, cpu, answers


if __name__ == "__main__":
    main()
