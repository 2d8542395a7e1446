"""Small wrong changes to what decides about money, rows and waiting, and whether a test notices each.

    uv run --with mutmut python -m tests.mutants guards retry      # all that `TESTS` names without arguments
    uv run --with mutmut python -m tests.mutants --minutes 6 sender

mutmut makes them in a throw-away copy of the checkout, and runs for each the quick tests that reach the changed
function. It takes 1 to 10 seconds a change, some hours for all, and is no part of CI. What survived is shown with its
change: it gets a test, or a reason in `REASONS`. mutmut leaves decorated functions and constants alone.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections import Counter
from contextlib import suppress
from pathlib import Path

ROOT = Path(__file__).parent.parent
# Each module, and the tests that concern it.
TESTS = {
    "_request/guards": ("budget", "fail_fast"),
    "_request/retry": ("retry", "copilot"),
    "_request/worst": ("worst_case",),
    "_batch/rows": ("structured", "asks", "rows"),
    "_batch/checkpoint": ("checkpoint",),
    "_request/sender": ("budget", "fail_fast", "keys", "retry", "copilot"),
    "_request/failures": ("retry", "fail_fast", "hostile_server", "litellm_failures", "keys"),
    "_request/limits": ("limiter_lab", "limits"),
    "_request/refusals": ("limiter_lab",),
    "_request/pace": ("limiter_lab",),
    "_request/evidence": ("limiter_lab",),
}
# What no caller is promised: words of messages, and hints to a type checker.
NOT_CHANGED = [r"^\s*msg = ", r"^\s*if TYPE_CHECKING", r"^\s*assert ", r"^\s*logger\."]
# Changes that nobody can tell from the right code, each as a pattern of its diff.
REASONS = {
    r"^[+].*lock[(][a-z_.]+, None[)]|^[+].*(_in_use|CheckpointError)[(]None[)]": "only words of a message",
    r"^-.*win32|[.]x__let_go__|^-.*_locked[.]": "another system, or what tests of processes show",
    r"^[+].*until[.]reschedule[(]1[)]": "any moment of the past",
    r'^[+].*"NotSent", f.*(shared=(None|False)|retryable=True, [)])': "what is not sent is not split either",
    r"^-.*spent > [A-Z]+_SECONDS\n[+].*spent >= ": "to the microsecond",
    r"^-.*raise OSError[(]0": "a number that is not shown",
    r"^-\s+dropped [+]= ": "only whether it is 0 counts",
    r"^[+].*ensure_ascii=None": "None is false",
    r"^[+].*_read[(]size - 1, 2[)]": "there is no more to be read",
}
SETTINGS = """
[tool.mutmut]
source_paths = ["llmbatch/{module}.py"]
also_copy = ["llmbatch", "cassettes", "examples", "README.md", "LICENSE"]
do_not_mutate_patterns = {not_changed}
pytest_add_cli_args = ["-n0", "-x", "-q", "-p", "no:cacheprovider", "-m", "not processes"]
pytest_add_cli_args_test_selection = {tests}
timeout_multiplier = 4.0
timeout_constant = 5.0
use_git_change_detection = false
"""


def outcomes(module: str, minutes: float | None) -> list[tuple[str, str]]:
    """What became of each change to a module, and the change as a diff where no test noticed it."""
    with tempfile.TemporaryDirectory(prefix="llmbatch-mutants-") as folder:
        copy = Path(folder) / "checkout"
        shutil.copytree(ROOT, copy, ignore=shutil.ignore_patterns(".git", ".venv", ".*cache", "__pycache__"))
        tests = [f"tests/test_{name}.py" for name in TESTS[module]]
        with (copy / "pyproject.toml").open("a") as file:
            file.write(SETTINGS.format(module=module, not_changed=json.dumps(NOT_CHANGED), tests=json.dumps(tests)))
        mutmut = [sys.executable, "-m", "mutmut"]
        with (Path(folder) / "said").open("w+") as said:
            run = subprocess.Popen(
                [*mutmut, "run", "--max-children", "3"], cwd=copy, stdout=said, stderr=said, start_new_session=True
            )
            with suppress(subprocess.TimeoutExpired):
                run.wait(minutes and minutes * 60)
            with suppress(ProcessLookupError):
                os.killpg(run.pid, signal.SIGKILL)
            if run.wait() > 0:
                said.seek(0)
                sys.exit(f"mutmut could not run for {module}:\n{said.read()[-3000:]}")

        def ask(*arguments: str) -> str:
            return subprocess.run([*mutmut, *arguments], cwd=copy, check=True, capture_output=True, text=True).stdout

        listed = [line.strip().rsplit(": ", 1) for line in ask("results", "--all", "true").splitlines() if ": " in line]
        return [(outcome, ask("show", name) if outcome in {"survived", "no tests"} else "") for name, outcome in listed]


def reason(change: str) -> str | None:
    """Why nobody can notice a change, None where somebody should."""
    before, after = ("\n".join(re.findall(rf"^[{sign}](?![{sign}])(.*)", change, re.MULTILINE)) for sign in ("-", "+"))
    quoted = " ".join(re.findall(r'"([^"]*)"', after))
    if " " in quoted and before.casefold() == after.replace("XX", "").casefold():
        return "the words of a message"
    return next((why for pattern, why in REASONS.items() if re.search(pattern, change, re.MULTILINE)), None)


def main() -> None:
    """Print what survived, without what has a reason."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("modules", nargs="*", help="by their file's name; all unless given")
    parser.add_argument("--minutes", type=float, help="for each module at most")
    wanted = parser.parse_args()
    for module in TESTS:
        if wanted.modules and Path(module).name not in wanted.modules:
            continue
        found = outcomes(module, wanted.minutes)
        changes = [change for _, change in found if change]
        reasons = Counter(filter(None, map(reason, changes)))
        told = [change for change in changes if not reason(change)]
        print(f"{module}: {len(found)} changes: {dict(Counter(outcome for outcome, _ in found))}; {dict(reasons)}")
        print("\n".join(told), flush=True)


if __name__ == "__main__":
    main()
