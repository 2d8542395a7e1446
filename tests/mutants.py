"""Small wrong changes to what decides about money, rows and waiting, and whether a test notices each.

    uv run --with mutmut==3.8.1 python -m tests.mutants budget retry  # all modules of `TESTS` without arguments
    uv run --with mutmut==3.8.1 python -m tests.mutants sender --minutes 6 --function Sender._once

mutmut and `removed` think of them. One process collects the tests and runs them once, to know which statements each
reaches and how long it takes. Then each change is made in a fork, where tests that reach it run until one fails, those
first that take little time and have noticed much. It takes about a second a change, and is no part of CI. What survived
is shown: it gets a test, or a reason in `REASONS`. Tests marked `processes` are left out.
"""

from __future__ import annotations

import argparse
import importlib
import re
import sys
import time
from collections import Counter, defaultdict
from itertools import accumulate, repeat
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.changes import Change, changes, functions, telling
from tests.forks import LONGEST_SILENCE, Forks, Task, collected

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import ModuleType

# Each module, and the tests that concern it.
TESTS = {
    "_request/budget": ("budget", "max_cost"),
    "_request/circuit_breaker": ("circuit_breaker", "circuit_breaker_give_up"),
    "_request/retry": ("retry", "copilot", "circuit_breaker_give_up"),
    "_request/max_cost": ("cost_upper_bound", "max_cost"),
    "_request/prompt_size": ("cost_upper_bound", "max_cost"),
    "_request/price_kinds": ("cost_upper_bound", "max_cost"),
    "_batch/row_builder": ("structured", "asks", "rows", "request_forms", "resubmit", "batch_job", "cheapest_run"),
    "_batch/checkpoint": ("checkpoint", "cheapest_run"),
    "_request/sender": (
        "sender",
        "budget",
        "circuit_breaker",
        "circuit_breaker_give_up",
        "keys",
        "retry",
        "copilot",
        "rows",
        "deadline_interrupt",
        "cheapest_run",
    ),
    "_request/classify": ("classify", "retry", "hostile_server", "classify_recorded"),
    "_request/rejections": ("classify", "circuit_breaker", "http_session", "classify_recorded"),
    "_request/error_report": ("classify", "http_session", "classify_recorded", "redaction"),
    "_limits/account": ("accounts",),
    "_limits/registry": ("accounts",),
    "_limits/limiter": ("limiter", "limiter_lab", "limits"),
    "_limits/pauses": ("limiter", "limiter_lab"),
    "_limits/token_bucket": ("limiter", "limiter_lab"),
    "_limits/configured_limits": ("limiter", "limiter_lab"),
    "_limits/throttle": ("throttle", "detectors", "limiter_lab"),
    "_limits/observations": ("throttle", "detectors", "limiter_lab"),
    "_limits/quota_window_detector": ("throttle", "detectors", "limiter_lab"),
    "_limits/outage_detector": ("throttle", "detectors", "limiter_lab"),
    "_limits/concurrency_detector": ("throttle", "detectors", "limiter_lab"),
    "_limits/random_rejection_detector": ("throttle", "detectors", "limiter_lab"),
    "_limits/rate_detector": ("throttle", "detectors", "limiter_lab"),
    "_limits/learned_rate": ("learned_rate", "limiter_lab"),
    "_limits/log_odds": ("log_odds", "limiter_lab"),
}
QUICK_SECONDS = 4.0  # of tests for each change, before the others run for what is left
# Changes that nobody can tell from the right code, each as a pattern of its diff.
REASONS = {
    r"^[+].*lock[(][a-z_.]+, None[)]|^[+].*(_in_use|CheckpointError)[(]None[)]": "only words of a message",
    r"^-.*win32|^-.*_locked[.]": "another system, or what tests of processes show",
    r"^[+].*until[.]reschedule[(]1[)]": "any moment of the past",
    r'^[+].*"NotSent", f.*(shared=(None|False)|retryable=True, [)])': "what is not sent is not split either",
    r"^-.*spent > [A-Z]+_SECONDS\n[+].*spent >= ": "to the last bit",
    r"^-.*raise OSError[(]0": "a number that is not shown",
    r"^-\s+dropped [+]= ": "only whether it is 0 counts",
    r"^[+].*ensure_ascii=None": "None is false",
    r"^--- Credentials": "a protocol has no body",
    r"^[+].*return 1.0 if self.cost_upper_bound is None": "a budget without a cap holds anything",
    r"^[+].*if limited else 1": "there is no cut without a 429",
    r"^[+].*(TokenBucket|ConfiguredLimits)[(]None[)]|^[+].*math.inf, 2.0$": "is set anew before it counts",
    r"^--- TokenBucket.seconds_until.*\n.*\n.*\n-        if self.rate == math.inf": "what is divided by infinity is 0",
    r"^-.*lowest < math.inf:?\n[+].*lowest <= ": "the same number",
    r"^-.*(LOG_AGAIN_SECONDS|FORGET_AFTER_SECONDS|SPELL_END_SECONDS):?\n[+].*>= ": "the same number",
    r"^-.*future.done[(][)] and|^-.*self._timer = None": "nothing is done for what is over",
    r"^-.*if rate < learned.rate": "the same number",
    r"^[+].*Outcome[(]None, None, 0, None[)]": "unknown until the first attempt, which adds to it",
    r"^--- _prompts.*\n.*\n.*\n-.*return .given. if isinstance.*\n[+].*and False": "as many letters one by one",
    r"^-.*self[.](opened_at = now|_widen_at = 0.0|set_by = 0)$": "is set anew before it counts",
    r"^-.*self._cuts_since = self._throttled_from = 0 .*$": "is set anew before it counts",
    r"^-.*(< IMPROBABLE_RUN|< SAME_SHARE_ODDS|<= OUTAGE_ODDS|interval. < 0).*\n[+].*[<>]=? ": "to the last bit",
    r"^-.*(limit > MIN_LIMIT_SHARE|_odds > 0|_odds <= max|belief < 0|_odds <= ev).*\n[+].*[<>]=? ": "to the last bit",
    r"^[+].*permit.number >= self._cooldown.set_by": "that request got a 429",
    r"^[+].*window or 1": "there is a window, or an error",
    r"^--- _chain.*\n.*\n.*\n.*(id[(]exc|seen.add)": "Python makes no circle of causes",
    r"^--- CircuitBreaker.trip.*\n(.*\n)+[+].*status_code, None": "the row knows its provider",
    r"^[+].*failure.status_code or 1, ": "no status either",
    r"^--- refused_answer.*\n(.*\n)+[+].*plan.target, None, ": "only its words are taken",
    r"^--- chat_row.*\n(.*\n)+[+].*plan.target, None, ": "who asked gives the row its name",
    r"^[+].*live is not None or cost is not None": "a model has both prices or none",
    r"^--- _let_go": "what a forked process does, which tests of processes show",
    r'^-.*fields[.]pop[(]"messages"': "nothing, in other words",
    r"^[+].*_read[(]size - 1, 2[)]": "there is no more to be read",
    r"^-.*super[(][)].__init__[(]failure.type[)]": "the words of an exception that nobody sees",
    r"^-.*retry_state.outcome else None": "there always is one: for the type checker",
    r"^-.*exc[.]errors[(]include_input": "what is left out is not asked for",
    r'^-.*row_text[(]row[)] or ""': "no JSON either",
    r"^-.*if not until[.]expired": "nothing that is waited for raises a TimeoutError of its own",
    r"^-.*(self.reserved [+] upper_bound|self.reserved > upper_bound).*\n[+].*>= ": "to the last bit",
    r"^-.*(MIN_OBSERVED_SECONDS|odds > best).*\n[+].*>= ": "to the last bit",
    r"^-.*score > threshold.*\n[+].*>= ": "to the last bit",
    r"^-.*(NEAR_LIMIT [*]|sent_at <= ).*\n[+].* < ": "to the last bit",
    r"^-.*len[(]known[)] > RECENT_REQUESTS:?\n[+].*>= |^[+].*self.value <= math.inf": "the same number",
    r"^[+]    score, place = 0.0, 1|^[+].*record[}][)] or 2": "what is replaced at once, or added to infinity",
}


def reached(module: ModuleType, tests: list[Any], forks: Forks) -> tuple[dict[int, list[Any]], dict[Any, float]]:
    """The tests that reach each line, and how long each takes."""
    lines: set[int] = set()

    def these() -> list[int]:
        found = sorted(lines)
        lines.clear()
        return found

    seconds, by_line = {}, defaultdict(list)
    items = {test.nodeid: test for test in tests}
    shares = [
        Task(tests[at::6], prepare=lambda: telling(module, lines.add), told=these, keep_going=True) for at in range(6)
    ]
    for ran in (ran for _, share, _ in forks.run(shares) for ran in share):
        if not ran.passed:
            print(f"not used, since it fails as things are: {ran.test}")
            continue
        seconds[items[ran.test]] = ran.seconds
        for line in ran.told:
            by_line[line].append(items[ran.test])
    return by_line, seconds


def reason(change: Change) -> str | None:
    """Why nobody can notice a change, None where somebody should."""
    before, after = (
        "\n".join(re.findall(rf"^[{sign}](?![{sign}])(.*)", change.diff, re.MULTILINE)) for sign in ("-", "+")
    )
    quoted = " ".join(re.findall(r'"([^"]*)"', after))
    if " " in quoted and before.casefold() == after.replace("XX", "").casefold():
        return "the words of a message"
    return next((why for pattern, why in REASONS.items() if re.search(pattern, change.diff, re.MULTILINE)), None)


class Judge:
    """Makes the changes of a module, and counts what became of them."""

    def __init__(self, module: ModuleType, forks: Forks, tests: list[Any], until: float) -> None:
        self.forks, self.tests, self.until = forks, tests, until
        self.by_line, self.seconds = reached(module, tests, forks)
        self.functions = functions(module)
        self.killers: Counter[str] = Counter()
        self.count: Counter[str] = Counter()
        self.ran: dict[Change, set[str]] = defaultdict(set)

    def survivors(self, made: list[Change], seconds: float, *, verbose: bool) -> list[Change]:
        """Those that no test notices, within so many seconds of tests that have not run for it yet."""
        found = []
        for task, ran, hung in self.forks.run(map(self._task, self._in_time(made), repeat(seconds))):
            change = task.subject
            self.ran[change].update(one.test for one in ran)
            if not ran or ran[-1].passed:
                found.append(change)
                continue
            self.count["hung" if hung else "killed"] += 1
            self.killers[ran[-1].test] += 1
            if verbose:
                print(f"{change.diff}\n{'hung' if hung else 'killed'} by {ran[-1].test}\n", flush=True)
        return found

    def _in_time(self, made: list[Change]) -> Iterator[Change]:
        for change in made:
            if time.monotonic() > self.until:
                return
            yield change

    def _task(self, change: Change, seconds: float) -> Task:
        left = [test for test in self.by_line.get(change.line, []) if test.nodeid not in self.ran[change]]
        left.sort(key=lambda test: self.seconds[test] / (1 + self.killers[test.nodeid]))
        sums = accumulate(self.seconds[test] for test in left)
        chosen = [test for test, until in zip(left, sums, strict=True) if until < seconds] or left[:1]
        function = self.functions[change.function]
        return Task(chosen, change, prepare=lambda: setattr(function, "__code__", change.code), usual=self.seconds)


def judged(module: ModuleType, forks: Forks, wanted: argparse.Namespace, tests: list[Any]) -> None:
    """Print what survived of a module's changes, without what has a reason."""
    began = time.monotonic()
    judge = Judge(module, forks, tests, began + 60 * wanted.minutes)
    made = [change for change in changes(module) if not wanted.function or change.function in wanted.function]
    left = judge.survivors(made, QUICK_SECONDS, verbose=wanted.verbose)
    reasons = {change: why for change in left if (why := reason(change))}
    left = judge.survivors([change for change in left if change not in reasons], wanted.seconds, verbose=wanted.verbose)
    for change in left:
        print(f"survived {len(judge.ran[change])} tests\n{change.diff}\n")
    judge.count.update(f"survived: {why}" for why in reasons.values())
    judge.count["survived"] = len(left)
    judge.count["not checked"] = len(made) - judge.count.total()
    print(
        f"{module.__name__}: {len(made)} changes in {time.monotonic() - began:.0f} s: {dict(judge.count)}\n", flush=True
    )
    control(forks, [test for test in tests if test.nodeid in judge.killers])


def control(forks: Forks, tests: list[Any]) -> None:
    """Those that noticed something notice nothing in the right code, under the same load."""
    for _, ran, _ in forks.run(Task(tests[at::6], keep_going=True) for at in range(6)):
        for one in ran:
            if not one.passed or one.seconds > LONGEST_SILENCE / 2:
                print(f"not to be trusted, since it fails or takes {one.seconds:.0f} s now and then: {one.test}")


def main() -> None:
    """Judge what the command names."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("modules", nargs="*", help="by their file's name; all unless given")
    parser.add_argument("--minutes", type=float, default=600.0, help="for each module at most")
    parser.add_argument("--seconds", type=float, default=120.0, help="of tests for each change at most")
    parser.add_argument("--function", action="append", help="only this one, as Class.method")
    parser.add_argument("--verbose", action="store_true", help="which test noticed what, too")
    wanted = parser.parse_args()
    modules = [module for module in TESTS if not wanted.modules or Path(module).name in wanted.modules]
    files = {module: [f"tests/test_{name}.py" for name in TESTS[module]] for module in modules}

    def work(forks: Forks) -> None:
        for module in modules:
            tests = [test for test in forks.tests if test.nodeid.partition("::")[0] in files[module]]
            judged(importlib.import_module(f"llmbatch.{module.replace('/', '.')}"), forks, wanted, tests)

    collected(sorted({file for some in files.values() for file in some}), work)


if __name__ == "__main__":
    sys.exit(main())
