"""The benchmarks that take minutes, one after the other (some 20 minutes): `uv run python -m tests.benchmarks`."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

_HOURS = {"growth", "soak"}

for path in sorted(Path(__file__).parent.glob("[a-z]*.py")):
    if path.stem in _HOURS:
        continue
    print(f"== {path.stem}", flush=True)
    subprocess.run([sys.executable, "-m", f"tests.benchmarks.{path.stem}"], check=True)
