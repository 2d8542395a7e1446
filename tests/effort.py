"""How much is tried: a third with each change, all of it for mutants, ten times as much at night."""

from __future__ import annotations

import os
from typing import Literal

EFFORT = "TESTS_EFFORT"
_FACTORS = {"quick": 1 / 3, "mutants": 1.0, "nightly": 10.0}


def set_effort(effort: Literal["quick", "mutants", "nightly"]) -> None:
    """Set it for this process and those that it starts, before test modules are imported."""
    os.environ[EFFORT] = effort


def effort() -> str:
    """Return what is set."""
    return os.environ.get(EFFORT, "quick")


def examples(count: int) -> int:
    """Return how many of so many examples to try."""
    return max(1, round(count * _FACTORS[effort()]))
