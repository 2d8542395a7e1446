"""The limiter against models of providers, in virtual time: no later change may trade one of them for another."""

from __future__ import annotations

import math

import pytest

from tests.benchmarks.limiter_lab import SCENARIOS, Scenario, measure
from tests.effort import effort

# The median of five holds when three do; fewer seeds would need other bars.
SEEDS, MOST = {"quick": (5, 3), "mutants": (5, 3), "nightly": (25, 13)}[effort()]


@pytest.mark.more_at_night
@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.name)
def test_limiter_lab_scenario_holds_bar(scenario: Scenario) -> None:
    """The share of the ideal and the 429s, as medians; never less than half of what the SDK's backoff reaches."""
    max_429s = math.inf if scenario.max_429s is None else scenario.max_429s
    quick = rare = 0
    for seed in range(SEEDS):
        run = measure(scenario, "llmbatch", seed)
        assert run.ended
        assert run.share >= 0.5 or run.share >= measure(scenario, "sdk", seed).share / 2
        quick += run.share >= scenario.share
        rare += run.rate_limited <= max_429s
        if min(quick, rare) == MOST:
            return
    pytest.fail(f"of {SEEDS} seeds {quick} reach {scenario.share} of the ideal, {rare} have at most {max_429s} 429s")


def test_limiter_lab_same_seed_repeats_run() -> None:
    """Virtual time and a seed: the same run each time, whatever the machine does."""
    (scenario,) = [scenario for scenario in SCENARIOS if scenario.name == "rpm, blind"]
    assert measure(scenario, "llmbatch", 0) == measure(scenario, "llmbatch", 0)
